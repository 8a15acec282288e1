"""The UI, as `make ui` serves it: as its pages ask it, and as a browser shows it."""

import json
import urllib.request
from collections.abc import Callable

import dagster as dg
import pytest
from playwright.sync_api import expect

from ms_assets_tests.browser import CHROMIUM, looking, select_assets
from ms_assets_tests.contract import KEYS, PUBLISHED, SCALES
from ms_assets_tests.observed import asked_for, left, observed_workplace
from ms_assets_tests.servers import PATIENCE, eventually, serving
from ms_assets_tests.workplace import Workplace

CHEAP = ["raw", "artist_item_mapping"]

ASSETS = """
{ assetNodes { assetKey { path } groupName partitionKeys kinds description owners { ... on TeamAssetOwner { team } } } }
"""
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { healthy } } } }"
WHERE = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
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
    """A place in which a former run has left usage statistics to be sent."""
    place = observed_workplace(tmp_path_factory.mktemp("ui"))
    waiting = place.folder / "user/.dagster/logs/event.log"
    waiting.parent.mkdir(parents=True)
    waiting.write_text("{}")
    return place


def log(workplace):
    return workplace.folder / "ui.log"


@pytest.fixture(scope="module")
def address(workplace):
    """A running UI with its daemon, as `make ui` starts them."""
    command = (str(workplace.programs / "dg"), "dev")
    with serving(*command, folder=workplace.folder, environment=workplace.environment, log=log(workplace)) as server:
        yield server.address


@pytest.fixture
def ask(address):
    """Ask the running UI's GraphQL a question; gives the data of the answer."""

    def post(query: str, **variables) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    return post


def test_the_observer_sees_who_is_asked_for(workplace):
    workplace.run("python", "-c", "import socket; socket.getaddrinfo('nobody.invalid', 80)")
    assert asked_for(workplace).startswith("nobody.invalid ")
    (workplace.folder / "observed").unlink()


def test_the_ui_shows_every_asset_in_the_six_groups_with_four_partitions_each(ask):
    assets = {"/".join(node["assetKey"]["path"]): node for node in ask(ASSETS)["assetNodes"]}
    assert set(assets) == KEYS
    assert {node["groupName"] for node in assets.values()} == {key.split("/")[0] for key in KEYS}
    assert [key for key, node in assets.items() if node["groupName"] != key.split("/")[0]] == []
    assert [key for key, node in assets.items() if node["partitionKeys"] != SCALES] == []


def test_every_asset_says_what_it_is_what_it_is_made_with_and_who_owns_it(ask):
    nodes = ask(ASSETS)["assetNodes"]
    for wanted in ("description", "kinds", "owners"):
        assert [node["assetKey"]["path"] for node in nodes if not node[wanted]] == [], wanted


def test_a_partition_that_is_launched_from_its_page_becomes_materialised(ask, workplace):
    [repository] = ask(WHERE)["repositoriesOrError"]["nodes"]
    selector = {
        "repositoryLocationName": repository["location"]["name"],
        "repositoryName": repository["name"],
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": CHEAP}],
        "assetCheckSelection": [],
    }
    tags = [{"key": "dagster/partition", "value": "sample"}]
    params = {"mode": "default", "selector": selector, "runConfigData": "{}", "executionMetadata": {"tags": tags}}
    launched = ask(LAUNCH, params=params)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    answer = {}

    def finished() -> bool:
        answer.update(ask(STATUS, run=launched["run"]["runId"], asset={"path": CHEAP}))
        return answer["runOrError"]["status"] in ("SUCCESS", "FAILURE")

    eventually(finished, log(workplace))
    assert answer["runOrError"]["status"] == "SUCCESS"
    statuses = answer["assetNodeOrError"]["assetPartitionStatuses"]
    assert statuses["materializedPartitions"] == ["sample"]
    assert statuses["failedPartitions"] == []
    assert sorted(statuses["unmaterializedPartitions"]) == ["500m", "50m", "5b", "own"]
    assert (workplace.home / "data" / "raw" / "artist_item_mapping" / "sample.parquet").is_symlink()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_partition_that_a_person_materialises_by_clicks_turns_green(address, workplace):
    with looking() as page:
        select_assets(page, address, '+key:"splits/users"')
        page.get_by_role("button", name="Materialize all").click()
        page.get_by_text("Select a partition").click()
        page.get_by_role("menuitem", name="sample").click()
        page.get_by_placeholder("Filter partitions").press("Escape")
        dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize 6 assets")
        dialog.get_by_role("button", name="Launch 1 run").click()
        expect(dialog).to_be_hidden(timeout=1e3 * PATIENCE)

        page.goto(f"{address}/assets/splits/users?view=partitions")
        expect(page.get_by_text("Materialized (1)")).to_be_visible(timeout=1e3 * PATIENCE)
        dots = {scale: page.locator(f"[data-tooltip='{scale}'] + div") for scale in SCALES}
        colours = {scale: dot.evaluate("dot => dot.style.background") for scale, dot in dots.items()}
        assert {scale for scale, colour in colours.items() if "green" in colour} == {"sample"}
        red, green, blue = dots["sample"].evaluate(
            "dot => getComputedStyle(dot).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
        )
        assert green > max(red, blue)

        page.goto(f"{address}/runs")
        page.locator("a[href^='/runs/']").first.click()
        expect(page.get_by_label("run_success").first).to_be_visible(timeout=1e3 * PATIENCE)
        run = page.url.rsplit("/", 1)[1]

    with workplace.instance() as instance:
        record = instance.get_run_by_id(run)
        assert record.status == dg.DagsterRunStatus.SUCCESS
        assert record.tags["dagster/partition"] == "sample"
        assert {key.to_user_string() for key in record.asset_selection} == PUBLISHED | {
            "splits/candidate_songs",
            "splits/users",
        }
    assert (workplace.home / "data" / "splits" / "users" / "sample.parquet").is_file()


def test_the_ui_its_daemon_and_its_runs_do_not_send_or_announce_anything_nor_send_what_others_have_left(ask, workplace):
    def daemons_live():
        statuses = ask(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return any(status["healthy"] for status in statuses)

    eventually(daemons_live, log(workplace))
    assert "telemetry" not in log(workplace).read_text().lower()
    assert asked_for(workplace) == ""
    assert left(workplace) == {".dagster", ".dagster/logs", ".dagster/logs/event.log"}
    assert (workplace.folder / "user/.dagster/logs/event.log").read_text() == "{}"
