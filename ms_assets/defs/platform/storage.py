"""Dagster's history in the home, beside the artefacts that it tells of, or in PostgreSQL; `dagster.yaml` names them."""

from pathlib import Path
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage

from ms_assets.defs.platform import database
from ms_assets.defs.platform.resources import Environment


def _in_home(storage: type[Any], folder: str, in_postgres: str | None = None) -> type[Any]:
    """Storage of Dagster's that has nothing to configure: it lies in a folder of the home.

    in_postgres: class that takes its place where the environment names a database.
    """

    def open_in_home(cls: type[Any], inst_data: Any, config_value: dict[str, Any]) -> Any:
        environment = Environment.read()
        if in_postgres and environment.database:
            return database.history(in_postgres, environment.database, inst_data)
        return storage.from_config_value(inst_data, {"base_dir": str(Path(environment.home, "dagster", folder))})

    changed = {"from_config_value": classmethod(open_in_home), "config_type": classmethod(lambda cls: {})}
    return type(storage.__name__, (storage,), changed)


Runs = _in_home(SqliteRunStorage, "runs", "PostgresRunStorage")
Events = _in_home(SqliteEventLogStorage, "events", "PostgresEventLogStorage")
Schedules = _in_home(SqliteScheduleStorage, "schedules", "PostgresScheduleStorage")
Artefacts = _in_home(LocalArtifactStorage, "")
Logs = _in_home(LocalComputeLogManager, "compute_logs")
