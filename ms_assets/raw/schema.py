"""Schema of Yambda's published files: their paths and columns, and the checks that each file passes on arrival."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ms_assets.events import EVENT_TYPES, REMEDY, listed
from ms_assets.streams import Relation, stored_table

AUDIO_DIMENSIONS = 128

# DuckDB types that hold every value of the published one.
UINT8 = ("UTINYINT", "USMALLINT", "SMALLINT", "UINTEGER", "INTEGER", "UBIGINT", "BIGINT")
UINT16 = ("USMALLINT", "UINTEGER", "INTEGER", "UBIGINT", "BIGINT", "FLOAT", "DOUBLE")
UINT32 = ("UINTEGER", "UBIGINT", "BIGINT")
UNSIGNED = {"UTINYINT": 2**8 - 1, "USMALLINT": 2**16 - 1, "UINTEGER": 2**32 - 1, "UBIGINT": 2**64 - 1}
"""Highest value of each unsigned type."""
VECTOR = tuple(f"{real}{size}" for real in ("FLOAT", "DOUBLE") for size in ("[]", f"[{AUDIO_DIMENSIONS}]"))
NAME = ("VARCHAR", "ENUM")


class SourceError(ValueError):
    """A source file is not what Yambda publishes."""


@dataclass(frozen=True)
class Column:
    """Published column: its accepted types, and a condition that every value meets unless it is null."""

    name: str
    types: tuple[str, ...]
    description: str
    between: tuple[int, int] | None = None
    """Lowest and highest value, where values are bounded."""
    holds: str | None = None
    """Condition in SQL, where bounds are not enough."""
    surely_holds: str | None = None
    """Condition in SQL that is quicker to compute, and true only where `holds` is; it spares rows the check of that."""
    remedy: str = ""
    """Remedy that ends the error about values that break the condition."""

    def condition(self, found: str) -> str | None:
        """Condition in SQL to check for a column of the found type; None if the type itself guarantees it."""
        if self.between is None:
            return self.holds
        low, high = self.between
        if low == 0 and UNSIGNED.get(found, high + 1) <= high:
            return None
        # Statistics of a file leave NaN out, so the reader might take bounds alone for granted.
        number = f' AND NOT isnan("{self.name}")' if found in ("FLOAT", "DOUBLE") else ""
        return f'"{self.name}" BETWEEN {low} AND {high}{number}'


@dataclass(frozen=True)
class SourceTable:
    """Published table; its path contains `{layout}` and `{scale}` if there is a file for each."""

    name: str
    path: str
    columns: tuple[Column, ...]
    description: str
    unique: str | None = None
    """Column whose values are all different."""
    usable: str | None = None
    """Condition in SQL for usable rows; the others count as missing."""

    def file(self, scale: str, layout: str = "flat") -> str:
        """Path of the file inside the dataset."""
        return self.path.format(scale=scale, layout=layout)

    @property
    def of_interactions(self) -> bool:
        """True for tables of interactions, which are published in both layouts."""
        return "{layout}" in self.path


UINT32_RANGE = (0, 2**32 - 1)
UID = Column("uid", UINT32, "Yambda's user id; not dense", UINT32_RANGE)
ITEM_ID = Column("item_id", UINT32, "Yambda's song id; not dense", UINT32_RANGE)
INTERACTION = (
    UID,
    Column("timestamp", UINT32, "seconds since the first event, in steps of 5", UINT32_RANGE),
    ITEM_ID,
    Column("is_organic", UINT8, "1: the user's own choice; 0: driven by a recommendation", (0, 1)),
)
LISTEN = (
    Column("played_ratio_pct", UINT16, "percent of the track played; null unless a listen", (0, 100)),
    Column("track_length_seconds", UINT16, "length of the track; null unless a listen", UINT32_RANGE),
)
EVENT_TYPE = Column(
    "event_type", NAME, listed(EVENT_TYPES), holds=f"event_type IN {tuple(EVENT_TYPES)}", remedy=f"; {REMEDY}"
)


def _vector(name: str, description: str) -> Column:
    # Null vectors and null elements are refused too; `NOT (null)` would let them pass.
    whole = f"coalesce(len({name}) = {AUDIO_DIMENSIONS} AND list_count({name}) = {AUDIO_DIMENSIONS}, false)"
    # The product fails for a null element, and TRY then turns the neighbouring rows into nulls too.
    product = f"isfinite(TRY(list_inner_product({name}, {name})))"
    return Column(
        name,
        VECTOR,
        description,
        holds=whole,
        surely_holds=f"coalesce(len({name}) = {AUDIO_DIMENSIONS} AND {product}, false)",
    )


TABLES = {
    table.name: table
    for table in (
        SourceTable(
            "multi_event",
            "{layout}/{scale}/multi_event.parquet",
            (*INTERACTION, *LISTEN, EVENT_TYPE),
            "One row per interaction of any type, sorted by uid, then timestamp: the source of everything else.",
        ),
        SourceTable(
            "embeddings",
            "embeddings.parquet",
            (
                ITEM_ID,
                _vector("embed", "audio embedding, 128 numbers"),
                _vector("normalized_embed", "audio embedding, 128 numbers of length 1"),
            ),
            "One row per song with an audio embedding: how songs sound; the same file at every scale.",
            unique="item_id",
            usable="isfinite(list_sum(embed)) AND isfinite(list_sum(normalized_embed))",
        ),
        SourceTable(
            "artist_item_mapping",
            "artist_item_mapping.parquet",
            (Column("artist_id", UINT32, "Yambda's artist id", UINT32_RANGE), ITEM_ID),
            "One row per pair of artist and song, many to many: who plays.",
        ),
        SourceTable(
            "album_item_mapping",
            "album_item_mapping.parquet",
            (Column("album_id", UINT32, "Yambda's album id", UINT32_RANGE), ITEM_ID),
            "One row per pair of album and song, many to many: the records that songs are on.",
        ),
        *(
            SourceTable(
                f"{kind}s",
                f"{{layout}}/{{scale}}/{kind}s.parquet",
                (*INTERACTION, *LISTEN) if kind == "listen" else INTERACTION,
                f"One row per {kind} of multi_event, as a file of its own; on request, because nothing here needs it.",
            )
            for kind in EVENT_TYPES
        ),
    )
}
ALWAYS = ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping")
ON_REQUEST = tuple(name for name in TABLES if name not in ALWAYS)


def verify(connection: duckdb.DuckDBPyConnection, path: Path, table: SourceTable, source: Path | None = None) -> int:
    """Check one flat source file: present, whole, with the published columns, types and value ranges.

    Returns the number of rows that are not usable (`SourceTable.usable`).

    Args:
        connection: connection that reads the file.
        path: the file.
        table: expected content.
        source: file to name in errors, if `path` was made from another file.

    Raises:
        SourceError: names the file, the column, what was found and what was expected.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; expected {table.name} in Parquet")
    source = source or path
    try:
        pq.read_metadata(path)
        relation = stored_table(connection, path)
        _verify_types(relation, source, table)
        return _verify_values(relation, source, table)
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        raise SourceError(f"{source}: not a whole Parquet file ({error})") from error


def _verify_types(relation: Relation, path: Path, table: SourceTable) -> None:
    found = dict(zip(relation.columns, (str(t) for t in relation.types), strict=True))
    for column in table.columns:
        if column.name not in found:
            raise SourceError(f"{path}: column {column.name} is missing; found {', '.join(found)}")
        if found[column.name].split("(")[0] not in column.types:
            raise SourceError(
                f"{path}: column {column.name} has type {found[column.name]}, "
                f"expected {column.types[0]} or wider ({', '.join(column.types[1:])})"
            )


def _verify_values(relation: Relation, path: Path, table: SourceTable) -> int:
    types = dict(zip(relation.columns, (str(t) for t in relation.types), strict=True))
    conditions = [(column, column.condition(types[column.name])) for column in table.columns]
    checked = [(column, holds) for column, holds in conditions if holds]
    # Conditions stand in the aggregates: a filter might skip row groups whose statistics leave NaN out. Columns without
    # a condition are read too, so that a damaged page is found.
    looks = [f"count(*) FILTER (NOT ({column.surely_holds or holds}))" for column, holds in checked]
    looks += [f'bit_xor("{column.name}")' for column, holds in conditions if not holds]
    doubtful = relation.aggregate(", ".join(looks)).fetchall()[0][: len(checked)]
    for (column, holds), n_doubtful in zip(checked, doubtful, strict=True):
        if not n_doubtful:
            continue
        broken = f"FILTER (NOT ({holds}))"
        example = f'any_value("{column.name}"::VARCHAR) {broken}'
        [(n_broken, value)] = relation.aggregate(f"count(*) {broken}, {example}").fetchall()
        if n_broken:
            raise SourceError(
                f"{path}: column {column.name} has {n_broken} values out of range, for example "
                f"{str(value)[:80]}; expected {holds}{column.remedy}"
            )
    if table.unique:
        counts = relation.aggregate(f"{table.unique}, count(*) AS n").filter("n > 1").limit(1).fetchall()
        if counts:
            raise SourceError(
                f"{path}: column {table.unique} has {counts[0][0]} in {counts[0][1]} rows; expected all different"
            )
    if not table.usable or not any(doubtful):
        return 0
    return relation.filter(f"NOT ({table.usable})").count("*").fetchall()[0][0]
