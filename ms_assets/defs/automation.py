"""Jobs, retraining schedules, and the sensor on the hub's revision."""

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import Lineage
from ms_assets.defs.platform.resources import Environment, YambdaSource
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.files import DamagedFileError
from ms_assets.raw.own import OWN
from ms_assets.raw.schema import ALWAYS, ON_REQUEST, SourceError

ON_REQUEST_TABLES = dg.AssetSelection.assets(*(["raw", name] for name in ON_REQUEST))
ASKED_FOR = dg.AssetSelection.assets(
    ["training", "hyperparameter_study"],
    ["training", "ablation"],
    ["reranking", "ablation"],
    ["evaluation", "user_metrics_json"],
)
"""Experiments of many trainings, and an export of a table: materialised only when a person asks for them."""
EVERYTHING = dg.AssetSelection.groups("raw", "splits", "graph", "training", "retrieval", "reranking", "evaluation")

pipeline = dg.define_asset_job(
    "pipeline",
    selection=EVERYTHING - ON_REQUEST_TABLES - ASKED_FOR,
    description="Everything from the raw tables to the leaderboard, for one scale.",
)
retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.groups("training", "retrieval", "reranking", "evaluation") - ASKED_FOR,
    description="Training and everything after it, on the existing graph.",
)
full_download = dg.define_asset_job(
    "full_download",
    selection=dg.AssetSelection.assets(*(["raw", name] for name in (*ALWAYS, *ON_REQUEST))),
    description="All nine published tables, those fetched on request included, for one scale; nothing else.",
)
UNATTENDED = {"ops": {"training__lightgcn": {"config": {"replace_checkpoint": True}}}}
"""Run config of unattended runs: an interrupted training resumes if it can, and is discarded if data have changed."""


def retraining_schedules(cron: str, timezone: str) -> list[dg.ScheduleDefinition]:
    """Schedules that retrain each scale, off until they are switched on.

    Raises:
        ValueError: the cron string or the time zone is invalid.
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
    description="Runs the pipeline again for scales that were made from another commit than the hub's revision names.",
)
def hub_revision(
    context: dg.SensorEvaluationContext, yambda: YambdaSource, io_manager: dg.ResourceParam[TableIOManager]
) -> dg.SensorResult | dg.SkipReason:
    """Pin a new commit and request a run of the pipeline for each scale whose raw tables are from another commit."""
    from ms_assets.raw.transfer import HubError

    try:
        commit = yambda.source.newest_commit()
    except (SourceError, HubError) as error:  # a fault may pass until the next tick; otherwise somebody reads this
        return dg.SkipReason(str(error))
    asked = json.loads(context.cursor or "{}")
    behind = [
        scale for scale in _made_from_another(io_manager.lineage, yambda.location, commit) if asked.get(scale) != commit
    ]
    if not behind:
        return dg.SkipReason(f"{commit} is known: no table is from another commit, or its run was requested already")
    if underway := _reading_the_hub(context.instance, io_manager.home):
        return dg.SkipReason(f"{commit} is new; it is pinned once run {underway.run_id}, which reads another, is over")
    yambda.source.pin(commit)
    requests = [
        dg.RunRequest(run_key=f"{scale}@{commit}", partition_key=scale, run_config=UNATTENDED) for scale in behind
    ]
    return dg.SensorResult(requests, cursor=json.dumps(asked | dict.fromkeys(behind, commit)))


def _made_from_another(lineage: Lineage, dataset: str, commit: str) -> list[str]:
    """Scales that have a raw table of the dataset from another commit."""

    def is_another(scale: str, table: str) -> bool:
        try:
            latest = lineage.history(dg.AssetKey(["raw", table]), scale)[:1]
        except DamagedFileError:  # whoever reads it is told
            return False
        return any(made.metadata["source"] == dataset and made.metadata["revision"] != commit for made in latest)

    return [scale for scale in SCALES.get_partition_keys() if any(is_another(scale, table) for table in ALWAYS)]


def _reading_the_hub(instance: dg.DagsterInstance, home: Path) -> dg.DagsterRun | None:
    """Run in progress whose tables would be from two commits if another were pinned now; None if there is none."""
    runs.mark_lost(instance, home)
    real = [scale for scale in SCALES.get_partition_keys() if scale not in ("sample", OWN)]
    found = instance.get_runs(dg.RunsFilter(statuses=runs.UNDER_WAY, tags={PARTITION_TAG: real}), limit=1)
    return found[0] if found else None
