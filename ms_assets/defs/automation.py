"""Jobs, retraining schedules, and the sensors on the hub's revision and on the files of a folder."""

import json
from zoneinfo import ZoneInfo

import dagster as dg

from ms_assets.defs.platform import runs
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import Lineage, identity
from ms_assets.defs.platform.locks import Locks
from ms_assets.defs.platform.resources import DuckDB, Environment, YambdaSource
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.files import DamagedFileError, state, sweep
from ms_assets.raw.importing import import_again, state_of_logs
from ms_assets.raw.own import IMPORTED, OWN, REPORT, REQUEST, STATE, Import, folder_in
from ms_assets.raw.schema import ALWAYS, ON_REQUEST, SourceError
from ms_assets.raw.source import FOLDER, Source

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
LOGS = "logs"
"""Name of the logs that `own` was imported from, among the scales, for the sensor on files."""
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
    for scale in SCALES.get_partition_keys():
        io_manager.refresh(scale)
    behind = [
        scale for scale in _made_from_another(io_manager.lineage, yambda.location, commit) if asked.get(scale) != commit
    ]
    if not behind:
        return dg.SkipReason(f"{commit} is known: no table is from another commit, or its run was requested already")
    if underway := _reading_the_hub(context.instance, io_manager.locks):
        return dg.SkipReason(f"{commit} is new; it is pinned once run {underway.run_id}, which reads another, is over")
    yambda.source.pin(commit)
    requests = [
        dg.RunRequest(run_key=f"{scale}@{commit}", partition_key=scale, run_config=UNATTENDED) for scale in behind
    ]
    return dg.SensorResult(requests, cursor=json.dumps(asked | dict.fromkeys(behind, commit)))


@dg.op
def import_logs(context: dg.OpExecutionContext, duckdb: DuckDB, io_manager: dg.ResourceParam[TableIOManager]) -> None:
    """Import the logs of the scale `own` again, as they are now; the former import stays if that fails."""
    folder = folder_in(io_manager.home)
    with runs.writing_turn(io_manager.locks, OWN, context.run_id):
        sweep(folder.parent, OWN)
        report = import_again(folder, duckdb.connection)
    context.log.info(f"kept {report['n_events']:,} of {report['n_read']:,} events; dropped: {report['n_dropped']}")


@dg.job(
    partitions_def=dg.StaticPartitionsDefinition([OWN]),
    description="Imports what the scale `own` was imported from again: the same files, folders and patterns, and "
    "options; the job pipeline then makes its tables.",
)
def reimport() -> None:
    """Import again, in one step."""
    import_logs()


@dg.sensor(
    jobs=[pipeline, reimport],
    minimum_interval_seconds=300,
    description="Runs the pipeline again for scales whose files in the source folder have changed, and imports changed "
    "logs again. A change counts once the files have rested from one evaluation to the next.",
)
def source_files(
    context: dg.SensorEvaluationContext, yambda: YambdaSource, io_manager: dg.ResourceParam[TableIOManager]
) -> dg.SensorResult:
    """Request a run for whatever was made from files in another state than now, once for each state that rests."""
    before = json.loads(context.cursor or '{"changed": {}, "asked": {}}')
    changed, said = dict[str, str](), list[str]()
    for what in (LOGS, *SCALES.get_partition_keys()):
        if what != LOGS:
            io_manager.refresh(what)
        try:
            now = _changed(what, yambda.source, io_manager.lineage)
        except (SourceError, DamagedFileError) as error:  # the other files are looked at all the same
            said.append(str(error))
        else:
            changed |= {what: now} if now and before["asked"].get(what) != now else {}
    rested = {what: now for what, now in changed.items() if before["changed"].get(what) == now}
    said += [f"{what}: files have changed, and may still be written" for what in changed.keys() - rested.keys()]
    cursor = json.dumps({"changed": changed, "asked": before["asked"] | rested})
    if not rested:
        return dg.SensorResult(skip_reason="; ".join(said) or "no change, or its run was requested", cursor=cursor)
    return dg.SensorResult([_refresh(what, now) for what, now in rested.items()], cursor=cursor)


def _refresh(what: str, now: str) -> dg.RunRequest:
    if what == LOGS:
        return dg.RunRequest(f"{what}@{now}", job_name="reimport", partition_key=OWN)
    return dg.RunRequest(f"{what}@{now}", job_name="pipeline", partition_key=what, run_config=UNATTENDED)


def _changed(what: str, source: Source, lineage: Lineage) -> str:
    """State of the files behind the import, or behind a scale's tables, if another was read; '' otherwise."""
    folder = folder_in(lineage.base.parent)
    if what == LOGS:
        known = Import.read(folder).report if (folder / REPORT).exists() else {}
        now = state_of_logs(known[REQUEST]) if known else ""
        return now if now != known.get(STATE) else ""
    made = {name: recorded[0].metadata for name in ALWAYS if (recorded := lineage.recorded(_raw(name), what))}
    if any(table["source"] == IMPORTED for table in made.values()):
        behind = any(table["revision"] != Import.read(folder).revision for table in made.values())
        return state([folder / REPORT]) if behind else ""
    if not any(table["revision"] == FOLDER for table in made.values()):
        return ""
    files = source.of_folder(what)
    behind = any(
        made[name]["source"] == file.origin and made[name].get("source_state") != file.content
        for name, file in files.items()
        if name in made
    )
    return identity(*(file.content for file in files.values())) if behind else ""


def _made_from_another(lineage: Lineage, dataset: str, commit: str) -> list[str]:
    """Scales that have a raw table of the dataset from another commit."""

    def is_another(scale: str, table: str) -> bool:
        try:
            latest = lineage.history(_raw(table), scale)[:1]
        except DamagedFileError:  # whoever reads it is told
            return False
        return any(made.metadata["source"] == dataset and made.metadata["revision"] != commit for made in latest)

    return [scale for scale in SCALES.get_partition_keys() if any(is_another(scale, table) for table in ALWAYS)]


def _raw(table: str) -> dg.AssetKey:
    return dg.AssetKey(["raw", table])


def _reading_the_hub(instance: dg.DagsterInstance, locks: Locks) -> dg.DagsterRun | None:
    """Run in progress whose tables would be from two commits if another were pinned now; None if there is none."""
    runs.mark_lost(instance, locks)
    real = [scale for scale in SCALES.get_partition_keys() if scale not in ("sample", OWN)]
    found = instance.get_runs(dg.RunsFilter(statuses=runs.UNDER_WAY, tags={PARTITION_TAG: real}), limit=1)
    return found[0] if found else None
