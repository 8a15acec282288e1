"""How runs start, and how they are carried out: jobs, schedules, and the executor."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ms_assets.io_managers import PARTITION_TAG
from ms_assets.raw.schema import ALWAYS, ON_REQUEST
from ms_assets.scales import SCALES, check_run_config

IN_PROCESS_SCALES = ("sample", "50m")
RETRIES: dict[str, Any] = {"retries": {"enabled": {}}}
PROCESS_PER_STEP = {**RETRIES, "max_concurrent": 1, "start_method": {"forkserver": {}}}


class ScaleExecutor(dg.Executor):
    """Refuses settings out of range before the first step, then runs the steps as the scale needs.

    Small scales run in one process, which saves starting one for each step. Large ones take a process per
    step, one at a time, so that a step's memory returns to the system before the next begins.
    """

    def __init__(self, init: dg.InitExecutorContext) -> None:
        self._in_process = _create(dg.in_process_executor, init._replace(executor_config=RETRIES))
        self._process_per_step = _create(dg.multiprocess_executor, init._replace(executor_config=PROCESS_PER_STEP))

    @property
    def retries(self) -> Any:
        """Both ways to run honour an asset's retry policy."""
        return self._in_process.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Carry out the plan."""
        run = plan_context.dagster_run
        scale = run.tags.get(PARTITION_TAG)
        if scale is not None:
            check_run_config(run.run_config, scale)
        chosen = self._in_process if scale in IN_PROCESS_SCALES else self._process_per_step
        yield from chosen.execute(plan_context, execution_plan)


def _create(definition: dg.ExecutorDefinition, init: dg.InitExecutorContext) -> dg.Executor:
    create = definition.executor_creation_fn
    assert create is not None, f"{definition.name} creates no executor"
    return create(init)


@dg.executor(name="by_scale")
def executor_by_scale(init: dg.InitExecutorContext) -> ScaleExecutor:
    """In one process for small scales, a process per step for large ones."""
    return ScaleExecutor(init)


ON_REQUEST_TABLES = dg.AssetSelection.assets(*(["raw", name] for name in ON_REQUEST))
EXPERIMENTS = dg.AssetSelection.assets(["training", "hyperparameter_study"], ["training", "ablation"])
"""Many trainings, whose results a person looks at: run when somebody asks for them."""
EVERYTHING = dg.AssetSelection.groups("raw", "splits", "graph", "training", "retrieval", "evaluation")

pipeline = dg.define_asset_job(
    "pipeline",
    selection=EVERYTHING - ON_REQUEST_TABLES - EXPERIMENTS,
    description="Everything from the raw tables to the leaderboard, for one scale.",
)
retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.groups("training", "retrieval", "evaluation") - EXPERIMENTS,
    description="Training and everything after it, on the graph that is there.",
)
full_download = dg.define_asset_job(
    "full_download",
    selection=dg.AssetSelection.assets(*(["raw", name] for name in (*ALWAYS, *ON_REQUEST))),
    description="All nine tables as published, those fetched on request included, for one scale; nothing else.",
)
jobs = [pipeline, retrain, full_download]


def _weekly_retraining(scale: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"weekly_retraining_{scale}",
        job=retrain,
        cron_schedule="0 3 * * 1",
        description=f"Retrains {scale} every Monday at 03:00 UTC; off until switched on.",
    )
    def weekly_retraining() -> dg.RunRequest:
        # Nobody is there to decide: a training that was cut off goes on if it can, and gives way if data have changed.
        config = {"ops": {"training__lightgcn": {"config": {"replace_checkpoint": True}}}}
        return dg.RunRequest(partition_key=scale, run_config=config)

    return weekly_retraining


schedules = [_weekly_retraining(scale) for scale in SCALES.get_partition_keys()]
