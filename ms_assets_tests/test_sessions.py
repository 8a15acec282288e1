"""Locks of runs as sessions of a real PostgreSQL: who is alive and whose turn it is, with processes that are killed."""

import importlib.util

import dagster as dg
import pytest
import torch
from dagster._core.test_utils import create_run_for_test

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.io_managers import TorchIOManager
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets_tests import postgres
from ms_assets_tests.workplace import RUN, talking_processes

needs_the_extra = pytest.mark.skipif(
    not importlib.util.find_spec("dagster_postgres"), reason="needs the extra: pip install '.[postgres]'"
)
pytestmark = [pytest.mark.slow, needs_the_extra]

STEP = """
import sys
from ms_assets.defs.platform.sessions import SessionLocks
print(SessionLocks(sys.argv[1]).join(sys.argv[2]), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def address():
    with postgres.running() as server:
        yield server.create("locks")


@pytest.fixture
def start():
    with talking_processes() as start:
        yield start


def test_a_killed_run_keeps_the_turn_until_the_last_of_its_steps_is_gone_and_no_longer(start, address):
    first = start(RUN, address, "one", "50m")
    assert first.stdout.readline() == "has the turn\n"
    step = start(STEP, address, "one")
    assert step.stdout.readline() == "True\n"
    second = start(RUN, address, "other", "50m")
    assert [second.stdout.readline() for _ in range(2)] == ["waits for one\n"] * 2
    locks = SessionLocks(address)
    assert locks.dead() == []
    first.kill()
    first.wait()
    assert [second.stdout.readline() for _ in range(3)] == ["waits for one\n"] * 3
    assert locks.dead() == []
    step.kill()
    assert "has the turn\n" in second.stdout
    assert locks.dead() == ["one"]
    second.communicate("over\n")
    locks.forget("one")
    assert locks.dead() == [] and not locks.knows("one") and not locks.knows("other")


def test_another_scale_has_a_turn_of_its_own(start, address):
    assert start(RUN, address, "one", "50m").stdout.readline() == "has the turn\n"
    assert start(RUN, address, "other", "500m").stdout.readline() == "has the turn\n"


def test_a_killed_run_is_marked_as_failed_and_no_other_is(start, address, tmp_path):
    tags = {PARTITION_TAG: "sample"}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        killed, living = (
            create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags) for _ in range(2)
        )
        processes = [start(RUN, address, run.run_id, run.run_id) for run in (killed, living)]
        assert [process.stdout.readline() for process in processes] == ["has the turn\n"] * 2
        processes[0].kill()
        processes[0].wait()
        runs.mark_lost(instance, SessionLocks(address))
        statuses = [instance.get_run_by_id(run.run_id).status.value for run in (killed, living)]
    assert statuses == ["FAILURE", "STARTED"]


def test_who_writes_without_the_executor_has_the_turn_meanwhile_and_leaves_it(start, address, tmp_path):
    seen, others = [], []

    @dg.asset(partitions_def=SCALES)
    def value(context):
        others.append(start(RUN, address, "another", "5b"))
        seen.extend([others[0].stdout.readline(), f"waits for {context.run_id}\n"])
        return {"weight": torch.zeros(3)}

    resources = {"io_manager": TorchIOManager(base_dir=str(tmp_path / "data"), locks_database=address)}
    assert dg.materialize([value], resources=resources, partition_key="5b").success
    assert seen[0] == seen[1]
    assert "has the turn\n" in others[0].stdout
    assert not (tmp_path / "alive").exists()
