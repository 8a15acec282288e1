"""What is tried again: a step whose hub was away, later each time; nothing else."""

import os
import sys

import pytest

from ms_assets_tests.workplace import answer_of

SCENARIOS = """
import json, os, sys
from pathlib import Path
from ms_assets_tests.loopback_hub import COMMIT, serve
from ms_assets_tests.raw.downloads import DATASET
from ms_assets_tests.worlds import World, listen

folder = Path(sys.argv[1])
World([listen(1, 0, 10)], [10], artists=[(1, 10)]).write(folder / "hub")
file = folder / "hub/artist_item_mapping.parquet"

def materialise(delay=0.01):
    resources.HUB_WAITS = (delay, 3 * delay, 7 * delay)
    asked = len(hub.asked("HEAD"))
    with dg.DagsterInstance.ephemeral() as instance:
        keys = [dg.AssetKey(["raw", "artist_item_mapping"])]
        run = job.execute_in_process(None, instance, "50m", False, asset_selection=keys)
    waits = [event.step_retry_data.seconds_to_wait for event in run.all_node_events if event.is_step_up_for_retry]
    errors = [event.step_failure_data.error.to_string() for event in run.all_node_events if event.is_step_failure]
    return run.success, waits, errors, len(hub.asked("HEAD")) - asked

with serve(folder / "hub", DATASET) as hub:
    os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    import dagster as dg
    from ms_assets.definitions import define
    from ms_assets.defs.platform import resources
    from ms_assets.defs.platform.resources import Environment
    from ms_assets.raw import transfer

    transfer.FIRST_WAIT_SECONDS = 0.001
    environment = Environment(folder / "home", DATASET, COMMIT, "sqlite://")
    job = define(environment).resolve_implicit_global_asset_job_def()
    found = {}
    hub.statuses["HEAD"] = [503] * 100
    found["down"] = materialise()
    hub.statuses["HEAD"] = []
    hub.needs_token = True
    found["needs a token"] = materialise()
    hub.needs_token, hub.wrong_bytes = False, True
    found["wrong bytes"] = materialise()
    hub.wrong_bytes = False
    content = file.read_bytes()
    file.unlink()
    found["no such file"] = materialise()
    file.write_bytes(b"PAR1")
    found["not Parquet"] = materialise()
    file.write_bytes(content)
    for link in (folder / "hf").rglob("*.parquet"):
        link.unlink()
    hub.statuses["HEAD"] = [503] * 5 + [429] * 5
    found["away for a while"] = materialise(0.2)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By scenario: whether it came to an end, seconds before each further attempt, errors, how often it asked."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return answer_of(sys.executable, "-c", SCENARIOS, tmp_path_factory.mktemp("retries"), env=ours)


def test_a_step_is_tried_again_when_the_hub_was_away_longer_than_a_request_waits(found):
    success, waits, errors, asked = found["away for a while"]
    assert (success, errors, asked) == (True, [], 11)
    # (2ⁿ − 1) times the delay, more or less by up to one delay
    assert [0 <= waits[0] <= 0.4, 0.4 <= waits[1] <= 0.8] == [True, True]


def test_a_hub_that_stays_away_is_given_up_after_three_more_attempts(found):
    success, waits, [error], asked = found["down"]
    assert (success, len(waits), asked) == (False, 3, 20)
    assert "503 Service Unavailable" in error


FAULTS = {
    "no such file": "404",
    "not Parquet": "not a whole Parquet file",
    "wrong bytes": "arrived with sha256",
    "needs a token": "set HF_TOKEN",
}


@pytest.mark.parametrize(("fault", "error"), FAULTS.items(), ids=FAULTS)
def test_what_no_other_attempt_would_mend_is_not_tried_again(found, fault, error):
    success, waits, [message], asked = found[fault]
    assert (success, waits, asked) == (False, [], 1)
    assert error in message
