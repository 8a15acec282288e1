"""Checks of the raw tables, beyond those that every file passes on arrival (`arrival.verify`)."""

import dagster as dg

from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.scales import scale_of
from ms_assets.events import EVENT_TYPES
from ms_assets.raw import published
from ms_assets.streams import Relation

FINITE = "audio_vectors_are_finite"
FINITE_TEXT = "Audio vectors are finite; those with a NaN or an infinite number count as missing."


def audio_vectors_are_finite(n_usable: int, n_unusable: int) -> dg.AssetCheckResult:
    """Result of the check, which `raw/embeddings` yields itself, because it has read the source file anyway."""
    return dg.AssetCheckResult(
        check_name=FINITE,
        passed=not n_unusable,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"n_rows": n_usable + n_unusable, "n_not_finite": n_unusable},
    )


@asset_check(asset=["raw", "multi_event"])
def events_have_a_time_and_a_type(multi_event: Relation) -> dg.AssetCheckResult:
    """Events have a time and a type: without a time they have no place in a history, without a type no use."""
    n_events, n_timeless, n_typeless = multi_event.aggregate(
        "count(*), count(*) FILTER (timestamp IS NULL), count(*) FILTER (event_type IS NULL)"
    ).fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_events > 0 and not n_timeless and not n_typeless,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"n_events": n_events, "n_without_time": n_timeless, "n_without_type": n_typeless},
    )


@asset_check(asset=["raw", "multi_event"])
def every_event_type_occurs(multi_event: Relation) -> dg.AssetCheckResult:
    """Every event type occurs: data without, for example, dislikes is usable, but its dislike metrics are empty."""
    counts = dict(multi_event.aggregate("event_type::VARCHAR, count(*)").fetchall())
    missing = [kind for kind in EVENT_TYPES if not counts.get(kind)]
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": ", ".join(missing) or "none", **{kind: counts.get(kind, 0) for kind in EVENT_TYPES}},
    )


@asset_check(asset=["raw", "statistics_report"])
def statistics_are_the_published_ones(
    context: dg.AssetCheckExecutionContext, statistics_report: Relation
) -> dg.AssetCheckResult:
    """Statistics of the real scales are those published; other data in their place is usable, but not Yambda."""
    rows = [dict(zip(statistics_report.columns, row, strict=True)) for row in statistics_report.fetchall()]
    differing, n_equal = published.differences(scale_of(context), rows)
    return dg.AssetCheckResult(
        passed=not differing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"n_equal": n_equal, "n_different": len(differing), **differing},
    )
