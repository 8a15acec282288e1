"""Turns of runs at a scale or a pool, and clean-up after killed runs.

Every process of a run shares the lock of the run, which is alive as long as that lock is held. One run at a time holds
the lock of a scale.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg

from ms_assets.defs.platform.locks import Ask, Locks
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES

SECONDS_BETWEEN_LOOKS = 0.5
WAITING = "waiting for {}: it is the turn of run {}"
"""Message to who waits, with the scale or pool, and the run that has it."""
SECONDS_TO_START = 180
"""Seconds that a run may take from leaving the queue to its first step; Dagster's run monitoring allows the same."""
UNDER_WAY = [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
SERVER_TAG = ".dagster/grpc_info"
"""Tag of runs that a Dagster server started, and that it interrupts itself when somebody cancels them."""


@contextmanager
def writing_turn(locks: Locks, scale: str, run_id: str) -> Iterator[bool]:
    """Hold a scale's lock while a run writes there, however the run was started; yields whether it begins here.

    The executor has taken the lock for its runs. A run without it (`dg.materialize`, `execute_in_process`) waits here.
    """
    if locks.join(run_id):
        yield False
        return
    with locks.alive(run_id), locks.turn(scale, run_id) as ask:
        wait(ask, scale, dg.get_dagster_logger().info)
        yield True


@contextmanager
def unless_taken(locks: Locks, scale: str) -> Iterator[bool]:
    """Hold a scale's lock until the end of the block if no run has it; yields whether that is so."""
    with locks.turn(scale, f"reader-{uuid4()}") as ask:
        try:
            is_free = ask() is None
        except RuntimeError:  # this thread has begun the run that has it
            is_free = False
        yield is_free


def wait(ask: Ask, what: str, say: Callable[[str], None]) -> None:
    """Wait until it is the turn of who asks, and say, of each run that has it meanwhile, for whom."""
    told = None
    while holder := ask():
        if holder != told:
            say(WAITING.format(what, holder))
            told = holder
        with dg.raise_execution_interrupts():
            time.sleep(SECONDS_BETWEEN_LOOKS)


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


def mark_lost(instance: dg.DagsterInstance, locks: Locks) -> None:
    """Mark runs whose processes have died as failed.

    Under `dg dev` the server that started a run notices its death. No one notices when a run from the command line is
    killed, or the server with its runs. A history that other hosts write to tells of runs whose lives are not here:
    only one in files of the home is searched for runs that never began.
    """
    from dagster._core.storage.runs import SqliteRunStorage

    for run_id in locks.dead():
        _mark_if_unfinished(instance, run_id)
        locks.forget(run_id)
    in_home = locks.home and Path(instance.storage_directory()).absolute().is_relative_to(locks.home.absolute())
    if not (in_home and isinstance(instance.run_storage, SqliteRunStorage)):
        return
    long_ago = datetime.now(UTC) - timedelta(seconds=SECONDS_TO_START)
    ours = {PARTITION_TAG: list(SCALES.get_partition_keys())}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY, tags=ours, updated_before=long_ago)):
        if not locks.knows(run.run_id):
            _mark_if_unfinished(instance, run.run_id)


def _mark_if_unfinished(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, "The process of this run has died: it was killed, or the machine went down.")
