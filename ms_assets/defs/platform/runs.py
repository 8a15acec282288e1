"""Liveness of runs and locks of scales and pools, and clean-up after killed runs.

Both use file locks in the home, which the system itself releases when a process ends, even by `kill -9`. Every process
of a run shares the lock of one file, and the run is alive as long as that lock is held. One run at a time holds the
lock of a scale. Files are opened for reading and writing, because NFS locks no others.
"""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import IO

import dagster as dg

from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.files import hold

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_START = 180
"""Seconds that a run may take from leaving the queue to its first step; Dagster's run monitoring allows the same."""
UNDER_WAY = [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
SERVER_TAG = ".dagster/grpc_info"
"""Tag of runs that a Dagster server started, and that it interrupts itself when somebody cancels them."""

_begun: dict[Path, int] = {}
"""Lives that this process has begun, and the thread of each."""


def life_of(home: Path, run_id: str) -> Path:
    """File that all processes of a run have locked, which shows that the run is alive."""
    return home.absolute() / "alive" / run_id


@contextmanager
def alive(life: Path) -> Iterator[None]:
    """Mark a run as alive until the end of the block, or, if it is killed, of the last process that joined it."""
    life.parent.mkdir(parents=True, exist_ok=True)
    unborn = life.with_name(f".{life.name}")  # moved into place once it is locked, or the run would count as dead
    with unborn.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        unborn.rename(life)
        _begun[life] = threading.get_ident()
        try:
            yield
        finally:
            del _begun[life]
            life.unlink(missing_ok=True)


def join(life: Path) -> None:
    """Keep a run that has begun alive for as long as this process lives."""
    if life not in _begun and life.exists():
        hold(life.open("r+"), fcntl.LOCK_SH)


@contextmanager
def writing_turn(home: Path, scale: str, run_id: str) -> Iterator[None]:
    """Hold a scale's lock while a run writes there, however the run was started.

    The executor has taken the lock for its runs. A run without it (`dg.materialize`, `execute_in_process`) waits here.
    """
    life = life_of(home, run_id)
    if life.exists():
        join(life)
        yield
        return
    with alive(life), turn(home / "locks" / scale, life) as those_before:
        for other, _ in groupby(those_before):
            dg.get_dagster_logger().info(f"waiting for {scale}: it is the turn of run {other}")
        yield


@contextmanager
def unless_taken(home: Path, scale: str) -> Iterator[bool]:
    """Hold a scale's lock for a moment if no run has it; yields whether that is so."""
    lock = home / "locks" / scale
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        yield _holder(file) is None


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
        if _begun.get(holder) == threading.get_ident():
            raise RuntimeError(
                f"run {life.name} would wait for run {holder.name}, which began it and holds {file.name}; "
                "let that one end first"
            )
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
        with path.open("r+") as file:
            return not _locked(file)
    except FileNotFoundError:
        return False


@contextmanager
def interrupted_when_cancelled(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[None]:
    """Interrupt this process, as Ctrl-C does, once somebody cancels a run that no Dagster server can reach.

    Raises:
        KeyboardInterrupt: the run was cancelled when it was too late to interrupt a step; Dagster would report success.
    """
    over = threading.Event()

    def cancelled() -> bool:
        found = instance.get_run_by_id(run.run_id)
        return found is not None and found.status in CANCELLED

    def watch() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            if cancelled():
                os.kill(os.getpid(), signal.SIGINT)
                return

    if SERVER_TAG not in run.tags:
        threading.Thread(target=watch, name="cancellation", daemon=True).start()
    try:
        yield
    finally:
        over.set()
    if cancelled():
        raise KeyboardInterrupt


def mark_lost(instance: dg.DagsterInstance, home: Path) -> None:
    """Mark runs of a home whose processes have died as failed.

    Under `dg dev` the server that started a run notices its death. No one notices when a run from the command line is
    killed, or the server with its runs. A history that other hosts write to tells of runs whose lives are not here:
    only one in files of the home is searched for runs that never began.
    """
    from dagster._core.storage.runs import SqliteRunStorage

    for life in life_of(home, "").glob("*"):
        if not _is_held(life):
            _mark_if_unfinished(instance, life.name)
            life.unlink(missing_ok=True)
    in_home = Path(instance.storage_directory()).absolute().is_relative_to(home.absolute())
    if not (in_home and isinstance(instance.run_storage, SqliteRunStorage)):
        return
    long_ago = datetime.now(UTC) - timedelta(seconds=SECONDS_TO_START)
    ours = {PARTITION_TAG: list(SCALES.get_partition_keys())}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY, tags=ours, updated_before=long_ago)):
        if not life_of(home, run.run_id).exists():
            _mark_if_unfinished(instance, run.run_id)


def _mark_if_unfinished(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, "The process of this run has died: it was killed, or the machine went down.")
