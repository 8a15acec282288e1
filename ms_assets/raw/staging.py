"""Rows of own logs between their files and the source: each file is read once, its values are checked, and events are
kept as numbers, with codes for users and songs in place of their ids."""

import glob
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ms_assets.events import EVENT_TYPES, listed
from ms_assets.raw import values
from ms_assets.raw.arrival import PART_BITS
from ms_assets.raw.logs import Connection, Log, literal, place_of, quoted, whole
from ms_assets.raw.schema import SourceError
from ms_assets.streams import Relation, ahead

LEFT_OUT = ""
"""Type to which events are mapped that are to be left out."""
RULES = {
    "no user": '"user" IS NULL',
    "no song": "song IS NULL",
    "no time": '"time" IS NULL',
    "no type": "type IS NULL",
    "type left out": f"type = '{LEFT_OUT}'",
    "time before 1970": '"time" < 0',
    "time in the future": '"time" > {now}',
}
"""Conditions in SQL for events that are dropped, in the order in which they are asked; `{now}` is in microseconds."""
EVENTS_AT_A_TIME, VECTORS_AT_A_TIME = 1 << 19, 1 << 13
CODED = ("user", "song")
NUMBERS = {"time": pa.int64(), "type": pa.uint8(), "ratio": pa.float64(), "organic": pa.uint8()}
STORED = pa.schema({**dict.fromkeys(CODED, pa.uint32()), **NUMBERS})
"""Columns of stored events: codes of ids, microseconds since 1970, place in EVENT_TYPES, ratio as the log has it."""
NUMBERED = pa.schema(
    {"uid": pa.uint32(), "item_id": pa.uint32(), **NUMBERS, "type": pa.dictionary(pa.uint8(), pa.string())}
)
"""Columns of stored events, with the numbers of users and songs in place of codes, and names of types."""


class Codes:
    """Codes of ids, in the order in which they first come; they and the ids are held in memory."""

    def __init__(self) -> None:
        self._ids = pl.Categories.random()
        # Polars forgets categories that no series has.
        self._kept = pl.Series([], dtype=pl.Categorical(self._ids))

    def of(self, ids: pa.Array) -> pa.Array:
        """Codes of ids (text), uint32; no id is null."""
        # Most ids come several times among many rows, and finding one among these few is quicker than among all.
        once = ids.dictionary_encode()
        codes = pl.Series(once.dictionary).cast(self._kept.dtype).to_physical().to_numpy()
        return pa.array(codes[once.indices.to_numpy()])

    def ids(self) -> pa.Table:
        """All ids so far (`id`) with their codes (`code`)."""
        ids = self._ids.to_series()
        return pa.table({"id": ids.to_arrow(), "code": np.arange(len(ids), dtype=np.uint32)})


@dataclass
class Problems:
    """Values that cannot be read and types that nobody knows: how many there are, and the first place of them."""

    n_unreadable: int = 0
    unreadable: tuple[str, str] = ("", "")
    """Place of the first one, and what it is: kind of column, its name and the value, divided by \\x1f."""
    unknown: Counter[str] = field(default_factory=Counter)
    unknown_at: str = ""

    def noted(self, file: str, rows: Relation, at_a_time: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a file, in its order and so many at a time, and note the problems that they have.

        rows: columns `unreadable` and, for events, `unknown` hold what is wrong, or null.
        """
        first = 0
        with whole(file):
            for batch in rows.to_arrow_reader(at_a_time):
                for name in {"unreadable", "unknown"} & set(batch.schema.names):
                    if batch[name].null_count < len(batch):
                        row = first + pc.index(batch[name].is_valid(), True).as_py()
                        self._note(name, batch[name].drop_null().to_pylist(), place_of(file, row))
                first += len(batch)
                yield batch

    def _note(self, name: str, said: list[str], place: str) -> None:
        if name == "unknown":
            self.unknown_at = self.unknown_at or place
            self.unknown.update(said)
        else:
            self.unreadable = self.unreadable if self.n_unreadable else (place, said[0])
            self.n_unreadable += len(said)

    def refuse(self) -> None:
        """Refuse rows if there are problems.

        Raises:
            SourceError: names the first place, what was found there and how many such rows there are.
        """
        if self.n_unreadable:
            place, said = self.unreadable
            what, name, found = said.split("\x1f", 2)
            raise SourceError(
                f"{place}: column {name} has {found[:80]!r}, expected {values.EXPECTED[what]}; found "
                f"{self.n_unreadable:,} such rows: mend them, or name another column by --{what}"
            )
        if self.unknown:
            most = sorted(self.unknown.items(), key=lambda entry: (-entry[1], entry[0]))[:10]
            said = ", ".join(f"{name!r} ({n:,})" for name, n in most)
            raise SourceError(
                f"{self.unknown_at}: found event types {said}, expected {listed(EVENT_TYPES)}; say what they stand "
                f"for: --map {most[0][0]}=listen, or --map {most[0][0]}= to leave them out"
            )


@dataclass
class Staged:
    """Events that a file keeps, in the order of the logs, and what was met on the way."""

    file: Path
    codes: Mapping[str, Codes] = field(default_factory=lambda: {what: Codes() for what in CODED})
    """Codes of users and songs."""
    n_read: dict[str, int] = field(default_factory=dict)
    """Rows by log."""
    n_dropped: Counter[str] = field(default_factory=Counter)
    """Dropped events by rule."""
    n_kept: int = 0
    ratios: list[float] = field(default_factory=list)
    """Lowest and highest ratios of kept events."""

    def keep(self, batch: pa.RecordBatch, stored: pa.ipc.RecordBatchFileWriter) -> None:
        """Store the events of a batch that no rule drops."""
        if batch["rule"].null_count < len(batch):
            for rule in batch["rule"].drop_null().value_counts().to_pylist():
                self.n_dropped[[*RULES][rule["values"]]] += rule["counts"]
            batch = batch.filter(batch["rule"].is_null())
        ends = pc.min_max(batch["ratio"]).as_py()
        self.ratios += [ratio for ratio in ends.values() if ratio is not None]
        self.n_kept += len(batch)
        coded = [codes.of(batch[what]) for what, codes in self.codes.items()]
        stored.write_batch(pa.record_batch([*coded, *(batch[what] for what in NUMBERS)], schema=STORED))

    def numbered(self, numbers: Mapping[str, NDArray[np.uint32]]) -> pa.RecordBatchReader:
        """Read the kept events with the numbers of users and songs, given by code; columns as NUMBERED."""
        names = pa.array([*EVENT_TYPES])

        def batches() -> Iterator[pa.RecordBatch]:
            with pa.OSFile(str(self.file)) as file, pa.ipc.open_file(file) as stored:
                for place in range(stored.num_record_batches):
                    batch = stored.get_batch(place)
                    held = {what: batch[what] for what in NUMBERS}
                    held["type"] = pa.DictionaryArray.from_arrays(held["type"], names)
                    ids = [pa.array(numbers[what][batch[what].to_numpy()]) for what in CODED]
                    yield pa.record_batch([*ids, *held.values()], schema=NUMBERED)

        return pa.RecordBatchReader.from_batches(NUMBERED, batches())


def stage_events(
    con: Connection, found: Sequence[Log], columns: Sequence[Mapping[str, str]], sql: Mapping[str, str], now: int,
    file: Path,
) -> Staged:  # fmt: skip
    """Keep the events of logs in a file, except those that RULES drop.

    Args:
        columns: names of columns by what they hold, for each log.
        sql: SQL for user, song, time, type (its name), ratio and organic, from the values of those columns.
        now: microseconds since 1970; later times are in the future.

    Raises:
        SourceError: a log cannot be read to its end, has a value that cannot be read, or a type that nobody knows.
    """
    codes = " ".join(f"WHEN {literal(name)} THEN {code}" for code, name in enumerate(EVENT_TYPES))
    # Nearly all events are kept, so that one condition for all rules comes first.
    kept = f'"user" IS NOT NULL AND song IS NOT NULL AND "time" BETWEEN 0 AND {now} AND code IS NOT NULL'
    rules = " ".join(f"WHEN {rule.format(now=now)} THEN {place}" for place, rule in enumerate(RULES.values()))
    chosen = f"""* EXCLUDE (code) REPLACE (code AS type), (CASE WHEN {kept} THEN NULL {rules} END)::UTINYINT AS rule,
        CASE WHEN code IS NULL AND type <> '{LEFT_OUT}' THEN type END AS unknown"""
    staged, problems = Staged(file), Problems()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, STORED) as stored:
        for log, held in zip(found, columns, strict=True):
            staged.n_read[log.file] = 0
            rows = read(con, log, held, sql).project(f"*, (CASE type {codes} END)::UTINYINT AS code").project(chosen)
            for batch in ahead(problems.noted(log.file, rows, EVENTS_AT_A_TIME)):
                staged.n_read[log.file] += len(batch)
                staged.keep(batch, stored)
    problems.refuse()
    return staged


def stage_content(con: Connection, found: Sequence[Log], columns: Sequence[Mapping[str, str]], file: Path) -> Relation:
    """Keep what tables tell of songs in a file, with `position`, which orders rows as the tables do.

    columns: names of columns by what they hold, for each table.

    Raises:
        SourceError: a table cannot be read to its end, or has a value that cannot be read.
    """
    problems = Problems()
    rows = [
        read(con, log, held, {what: quoted(what) for what in held}) for log, held in zip(found, columns, strict=True)
    ]
    schema = rows[0].limit(0).to_arrow_table().schema.append(pa.field("position", pa.int64()))
    with pq.ParquetWriter(file, schema) as writer:
        for part, (log, of_songs) in enumerate(zip(found, rows, strict=True)):
            positions = count(part << PART_BITS)
            for batch in problems.noted(log.file, of_songs, VECTORS_AT_A_TIME):
                column = pa.array(islice(positions, len(batch)), pa.int64())
                writer.write_batch(batch.append_column("position", column))
    problems.refuse()
    return con.read_parquet(glob.escape(str(file)))


def read(con: Connection, log: Log, columns: Mapping[str, str], sql: Mapping[str, str]) -> Relation:
    """Values of a log, with `unreadable`: what the first value of a row that cannot be read was meant for, its column,
    and itself, divided by \\x1f.

    columns: names of columns by what they hold.
    sql: SQL for the columns to show, from the values of those columns.
    """
    given = {what: quoted(f"given {what}") for what in columns}
    # Values are computed once, below what asks for them twice.
    inner = ", ".join(
        f"{values.value(log, what, name)} AS {quoted(what)}, {quoted(name)} AS {given[what]}"
        for what, name in columns.items()
    )
    said = " || chr(31) || "
    bad = " ".join(
        f"WHEN {quoted(what)} IS NULL AND {values.is_given(log, name, given[what])} "
        f"THEN {said.join((literal(what), literal(name), f'{given[what]}::VARCHAR'))}"
        for what, name in columns.items()
    )
    shown = ", ".join(f"{sql[what]} AS {quoted(what)}" for what in sql)
    return con.sql(f"SELECT {shown}, CASE {bad} END AS unreadable FROM (SELECT {inner} FROM {log.reader})")
