"""The UI, as `dagster dev` serves it and as its pages ask it."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable

import pytest

from ms_assets_tests.contract import EXPERIMENTS, GROUPS, ON_REQUEST, OTHERS, SCALES, TABLES
from ms_assets_tests.workplace import PROGRAMS, Workplace

PATIENCE = 90
"""Seconds that a server may take to start, or a run to finish, on a busy machine."""
CHEAP = ["raw", "artist_item_mapping"]

ASSETS = """
{ assetNodes { assetKey { path } groupName partitionKeys kinds description owners { ... on TeamAssetOwner { team } } } }
"""
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
STATUS = """
query ($run: ID!, $asset: AssetKeyInput!) {
  runOrError(runId: $run) { ... on Run { status } }
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions unmaterializedPartitions }
      }
    }
  }
}
"""

Ask = Callable[..., dict]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("ui"))


@pytest.fixture(scope="module")
def ask(workplace):
    """Ask the running UI's GraphQL a question; gives the data of the answer."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def post(query: str, **variables) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    log = workplace.folder / "ui.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(PROGRAMS / "dagster"), "dev", "--host", "127.0.0.1", "--port", str(port)],
            cwd=workplace.folder,
            env=workplace.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: urllib.request.urlopen(f"{address}/server_info", timeout=5).status == 200)
        yield post
    except TimeoutError:
        pytest.fail(log.read_text())
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=20)
        finally:
            if server.returncode is None:
                os.killpg(server.pid, signal.SIGKILL)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; a refused connection counts as not yet."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError


def test_the_ui_shows_every_asset_in_the_six_groups_with_four_partitions_each(ask):
    assets = {"/".join(node["assetKey"]["path"]): node for node in ask(ASSETS)["assetNodes"]}
    assert set(assets) == TABLES | set(OTHERS) | ON_REQUEST | EXPERIMENTS
    assert {node["groupName"] for node in assets.values()} == GROUPS
    assert [key for key, node in assets.items() if node["groupName"] != key.split("/")[0]] == []
    assert [key for key, node in assets.items() if node["partitionKeys"] != SCALES] == []


def test_every_asset_says_what_it_is_what_it_is_made_with_and_who_owns_it(ask):
    nodes = ask(ASSETS)["assetNodes"]
    for wanted in ("description", "kinds", "owners"):
        assert [node["assetKey"]["path"] for node in nodes if not node[wanted]] == [], wanted


def test_a_partition_that_is_launched_from_its_page_becomes_materialised(ask, workplace):
    selector = {
        "repositoryLocationName": "ms_assets.definitions",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": CHEAP}],
        "assetCheckSelection": [],
    }
    tags = [{"key": "dagster/partition", "value": "sample"}]
    params = {
        "mode": "default",
        "selector": selector,
        "runConfigData": "{}",
        "executionMetadata": {"tags": tags},
    }
    launched = ask(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    answer = {}

    def finished() -> bool:
        answer.update(ask(STATUS, run=launched["run"]["runId"], asset={"path": CHEAP}))
        return answer["runOrError"]["status"] in ("SUCCESS", "FAILURE")

    eventually(finished)
    assert answer["runOrError"]["status"] == "SUCCESS"
    statuses = answer["assetNodeOrError"]["assetPartitionStatuses"]
    assert statuses["materializedPartitions"] == ["sample"]
    assert statuses["failedPartitions"] == []
    assert sorted(statuses["unmaterializedPartitions"]) == ["500m", "50m", "5b"]
    assert (workplace.home / "data" / "raw" / "artist_item_mapping" / "sample.parquet").is_symlink()
