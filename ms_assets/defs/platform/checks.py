"""Asset checks whose failures block later runs, too: each is recorded beside its asset; and the check of all tables."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import dagster as dg

from ms_assets.defs.platform import lineage
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.scales import scale_of

FEWEST_ROWS = 0.5
Check = Callable[..., dg.AssetCheckResult]


def asset_check(
    *, asset: Sequence[str], blocking: bool = False, **told: Any
) -> Callable[[Check], dg.AssetChecksDefinition]:
    """Asset check as `dg.asset_check` defines it, whose outcome the asset's record keeps if it is blocking.

    Dagster stops what follows in the same run. The record stops later runs, whoever starts them and however: what
    failed is not read until it passes, or is made again. The problem is written to the log as well. A check that ends
    in an error has failed.
    """

    def define(check: Check) -> dg.AssetChecksDefinition:
        @wraps(check)
        def noting(*args: Any, **given: Any) -> dg.AssetCheckResult:
            try:
                result = check(*args, **given)
            except Exception as error:
                if blocking:
                    said = f"ended in an error ({type(error).__name__}: {error})"
                    _note(dg.AssetKey(asset), dg.AssetCheckResult(passed=False, description=said))
                raise
            if blocking:
                _note(dg.AssetKey(asset), result)
            return result

        return dg.asset_check(asset=dg.AssetKey(asset), blocking=blocking, **told)(noting)

    return define


def _note(key: dg.AssetKey, result: dg.AssetCheckResult) -> None:
    try:
        context = dg.AssetCheckExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # called as a function, in no run
        return
    [check] = context.selected_asset_check_keys
    problem = None
    if not result.passed and result.severity == dg.AssetCheckSeverity.ERROR:
        problem = problem_of(result)
        context.log.error(f"{key.to_user_string()} failed its check {check.name}: {problem}")
    lineage.of_run(context.run.run_id).note_check(key, scale_of(context), check.name, problem)


def problem_of(result: dg.AssetCheckResult | dg.AssetCheckEvaluation) -> str:
    """Problem that a failed check found: its description, or else what it has measured."""
    found = ", ".join(f"{name} {getattr(value, 'value', value)}" for name, value in (result.metadata or {}).items())
    return result.description or found or "no description"


def of_rows(spec: dg.AssetSpec) -> dg.AssetChecksDefinition:
    """Check of a table's number of rows."""

    @asset_check(asset=spec.key.path)
    def rows_are_no_fewer_than_half(
        context: dg.AssetCheckExecutionContext, io_manager: dg.ResourceParam[TableIOManager]
    ) -> dg.AssetCheckResult:
        """Rows are at least half as many as in the materialisation before; else settings changed, or data is lost."""
        return enough_rows(io_manager.lineage.history(spec.key, scale_of(context)))

    return rows_are_no_fewer_than_half


def enough_rows(made: Sequence[lineage.Made]) -> dg.AssetCheckResult:
    """Compare the numbers of rows of a table's materialisations, the latest first."""
    counts = [int(each.metadata.get("dagster/row_count", 0)) for each in made[:2]]
    now, before = counts if len(counts) == 2 else (sum(counts), None)
    return dg.AssetCheckResult(
        passed=before is None or now >= FEWEST_ROWS * before,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"n_rows": now, **({} if before is None else {"n_rows_before": before})},
    )
