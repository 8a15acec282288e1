"""Column schemas of tables: declared with each asset, read from stored tables, and compared."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import duckdb

Relation = duckdb.DuckDBPyRelation
SCHEMA, LINEAGE = "dagster/column_schema", "dagster/column_lineage"


def columns(**described: tuple[str, ...]) -> dict[str, Any]:
    """Declare a table's columns, in order, as `name=(type, description, *sources)`.

    Types and descriptions are shown in the UI and checked on writing. Sources are the columns of earlier tables that
    a column is made of, as `room/asset.column`; none where it is made up, or where the table is a source itself.
    """
    return {
        SCHEMA: dg.TableSchema(
            [dg.TableColumn(name, type_, description=text) for name, (type_, text, *_) in described.items()]
        ),
        LINEAGE: dg.TableColumnLineage(
            {
                name: [_source(source) for source in dict.fromkeys(sources)]
                for name, (_, _, *sources) in described.items()
                if sources
            }
        ),
    }


def each(table: str, *names: str) -> list[str]:
    """Source columns `table.name` for some columns of one table."""
    return [f"{table}.{name}" for name in names]


def _source(written: str) -> dg.TableColumnDep:
    table, column = written.split(".")
    return dg.TableColumnDep(dg.AssetKey(table.split("/")), column)


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
