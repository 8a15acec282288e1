"""Locks of runs as sessions of PostgreSQL, for runs whose steps are on several machines.

PostgreSQL releases an advisory lock when the session that took it ends: at once if its process is killed, within two
minutes if its machine is lost. The locks mean what those in files of a home mean.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ms_assets.defs.platform import database
from ms_assets.defs.platform.locks import Ask, begun, is_begun, refuse_itself

LIFE, TURN = 1, 2
"""First of the two numbers of an advisory lock: that of a run's life, or of a turn at a scale."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS locks.lives (run_id TEXT PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS locks.turns (what TEXT PRIMARY KEY, run_id TEXT NOT NULL)",
)
KEEP_ALIVE = "SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 15; SET tcp_keepalives_count = 4"
"""Seconds after which the server asks for a sign of life, how often, and how many it lets pass."""
_kept_open = ExitStack()
"""Sessions whose locks this process holds until it ends."""


@dataclass(frozen=True)
class SessionLocks:
    """Locks in a database: all processes of a run share that of the run, one run at a time has that of a scale."""

    address: str
    home: None = None

    @contextmanager
    def alive(self, run_id: str) -> Iterator[None]:
        """Mark a run as alive until the end of the block, or, if it is killed, of the last process that joined it."""
        with self._session() as ask:
            ask("SELECT pg_advisory_lock_shared(%s, hashtext(%s))", LIFE, run_id)
            ask("INSERT INTO locks.lives VALUES (%s) ON CONFLICT DO NOTHING", run_id)
            with begun(self, run_id):
                yield

    def join(self, run_id: str) -> bool:
        """Keep a run alive for as long as this process lives; False if the run has not begun."""
        if is_begun(self, run_id):
            return True
        with ExitStack() as stack:
            ask = stack.enter_context(self._session())
            if not ask("SELECT 1 FROM locks.lives WHERE run_id = %s", run_id):
                return False
            ask("SELECT pg_advisory_lock_shared(%s, hashtext(%s))", LIFE, run_id)
            _kept_open.push(stack.pop_all())
        return True

    def knows(self, run_id: str) -> bool:
        """Tell whether a run has begun and not ended."""
        with self._session() as ask:
            return bool(ask("SELECT 1 FROM locks.lives WHERE run_id = %s", run_id))

    def dead(self) -> list[str]:
        """Runs that began and did not end, and of which no process lives."""
        with self._session() as ask:
            return [run_id for (run_id,) in ask("SELECT run_id FROM locks.lives") if not _is_held(ask, run_id)]

    def forget(self, run_id: str) -> None:
        """Remove the trace of a run that is over."""
        with self._session() as ask:
            ask("DELETE FROM locks.lives WHERE run_id = %s", run_id)

    @contextmanager
    def turn(self, what: str, run_id: str) -> Iterator[Ask]:
        """Hold a lock until the end of the block, from when the question that it gives is answered with None.

        A killed run has the turn until the last process of its steps has ended.
        """
        with self._session() as ask:
            try:
                yield partial(self._whose, ask, what, run_id)
            finally:
                ask("DELETE FROM locks.turns WHERE what = %s AND run_id = %s", what, run_id)

    def _whose(self, ask: "_Asking", what: str, run_id: str) -> str | None:
        [(free,)] = ask("SELECT pg_try_advisory_lock(%s, hashtext(%s))", TURN, what)
        named = [holder for (holder,) in ask("SELECT run_id FROM locks.turns WHERE what = %s", what)]
        if not free or (named and _is_held(ask, named[0])):
            holder = named[0] if named else "that has just begun"
            refuse_itself(self, what, holder, run_id)
            return holder
        took = "INSERT INTO locks.turns VALUES (%s, %s) ON CONFLICT (what) DO UPDATE SET run_id = EXCLUDED.run_id"
        ask(took, what, run_id)
        return None

    @contextmanager
    def _session(self) -> Iterator["_Asking"]:
        _make_tables(self.address)
        with database.opening(self.address) as connection:
            connection.autocommit = True
            asking = _Asking(connection)
            asking(KEEP_ALIVE)
            yield asking


@dataclass(frozen=True)
class _Asking:
    """Session that statements are sent in."""

    connection: Any

    def __call__(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []


@lru_cache
def _make_tables(address: str) -> None:
    database.schema(address, "locks", *TABLES)


def _is_held(ask: _Asking, run_id: str) -> bool:
    [(free,)] = ask("SELECT pg_try_advisory_lock(%s, hashtext(%s))", LIFE, run_id)
    if free:
        ask("SELECT pg_advisory_unlock(%s, hashtext(%s))", LIFE, run_id)
    return not free
