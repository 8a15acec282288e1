"""Executor of runs: checks the settings, waits for the scale's lock, and runs steps in one process or several."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import dagster as dg

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.lineage import Lineage
from ms_assets.defs.platform.scales import NO_SCALE, PARTITION_TAG, check_run_config, like
from ms_assets.files import sweep
from ms_assets.raw.own import OWN, Import, folder_in

IN_PROCESS_SCALES = ("sample", "50m")
RETRIES: dict[str, Any] = {"retries": {"enabled": {}}}
PROCESS_PER_STEP = {**RETRIES, "max_concurrent": 1, "start_method": {"forkserver": {}}}


STEP_ENDS = (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY)


class ScaleExecutor(dg.Executor):
    """Executor that checks the settings, waits until no other run has the scale's lock, and runs the steps.

    Small scales run in one process, which saves starting one for each step. Large scales take a process per step,
    one at a time, so that a step's memory returns to the system before the next begins. Steps that name the same
    pool run one at a time, across all runs.
    """

    def __init__(self, init: dg.InitExecutorContext, records: Lineage) -> None:
        self._records, self._home = records, records.base.parent
        self._in_process = _create(dg.in_process_executor, init._replace(executor_config=RETRIES))
        self._process_per_step = _create(dg.multiprocess_executor, init._replace(executor_config=PROCESS_PER_STEP))

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
        own = Import.read(folder_in(self._home)) if scale == OWN else None
        check_run_config(run.run_config, scale, own)
        with ExitStack() as until_the_end:
            until_the_end.enter_context(runs.alive(runs.life_of(self._home, run.run_id)))
            until_the_end.enter_context(runs.interrupted_when_cancelled(instance, run))
            self._take_turn(plan_context, scale, until_the_end)
            self._sweep(scale)
            self._records.begin(scale)
            yield from self._steps(plan_context, execution_plan, like(own) if own else scale)

    def _steps(self, plan_context: Any, execution_plan: Any, size: str) -> Iterator[dg.DagsterEvent]:
        chosen, begins = self._process_per_step, dg.DagsterEventType.STEP_WORKER_STARTING
        if size in IN_PROCESS_SCALES:
            chosen, begins = self._in_process, dg.DagsterEventType.STEP_START
        with ExitStack() as until_the_step_ends:
            for event in chosen.execute(plan_context, execution_plan):
                yield event
                # The step does not begin until the executor is asked for its next event.
                if event.event_type == begins and (pool := execution_plan.get_step_by_key(event.step_key).pool):
                    self._take_turn(plan_context, pool, until_the_step_ends)
                elif event.event_type in STEP_ENDS:
                    until_the_step_ends.close()

    def _take_turn(self, plan_context: Any, what: str, stack: ExitStack) -> None:
        life = runs.life_of(self._home, plan_context.dagster_run.run_id)
        those_before = stack.enter_context(runs.turn(self._home / "locks" / what, life))
        for other, _ in groupby(those_before):
            plan_context.log.info(f"waiting for {what}: it is the turn of run {other}")
        runs.mark_lost(plan_context.instance, self._home)

    def _sweep(self, scale: str) -> None:
        sweep(self._records.base, scale)
        if scale == "sample":
            sweep(self._home / "source" / "sample")


def _create(definition: dg.ExecutorDefinition, init: dg.InitExecutorContext) -> dg.Executor:
    create = definition.executor_creation_fn
    assert create is not None, f"{definition.name} creates no executor"
    return create(init)


def executor_by_scale(records: Lineage) -> dg.ExecutorDefinition:
    """Executor with one process for small scales, and a process per step for large ones.

    Its locks lie in the home, beside the folder of the records.
    """

    @dg.executor(name="by_scale")
    def executor(init: dg.InitExecutorContext) -> ScaleExecutor:
        return ScaleExecutor(init, records)

    return executor
