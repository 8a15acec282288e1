"""How runs start, and how they are carried out: jobs, schedules, a sensor, and the executor."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ms_assets import lineage, runs
from ms_assets.files import sweep
from ms_assets.raw.resources import YambdaSource
from ms_assets.raw.schema import ALWAYS, ON_REQUEST, SourceError
from ms_assets.resources import Environment
from ms_assets.scales import PARTITION_TAG, SCALES, check_run_config

IN_PROCESS_SCALES = ("sample", "50m")
RETRIES: dict[str, Any] = {"retries": {"enabled": {}}}
PROCESS_PER_STEP = {**RETRIES, "max_concurrent": 1, "start_method": {"forkserver": {}}}


STEP_ENDS = (
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
)


class ScaleExecutor(dg.Executor):
    """Checks the settings, waits until no other run has the scale, and runs the steps as the scale needs.

    Small scales run in one process, which saves starting one for each step. Large ones take a process per
    step, one at a time, so that a step's memory returns to the system before the next begins. Of the steps that
    name a pool one runs at a time, whichever runs they belong to.
    """

    def __init__(self, init: dg.InitExecutorContext, home: Path) -> None:
        self._home = home
        self._in_process = _create(dg.in_process_executor, init._replace(executor_config=RETRIES))
        self._process_per_step = _create(dg.multiprocess_executor, init._replace(executor_config=PROCESS_PER_STEP))

    @property
    def retries(self) -> Any:
        """Both ways to run honour an asset's retry policy."""
        return self._in_process.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Carry out the plan."""
        run, instance = plan_context.dagster_run, plan_context.instance
        runs.begin(runs.life_of(instance, run.run_id))
        scale = run.tags.get(PARTITION_TAG)
        with ExitStack() as until_the_end:
            if scale is not None:  # without one nothing can be made, and every step says so
                check_run_config(run.run_config, scale)
                self._take_turn(plan_context, scale, until_the_end)
                self._sweep(scale)
            yield from self._steps(plan_context, execution_plan, scale)

    def _steps(self, plan_context: Any, execution_plan: Any, scale: str | None) -> Iterator[dg.DagsterEvent]:
        chosen, begins = self._process_per_step, dg.DagsterEventType.STEP_WORKER_STARTING
        if scale in IN_PROCESS_SCALES:
            chosen, begins = self._in_process, dg.DagsterEventType.STEP_START
        with ExitStack() as until_the_step_ends:
            for event in chosen.execute(plan_context, execution_plan):
                yield event
                # The step itself does not begin before the executor is asked for its next event.
                if event.event_type == begins and (pool := execution_plan.get_step_by_key(event.step_key).pool):
                    self._take_turn(plan_context, pool, until_the_step_ends)
                elif event.event_type in STEP_ENDS:
                    until_the_step_ends.close()

    def _take_turn(self, plan_context: Any, what: str, stack: ExitStack) -> None:
        life = runs.life_of(plan_context.instance, plan_context.dagster_run.run_id)
        those_before = stack.enter_context(runs.turn(self._home / "locks" / what, life))
        for other, _ in groupby(those_before):
            plan_context.log.info(f"waiting for {what}: it is the turn of run {other}")
        runs.mark_lost(plan_context.instance)

    def _sweep(self, scale: str) -> None:
        sweep(self._home / "data", scale)
        if scale == "sample":
            sweep(self._home / "source" / "sample")


def _create(definition: dg.ExecutorDefinition, init: dg.InitExecutorContext) -> dg.Executor:
    create = definition.executor_creation_fn
    assert create is not None, f"{definition.name} creates no executor"
    return create(init)


def executor_by_scale(home: Path) -> dg.ExecutorDefinition:
    """In one process for small scales, a process per step for large ones; locks lie in the home."""

    @dg.executor(name="by_scale")
    def executor(init: dg.InitExecutorContext) -> ScaleExecutor:
        return ScaleExecutor(init, home)

    return executor


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
UNATTENDED = {"ops": {"training__lightgcn": {"config": {"replace_checkpoint": True}}}}
"""Nobody is there to decide: a training that was cut off goes on if it can, and gives way if data have changed."""


def retraining_schedules(cron: str, timezone: str) -> list[dg.ScheduleDefinition]:
    """A schedule for each scale, off until it is switched on.

    Raises:
        ValueError: there is no such time, or no such time zone.
    """
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        expected = "expected a name of the IANA database such as UTC or Europe/Berlin"
        raise ValueError(f"MS_ASSETS_RETRAIN_TIMEZONE: found {timezone!r}, {expected}") from None
    try:
        return [_retraining(scale, cron, timezone) for scale in SCALES.get_partition_keys()]
    except dg.DagsterInvalidDefinitionError:
        expected = f"expected five fields as cron has them, such as {Environment.retrain_cron!r}"
        raise ValueError(f"MS_ASSETS_RETRAIN_CRON: found {cron!r}, {expected}") from None


def _retraining(scale: str, cron: str, timezone: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"weekly_retraining_{scale}",
        job=retrain,
        cron_schedule=cron,
        execution_timezone=timezone,
        description=f"Retrains {scale} at {cron} ({timezone}; MS_ASSETS_RETRAIN_CRON); off until switched on.",
    )
    def retraining() -> dg.RunRequest:
        return dg.RunRequest(partition_key=scale, run_config=UNATTENDED)

    return retraining


@dg.sensor(
    job=pipeline,
    minimum_interval_seconds=3600,
    description="When the revision on the hub names another commit, refreshes what was made from the former one.",
)
def hub_revision(context: dg.SensorEvaluationContext, yambda: YambdaSource) -> dg.SensorResult | dg.SkipReason:
    """Move the pin, and ask for one run of the pipeline for each scale whose raw tables are of another commit."""
    from ms_assets.raw.transfer import HubError

    try:
        commit = yambda.newest_commit()
    except (SourceError, HubError) as error:  # a fault passes by the next tick, or somebody reads this
        return dg.SkipReason(str(error))
    asked = json.loads(context.cursor or "{}")
    behind = [
        scale for scale in _made_from_another(context.instance, yambda.location, commit) if asked.get(scale) != commit
    ]
    if not behind:
        return dg.SkipReason(f"{commit} is known: no table is of another commit, or its run has been asked for")
    if underway := _reading_the_hub(context.instance):
        return dg.SkipReason(f"{commit} is new; the pin moves once run {underway.run_id} is over, which reads another")
    yambda.pin(commit)
    requests = [
        dg.RunRequest(run_key=f"{scale}@{commit}", partition_key=scale, run_config=UNATTENDED) for scale in behind
    ]
    return dg.SensorResult(requests, cursor=json.dumps(asked | dict.fromkeys(behind, commit)))


def _made_from_another(instance: dg.DagsterInstance, dataset: str, commit: str) -> list[str]:
    """The scales that have a raw table of the dataset at another commit."""

    def is_another(scale: str, table: str) -> bool:
        latest = lineage.history(instance, dg.AssetKey(["raw", table]), scale)
        return any(made.metadata["source"] == dataset and made.metadata["revision"] != commit for made in latest)

    return [scale for scale in SCALES.get_partition_keys() if any(is_another(scale, table) for table in ALWAYS)]


def _reading_the_hub(instance: dg.DagsterInstance) -> dg.DagsterRun | None:
    """A run under way whose tables would be of two commits if the pin moved now."""
    runs.mark_lost(instance)
    real = [scale for scale in SCALES.get_partition_keys() if scale != "sample"]
    found = instance.get_runs(dg.RunsFilter(statuses=runs.UNDER_WAY, tags={PARTITION_TAG: real}), limit=1)
    return found[0] if found else None
