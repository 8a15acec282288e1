"""Layouts of Yambda's interaction files: sequential files flattened into rows, and events sorted by user and time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ms_assets.raw.arrival import parts_of
from ms_assets.raw.schema import SourceError, SourceTable
from ms_assets.streams import Relation, ahead

ROWS_AT_A_TIME = 1 << 20
USERS_AT_A_TIME = 64
"""Rows of a sequential file that are held at a time; a user has thousands of events."""


def flattened(path: Path, table: SourceTable) -> Iterator[pa.Table]:
    """Flatten a sequential file, which has one row per uid and lists in all other columns, into rows.

    Raises:
        SourceError: a column that is needed is missing, or one holds no lists, or the lists of a user differ in length.
    """
    parts = parts_of(path, table)
    schema = pq.read_schema(parts[0])
    names = [column.name for column in table.columns if column.name in schema.names]
    for name in names[1:]:
        found = schema.field(name).type
        if not (pa.types.is_list(found) or pa.types.is_large_list(found)):
            raise SourceError(f"{path}: column {name} has type {found}, expected a list for each user")
    yield _flat(schema.empty_table().to_batches(), schema, path, names)
    for part in parts:
        for users in pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20).iter_batches(
            USERS_AT_A_TIME, columns=names
        ):
            yield _flat([users], users.schema, part, names)


def _flat(batches: list[pa.RecordBatch], schema: pa.Schema, path: Path, names: list[str]) -> pa.Table:
    from pyarrow import compute

    users = pa.Table.from_batches(batches, schema).combine_chunks()
    counts = [compute.list_value_length(users[name]) for name in names[1:]]
    lengths = [each.to_numpy() for each in counts]
    for name, count, length in zip(names[2:], counts[1:], lengths[1:], strict=True):
        for at in np.flatnonzero(lengths[0] != length)[:1].tolist():
            raise SourceError(
                f"{path}: for uid {users['uid'][at]} column {names[1]} has {counts[0][at]} values and column {name} "
                f"{count[at]}; expected lists of one length for each user: write the file again"
            )
    user = np.repeat(np.arange(len(users)), lengths[0].astype(np.int64))
    uid = users["uid"].take(pa.array(user))
    return pa.table([uid, *(compute.list_flatten(users[name]) for name in names[1:])], names=names)


def is_sorted(events: Relation) -> bool:
    """True if events are sorted by uid, then timestamp; unknown ones come last, as the highest value of 32 bits."""
    unknown = f"{2**32 - 1}::UBIGINT"
    key = f'(coalesce(uid, {unknown})::UBIGINT << 32) + coalesce("timestamp", {unknown})::UBIGINT AS key'
    last = np.uint64(0)
    for batch in ahead(events.project(key).to_arrow_reader(ROWS_AT_A_TIME)):
        keys = batch.column(0).to_numpy()
        if (keys[:1] < last).any() or (keys[1:] < keys[:-1]).any():
            return False
        last = keys[-1] if len(keys) else last
    return True


def in_order(events: Relation) -> Relation:
    """Sort events by uid, then timestamp, unknown ones last; ties stay in the order of `file_row_number`."""
    ordered = events.order('uid NULLS LAST, "timestamp" NULLS LAST, file_row_number')
    return ordered.project("* EXCLUDE (file_row_number)")
