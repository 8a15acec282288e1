"""How runs start, and how they are carried out: jobs, schedules, and the executor."""

from collections.abc import Iterator

import dagster as dg

from ms_assets.scales import check_run_config

PARTITION_TAG = "dagster/partition"
IN_PROCESS_SCALES = ("sample", "50m")
RETRIES = {"retries": {"enabled": {}}}
PROCESS_PER_STEP = {**RETRIES, "max_concurrent": 1, "start_method": {"forkserver": {}}}


class ScaleExecutor(dg.Executor):
    """Refuses settings out of range before the first step, then runs the steps as the scale needs.

    Small scales run in one process, which saves starting one for each step. Large ones take a process per
    step, one at a time, so that a step's memory returns to the system before the next begins.
    """

    def __init__(self, init: dg.InitExecutorContext) -> None:
        self._in_process = dg.in_process_executor.executor_creation_fn(init._replace(executor_config=RETRIES))
        self._process_per_step = dg.multiprocess_executor.executor_creation_fn(
            init._replace(executor_config=PROCESS_PER_STEP)
        )

    @property
    def retries(self) -> object:
        """Both ways to run honour an asset's retry policy."""
        return self._in_process.retries

    def execute(self, plan_context: object, execution_plan: object) -> Iterator[dg.DagsterEvent]:
        """Carry out the plan."""
        run = plan_context.dagster_run
        scale = run.tags.get(PARTITION_TAG)
        if scale is not None:
            check_run_config(run.run_config, scale)
        chosen = self._in_process if scale in IN_PROCESS_SCALES else self._process_per_step
        yield from chosen.execute(plan_context, execution_plan)


@dg.executor(name="by_scale")
def executor_by_scale(init: dg.InitExecutorContext) -> ScaleExecutor:
    """In one process for small scales, a process per step for large ones."""
    return ScaleExecutor(init)
