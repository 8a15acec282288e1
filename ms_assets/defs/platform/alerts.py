"""Sensors that tell people of failed runs and failed checks: each failure once, in the order in which it happened."""

import re
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, cast

import dagster as dg
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ms_assets.defs.platform.checks import problem_of
from ms_assets.defs.platform.messages import Alerts, Message, UndeliveredError
from ms_assets.defs.platform.scales import PARTITION_TAG

SECONDS_BETWEEN_TICKS = 30
LONGEST_TICK = 20.0
"""Seconds after which a tick begins no message: Dagster ends a tick that takes 60, and forgets what it has told."""
SENTENCE = re.compile(r"(?<=[.!?])\s|\n")
Tell = Callable[[dg.DagsterInstance, Alerts, dg.EventLogRecord], Message | None]
"""Function that makes a message of an event; None if nothing has failed."""


def sensors() -> list[dg.SensorDefinition]:
    """Sensors of failures. They are on from the start: without a target nobody builds them."""
    return [
        _sensor("run_failures", dg.DagsterEventType.RUN_FAILURE, of_run, "Tells people of runs that failed."),
        _sensor(
            "check_failures", dg.DagsterEventType.ASSET_CHECK_EVALUATION, of_check,
            "Tells people of checks that failed, warnings too."
        ),
    ]  # fmt: skip


def _sensor(name: str, kind: dg.DagsterEventType, tell: Tell, description: str) -> dg.SensorDefinition:
    # Dagster's own sensor of failed runs takes an event for told when telling it has failed.
    @dg.sensor(
        name=name,
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"{description} It sends to MS_ASSETS_ALERTS.",
    )
    def failures(context: dg.SensorEvaluationContext, alerts: Alerts) -> dg.SkipReason:
        told, until = 0, monotonic() + LONGEST_TICK
        for record in _happened(context, kind):
            message = tell(context.instance, alerts, record)
            try:
                if message and monotonic() < until:
                    alerts.send(message)
                    told += 1
                elif message:
                    break
            except UndeliveredError:
                if not told:  # the cursor stays, and the tick fails
                    raise
                break  # what was told stays told; the next tick begins here
            context.update_cursor(str(record.storage_id))
        return dg.SkipReason(f"{told} failures were told")

    return failures


def _happened(context: dg.SensorEvaluationContext, kind: dg.DagsterEventType) -> Sequence[dg.EventLogRecord]:
    """Events of all runs after the cursor, and since somebody switched the sensor on, the oldest first."""
    since = dg.EventRecordsFilter(
        event_type=kind,
        after_cursor=int(context.cursor) if context.cursor else None,
        after_timestamp=context.last_sensor_start_time,
    )
    # SQLite's own method opens a file for each run; these events stand in the file of all runs, too.
    storage = cast(SqlEventLogStorage, context.instance.event_log_storage)
    return SqlEventLogStorage.get_event_records(storage, since, limit=AT_A_TIME, ascending=True)


AT_A_TIME = 500
"""Number of events that a tick looks at."""


def of_run(instance: dg.DagsterInstance, alerts: Alerts, record: dg.EventLogRecord) -> Message:
    """Message about a failed run: its steps, and the error of the first of them."""
    run_id, failure = record.run_id, record.event_log_entry.dagster_event
    steps = [
        entry.dagster_event
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        if entry.dagster_event
    ]
    errors = [step.step_failure_data.error for step in steps if step.step_failure_data.error]
    what = {"step": ", ".join(str(step.step_key) for step in steps)} if steps else {}
    said = _raised(errors[0]).message if errors else failure.message if failure else None
    return _message(instance, alerts, record, "run failed", what, said or "")


def of_check(instance: dg.DagsterInstance, alerts: Alerts, record: dg.EventLogRecord) -> Message | None:
    """Message about a failed check; None for one that passed."""
    evaluation = record.event_log_entry.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    if evaluation.passed:
        return None
    what = {"asset": evaluation.asset_key.to_user_string(), "check": evaluation.check_name}
    kind = "check failed" if evaluation.severity == dg.AssetCheckSeverity.ERROR else "check warns"
    return _message(instance, alerts, record, kind, what, problem_of(evaluation))


def _message(
    instance: dg.DagsterInstance, alerts: Alerts, record: dg.EventLogRecord, kind: str, what: dict[str, str], said: str
) -> Message:
    run = instance.get_run_by_id(record.run_id)
    job, scale = (run.job_name, run.tags.get(PARTITION_TAG, "none")) if run else ("unknown", "unknown")
    about = what.get("check") or what.get("step") or job
    facts = {"run_id": record.run_id, "job": job, "partition": scale, **what, "error": first_sentence(said)}
    name = f"{kind.replace(' ', '-')}.{record.run_id}.{record.storage_id}"
    return Message(name, f"ms_assets: {kind}: {about} of {scale}", facts | alerts.link(record.run_id))


def _raised(error: Any) -> Any:
    """Error that a step has raised, without Dagster's own ones around it."""
    return _raised(error.cause) if error.cause and error.cls_name.startswith("Dagster") else error


def first_sentence(text: str) -> str:
    """First sentence of a text, or its first line where that ends before."""
    return SENTENCE.split(text.strip(), maxsplit=1)[0].strip()
