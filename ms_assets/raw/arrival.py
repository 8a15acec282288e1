"""Arrival of source files: whole, with the columns that are needed, in types that can be cast and values in range.

A file that is exactly as published is linked. Any other is read as if it were: through casts, with nulls for columns
that nothing needs and values for others that have an obvious one (`schema.Absent`), without columns that are not
published; a folder of part files is read as one table.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ms_assets.files import visible
from ms_assets.raw.schema import AUDIO_DIMENSIONS, Column, SourceError, SourceTable
from ms_assets.streams import Relation

POSITION = "file_row_number"
PART_BITS = 40
"""Bits of a row's position that count the rows of its part; the others number the part."""


@dataclass(frozen=True)
class Arrival:
    """Usable rows of a source file that passed its checks."""

    rows: Relation
    """Published columns, and `file_row_number`, which orders the rows as the file does, through all its parts."""
    differences: list[str]
    """Differences between the file and a published one, in words; none if it can be read as it is."""
    n_unusable: int
    """Number of rows that are left out, because they are not usable (`SourceTable.usable`)."""


def parts_of(path: Path, table: SourceTable) -> list[Path]:
    """Files of a table: one, or the part files below a folder by name; none for a table that own data may lack.

    Raises:
        SourceError: there is no file, a file is not whole, or it lacks a column that is needed.
    """
    parts = [path]
    if path.is_dir():
        parts = visible(path, "*.parquet")
        if not parts:
            raise SourceError(f"{path}: no file in this folder; expected {table.name} as part files, *.parquet")
    elif not path.is_file():
        if not table.of_interactions:
            return []
        raise SourceError(f"{path}: no such file; expected {table.name} in Parquet")
    for part in parts:
        with _whole(part):
            found = pq.read_schema(part).names
        if missing := [column for column in table.columns if not _is_known(column, found)]:
            raise SourceError(
                f"{part}: column {missing[0].name} is missing; found {', '.join(found)}; "
                f"add it ({missing[0].kind}: {missing[0].description})"
            )
    return parts


def verify(
    connection: duckdb.DuckDBPyConnection, path: Path, table: SourceTable, source: Path | None = None
) -> Arrival:
    """Check one flat source file, or its parts: there, whole, with the columns, types and values that are needed.

    Args:
        connection: connection that reads the file.
        path: the file, or the folder of its parts.
        table: expected content.
        source: file to name in errors, if `path` was made from another file.

    Raises:
        SourceError: names the file, the column, the first bad row, what was found and what was expected.
    """
    parts = parts_of(path, table)
    source = source or path
    with _whole(source):
        rows, types, others = _read(connection, parts, table)
        for column in table.columns:
            if (found := types.get(column.name)) and not column.accepts(found):
                raise SourceError(f"{source}: column {column.name} has type {found}, expected {column.kind}")
        doubtful = _verify_values(rows, types, table, parts if path.is_dir() else [source])
        if table.unique:
            counts = rows.aggregate(f"{table.unique}, count(*) AS n").filter("n > 1").limit(1).fetchall()
            for value, n in counts:
                raise SourceError(f"{source}: column {table.unique} has {value} in {n} rows; expected one row for each")
        published = rows.project(", ".join([*(c.cast(types.get(c.name)) for c in table.columns), "file_row_number"]))
        # Vectors that are computed here have passed no condition.
        made = any(column.absent and column.absent.read and column.name not in types for column in table.columns)
        usable = table.usable if table.usable and (doubtful or made) else "true"
        n_unusable = len(published.filter(f"NOT ({usable})"))
    differences = [f"{len(parts)} part files"] if path.is_dir() else [] if parts else ["no such file, so no rows"]
    differences += [c.difference(types.get(c.name)) for c in table.columns]
    differences += [f"{name} left out" for name in others]
    differences += [f"{n_unusable:,} unusable rows left out"] if n_unusable else []
    return Arrival(published.filter(usable), list(filter(None, differences)), n_unusable)


def _is_known(column: Column, found: list[str]) -> bool:
    """True if a file with these columns has the column, or what stands for it."""
    absent = column.absent
    return column.name in found or (absent is not None and (absent.read is None or absent.read in found))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        raise SourceError(f"{path}: not a whole Parquet file ({error}); copy or write it again") from error


def _read(
    connection: duckdb.DuckDBPyConnection, parts: list[Path], table: SourceTable
) -> tuple[Relation, dict[str, str], list[str]]:
    """Rows with the published columns that the parts have, these columns' types, and the names of other columns."""
    if not parts:
        types = {column.name: column.types[0] for column in table.columns}
        nothing = ", ".join(f'NULL::{type_} AS "{name}"' for name, type_ in {**types, POSITION: "BIGINT"}.items())
        return connection.sql(f"SELECT {nothing} WHERE false"), types, []
    files = ", ".join("'" + glob.escape(str(part)).replace("'", "''") + "'" for part in parts)
    read = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    found = connection.sql(f"FROM {read}")
    # DuckDB changes names that differ by case alone.
    names = pq.read_schema(parts[0]).names if len(parts) == 1 else found.columns
    wanted = {column.name for column in table.columns}
    types = {n: str(t) for n, t in zip(names, found.types, strict=True) if n in wanted and str(t) != '"NULL"'}
    # Columns get numbers for names, so that none hides DuckDB's own columns of the position.
    numbers = [f"c{number}" for number in range(len(names))]
    shown = [f'{c} AS "{n}"' for c, n in zip(numbers, names, strict=True) if n in types]
    position = f"(file_index::BIGINT << {PART_BITS}) + file_row_number AS file_row_number"
    rows = connection.sql(f"SELECT {', '.join([*shown, position])} FROM {read} AS file({', '.join(numbers)})")
    return rows, types, [name for name in names if name not in wanted]


def _verify_values(rows: Relation, types: dict[str, str], table: SourceTable, parts: list[Path]) -> bool:
    """Refuse values that break a column's condition; returns True if a row may be unusable.

    parts: files to name in errors, by the number in a row's position.
    """
    columns = {
        column.of_length(vector_length(rows, column.name)) if found.endswith("]") else column: found
        for column in table.columns
        if (found := types.get(column.name))
    }
    checked = {column: conditions for column, found in columns.items() if (conditions := column.conditions(found))}
    # Conditions stand in the aggregates: a filter might skip row groups whose statistics leave NaN out. Columns without
    # a condition are read too, so that a damaged page is found.
    looks = [f"count(*) FILTER (NOT ({quickest}))" for quickest, *_ in checked.values()]
    looks += [f'bit_xor("{column.name}")' for column in columns if column not in checked]
    doubtful = rows.aggregate(", ".join([*looks, "count(*)"])).fetchall()[0][: len(checked)]
    for (column, (*_, exact)), n_doubtful in zip(checked.items(), doubtful, strict=True):
        if n_doubtful:
            _refuse_broken(rows, column, columns[column], f"FILTER (NOT ({exact}))", parts)
    return any(doubtful)


def _refuse_broken(rows: Relation, column: Column, found: str, broken: str, parts: list[Path]) -> None:
    shown = column.shown or f'"{column.name}"::VARCHAR'
    n_broken, position, value = rows.aggregate(
        f"count(*) {broken}, min(file_row_number) {broken}, arg_min({shown}, file_row_number) {broken}"
    ).fetchall()[0]
    if n_broken:
        part, row = divmod(position, 1 << PART_BITS)
        raise SourceError(
            f"{parts[part]}: column {column.name} has {n_broken} values out of range, for example {value[:80]} "
            f"in row {row} (from 0); expected {column.expected(found)}{column.remedy}"
        )


def vector_length(rows: Relation, name: str) -> int:
    """Length of the first vector that is not empty; that of Yambda's where there is none."""
    first = rows.filter(f"len({name}) > 0").project(f"len({name})").limit(1).fetchall()
    return first[0][0] if first else AUDIO_DIMENSIONS
