"""Ranks: processes of one machine that train together, each with its columns of the embeddings (`columns.py`).

The process that asks for them is the first rank, so that checkpoints, logs and listeners are those of any training. The
others are started for it, share its data in memory, and end with it, however it ends.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from ms_assets.files import published, temporary_folder, writing
from ms_assets.machine import text
from ms_assets.training.columns import Columns

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = timedelta(days=2)
"""Time that ranks wait for each other, because the first one may save, or compute a spectrum, for hours."""
SECONDS_TO_DIE = 10
"""Seconds in which a rank that broke the connection has ended and left its reason."""
LOOKS_PER_SECOND = 20
SECONDS_BETWEEN_LOOKS = 1 / LOOKS_PER_SECOND
SHARED_MEMORY = Path("/dev/shm")


class RankError(RuntimeError):
    """A rank failed or was killed, and the others cannot go on without it."""


class _LostError(RuntimeError):
    """The connection to another rank broke."""


class Rank(Columns):
    """Columns of one rank of the process group that this process has joined."""

    def copy_first(self, x: Tensor) -> None:
        """Overwrite x by that of the first rank."""
        self._together(dist.broadcast, x, 0)

    def _add_up(self, x: Tensor) -> None:
        self._together(dist.all_reduce, x)

    def _collected(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.of)]
        self._together(dist.all_gather, parts, x)
        return parts

    def _together(self, operation: Callable[..., Any], *given: Any) -> None:
        try:
            operation(*given)
        except RuntimeError as error:
            raise _LostError(str(error)) from error


def run(n: int, work: Callable[..., T], device: torch.device, shared: Mapping[str, Any], **of_the_first: Any) -> T:
    """Run work in n processes that call `work(device=…, columns=…, **shared)`; returns what this one's call returns.

    Args:
        n: number of ranks; with 1 no process is started, and work gets no columns.
        work: function of a module; it makes the same calls of its columns in every rank.
        device: device of the work; on CUDA each rank has the card of its number.
        shared: arguments for all ranks, whose tensors lie in shared memory.
        of_the_first: further arguments for the first rank alone.

    Raises:
        RankError: another rank failed or was killed; names it and its reason.
        OSError: shared memory does not hold what is shared.
        Exception: whatever work raises in the first rank.
    """
    if n == 1:
        return work(device=device, **shared, **of_the_first)
    context, n_threads = torch.multiprocessing.get_context("spawn"), torch.get_num_threads()
    others: list[BaseProcess] = []
    with temporary_folder() as folder:
        meeting = _Meeting(folder, n, max(n_threads // n, 1), device)
        try:
            with writing(SHARED_MEMORY):
                for number in range(1, n):
                    process = context.Process(target=_other, args=(number, os.getpid(), meeting, work, shared))
                    process.start()
                    others.append(process)
            columns = meeting.join(0, others)
            result = work(device=meeting.device_of(0), columns=columns, **shared, **of_the_first)
        except _LostError as error:
            raise RankError(meeting.reason(others) or f"one of {n} ranks was lost: {error}") from error
        finally:
            for other in others:
                other.kill()
                other.join()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(n_threads)
    logger.info("%d ranks: %s summed over them", n, text(columns.n_bytes))
    return result


@dataclass(frozen=True)
class _Meeting:
    """Folder in which ranks find each other, and leave why they fail."""

    folder: Path
    n: int
    threads: int
    """Threads of each rank."""
    device: torch.device

    def device_of(self, number: int) -> torch.device:
        return torch.device("cuda", number) if self.device.type == "cuda" else self.device

    def join(self, number: int, others: Sequence[BaseProcess] = ()) -> Rank:
        """Connect this process, once all ranks are there, unless one of the others has ended before."""
        torch.set_num_threads(self.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(number)
        store = dist.FileStore(str(self.folder / "ranks"), self.n)  # type: ignore[attr-defined]
        store.add("here", 1)
        while store.add("here", 0) < self.n:
            if wait([process.sentinel for process in others], SECONDS_BETWEEN_LOOKS):
                raise _LostError("it ended before training began")
        backend = "gloo" if self.device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=number, world_size=self.n, timeout=PATIENCE)
        return Rank(number, self.n)

    def leave(self, number: int, error: Exception) -> None:
        """Leave the reason why a rank fails."""
        said = f"{type(error).__name__}: {error}"
        with published(self._reason(number)) as unfinished:
            unfinished.write_text(f"rank {number} of {self.n} failed ({said})", encoding="utf-8")

    def reason(self, others: Sequence[BaseProcess]) -> str:
        """Reason of the rank that failed first: the one that was killed, or that left its reason; or empty."""
        for _ in range(SECONDS_TO_DIE * LOOKS_PER_SECOND):
            for number, process in enumerate(others, start=1):
                if (code := process.exitcode or 0) < 0:
                    return (
                        f"rank {number} of {self.n} was killed ({signal.Signals(-code).name}), perhaps for want of "
                        "memory; the same run again resumes from the last checkpoint, with other `ranks`, too"
                    )
                if self._reason(number).exists():
                    return self._reason(number).read_text(encoding="utf-8")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return ""

    def _reason(self, number: int) -> Path:
        return self.folder / f"{number}.error"


def _other(number: int, first: int, meeting: _Meeting, work: Callable[..., Any], shared: Mapping[str, Any]) -> None:
    """Process of a rank other than the first, which ends it when nothing more is to be done."""
    # The system ends this process with the first one, even a killed one, whatever this one waits for.
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]
    if os.getppid() != first:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all, and the first one decides
    try:
        work(device=meeting.device_of(number), columns=meeting.join(number), **shared)
    except _LostError:
        sys.exit(1)
    except Exception as error:
        meeting.leave(number, error)
        sys.exit(1)
    if parent := multiprocessing.parent_process():
        parent.join()
