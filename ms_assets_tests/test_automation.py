"""Runs that nobody starts by hand: the weekly retraining, and the refresh when the hub has something new."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_run_for_test, create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from ms_assets.definitions import define
from ms_assets.defs.automation import hub_revision, retraining_schedules
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import Lineage, Made
from ms_assets.defs.platform.resources import DuckDB, Environment, YambdaSource
from ms_assets.defs.platform.scales import PARTITION_TAG
from ms_assets.raw.schema import ALWAYS
from ms_assets.raw.source import Source
from ms_assets_tests.contract import SCALES
from ms_assets_tests.loopback_hub import COMMIT, NEXT_COMMIT, serve
from ms_assets_tests.raw.downloads import DATASET
from ms_assets_tests.webhook import Webhook
from ms_assets_tests.workplace import free_port

QUEUE = {"module": "dagster._core.run_coordinator", "class": "QueuedRunCoordinator"}
SUNDAY = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOOK = free_port()
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)


class Daemon:
    """Dagster's daemon over the project's own code server, one iteration at a time; runs stay in the queue."""

    def __init__(self, instance, workspace, home):
        self.instance, self.workspace, self.home = instance, workspace, home
        [location] = workspace.create_request_context().code_locations
        [self.repository] = location.get_repositories().values()

    def schedules_tick(self, time):
        with freeze_time(time):
            [*launch_scheduled_runs(self.workspace, logging.getLogger(), time, {})]

    def sensor_ticks(self, time, name="hub_revision"):
        """The sensor's tick, and the runs that sensors asked for by scale."""
        before = {run.run_id for run in self.instance.get_runs()}
        with freeze_time(time):
            [*execute_sensor_iteration(self.workspace, logging.getLogger(), None, None)]
        sensor = self.repository.get_sensor(name)
        [tick, *_] = self.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
        new = {run.tags[PARTITION_TAG]: run for run in self.instance.get_runs() if run.run_id not in before}
        return tick, new


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("hub"), DATASET) as hub:
        yield hub


@pytest.fixture(scope="module")
def daemon(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_ASSETS_HOME", str(home))
        patch.setenv("MS_ASSETS_SOURCE", DATASET)
        patch.setenv("MS_ASSETS_RETRAIN_TIMEZONE", "Europe/Berlin")
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("MS_ASSETS_ALERTS", f"http://127.0.0.1:{HOOK}/hook")
        target = ModuleTarget("ms_assets.definitions", None, None, None)
        with (
            dg.instance_for_test(overrides={"run_coordinator": QUEUE}) as instance,
            create_test_daemon_workspace_context(target, instance) as workspace,
        ):
            patch.undo()  # the server has read it
            daemon = Daemon(instance, workspace, home)
            for name in ("run_failures", "check_failures"):
                alerting = daemon.repository.get_sensor(name)
                instance.stop_sensor(alerting.get_remote_origin_id(), alerting.selector_id, alerting)
            yield daemon


def test_the_weekly_schedule_launches_one_run_for_its_scale_each_week_and_only_when_switched_on(daemon):
    daemon.schedules_tick(SUNDAY)
    daemon.schedules_tick(SUNDAY + WEEK)
    assert daemon.instance.get_runs() == []
    with freeze_time(SUNDAY + WEEK):
        daemon.instance.start_schedule(daemon.repository.get_schedule("weekly_retraining_50m"))
    monday = datetime(2026, 11, 30, 2, tzinfo=UTC)  # three o'clock in Berlin
    runs = []
    # Once the clock is put back by an hour.
    times = (SUNDAY + WEEK, monday - timedelta(seconds=1), monday, monday - HOUR, monday, monday + WEEK - HOUR)
    for time in times:
        daemon.schedules_tick(time)
        runs.append(len(daemon.instance.get_runs()))
    assert runs == [0, 0, 1, 1, 1, 1]
    daemon.schedules_tick(monday + WEEK)
    second, first = daemon.instance.get_runs()
    for run in (first, second):
        assert (run.job_name, run.tags[PARTITION_TAG], run.status.value) == ("retrain", "50m", "QUEUED")
        assert run.run_config == {"ops": {"training__lightgcn": {"config": {"replace_checkpoint": True}}}}


def made(home, scale, source=DATASET, revision=COMMIT):
    """Raw tables of a scale, with the records that their assets leave."""
    for name in ALWAYS:
        file = home / "data/raw" / name / f"{scale}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"rows")
        metadata = {"source": source, "revision": revision}
        record = Made.of(file, {}, scale, metadata, name=file.name, version="v", run_id="run")
        Lineage(home / "data").note(dg.AssetKey(["raw", name]), scale, record)


def test_the_sensor_launches_a_run_for_each_scale_in_use_once_for_a_new_commit_and_not_again(daemon, hub):
    daemon.instance.start_sensor(daemon.repository.get_sensor("hub_revision"))
    pin = daemon.home / "source/revisions" / "somebody%2Fyambda@main"
    pin.parent.mkdir(parents=True)
    pin.write_text(COMMIT)
    made(daemon.home, "sample", "generated", "0123456789ab")
    made(daemon.home, "50m")
    made(daemon.home, "5b")
    start = datetime.now(UTC)

    def next_tick(n):
        tick, new = daemon.sensor_ticks(start + n * 2 * HOUR)
        return tick.status, tick.tick_data.skip_reason, {scale: run.job_name for scale, run in new.items()}

    status, reason, new = next_tick(0)
    assert (status, new) == (TickStatus.SKIPPED, {})
    assert reason == f"{COMMIT} is known: no table is from another commit, or its run was requested already"

    hub.revisions["main"], hub.statuses["API"] = NEXT_COMMIT, [503]
    status, reason, new = next_tick(1)
    assert (status, new) == (TickStatus.SKIPPED, {})
    assert f"{DATASET} at revision main: the hub did not give it" in reason
    assert pin.read_text() == COMMIT

    status, _, new = next_tick(2)
    assert (status, new) == (TickStatus.SUCCESS, {"50m": "pipeline", "5b": "pipeline"})
    assert pin.read_text() == NEXT_COMMIT

    for n in (3, 4):
        status, reason, new = next_tick(n)
        assert (status, new) == (TickStatus.SKIPPED, {})
        assert reason.startswith(f"{NEXT_COMMIT} is known")


def test_an_alert_waits_for_its_target_and_the_daemon_goes_on_meanwhile(daemon):
    daemon.instance.start_sensor(daemon.repository.get_sensor("run_failures"))
    run = create_run_for_test(daemon.instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: "50m"})
    daemon.instance.report_run_failed(run, "The process of this run has died.")
    later = datetime.now(UTC) + 1000 * HOUR
    tick, _ = daemon.sensor_ticks(later, "run_failures")
    assert tick.status == TickStatus.FAILURE
    assert "MS_ASSETS_ALERTS: http://127.0.0.1 did not take the message about run-failed." in tick.error.cause.message
    hook = Webhook(HOOK)
    try:
        ticks = [daemon.sensor_ticks(later + n * HOUR, "run_failures")[0] for n in (1, 2)]
    finally:
        hook.close()
    assert [tick.tick_data.skip_reason for tick in ticks] == ["1 failures were told", "0 failures were told"]
    assert [told["run_id"] for told in hook.got] == [run.run_id]


def tick(instance, yambda, cursor=None):
    tables = TableIOManager(base_dir=str(home_of(yambda) / "data"), duckdb=DuckDB(temp_directory="unused"))
    resources = {"yambda": yambda, "io_manager": tables}
    with dg.build_sensor_context(instance, cursor, sensor_name="hub_revision", resources=resources) as context:
        return hub_revision(context)


def home_of(yambda):
    return Path(yambda.source_home).parent


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def newer(tmp_path, monkeypatch):
    """A dataset whose revision names the next commit."""
    monkeypatch.setattr(Source, "newest_commit", lambda self: NEXT_COMMIT)
    return YambdaSource(location=DATASET, revision="main", source_home=str(tmp_path / "source"))


def asked_for(result):
    return [(request.partition_key, request.run_key) for request in result.run_requests]


def test_what_came_from_elsewhere_or_is_of_the_newest_commit_already_is_left_alone(instance, newer):
    made(home_of(newer), "50m", source="/a/folder", revision="local folder")
    made(home_of(newer), "500m", revision=NEXT_COMMIT)
    assert isinstance(tick(instance, newer), dg.SkipReason)
    made(home_of(newer), "5b")
    assert asked_for(tick(instance, newer)) == [("5b", f"5b@{NEXT_COMMIT}")]


def test_a_table_that_a_person_has_reported_in_the_ui_changes_nothing(instance, newer):
    made(home_of(newer), "50m")
    for name in ALWAYS:
        reported = dg.AssetMaterialization(["raw", name], partition="50m", description="made by hand")
        instance.report_runless_asset_event(reported)
        assert asked_for(tick(instance, newer)) == [("50m", f"50m@{NEXT_COMMIT}")]


def test_a_table_that_somebody_has_changed_is_passed_over_and_keeps_no_other_from_its_run(instance, newer):
    made(home_of(newer), "50m")
    made(home_of(newer), "5b", revision=NEXT_COMMIT)
    (home_of(newer) / "data/raw/multi_event/5b.parquet").write_bytes(b"other rows")
    (home_of(newer) / "data/raw/multi_event/50m.origin.json").write_bytes(b"[")
    assert asked_for(tick(instance, newer)) == [("50m", f"50m@{NEXT_COMMIT}")]


def test_the_cursor_remembers_what_was_asked_for(instance, newer):
    made(home_of(newer), "50m")
    cursor = tick(instance, newer).cursor
    assert isinstance(tick(instance, newer, cursor), dg.SkipReason)
    made(home_of(newer), "5b")
    later = tick(instance, newer, cursor)
    assert asked_for(later) == [("5b", f"5b@{NEXT_COMMIT}")]
    assert isinstance(tick(instance, newer, later.cursor), dg.SkipReason)


def test_the_pin_does_not_move_under_a_run_that_reads_the_hub(newer, tmp_path):
    with dg.instance_for_test() as instance:
        made(home_of(newer), "50m")
        tags = {PARTITION_TAG: "5b"}
        run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags)
        assert run.run_id in tick(instance, newer).skip_message
        assert not (tmp_path / "source/revisions").exists()
        instance.report_run_canceled(run)
        assert asked_for(tick(instance, newer)) == [("50m", f"50m@{NEXT_COMMIT}")]


@pytest.mark.parametrize(
    ("location", "revision", "reason"),
    [
        (".", "main", "MS_ASSETS_SOURCE: . is a folder, which has no revisions"),
        ("nowhere", "main", "MS_ASSETS_SOURCE: found 'nowhere', which is no folder here"),
        (DATASET, COMMIT, f"MS_ASSETS_REVISION: {COMMIT} is a commit, which never changes"),
    ],
)
def test_the_sensor_says_why_there_is_nothing_to_look_for(instance, tmp_path, location, revision, reason):
    source = YambdaSource(location=location, revision=revision, source_home=str(tmp_path))
    assert tick(instance, source).skip_message.startswith(reason)


@pytest.mark.parametrize(
    ("variable", "cron", "timezone"),
    [
        ("MS_ASSETS_RETRAIN_CRON: found '0 3 * *', expected five fields", "0 3 * *", "UTC"),
        ("MS_ASSETS_RETRAIN_CRON: found '0 25 * * 1', expected five fields", "0 25 * * 1", "UTC"),
        ("MS_ASSETS_RETRAIN_CRON: found 'weekly', expected five fields", "weekly", "UTC"),
        ("MS_ASSETS_RETRAIN_TIMEZONE: found 'Mars/Base', expected a name", "0 3 * * 1", "Mars/Base"),
        ("MS_ASSETS_RETRAIN_TIMEZONE: found '../etc', expected a name", "0 3 * * 1", "../etc"),
    ],
)
def test_a_time_or_a_time_zone_that_is_none_is_refused_by_its_variable(variable, cron, timezone):
    with pytest.raises(ValueError) as refused:
        retraining_schedules(cron, timezone)
    assert str(refused.value).startswith(variable)


def test_the_schedules_keep_to_the_time_of_the_environment_and_are_off(monkeypatch, tmp_path):
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path))
    assert {(s.cron_schedule, s.execution_timezone) for s in define(Environment.read()).schedules} == {
        ("0 3 * * 1", "UTC")
    }
    monkeypatch.setenv("MS_ASSETS_RETRAIN_CRON", "30 4 * * 6,0")
    monkeypatch.setenv("MS_ASSETS_RETRAIN_TIMEZONE", "Asia/Kolkata")
    definitions = define(Environment.read())
    assert [schedule.name for schedule in definitions.schedules] == [f"weekly_retraining_{scale}" for scale in SCALES]
    for schedule in definitions.schedules:
        assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * 6,0", "Asia/Kolkata")
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    statuses = {sensor.name: sensor.default_status for sensor in definitions.sensors}
    assert statuses == dict.fromkeys(("hub_revision", "source_files"), dg.DefaultSensorStatus.STOPPED)


def test_embeddings_and_leaderboard_grow_old_a_day_after_a_weekly_retraining_was_missed():
    definitions = define(Environment.read())
    policies = {spec.key.to_user_string(): spec.freshness_policy for spec in definitions.resolve_all_asset_specs()}
    fresh = {"training/user_embeddings", "training/song_embeddings", "evaluation/leaderboard"}
    assert {key for key, policy in policies.items() if policy} == fresh
    for key in fresh:
        assert policies[key].warn_window.to_timedelta() == WEEK + timedelta(days=1)
        assert policies[key].fail_window.to_timedelta() == 2 * WEEK + timedelta(days=1)


def test_whatever_trains_waits_for_the_card():
    ops = define(Environment.read()).resolve_implicit_global_asset_job_def().nodes
    training = {"training__lightgcn", "training__hyperparameter_study", "training__ablation"}
    assert {op.name for op in ops if op.definition.pool == "gpu"} == training
