"""Executor of runs: checks the settings, waits for the scale's lock, and runs steps in one process or several."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.lineage import Lineage
from ms_assets.defs.platform.locks import Ask, FileLocks, Locks
from ms_assets.defs.platform.needs import Needs, of_step
from ms_assets.defs.platform.scales import NO_SCALE, PARTITION_TAG, check_run_config, like
from ms_assets.defs.platform.shared import SharedLineage
from ms_assets.defs.platform.side_by_side import Room, side_by_side
from ms_assets.files import sweep
from ms_assets.machine import cores
from ms_assets.raw.own import OWN, Import, folder_in

IN_PROCESS_SCALES = ("sample", "50m")
RETRIES: dict[str, Any] = {"retries": {"enabled": {}}}
Steps = Callable[[Any, Any], Iterator[dg.DagsterEvent]]
Elsewhere = Callable[[dg.InitExecutorContext, list[str], Callable[[str], Needs]], dg.Executor]
ONE_MACHINE = (
    f"MS_ASSETS_EXECUTOR: found steps on a cluster, expected local for the scale {OWN} with MS_ASSETS_HOME={{}}: an "
    "import lies on the machine that it was made on; unset the variable there, or let all machines share a folder"
)
STEP_ENDS = (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY)


class ScaleExecutor(dg.Executor):
    """Executor that checks the settings, waits until no other run has the scale's lock, and runs the steps.

    Small scales run in one process, which saves starting one for each step. Large scales take a process per step, so
    that a step's memory returns to the system, and as many at a time as memory and cores allow. Steps that name the
    same pool run one at a time, across all runs. Where there is a cluster, steps of all scales run there, and a pool is
    as large as the resources that its steps ask for.
    """

    def __init__(
        self,
        init: dg.InitExecutorContext,
        home: Path,
        locks: Locks,
        tables: Callable[[], int],
        elsewhere: Elsewhere | None,
        records: Lineage,
    ) -> None:
        self._records = records
        self._init, self._home, self._locks, self._tables, self._elsewhere = init, home, locks, tables, elsewhere
        self._in_process = _create(dg.in_process_executor, init._replace(executor_config=RETRIES))
        processes = {**RETRIES, "max_concurrent": cores(), "start_method": {"forkserver": {}}}
        self._process_per_step = _create(dg.multiprocess_executor, init._replace(executor_config=processes))

    @property
    def retries(self) -> Any:
        """Retry mode, the same for both executors: assets' retry policies apply."""
        return self._in_process.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Execute the plan."""
        run, instance = plan_context.dagster_run, plan_context.instance
        scale = run.tags.get(PARTITION_TAG)
        if scale is None:
            raise ValueError(NO_SCALE)
        if scale == OWN and self._elsewhere and isinstance(self._records, SharedLineage):
            raise ValueError(ONE_MACHINE.format(self._records.bucket.address))
        own = Import.read(folder_in(self._home)) if scale == OWN else None
        check_run_config(run.run_config, scale, own)
        steps = self._engine(run, like(own) if own else scale, list(execution_plan.step_keys_to_execute))
        with ExitStack() as until_the_end:
            until_the_end.enter_context(self._locks.alive(run.run_id))
            until_the_end.enter_context(runs.interrupted_when_cancelled(instance, run))
            self._wait(plan_context, scale, until_the_end)
            if self._elsewhere:  # steps see by it that their home is the run's
                until_the_end.enter_context(FileLocks(self._home).alive(run.run_id))
            _sweep(self._home, scale)
            self._records.begin(scale)
            yield from steps(plan_context, execution_plan)

    def _engine(self, run: dg.DagsterRun, size: str, steps: list[str]) -> Steps:
        """Choose what runs the steps; a cluster that cannot be used is refused."""
        configured: Any = run.run_config.get("ops", {})

        def needs(step: str) -> Needs:
            return of_step(step, size, self._tables(), configured.get(step, {}).get("config") or {})

        if self._elsewhere:
            return self._elsewhere(self._init, steps, needs).execute
        return self._in_one_process if size in IN_PROCESS_SCALES else partial(self._side_by_side, needs)

    def _in_one_process(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        with ExitStack() as until_the_step_ends:
            for event in self._in_process.execute(plan_context, execution_plan):
                yield event
                # The step does not begin until the executor is asked for its next event.
                begins = event.event_type == dg.DagsterEventType.STEP_START
                if begins and (pool := execution_plan.get_step_by_key(event.step_key).pool):
                    self._wait(plan_context, pool, until_the_step_ends)
                elif event.event_type in STEP_ENDS:
                    until_the_step_ends.close()

    def _side_by_side(
        self, needs: Callable[[str], Needs], plan_context: Any, execution_plan: Any
    ) -> Iterator[dg.DagsterEvent]:
        take = partial(self._take, plan_context)
        with side_by_side(Room(needs, take, plan_context.log.info)):
            yield from self._process_per_step.execute(plan_context, execution_plan)

    def _take(self, plan_context: Any, what: str, stack: ExitStack) -> Ask:
        """Take a lock until the stack is closed, from when the question that is returned is answered with None."""
        ask = stack.enter_context(self._locks.turn(what, plan_context.dagster_run.run_id))

        def and_mark_lost() -> str | None:
            holder = ask()
            if holder is None:
                runs.mark_lost(plan_context.instance, self._locks)
            return holder

        return and_mark_lost

    def _wait(self, plan_context: Any, what: str, stack: ExitStack) -> None:
        runs.wait(self._take(plan_context, what, stack), what, plan_context.log.info)


def _sweep(home: Path, scale: str) -> None:
    sweep(home / "data", scale)
    if scale == "sample":
        sweep(home / "source" / "sample")


def _create(definition: dg.ExecutorDefinition, init: dg.InitExecutorContext) -> dg.Executor:
    create = definition.executor_creation_fn
    assert create is not None, f"{definition.name} creates no executor"
    return create(init)


def executor_by_scale(
    home: Path,
    locks: Locks,
    tables: Callable[[], int],
    elsewhere: Elsewhere | None = None,
    records: Lineage | None = None,
) -> dg.ExecutorDefinition:
    """Executor with one process for small scales, and processes for the steps of large ones.

    Args:
        home: folder of everything generated.
        locks: locks of runs.
        tables: function that gives the bytes that a step which makes tables may hold at a time.
        elsewhere: maker of the executor that runs the steps of all scales on a cluster; None for this machine.
        records: records that a run takes over when it begins; by default those of the home, which are here.
    """

    @dg.executor(name="by_scale")
    def executor(init: dg.InitExecutorContext) -> ScaleExecutor:
        return ScaleExecutor(init, home, locks, tables, elsewhere, records or Lineage(home / "data"))

    return executor
