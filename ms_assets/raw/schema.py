"""Schema of Yambda's published files: their paths and columns, and the types and values that each column may have."""

import re
from dataclasses import dataclass, replace
from typing import Self

from ms_assets.events import EVENT_TYPES, REMEDY, listed

AUDIO_DIMENSIONS = 128
"""Numbers of a published audio vector; own data may have vectors of another length."""

WHOLE = r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL\(\d+,0\)"
NUMBER = rf"{WHOLE}|FLOAT|DOUBLE|DECIMAL\(.*\)"
ACCEPTED = {
    "whole numbers": f"{WHOLE}|FLOAT|DOUBLE",
    "whole numbers or booleans": f"{WHOLE}|FLOAT|DOUBLE|BOOLEAN",
    "numbers": NUMBER,
    "names": "VARCHAR|ENUM.*",
    "lists of numbers": rf"({NUMBER})\[\]",
}
"""Patterns of the types in DuckDB that hold values of each kind."""
UINT8 = ("UTINYINT", "USMALLINT", "SMALLINT", "UINTEGER", "INTEGER", "UBIGINT", "BIGINT")
UINT16 = ("USMALLINT", "UINTEGER", "INTEGER", "UBIGINT", "BIGINT", "FLOAT", "DOUBLE")
UINT32 = ("UINTEGER", "UBIGINT", "BIGINT")
VECTOR = ("FLOAT[]", "DOUBLE[]")
"""Types that hold every value of the published one, which comes first."""
EXACT = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""Number up to which each type of fractions holds every whole number, so that none is another one rounded."""
UNSIGNED = {"UTINYINT": 2**8 - 1, "USMALLINT": 2**16 - 1, "UINTEGER": 2**32 - 1, "UBIGINT": 2**64 - 1}
"""Highest value of each unsigned type."""


class SourceError(ValueError):
    """A source file is not what Yambda publishes."""


@dataclass(frozen=True)
class Absent:
    """Content of a column that a file may lack."""

    sql: str = "NULL"
    said: str = "nulls"
    """Content in words."""
    read: str | None = None
    """Column from which it is computed, which the file may not lack as well; None if there is none."""


@dataclass(frozen=True)
class Column:
    """Published column: the types in which it is accepted, and the values that it may hold beside null."""

    name: str
    types: tuple[str, ...]
    """Types that are read as they are; the first is the published one."""
    kind: str
    """Kind of values (`ACCEPTED`); those of its other types are cast."""
    description: str
    highest: int | None = None
    """Highest value of a number; the lowest is 0."""
    holds: tuple[str, ...] = ()
    """Conditions in SQL where there is no highest value; `{length}` stands for that of the first vector. The last one
    is exact; one before it is quicker to compute, and true only where the exact one is, so that it spares rows that."""
    values: str = ""
    """Values that meet the conditions, in words."""
    shown: str = ""
    """SQL that describes a value in an error, where its text does not."""
    remedy: str = ""
    """Remedy that ends the error about values that break the conditions."""
    absent: Absent | None = None
    """Content of the column where a file lacks it; None if a file may not."""

    def conditions(self, found: str) -> tuple[str, ...]:
        """Conditions in SQL, as `holds` has them, for a column of this type; none if the type guarantees them."""
        if self.highest is None:
            return self.holds
        if UNSIGNED.get(found, self.highest + 1) <= self.highest:
            return ()
        value = f'"{self.name}"' + ("::UTINYINT" if found == "BOOLEAN" else "")
        # Statistics of a file leave NaN out, so the reader might take bounds alone for granted.
        number = f" AND NOT isnan({value})" if found in EXACT else ""
        whole = f" AND {value} = trunc({value})" if found in EXACT and self.kind != "numbers" else ""
        return (f"{value} BETWEEN 0 AND {self._highest(found)}{number}{whole}",)

    def expected(self, found: str) -> str:
        """Values that meet the conditions for a column of this type, in words."""
        whole = "whole numbers from " if found in EXACT and self.kind != "numbers" else ""
        return self.values or f"{whole}0 to {self._highest(found)}"

    def _highest(self, found: str) -> int | None:
        rounded = self.highest is not None and self.kind != "numbers" and found in EXACT
        return min(self.highest or 0, EXACT[found]) if rounded else self.highest

    def of_length(self, length: int) -> Self:
        """Column of vectors of this length."""
        holds = tuple(condition.format(length=length) for condition in self.holds)
        return replace(self, holds=holds, values=self.values.format(length=length))

    def accepts(self, found: str) -> bool:
        """True if values of this type can be cast."""
        return self._is_read_as(found) or re.fullmatch(ACCEPTED[self.kind], found) is not None

    def difference(self, found: str | None) -> str:
        """Difference between this type, None for a missing column, and one that is read as it is; "" for none."""
        if found is None:
            return f"no {self.name}, so {self.absent.said if self.absent else 'nulls'}"
        return "" if self._is_read_as(found) else f"{self.name} has type {found}"

    def cast(self, found: str | None) -> str:
        """SQL for the column in a published type; for one that is missing, what stands for it."""
        if found is None:
            return f'({self.absent.sql if self.absent else "NULL"})::{self.types[0]} AS "{self.name}"'
        if self._is_read_as(found):
            return f'"{self.name}"'
        fits = self.kind != "numbers" or found.endswith(("TINYINT", "SMALLINT"))
        return f'"{self.name}"::{self.types[0] if fits else "DOUBLE"} AS "{self.name}"'

    def _is_read_as(self, found: str) -> bool:
        return found.split("(")[0] in self.types


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
        """True for tables of interactions, in both layouts; others tell more of songs, and own data may lack them."""
        return "{layout}" in self.path


def _vector(name: str, description: str, absent: Absent) -> Column:
    # The product fails for a null element, and TRY then turns the neighbouring rows into nulls too.
    product, n_known = f"isfinite(TRY(list_inner_product({name}, {name})))", f"list_count({name})"
    # Null vectors and null elements are refused too; `NOT (null)` would let them pass.
    holds = [f"coalesce(len({name}) = {{length}} AND {rest}, false)" for rest in (product, f"{n_known} = {{length}}")]
    return Column(
        name,
        VECTOR,
        "lists of numbers",
        description,
        holds=tuple(holds),
        values="vectors of {length} numbers, as the first one has, none of them null",
        shown=f"coalesce(format('{{}} numbers, {{}} of them null', len({name}), len({name}) - {n_known}), 'none')",
        absent=absent,
    )


UNIT = """
    list_transform(
        [sqrt(list_inner_product(embed::DOUBLE[], embed::DOUBLE[]))],
        lambda length: list_transform(embed::DOUBLE[], lambda number: number / length)
    )[1]
"""
"""SQL for the column `embed` at length 1; the outer list computes the length once a row, not once a number."""


def _id(name: str, description: str) -> Column:
    remedy = "; number the ids anew, within 32 bits"
    return Column(name, UINT32, "whole numbers", description, 2**32 - 1, remedy=remedy)


INTERACTION = (
    _id("uid", "Yambda's user id; not dense"),
    Column(
        "timestamp", UINT32, "whole numbers", "seconds since the first event, in steps of 5", 2**32 - 1,
        remedy="; count seconds, from the first event or from a time before it",
    ),
    _id("item_id", "Yambda's song id; not dense"),
    Column(
        "is_organic", UINT8, "whole numbers or booleans", "1: the user's own choice; 0: driven by a recommendation", 1,
        absent=Absent(),
    ),
)  # fmt: skip
WHOLE_LISTENS = "every listen counts as whole"
LISTEN = (
    Column(
        "played_ratio_pct", UINT16, "numbers", "percent of the track played; null unless a listen", 100,
        absent=Absent("100", WHOLE_LISTENS),
    ),
    Column(
        "track_length_seconds", UINT16, "numbers", "length of the track; null unless a listen", 2**32 - 1,
        absent=Absent(),
    ),
)  # fmt: skip
EVENT_TYPE = Column(
    "event_type", ("VARCHAR", "ENUM"), "names", listed(EVENT_TYPES), holds=(f"event_type IN {tuple(EVENT_TYPES)}",),
    values=f"one of {tuple(EVENT_TYPES)}", remedy=f"; {REMEDY}",
)  # fmt: skip
ITEM_ID = INTERACTION[2]


TABLES = {
    table.name: table
    for table in (
        SourceTable(
            "multi_event",
            "{layout}/{scale}/multi_event.parquet",
            (
                *INTERACTION,
                replace(LISTEN[0], absent=Absent("CASE event_type WHEN 'listen' THEN 100 END", WHOLE_LISTENS)),
                LISTEN[1],
                EVENT_TYPE,
            ),
            "One row per interaction of any type, sorted by uid, then timestamp: the source of everything else.",
        ),
        SourceTable(
            "embeddings",
            "embeddings.parquet",
            (
                ITEM_ID,
                _vector("embed", "audio embedding, as many numbers for every song", Absent()),
                _vector("normalized_embed", "audio embedding of length 1", Absent(UNIT, "embed at length 1", "embed")),
            ),
            "One row per song with an audio embedding: how songs sound; the same file at every scale.",
            unique="item_id",
            usable="coalesce(isfinite(list_sum(embed)), true) AND isfinite(list_sum(normalized_embed))",
        ),
        SourceTable(
            "artist_item_mapping",
            "artist_item_mapping.parquet",
            (_id("artist_id", "Yambda's artist id"), ITEM_ID),
            "One row per pair of artist and song, many to many: who plays.",
        ),
        SourceTable(
            "album_item_mapping",
            "album_item_mapping.parquet",
            (_id("album_id", "Yambda's album id"), ITEM_ID),
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


def _own_ids(what: str, number: str) -> SourceTable:
    known = (f'"{what}" IS NOT NULL',)
    ids = Column(what, ("VARCHAR", "BIGINT"), "names", f"{what} in the imported data", holds=known, values="no nulls")
    return SourceTable(
        f"{what}_ids",
        f"{what}_ids.parquet",
        (_id(number, f"number of the {what}, in the order of their own ids"), ids),
        f"One row per {what} of imported data: its own id. Empty where ids are Yambda's.",
        unique=number,
    )


IDS = {
    what: _own_ids(what, number)
    for what, number in (("user", "uid"), ("song", "item_id"), ("artist", "artist_id"), ("album", "album_id"))
}
"""Tables of own ids by what they name; an import makes them."""
ALWAYS = ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping")
ON_REQUEST = tuple(name for name in TABLES if name not in ALWAYS)
