"""Column schemas of tables: declared with each asset, read from stored tables, and compared."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import dagster as dg

from ms_assets.streams import Relation

SCHEMA, LINEAGE = "dagster/column_schema", "dagster/column_lineage"
DEFS = Path(__file__).parents[1]
Written = Mapping[str, Sequence[str]]


def columns(table: str, /, **words: str) -> dict[str, Any]:
    """Metadata of a table's columns, in order, as the `columns.toml` of its room declares them.

    A column is declared as [type, description, *sources]. Types and descriptions are shown in the UI and checked on
    writing. Sources are the columns of earlier tables that a column is made of, as `room/asset.column`; none where it
    is made up, or where the table is a source itself. The file's `[sources]` names several together. `{a,b}` in sources
    and in the names of tables stands for each of them, `$word` in sources and descriptions for one of the words.

    Raises:
        ValueError: naming the file, the table and the column that is not declared so.
    """
    file = DEFS / table.split("/")[0] / "columns.toml"
    tables, named = _written(file)
    if table not in tables:
        raise ValueError(f"{file}: expected columns of {table}, found those of {', '.join(tables)}")
    described = {}
    for name, declaration in tables[table].items():
        try:
            type_, text = (Template(part).substitute(words) for part in declaration[:2])
            sources = [source for given in declaration[2:] for source in _sources(given, named, words)]
            described[name] = (type_, text, *sources)
        except (KeyError, TypeError, ValueError) as error:
            expected = "expected [type, description, *sources], and a source as room/asset.column"
            raise ValueError(f"{file}: {name} of {table}: {expected}, found {declaration} ({error!r})") from None
    return as_metadata(described)


def as_metadata(described: Written) -> dict[str, Any]:
    """Source columns `table.name` for some columns of one table."""
    columns = [dg.TableColumn(name, type_, description=text) for name, (type_, text, *_) in described.items()]
    lineage = {name: [_dependency(source) for source in dict.fromkeys(of)] for name, (_, _, *of) in described.items()}
    made = {name: sources for name, sources in lineage.items() if sources}
    return {SCHEMA: dg.TableSchema(columns), LINEAGE: dg.TableColumnLineage(made)}


@cache
def _dependency(source: str) -> dg.TableColumnDep:
    table, column = source.split(".")
    return dg.TableColumnDep(dg.AssetKey(table.split("/")), column)


@cache
def _written(file: Path) -> tuple[dict[str, dict[str, Any]], Written]:
    """A file's declarations by table and column, and its named sources."""
    try:
        written = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from None
    named, tables = written.pop("sources", {}), dict[str, dict[str, Any]]()
    for names, declarations in written.items():
        for name in _each(names):
            tables.setdefault(name, {}).update(declarations)
    return tables, named


def _sources(given: str, named: Written, words: Mapping[str, str]) -> Iterator[str]:
    """The sources that one written source stands for."""
    for each in _each(Template(given).substitute(words)):
        if each in named:
            for inner in named[each]:
                yield from _sources(inner, named, words)
        elif re.fullmatch(r"\w+/\w+\.\w+", each):
            yield each
        elif each:  # a word may stand for none
            raise ValueError(each)


def _each(written: str) -> list[str]:
    """`a{b,c}` as `ab` and `ac`, for any number of braces."""
    return ["".join(parts) for parts in product(*(part.split(",") for part in re.split("[{}]", written)))]


def declared(metadata: Mapping[str, Any] | None) -> Sequence[dg.TableColumn]:
    """Columns that an asset's metadata declares."""
    schema = (metadata or {})[SCHEMA]
    return getattr(schema, "schema", schema).columns


def described(table: Relation, wanted: Sequence[dg.TableColumn]) -> dg.TableSchema:
    """Schema of a stored table: its columns and types, with the declared descriptions."""
    texts = {column.name: column.description for column in wanted}
    types = zip(table.columns, table.types, strict=True)
    return dg.TableSchema([dg.TableColumn(name, str(type_), texts.get(name)) for name, type_ in types])


def difference(found: Sequence[dg.TableColumn], wanted: Sequence[dg.TableColumn]) -> str | None:
    """Difference between a table's columns and the declared ones, in words; None if there is none."""
    expected = [(column.name, column.type) for column in wanted]
    # A list of fixed size is declared as a list.
    present = [(column.name, re.sub(r"\[\d+\]", "[]", column.type)) for column in found]
    return None if present == expected else f"expected columns {expected}, found {present}"
