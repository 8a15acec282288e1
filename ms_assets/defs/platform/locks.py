"""Locks of runs in files of the home: who is alive, and whose turn it is.

The system itself releases a file's lock when its process ends, even by `kill -9`. Files are opened for reading and
writing, because NFS locks no others.
"""

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from ms_assets.files import hold

Ask = Callable[[], str | None]
"""Question whose turn it is: the id of the run that has it, or None, once, when it is the turn of who asks."""

_begun: dict[tuple[Any, str], int] = {}
"""Runs that this process has begun, by their locks and ids, and the thread of each."""


@contextmanager
def begun(locks: "Locks", run_id: str) -> Iterator[None]:
    """Remember which thread of this process has begun a run, until it ends and leaves no trace."""
    _begun[locks, run_id] = threading.get_ident()
    try:
        yield
    finally:
        del _begun[locks, run_id]
        locks.forget(run_id)


def is_begun(locks: Any, run_id: str) -> bool:
    """Tell whether this process has begun the run."""
    return (locks, run_id) in _begun


def refuse_itself(locks: Any, what: str, holder: str, run_id: str) -> None:
    """Refuse that a run waits for one that its own thread has begun.

    Raises:
        RuntimeError: it would wait for ever.
    """
    if _begun.get((locks, holder)) == threading.get_ident():
        raise RuntimeError(
            f"run {run_id} would wait for run {holder}, which began it and holds {what}; let that one end first"
        )


class Locks(Protocol):
    """Locks of runs, in files or in a database."""

    @property
    def home(self) -> Path | None:
        """Home that the locks lie in; None for a database."""

    def alive(self, run_id: str) -> AbstractContextManager[None]:
        """Mark a run as alive until the end of the block, or, if it is killed, of the last process that joined it."""

    def join(self, run_id: str) -> bool:
        """Keep a run alive for as long as this process lives; False if the run has not begun."""

    def dead(self) -> list[str]:
        """Runs that began and did not end, and of which no process lives."""

    def knows(self, run_id: str) -> bool:
        """Tell whether a run has begun and not ended."""

    def forget(self, run_id: str) -> None:
        """Remove the trace of a run that is over."""

    def turn(self, what: str, run_id: str) -> AbstractContextManager[Ask]:
        """Hold a lock until the end of the block, from when the question that it gives is answered with None.

        A killed run has the turn until the last process of its steps has ended.
        """


@dataclass(frozen=True)
class FileLocks:
    """Locks in files of a home: all processes of a run share that of the run, one run at a time has that of a scale."""

    home: Path

    @contextmanager
    def alive(self, run_id: str) -> Iterator[None]:
        """Mark a run as alive until the end of the block, or, if it is killed, of the last process that joined it."""
        life = self._life(run_id)
        life.parent.mkdir(parents=True, exist_ok=True)
        unborn = life.with_name(f".{life.name}")  # moved into place once it is locked, or the run would count as dead
        with unborn.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            unborn.rename(life)
            with begun(self, run_id):
                yield

    def join(self, run_id: str) -> bool:
        """Keep a run alive for as long as this process lives; False if the run has not begun."""
        life = self._life(run_id)
        if not life.exists():
            return False
        if not is_begun(self, run_id):
            hold(life.open("r+"), fcntl.LOCK_SH)
        return True

    def dead(self) -> list[str]:
        """Runs that began and did not end, and of which no process lives."""
        return [life.name for life in self._life("").glob("*") if not _is_held(life)]

    def forget(self, run_id: str) -> None:
        """Remove the trace of a run that is over."""
        self._life(run_id).unlink(missing_ok=True)

    def knows(self, run_id: str) -> bool:
        """Tell whether a run has begun here and not ended."""
        return self._life(run_id).exists()

    @contextmanager
    def turn(self, what: str, run_id: str) -> Iterator[Ask]:
        """Hold a lock until the end of the block, from when the question that it gives is answered with None.

        A killed run has the turn until the last process of its steps has ended.
        """
        lock = self.home / "locks" / what
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a+") as file:
            try:
                yield partial(self._ask, file, what, run_id)
            finally:
                if _named(file) == self._life(run_id):
                    file.truncate(0)

    def _ask(self, file: IO[str], what: str, run_id: str) -> str | None:
        if holder := _holder(file):
            refuse_itself(self, what, holder.name, run_id)
            return holder.name
        file.truncate(0)
        file.write(str(self._life(run_id)))
        file.flush()
        return None

    def _life(self, run_id: str) -> Path:
        """File that all processes of a run have locked, which shows that the run is alive."""
        return self.home.absolute() / "alive" / run_id


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
