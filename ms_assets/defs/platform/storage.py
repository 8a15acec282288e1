"""Dagster's history in the home, beside the artefacts that it tells of: `dagster.yaml` names these classes."""

from pathlib import Path
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage

from ms_assets.defs.platform.resources import Environment


def _in_home(storage: type[Any], folder: str) -> type[Any]:
    """Storage of Dagster's that has nothing to configure: it lies in a folder of the home."""

    def open_in_home(cls: type[Any], inst_data: Any, config_value: dict[str, Any]) -> Any:
        base = Path(Environment.read().home, "dagster", folder)
        return storage.from_config_value(inst_data, {"base_dir": str(base)})

    changed = {"from_config_value": classmethod(open_in_home), "config_type": classmethod(lambda cls: {})}
    return type(storage.__name__, (storage,), changed)


Runs = _in_home(SqliteRunStorage, "runs")
Events = _in_home(SqliteEventLogStorage, "events")
Schedules = _in_home(SqliteScheduleStorage, "schedules")
Artefacts = _in_home(LocalArtifactStorage, "")
Logs = _in_home(LocalComputeLogManager, "compute_logs")
