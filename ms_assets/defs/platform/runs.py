"""Liveness of runs and locks of scales and pools, and clean-up after killed runs.

Both use file locks, which the system itself releases when a process ends, even by `kill -9`. Every process of a run
shares the lock of one file, and the run is alive as long as that lock is held. One run at a time holds the lock of a
scale.
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
"""Seconds that a run may take from leaving the queue to its first step; Dagster's run monitoring allows the same."""
UNDER_WAY = [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]

_kept_open: list[IO[str]] = []
"""Files whose locks this process holds until it ends."""


def life_of(instance: dg.DagsterInstance, run_id: str) -> Path:
    """File that all processes of a run have locked, which shows that the run is alive."""
    return Path(instance.storage_directory()).absolute() / "alive" / run_id


def begin(life: Path) -> None:
    """Mark a run as alive for as long as this process, or another one that joins it, lives."""
    life.parent.mkdir(parents=True, exist_ok=True)
    unborn = life.parents[1] / f".{life.name}"  # moved into place once it is locked, or the run would count as dead
    _keep(unborn.open("w"))
    unborn.rename(life)


def join(life: Path) -> None:
    """Keep a run that has begun alive for as long as this process lives."""
    if life.exists():
        _keep(life.open())


def _keep(file: IO[str]) -> None:
    fcntl.flock(file, fcntl.LOCK_SH)
    _kept_open.append(file)


@contextmanager
def turn(lock: Path, life: Path) -> Iterator[Iterator[str]]:
    """Hold a lock for a run until the end of the block.

    The block has to exhaust the iterator that it is given, which waits and yields the id of the run that holds the
    lock, twice a second. A killed run holds it until the last process of its steps has ended.
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
    """Run that holds the lock; None if this process has just taken it and no process of the former holder is left."""
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

    Under `dg dev` the server that started a run notices its death. No one notices when a run from the command line is
    killed, or the server with its runs.
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
