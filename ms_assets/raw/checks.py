"""What must hold of the raw tables."""

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.raw.schema import EVENT_TYPES


@dg.asset_check(asset=["raw", "multi_event"], blocking=True)
def events_are_sorted_by_user(multi_event: Relation) -> dg.AssetCheckResult:
    """Ties of time are settled by file order, which means something only within a user's run of rows."""
    breaks = multi_event.project("uid < lag(uid) OVER (ORDER BY file_row_number) AS back").aggregate(
        "count(*), count(*) FILTER (back)"
    )
    n_rows, n_breaks = breaks.fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_rows > 0 and n_breaks == 0, metadata={"n_rows": n_rows, "n_rows_out_of_order": n_breaks}
    )


@dg.asset_check(asset=["raw", "multi_event"])
def every_event_type_occurs(multi_event: Relation) -> dg.AssetCheckResult:
    """Data without, say, dislikes is usable, but its dislike metrics say nothing."""
    counts = dict(multi_event.aggregate("event_type::VARCHAR, count(*)").fetchall())
    missing = [kind for kind in EVENT_TYPES if not counts.get(kind)]
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": missing, **{kind: counts.get(kind, 0) for kind in EVENT_TYPES}},
    )


checks = [events_are_sorted_by_user, every_event_type_occurs]
