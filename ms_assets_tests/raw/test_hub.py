"""The hub as a source, through the real client against a real HTTP server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ms_assets_tests.loopback_hub import COMMIT, serve
from ms_assets_tests.worlds import World, listen

DATASET = "somebody/yambda"
FETCH = """
import json, sys
from ms_assets.raw.resources import YambdaSource
from ms_assets.raw.schema import TABLES
source = YambdaSource(location=sys.argv[1], revision=sys.argv[2], source_home=sys.argv[3])
file = source.fetch(TABLES["artist_item_mapping"], "50m")
print(json.dumps([str(file.path), file.origin, file.revision]))
"""


@pytest.fixture
def world(tmp_path):
    World([listen(1, 0, 10)], [10]).write(tmp_path / "hub")
    return tmp_path


def fetch(folder, endpoint, revision="main"):
    """A process of its own: the client reads its address when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FETCH, DATASET, revision, str(folder / "source")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_a_file_comes_from_the_hub_by_commit_and_never_twice(world):
    with serve(world / "hub", DATASET) as hub:
        path, origin, revision = json.loads(fetch(world, hub.endpoint).stdout)
        asked = len(hub.requests)
        again = json.loads(fetch(world, hub.endpoint).stdout)
        assert [request for request in hub.requests[asked:] if DATASET in request] == []
    assert (origin, revision) == (DATASET, COMMIT)
    assert Path(path).read_bytes() == (world / "hub/artist_item_mapping.parquet").read_bytes()
    assert again == [path, origin, revision]


def test_what_was_fetched_stays_usable_when_the_hub_is_gone(world):
    with serve(world / "hub", DATASET) as hub:
        first = fetch(world, hub.endpoint).stdout
    assert fetch(world, hub.endpoint).stdout == first


def test_without_a_hub_the_error_names_the_folder_as_the_way_out(world):
    with serve(world / "hub", DATASET) as hub:
        pass
    result = fetch(world, hub.endpoint)
    assert result.returncode != 0
    assert "HubError: somebody/yambda at revision main" in result.stderr
    assert "MS_ASSETS_SOURCE" in result.stderr


def test_a_revision_that_does_not_exist_is_refused_by_name(world):
    with serve(world / "hub", DATASET) as hub:
        result = fetch(world, hub.endpoint, revision="v9")
    assert result.returncode != 0
    assert "HubError: somebody/yambda at revision v9" in result.stderr
    assert not (world / "source").exists() or not any((world / "source").rglob("*v9*"))
