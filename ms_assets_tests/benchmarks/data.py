"""Benchmark data in the hub's layout: generated, repeated for more users, and compared with what Yambda publishes."""

import logging
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ms_assets.raw.published import STATISTICS
from ms_assets.raw.reports import interaction_statistics
from ms_assets.raw.schema import TABLES

logger = logging.getLogger(__name__)

GENERATED, REPEATED = "50m", "500m"
"""The scales whose places in the hub's layout hold the generated events and the repeated ones."""

PUBLISHED = {
    **STATISTICS[GENERATED]["multi_event"],
    **{name: file["n_events"] for name, file in STATISTICS[GENERATED].items() if name != "multi_event"},
    "recommended_listens": 0.487,
}
"""Of 50m; the share of recommended listens is that of all sizes."""


def events_file(folder: Path, scale: str) -> Path:
    """Where the scale's events lie in the hub's layout."""
    return folder / TABLES["multi_event"].file(scale)


def repeat(folder: Path, times: int) -> None:
    """Write the generated events `times` over, each time by other users, as events of the next scale."""
    source = pq.ParquetFile(events_file(folder, GENERATED))
    target = events_file(folder, REPEATED)
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    beyond = pc.max(source.read(columns=["uid"])["uid"]).as_py() + 1
    with pq.ParquetWriter(unfinished, source.schema_arrow, compression="zstd") as writer:
        for copy in range(times):
            shift = pa.scalar(copy * beyond, pa.uint32())
            for number in range(source.num_row_groups):
                rows = source.read_row_group(number)
                writer.write_table(rows.set_column(0, "uid", pc.add_checked(rows["uid"], shift)))
            logger.info("%d of %d times", copy + 1, times)
    unfinished.replace(target)


def comparison(folder: Path) -> dict[str, tuple[float, float]]:
    """Statistics of the generated events, and what is published for 50m."""
    with duckdb.connect(config={"memory_limit": "1GB"}) as connection:
        events = connection.read_parquet(str(events_file(folder, GENERATED)))
        kinds = dict(events.aggregate("event_type || 's', count(*)", "event_type").fetchall())
        organic = events.filter("event_type = 'listen'").aggregate("avg(is_organic)").fetchall()[0][0]
        found = interaction_statistics({"multi_event": events}).row(0, named=True)
    found |= kinds | {"recommended_listens": 1 - organic}
    return {name: (found.get(name, 0), published) for name, published in PUBLISHED.items()}
