"""Assets of room 1, raw: Yambda's published tables, linked into place, and reports on their content."""

from collections.abc import Iterator

import dagster as dg

from ms_assets.defs.platform import lineage, shown
from ms_assets.defs.platform.io_managers import LinkedTableIOManager
from ms_assets.defs.platform.resources import DuckDB, YambdaSource
from ms_assets.defs.platform.scales import assets_of, room
from ms_assets.defs.platform.schemas import as_metadata, columns
from ms_assets.defs.raw import checks
from ms_assets.raw import layouts, reports
from ms_assets.raw.arrival import verify
from ms_assets.raw.schema import ALWAYS, IDS, ON_REQUEST, TABLES, SourceTable
from ms_assets.raw.source import SourceFile
from ms_assets.streams import Relation, TableWriter

asset = room("raw")


def source_asset(table: SourceTable) -> dg.AssetsDefinition:
    """Asset for one published table, whose file is put into place once it has passed its checks.

    The file is linked. It is written again only if it has to be converted: a sequential file is flattened into rows,
    unsorted events are sorted by user and time, which everything after relies on, and what differs from the published
    file (`arrival.py`) is made like it.
    """
    key = dg.AssetKey(["raw", table.name])
    specs = [dg.AssetCheckSpec(checks.FINITE, asset=key, description=checks.FINITE_TEXT)] if table.usable else []

    @asset(
        name=table.name,
        description=table.description,
        kinds={"parquet"},
        io_manager_key="linked_tables",
        code_version="2",
        metadata=as_metadata({column.name: (column.types[0], column.description) for column in table.columns}),
        check_specs=specs,
    )
    def source_table(
        context: dg.AssetExecutionContext,
        yambda: YambdaSource,
        duckdb: DuckDB,
        linked_tables: dg.ResourceParam[LinkedTableIOManager],
    ) -> Iterator[dg.MaterializeResult]:
        file = yambda.fetch_for(context, table)
        with linked_tables.drafts({table.name: context.asset_key}, context.partition_key) as drafts:
            path = file.path
            value: SourceFile | TableWriter | Relation = file
            if file.layout == "sequential":
                context.log.info(f"flattening {file.path}")
                path = drafts[table.name].fill(layouts.flattened(file.path, table))
                value = drafts[table.name]
            context.log.info(f"checking {file.path}")
            found = verify(duckdb.connection, path, table, source=file.path)
            if found.differences and (file.path.exists() or table not in IDS.values()):
                context.log.warning(
                    f"{file.path}: {', '.join(found.differences)}; writing a copy in the published form"
                )
            if found.differences:
                value = found.rows.project("* EXCLUDE file_row_number")
            is_sorted = table.name != "multi_event" or layouts.is_sorted(found.rows)
            if not is_sorted:
                context.log.warning(f"{file.path}: not sorted by uid and time; writing a sorted copy")
                value = layouts.in_order(found.rows)
            yield dg.MaterializeResult(
                value=value,
                check_results=[checks.audio_vectors_are_finite(len(found.rows), found.n_unusable)]
                if table.usable
                else [],
                metadata={
                    "source": file.origin,
                    "revision": file.revision,
                    "source_state": file.content,
                    "layout": file.layout,
                    "source_differs": ", ".join(found.differences) or "no",
                    "source_was_sorted": is_sorted,
                    "source_file": dg.MetadataValue.path(str(file.path)),
                    **({lineage.MADE_TOGETHER: {"import": file.imported}} if file.imported else {}),
                },
            )

    return source_table


published_tables = [source_asset(table) for table in (*TABLES.values(), *IDS.values())]


REQUESTED = assets_of("raw", *ON_REQUEST, optional=True)
"""Inputs for tables by name; tables that are fetched on request are optional."""
EVERY_COLUMN = ",".join(f"raw/{table.name}.{column.name}" for table in TABLES.values() for column in table.columns)


@asset(
    ins=assets_of("raw", *ALWAYS) | REQUESTED,
    kinds={"duckdb", "polars"},
    code_version="1",
    metadata=columns("raw/column_report", every_column=EVERY_COLUMN),
)
def column_report(**tables: Relation | None) -> dg.MaterializeResult:
    """One row per column of every raw file that is here: its type, the file's number of rows, and a first value.

    Shows the data before any of it is used.
    """
    report = reports.column_report(_present(tables))
    return dg.MaterializeResult(value=report, metadata={"report": shown.table(report)})


@asset(
    ins=assets_of("raw", "multi_event") | REQUESTED,
    kinds={"duckdb", "polars"},
    code_version="1",
    metadata=columns("raw/statistics_report", interactions=",".join(("multi_event", *ON_REQUEST))),
)
def statistics_report(**tables: Relation | None) -> dg.MaterializeResult:
    """One row per interaction file that is here: its events, users and songs, and the spread of events over them.

    Comparable with the figures that Yambda's authors published.
    """
    report = reports.interaction_statistics(_present(tables))
    return dg.MaterializeResult(value=report, metadata={"report": shown.table(report)})


def _present(tables: dict[str, Relation | None]) -> dict[str, Relation]:
    """Tables that are here, in the order of publication."""
    return {name: table for name in TABLES if (table := tables.get(name)) is not None}
