"""Dagster's history in the home, beside the artefacts that it tells of, or in PostgreSQL; `dagster.yaml` names them."""

from pathlib import Path
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage

from ms_assets.defs.platform import database
from ms_assets.defs.platform.objects import BucketError, installed
from ms_assets.defs.platform.resources import Environment


def _in_home(storage: type[Any], folder: str, in_postgres: str | None = None) -> type[Any]:
    """Storage of Dagster's that has nothing to configure: it lies in a folder of the home.

    in_postgres: class that takes its place where the environment names a database.
    """

    def open_in_home(cls: type[Any], inst_data: Any, config_value: dict[str, Any]) -> Any:
        environment = Environment.read()
        if environment.bucket:
            _check(environment)
        if in_postgres and environment.database:
            return database.history(in_postgres, environment.database, inst_data)
        return storage.from_config_value(inst_data, {"base_dir": str(Path(environment.home, "dagster", folder))})

    changed = {"from_config_value": classmethod(open_in_home), "config_type": classmethod(lambda cls: {})}
    return type(storage.__name__, (storage,), changed)


def _check(environment: Environment) -> None:
    """Refuse a home in a bucket without what it needs; a run then checks the bucket before its first step.

    Raises:
        BucketError: a service that keeps what a bucket cannot is not named, or the extra `s3` is not installed.
    """
    needed = {"MS_ASSETS_DATABASE": environment.database, "MLFLOW_TRACKING_URI": environment.tracking_uri}
    if missing := [name for name, value in needed.items() if not value]:
        raise BucketError(
            f"MS_ASSETS_HOME: found {environment.bucket}, which keeps artefacts alone; set {' and '.join(missing)}, "
            "where runs and trainings are to be remembered"
        )
    installed(environment.bucket)


Runs = _in_home(SqliteRunStorage, "runs", "PostgresRunStorage")
Events = _in_home(SqliteEventLogStorage, "events", "PostgresEventLogStorage")
Schedules = _in_home(SqliteScheduleStorage, "schedules", "PostgresScheduleStorage")
Artefacts = _in_home(LocalArtifactStorage, "")
Logs = _in_home(LocalComputeLogManager, "compute_logs")
