"""Whose turn a scale is, and which runs live: with processes of their own, which are killed."""

import errno
import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import mlflow
import pytest
import torch
from dagster._core.test_utils import create_run_for_test

from ms_assets.defs.platform import locks, runs
from ms_assets.defs.platform.io_managers import TorchIOManager
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.resources import MLflow
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.files import own_folder
from ms_assets_tests.homes import artefacts
from ms_assets_tests.workplace import RUN, Workplace, kill, talking_processes, until

STEP = """
import sys
from pathlib import Path
from ms_assets.defs.platform.locks import FileLocks
assert FileLocks(Path(sys.argv[1])).join(sys.argv[2])
print("lives", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start():
    with talking_processes() as start:
        yield start


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def test_the_run_that_a_killed_training_left_open_in_mlflow_is_ended_and_no_other(instance, tmp_path):
    store = MLflow(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=(tmp_path / "files").as_uri())

    @dg.asset(partitions_def=SCALES)
    def training(context: dg.AssetExecutionContext, mlflow: MLflow):
        with mlflow.run(context):
            pass

    def train():
        assert dg.materialize([training], resources={"mlflow": store}, partition_key="50m", instance=instance).success

    train()
    open_runs = {}
    for status in ("FAILURE", "STARTED"):
        made_by = create_run_for_test(instance, status=dg.DagsterRunStatus[status])
        open_runs[mlflow.start_run(tags={"dagster.run_id": made_by.run_id}).info.run_id] = status
        mlflow.end_run("RUNNING")
    open_runs[mlflow.start_run().info.run_id] = "somebody's"
    mlflow.end_run("RUNNING")
    train()
    found = mlflow.search_runs(output_format="list")
    assert {open_runs[run.info.run_id]: run.info.status for run in found if run.info.run_id in open_runs} == {
        "FAILURE": "KILLED",
        "STARTED": "RUNNING",
        "somebody's": "RUNNING",
    }
    assert sorted(run.info.status for run in found if run.info.run_id not in open_runs) == ["FINISHED", "FINISHED"]


def test_one_run_has_the_turn_and_the_other_says_for_whom_it_waits_until_that_is_over(start, tmp_path):
    first = start(RUN, tmp_path, "one", "lock")
    assert first.stdout.readline() == "has the turn\n"
    second = start(RUN, tmp_path, "other", "lock")
    assert [second.stdout.readline() for _ in range(2)] == ["waits for one\n"] * 2
    first.communicate("over\n")
    assert "has the turn\n" in second.stdout


def test_a_killed_run_keeps_the_turn_until_the_last_of_its_steps_is_gone_and_no_longer(start, tmp_path):
    first = start(RUN, tmp_path, "one", "lock")
    first.stdout.readline()
    step = start(STEP, tmp_path, "one")
    assert step.stdout.readline() == "lives\n"
    first.kill()
    first.wait()
    second = start(RUN, tmp_path, "other", "lock")
    assert [second.stdout.readline() for _ in range(3)] == ["waits for one\n"] * 3
    step.kill()
    assert "has the turn\n" in second.stdout


def test_a_killed_run_is_marked_as_failed_and_no_other_is(start, instance, tmp_path):
    killed, living, finished = (
        create_run_for_test(instance, status=status, tags={PARTITION_TAG: "sample"})
        for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS)
    )
    processes = [start(RUN, tmp_path, run.run_id, run.run_id) for run in (killed, living, finished)]
    assert [process.stdout.readline() for process in processes] == ["has the turn\n"] * 3
    runs.mark_lost(instance, FileLocks(tmp_path))
    assert instance.get_run_by_id(killed.run_id).status == dg.DagsterRunStatus.STARTED

    for process in (processes[0], processes[2]):
        process.kill()
        process.wait()
    runs.mark_lost(instance, FileLocks(tmp_path))
    statuses = [instance.get_run_by_id(run.run_id).status.value for run in (killed, living, finished)]
    assert statuses == ["FAILURE", "STARTED", "SUCCESS"]
    assert "has died: it was killed" in instance.all_logs(killed.run_id)[-1].message
    assert [life.name for life in (tmp_path / "alive").glob("*")] == [living.run_id]


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED"])
def test_a_run_that_was_killed_before_its_first_step_is_marked_once_it_should_have_begun(
    instance, tmp_path, monkeypatch, status
):
    run = create_run_for_test(instance, status=dg.DagsterRunStatus[status], tags={PARTITION_TAG: "50m"})
    of_others = create_run_for_test(instance, status=dg.DagsterRunStatus[status])
    queued = create_run_for_test(instance, status=dg.DagsterRunStatus.NOT_STARTED, tags={PARTITION_TAG: "50m"})
    runs.mark_lost(instance, FileLocks(tmp_path))
    assert instance.get_run_by_id(run.run_id).status.value == status
    later = datetime.now(UTC) + timedelta(seconds=runs.SECONDS_TO_START + 1)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return later

    left_the_queue = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, queued.job_name)
    instance.run_storage.handle_run_event(queued.run_id, left_the_queue, later)
    monkeypatch.setattr(runs, "datetime", Later)
    runs.mark_lost(instance, FileLocks(tmp_path))
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(of_others.run_id).status.value == status
    assert instance.get_run_by_id(queued.run_id).status == dg.DagsterRunStatus.STARTING


HANGING = """
import time
from pathlib import Path
import dagster as dg
import torch
from ms_assets.defs.platform.executor import executor_by_scale
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.io_managers import TorchIOManager
from ms_assets.defs.platform.scales import SCALES

@dg.asset(key=["room", "value"], partitions_def=SCALES)
def value():
    if Path("hangs").exists():
        Path("begun").touch()
        while True:
            time.sleep(0.1)
    return {"weight": torch.zeros(3)}

home = Path("home").absolute()
resources = {"io_manager": TorchIOManager(base_dir=str(home / "data"))}
defs = dg.Definitions([value], executor=executor_by_scale(home, FileLocks(home), lambda: 1 << 30), resources=resources)
"""


@pytest.mark.parametrize(("scale", "report"), [("50m", "report_run_canceled"), ("500m", "report_run_canceling")])
def test_a_cancelled_run_of_the_command_line_ends_soon_is_cancelled_and_leaves_the_former_artefact(
    tmp_path, scale, report
):
    """In one process and in a process per step; cancelled as the UI does for a run that no server reaches."""
    place = Workplace(tmp_path)
    (tmp_path / "hanging.py").write_text(HANGING)
    command = ["asset", "materialize", "-m", "hanging", "--select", "room/value", "--partition", scale]

    @dg.asset(key=["room", "value"], partitions_def=SCALES)
    def value():
        return {"weight": torch.ones(3)}

    resources = {"io_manager": TorchIOManager(base_dir=str(place.home / "data"))}
    assert dg.materialize([value], resources=resources, partition_key=scale).success
    before = artefacts(place.home)
    (tmp_path / "hangs").touch()
    process = place.start("dagster", *command)
    try:
        until((tmp_path / "begun").exists, process)
        with place.instance() as instance:
            [run] = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            getattr(instance, report)(run)
            said, _ = process.communicate(timeout=60)  # it would hang for ever
            assert process.returncode != 0, said
            assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED
    finally:
        if process.poll() is None:
            kill(process)
    assert artefacts(place.home) == before
    assert list((place.home / "alive").glob("*")) == []


@pytest.mark.parametrize("report", ["report_run_canceled", "report_run_canceling"])
def test_a_run_that_is_cancelled_too_late_for_an_interrupt_is_not_said_to_have_succeeded(instance, monkeypatch, report):
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_LOOKS", 600)
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
    with pytest.raises(KeyboardInterrupt), runs.interrupted_when_cancelled(instance, run):
        getattr(instance, report)(run)


def test_a_run_that_nobody_cancels_ends_in_no_interrupt(instance):
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
    with runs.interrupted_when_cancelled(instance, run):
        pass


def test_who_materialises_without_the_executor_waits_for_the_run_that_has_the_scale(start, tmp_path, monkeypatch):
    life, file = tmp_path / "alive/one", tmp_path / "data/value/50m.pt"
    first = start(RUN, tmp_path, "one", "50m")
    assert first.stdout.readline() == "has the turn\n"
    looks, holder = [], locks._holder

    def look(lock_file):
        looks.append((holder(lock_file), file.exists()))
        if len(looks) == 3:
            first.communicate("over\n")
        return looks[-1][0]

    @dg.asset(partitions_def=SCALES)
    def value():
        return {"weight": torch.zeros(3)}

    monkeypatch.setattr(locks, "_holder", look)
    resources = {"io_manager": TorchIOManager(base_dir=str(tmp_path / "data"))}
    assert dg.materialize([value], resources=resources, partition_key="50m").success
    assert looks == [(life, False)] * 3 + [(None, False)]
    assert file.exists()


def test_all_files_that_are_locked_are_open_for_reading_and_writing_as_nfs_wants(
    start, instance, tmp_path, monkeypatch
):
    assert start(RUN, tmp_path, "other", "500m").stdout.readline() == "has the turn\n"
    locked, flock = [], fcntl.flock

    def flock_of_nfs(file, operation):
        """NFS makes of it a lock of bytes: a shared one wants a descriptor to read, an exclusive one to write."""
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == (os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        locked.append((Path(file.name).name, mode))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    (tmp_path / "alive/dead").touch()
    with runs.writing_turn(FileLocks(tmp_path), "50m", "ours"):
        FileLocks(tmp_path).join("other")
        runs.mark_lost(instance, FileLocks(tmp_path))
    assert not (tmp_path / "alive/dead").exists()
    own_folder(tmp_path / "tmp")
    assert {name for name, _ in locked} == {".ours", "50m", "ours", "other", "dead", "lock"}
    assert {mode for _, mode in locked} == {os.O_RDWR}
