"""The hub as a source, through the real client against a real HTTP server on loopback."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from ms_assets.files import sha256
from ms_assets.raw.hub_cache import content_of, link_of, locked
from ms_assets_tests.loopback_hub import COMMIT, NEXT_COMMIT, serve
from ms_assets_tests.raw.downloads import DATASET, FILE, MB, SIZE, outcome
from ms_assets_tests.worlds import World, listen

FETCH = """
import json, sys
from pathlib import Path
from ms_assets.raw.schema import TABLES
from ms_assets.raw.source import Source
table, dataset, revision, source_home, *scales = sys.argv[1:]
source = Source(dataset, revision, "flat", Path(source_home))
for scale in scales:
    file = source.fetch(TABLES[table], scale)
    print(json.dumps([str(file.path), file.origin, file.revision]))
"""
BY_THE_CLIENT = """
import sys
from huggingface_hub import constants, hf_hub_download
constants.MAX_HTTP_DOWNLOAD_SIZE = int(sys.argv[4])
print(hf_hub_download(sys.argv[1], sys.argv[3], repo_type="dataset", revision=sys.argv[2]))
"""


@pytest.fixture
def hub(place):
    World([listen(1, 0, 10)], [10]).write(place.offered)
    with serve(place.offered, DATASET) as hub:
        yield hub


def fetch(place, hub, *scales, revision="main", table="artist_item_mapping", home="source", **environment):
    arguments = (table, DATASET, revision, str(place.folder / home), *scales)
    return outcome(place.run_python(FETCH, hub, *arguments, **environment))


def download_by_the_client(place, hub, largest=50_000 * MB):
    return outcome(place.run_python(BY_THE_CLIENT, hub, DATASET, COMMIT, FILE, str(largest)))


def test_a_file_comes_from_the_hub_by_commit_and_never_twice(place, hub):
    path, origin, revision = json.loads(fetch(place, hub, "50m").printed)
    asked = len(hub.requests)
    again = json.loads(fetch(place, hub, "50m").printed)
    assert hub.requests[asked:] == []
    assert (origin, revision) == (DATASET, COMMIT)
    assert Path(path).read_bytes() == (place.offered / FILE).read_bytes()
    assert again == [path, origin, revision]


def test_a_table_of_all_scales_is_fetched_once(place, hub):
    first, second = fetch(place, hub, "50m", "500m", table="embeddings").printed.splitlines()
    assert first == second
    assert len(hub.bodies()) == 1


def test_what_was_fetched_stays_usable_when_the_hub_is_gone(place):
    place.offer()
    with serve(place.offered, DATASET) as hub:
        first = place.download(hub).path
    assert place.download(hub).path == first


def test_without_a_hub_the_error_names_the_folder_as_the_way_out(place):
    place.offer()
    with serve(place.offered, DATASET) as hub:
        pass
    error = place.download(hub).error
    assert error.startswith(
        f"HubError: {DATASET}/{FILE} at revision {COMMIT[:12]}: the hub did not give it (ConnectError"
    )
    assert "MS_ASSETS_SOURCE at a folder" in error
    assert "MS_ASSETS_SOURCE at a folder" in place.download(hub, HF_HUB_OFFLINE="1").error


def test_a_revision_is_asked_for_again_when_the_hub_is_overrun(place, hub):
    hub.statuses["API"] = [429, 503]
    assert json.loads(fetch(place, hub, "50m").printed)[2] == COMMIT


def test_a_revision_that_does_not_exist_is_refused_by_name(place, hub):
    error = fetch(place, hub, "50m", revision="v9").error
    assert f"HubError: {DATASET} at revision v9" in error
    assert "MS_ASSETS_REVISION" in error
    assert not any((place.folder / "source").rglob("*v9*"))


def test_a_commit_is_taken_at_its_word(place, hub):
    assert json.loads(fetch(place, hub, "50m", revision=NEXT_COMMIT).printed)[2] == NEXT_COMMIT
    assert [request.path for request in hub.requests if "/revision/" in request.path] == []


def test_a_commit_that_does_not_exist_is_refused_by_name(place, hub):
    error = place.download(hub, commit="0" * 40).error
    assert f"{DATASET}/{FILE} at revision {'0' * 12}" in error
    assert "MS_ASSETS_REVISION" in error
    assert place.finished() == []


def test_a_file_that_does_not_exist_is_refused_at_once(place, hub):
    assert "RemoteEntryNotFoundError: 404" in place.download(hub, file="flat/50m/listens.parquet").error
    assert len(hub.asked()) == 1


def test_the_same_content_at_another_commit_is_linked_only(place, hub):
    first, second = (place.download(hub, commit=commit).path for commit in (COMMIT, NEXT_COMMIT))
    assert first != second
    assert first.resolve() == second.resolve()
    assert len(hub.bodies()) == 1


def test_progress_is_told(place, hub):
    place.offer()
    hub.bytes_per_second = 8 * MB
    log = place.download(hub, first="transfer.LOG_EVERY_SECONDS = 0.2").log
    assert f"fetching {DATASET}/{FILE} at revision {COMMIT[:12]}: 6.0 MB, of which 0.0 MB are here" in log
    assert " of 6.0 MB (" in log
    assert "min left" in log
    assert "verifying it" in log


def test_the_token_goes_to_the_hub_and_to_nobody_else(place, hub):
    hub.needs_token = True
    with serve(place.offered, DATASET) as elsewhere:
        hub.body_from = elsewhere.endpoint
        path = place.download(hub, HF_TOKEN="hf_secret").path
    assert path.read_bytes() == (place.offered / FILE).read_bytes()
    assert {request.token for request in hub.asked()} == {"Bearer hf_secret"}
    assert [request.token for request in elsewhere.requests] == [None]


def test_a_dataset_that_needs_a_token_says_so_at_once(place, hub):
    hub.needs_token = True
    assert "set HF_TOKEN" in place.download(hub).error
    assert len(hub.asked()) == 1
    hub.statuses["HEAD"] = [403]
    assert "accept its terms on the hub and set HF_TOKEN" in place.download(hub, HF_TOKEN="hf_other").error


def test_files_lie_where_other_tools_look_for_them(place, hub):
    ours = place.download(hub).path
    assert ours.is_relative_to(place.cache)
    asked = len(hub.asked())
    assert download_by_the_client(place, hub).path == ours
    assert len(hub.asked()) == asked


def test_the_client_keeps_content_names_and_locks_where_hub_cache_says(place, hub, monkeypatch):
    theirs = download_by_the_client(place, hub).path
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place.cache / "hub"))
    link, content = link_of(DATASET, COMMIT, FILE), content_of(DATASET, sha256(theirs))
    assert theirs == link
    assert theirs.resolve() == content_of(DATASET, link.readlink().name) == content
    locks = [*(place.cache / "hub/.locks").rglob("*.lock")]
    with locked(DATASET, content.name):
        assert [*(place.cache / "hub/.locks").rglob("*.lock")] == locks, "another lock than the client's"


def test_a_file_that_another_tool_has_put_there_is_verified_and_used(place, hub):
    theirs = download_by_the_client(place, hub).path
    asked = len(hub.asked())
    first, second = place.download(hub), place.download(hub)
    assert first.path == second.path == theirs
    assert "verifying" in first.log
    assert "verifying" not in second.log
    assert len(hub.asked()) == asked


def test_a_file_that_another_tool_has_put_there_wrong_is_replaced(place, hub):
    hub.wrong_bytes = True
    theirs = download_by_the_client(place, hub).path
    hub.wrong_bytes = False
    assert place.download(hub).path == theirs
    assert theirs.read_bytes() == (place.offered / FILE).read_bytes()


def test_a_file_that_changes_after_it_was_verified_is_found_out(place, hub):
    path = place.download(hub).path
    path.write_bytes(b"?" * path.stat().st_size)
    outcome = place.download(hub)
    assert "it is not used but fetched again" in outcome.log
    assert outcome.path.read_bytes() == (place.offered / FILE).read_bytes()


def test_a_file_beyond_the_limit_of_the_client_is_fetched(place, hub):
    content = place.offer()
    assert "too large to be downloaded" in download_by_the_client(place, hub, largest=SIZE - 1).log
    asked = len(hub.bodies())
    limit = f"constants.MAX_HTTP_DOWNLOAD_SIZE = {SIZE - 1}; transfer.PIECE_BYTES = {4 * MB}"
    assert place.download(hub, first=limit).path.read_bytes() == content
    pieces = [request.range for request in hub.bodies()[asked:]]
    assert pieces == [f"bytes=0-{4 * MB - 1}", f"bytes={4 * MB}-{SIZE - 1}"]


# offline


BY_THE_CLIENT_BY_NAME = BY_THE_CLIENT.replace("revision=sys.argv[2]", "revision='main'")


def fetch_offline(place, hub, revision="main"):
    return fetch(place, hub, "50m", revision=revision, home="another home", HF_HUB_OFFLINE="1")


def test_offline_a_cache_that_another_tool_filled_is_enough(place, hub):
    theirs = outcome(place.run_python(BY_THE_CLIENT_BY_NAME, hub, DATASET, COMMIT, FILE, str(50_000 * MB))).path
    asked = len(hub.requests)
    path, _, commit = json.loads(fetch_offline(place, hub).printed)
    assert (Path(path), commit) == (theirs, COMMIT)
    assert len(hub.requests) == asked


def test_offline_a_cache_that_we_filled_is_enough_for_another_home_and_for_another_tool(place, hub):
    path = json.loads(fetch(place, hub, "50m").printed)[0]
    asked = len(hub.requests)
    assert json.loads(fetch_offline(place, hub).printed)[0] == path
    by_name = place.run_python(BY_THE_CLIENT_BY_NAME, hub, DATASET, COMMIT, FILE, "1", HF_HUB_OFFLINE="1")
    assert str(outcome(by_name).path) == path
    assert len(hub.requests) == asked


def test_offline_a_revision_that_the_cache_does_not_know_is_refused_with_the_way_out(place, hub):
    fetch(place, hub, "50m")
    error = fetch_offline(place, hub, revision="next").error
    assert f"{DATASET} at revision next" in error
    assert "HF_HUB_OFFLINE" in error


def test_the_commit_that_another_tool_knows_of_a_revision_stays(place, hub):
    outcome(place.run_python(BY_THE_CLIENT_BY_NAME, hub, DATASET, COMMIT, FILE, str(50_000 * MB)))
    hub.revisions["main"] = NEXT_COMMIT
    assert json.loads(fetch(place, hub, "50m").printed)[2] == NEXT_COMMIT
    [reference] = place.cache.glob("hub/*/refs/main")
    assert reference.read_text() == COMMIT


# certificates


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_named_with_their_variable(place, hub, content):
    file = place.folder / "certificates.pem"
    if content:
        file.write_bytes(content)
    for ended in (place.download(hub, SSL_CERT_FILE=str(file)), fetch(place, hub, "50m", SSL_CERT_FILE=str(file))):
        error = ended.error
        assert "the certificates cannot be read" in error
        assert "SSL_CERT_FILE" in error
        assert "stored" not in error
