"""Tables larger than memory: read, computed and written a range of users at a time.

Every computation after the raw tables is local to a user, and every large table is sorted by user. So nothing
here ever holds more than some users' rows, and the result does not depend on where the cuts fall.
"""

import glob
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Relation = duckdb.DuckDBPyRelation
T = TypeVar("T")
logger = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 10.0

ROW_GROUP = 1 << 17
"""Rows of a row group: few enough to skip the users before and after a range, enough to compress."""


def stored_table(connection: duckdb.DuckDBPyConnection, path: Path, file_row_number: bool = False) -> Relation:
    """Read one Parquet file as a relation; the path is taken literally, whatever glob characters it contains."""
    return connection.read_parquet(glob.escape(str(path)), file_row_number=file_row_number)


@dataclass(frozen=True)
class TableStream:
    """Table as consecutive Arrow tables of one schema, at least one, in the order of its rows."""

    tables: Iterable[pa.Table]


def whole_users(batches: Iterable[pa.RecordBatch], column: str) -> Iterator[pa.RecordBatch]:
    """Regroup sorted rows so that all rows of a user are in one batch; `column`, the user's id, is never null.

    Raises:
        ValueError: the rows are not sorted by `column`, so that a user's rows might be in two batches.
    """
    held: list[pa.RecordBatch] = []
    for batch in ahead(iter(batches)):
        if not len(batch):
            continue
        rows = pa.concat_batches([*held, batch])
        ids = rows.column(column).to_numpy()
        if (ids[1:] < ids[:-1]).any():
            raise ValueError(f"rows are not sorted by {column}; materialise their table again")
        if last := int(np.searchsorted(ids, ids[-1])):
            yield rows.slice(0, last)
        held = [rows.slice(last)]
    yield from held


def with_progress(items: Iterable[T], what: str, total: int, size: Callable[[Any], int] = len) -> Iterator[T]:
    """Iterate over items and log about every ten seconds how much of the total size has been processed."""
    done, spoke = 0, time.monotonic()
    for item in items:
        yield item
        done += size(item)
        if time.monotonic() - spoke > LOG_EVERY_SECONDS:
            spoke = time.monotonic()
            logger.info("%s: %s of %s (%.0f %%)", what, f"{done:,}", f"{total:,}", 100 * done / total)


def starts(sorted_ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Position of the first row of each id, int64 [n_ids]."""
    return np.flatnonzero(np.append(True, sorted_ids[1:] != sorted_ids[:-1])[: len(sorted_ids)])


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Iterate over items while a thread prepares the next one."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


def in_user_ranges(query: Callable[..., Relation], *tables: Relation, rows: int) -> TableStream:
    """Compute a query's result for one range of users after another.

    The query treats each user alone; the tables are sorted by `user_id`.

    Args:
        query: function from relations like `tables` to a relation.
        tables: tables that the query reads.
        rows: approximate number of their rows per range; a user is never cut.
    """
    ranges = user_ranges(*tables, rows=rows)
    return TableStream(
        query(*(table.filter(f"user_id BETWEEN {first} AND {last}") for table in tables)).to_arrow_table()
        for first, last in with_progress(ranges, "ranges of users", len(ranges), lambda _: 1)
    )


def user_ranges(*tables: Relation, rows: int) -> list[tuple[int, int]]:
    """Consecutive ranges (first, last) of `user_id` that cover all users, with about `rows` rows of the tables each."""
    every = reduce(Relation.union, (table.project("user_id") for table in tables))
    counts = every.aggregate("user_id, count(*) AS n").order("user_id").fetchnumpy()
    users, n_rows = counts["user_id"], counts["n"]
    if not len(users):
        return [(0, 0)]
    first = starts(np.cumsum(n_rows) // rows)
    last = np.append(first[1:] - 1, len(users) - 1)
    return list(zip(users[first].tolist(), users[last].tolist(), strict=True))


class TableWriter:
    """Context manager that writes consecutive tables into one Parquet file, which is complete after `finish`.

    Row groups have the same size however the rows arrive, and a thread compresses them while the next rows are
    computed. Integers are delta-encoded, which suits ids and times; other columns are dictionary-encoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: pq.ParquetWriter = None  # both until the first table comes
        self._waiting: pa.Table = None
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        if self._writer is not None:
            self._writer.close()

    def append(self, table: pa.Table) -> None:
        """Append rows to the file."""
        if self._writer is None:
            self._writer, self._waiting = self._open(table.schema), table.slice(0, 0)
        self._waiting = pa.concat_tables([self._waiting, table])
        if n := len(self._waiting) // ROW_GROUP * ROW_GROUP:
            self._write(n)

    def fill(self, tables: Iterable[pa.Table]) -> Path:
        """Append tables, at least one, and finish."""
        for table in tables:
            self.append(table)
        return self.finish()

    def finish(self) -> Path:
        """Write the rows that are still waiting, complete the file and return its path."""
        assert self._writer is not None, "a table has columns: append at least one table, even an empty one"
        self._write(len(self._waiting))
        self._wait()
        self._writer.close()
        return self.path

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        whole = [field.name for field in schema if pa.types.is_integer(field.type)]
        return pq.ParquetWriter(
            self.path,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in whole],
            column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
            # With the schema stored, a dictionary of names would be read back as a category instead of text.
            store_schema=False,
        )

    def _write(self, n: int) -> None:
        """Have the thread write the first n of the waiting rows."""
        self._wait()
        if n:
            self._writing = self._thread.submit(self._writer.write_table, self._waiting.slice(0, n), ROW_GROUP)
            self._waiting = self._waiting.slice(n)

    def _wait(self) -> None:
        """Wait for the table that the thread is writing, at most one; the thread's error is raised here."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
