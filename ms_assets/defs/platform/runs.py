"""Runs under way: which of them are alive, whose turn a scale is, and what is left of those that were killed.

All of it rests on locks of files, which the system itself releases when a process ends, be it by `kill -9`. Every
process of a run shares the lock of one file, and as long as that is held the run is alive. One run at a time holds
the lock of a scale.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import dagster as dg

from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_START = 180
"""What a run may take from leaving the queue to its first step; Dagster's run monitoring grants as much."""
UNDER_WAY = [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]

_kept_open: list[IO[str]] = []
"""Files whose locks this process holds until it ends."""


def life_of(instance: dg.DagsterInstance, run_id: str) -> Path:
    """The file that the processes of a run have locked."""
    return Path(instance.storage_directory()).absolute() / "alive" / run_id


def begin(life: Path) -> None:
    """Have the run live as long as this process, and every other one that joins it."""
    life.parent.mkdir(parents=True, exist_ok=True)
    unborn = life.parents[1] / f".{life.name}"  # in its place only once it is locked, or it would count as dead
    _keep(unborn.open("w"))
    unborn.rename(life)


def join(life: Path) -> None:
    """Have a run that has begun live as long as this process."""
    if life.exists():
        _keep(life.open())


def _keep(file: IO[str]) -> None:
    fcntl.flock(file, fcntl.LOCK_SH)
    _kept_open.append(file)


@contextmanager
def turn(lock: Path, life: Path) -> Iterator[Iterator[str]]:
    """A run's turn with what is locked, until the end of the block.

    The block has to exhaust the iterator that it is given: while other runs have the turn it tells which, twice a
    second. A run that was killed has it until the last process of its steps is gone.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            yield _those_before(file, life)
        finally:
            if _named(file) == life:
                file.truncate(0)


def _those_before(file: IO[str], life: Path) -> Iterator[str]:
    while holder := _holder(file):
        yield holder.name
        with dg.raise_execution_interrupts():
            time.sleep(SECONDS_BETWEEN_LOOKS)
    file.truncate(0)
    file.write(str(life))
    file.flush()


def _holder(file: IO[str]) -> Path | None:
    """The run that has the turn; none when this process has the lock and nobody is left of who had it before."""
    free, named = _locked(file), _named(file)
    return named if not free or _is_held(named) else None


def _named(file: IO[str]) -> Path:
    file.seek(0)
    return Path(file.read() or "that has just begun")


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        with path.open() as file:
            return not _locked(file)
    except FileNotFoundError:
        return False


def mark_lost(instance: dg.DagsterInstance) -> None:
    """Mark runs whose processes have died as failed.

    Under `dg dev` the server that started a run notices when it dies. Nobody does when a run from the command line
    was killed, or everything at once.
    """
    for life in life_of(instance, "").glob("*"):
        if not _is_held(life):
            _mark_if_unfinished(instance, life.name)
            life.unlink(missing_ok=True)
    long_ago = datetime.now(UTC) - timedelta(seconds=SECONDS_TO_START)
    ours = {PARTITION_TAG: list(SCALES.get_partition_keys())}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY, tags=ours, updated_before=long_ago)):
        if not life_of(instance, run.run_id).exists():
            _mark_if_unfinished(instance, run.run_id)


def _mark_if_unfinished(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, "The process of this run has died: it was killed, or the machine went down.")
