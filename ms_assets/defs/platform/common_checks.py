"""Checks of every artefact: one origin of its inputs; of tables also declared columns and no sudden loss of rows."""

from collections.abc import Iterator, Sequence
from inspect import cleandoc

import dagster as dg

from ms_assets.defs.platform import lineage
from ms_assets.defs.platform.scales import scale_of
from ms_assets.defs.platform.schemas import SCHEMA, declared, described, difference
from ms_assets.streams import Relation

DIVISION = "splits/"
"""Key prefix of the assets that give users and songs their ids, and events their part."""
FEWEST_ROWS = 0.5


def inputs_have_one_origin(made: Sequence[lineage.Made]) -> dg.AssetCheckResult:
    """All inputs were made from the same version of each earlier artefact; otherwise they may contradict each other.

    If that artefact is one of the splits, ids have two meanings and test events may have been trained on: an error.
    made: the artefact's materialisations, the latest first.
    """
    origins = made[0].metadata.get(lineage.ORIGINS, {}) if made else {}
    several = {key: versions for key, versions in origins.items() if len(versions) > 1}
    divided = any(key.startswith(DIVISION) for key in several)
    said = "; ".join(f"{key} in versions {' and '.join(v[:12] for v in found)}" for key, found in several.items())
    return dg.AssetCheckResult(
        check_name="inputs_have_one_origin",
        passed=not several,
        severity=dg.AssetCheckSeverity.ERROR if divided else dg.AssetCheckSeverity.WARN,
        description=f"made from {said}; materialise what follows {', '.join(several)} again" if several else None,
        metadata={"n_origins": len(origins)},
    )


def columns_are_the_declared_ones(table: Relation, wanted: Sequence[dg.TableColumn]) -> dg.AssetCheckResult:
    """Columns of the stored file are the declared ones, in the declared order and of the declared types."""
    wrong = difference(described(table, wanted).columns, wanted)
    return dg.AssetCheckResult(check_name="columns_are_the_declared_ones", passed=wrong is None, description=wrong)


def rows_are_no_fewer_than_half(made: Sequence[lineage.Made]) -> dg.AssetCheckResult:
    """Rows are at least half as many as in the materialisation before; fewer come from other settings or lost data."""
    known = [each.metadata.get("dagster/row_count") for each in made[:2]]  # none where a person reported it
    counts = [int(count) for count in known if count is not None]
    now, before = counts if len(counts) == 2 else (sum(counts), None)
    return dg.AssetCheckResult(
        check_name="rows_are_no_fewer_than_half",
        passed=before is None or now >= FEWEST_ROWS * before,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"n_rows": now, **({} if before is None else {"n_rows_before": before})},
    )


def checks_of(spec: dg.AssetSpec) -> dg.AssetChecksDefinition:
    """Common checks of one asset, all in one step; columns of published tables were checked when they arrived."""
    is_table, is_made = SCHEMA in spec.metadata, bool(spec.deps)
    applying = [
        (inputs_have_one_origin, is_made, True),
        (columns_are_the_declared_ones, is_made and is_table, True),
        (rows_are_no_fewer_than_half, is_table, False),
    ]
    specs = [
        dg.AssetCheckSpec(check.__name__, asset=spec.key, blocking=blocking, description=cleandoc(check.__doc__ or ""))
        for check, applies, blocking in applying
        if applies
    ]

    @dg.multi_asset_check(
        name="__".join((*spec.key.path, "common_checks")),
        specs=specs,
        ins={"table": dg.AssetIn(spec.key)} if is_made and is_table else {},
    )
    def common_checks(context: dg.AssetCheckExecutionContext, **tables: Relation) -> Iterator[dg.AssetCheckResult]:
        made = lineage.history(context.instance, spec.key, scale_of(context), limit=2)
        if is_made:
            yield inputs_have_one_origin(made)
        if tables:
            yield columns_are_the_declared_ones(tables["table"], declared(spec.metadata))
        if is_table:
            yield rows_are_no_fewer_than_half(made)

    return common_checks
