"""MLflow store: the open run of a training, and the addresses of files in a store that was copied or renamed."""

import json
import logging
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ms_assets.files import temporary_folder

logger = logging.getLogger(__name__)

SQLITE = "sqlite:///"
ADDRESSES = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}
"""Tables of MLflow's database with the columns that hold addresses of files."""
PATIENCE = 60
"""Seconds to wait for another process that writes to the database."""
AT_ONCE = 10
"""Seconds in which a server answers; MLflow itself tries for four minutes, in silence."""
ACTIVE = "active"
"""Stage of experiments and runs that nobody deleted."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DIGEST = 36
"""Largest number of characters of a dataset's digest in MLflow."""
DATA_VERSION = "data_version"
"""Tag of a dataset of a run: the whole SHA-256, of which the digest is the beginning."""


class StoreError(RuntimeError):
    """The MLflow store cannot be used as it is; the message names the setting and the next step."""


@contextmanager
def opening(tracking_uri: str) -> Iterator[None]:
    """Turn any library's error while a store is opened into one that names the setting and the next step.

    Raises:
        StoreError: the store's server does not answer within AT_ONCE seconds, or its database cannot be opened.
    """
    try:
        url = urlsplit(tracking_uri)
        if url.scheme in ("http", "https"):
            import requests

            with suppress(requests.exceptions.SSLError):  # which MLflow may have been told to overlook
                requests.get(tracking_uri, timeout=AT_ONCE)
        elif url.hostname and (port := url.port or PORTS.get(url.scheme.partition("+")[0])):
            socket.create_connection((url.hostname, port), AT_ONCE).close()
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise StoreError(
            f"MLFLOW_TRACKING_URI: found {without_password(tracking_uri)}, an MLflow store that cannot be opened "
            f"({reason}); start its server, restore its database, or correct or unset the variable"
        ) from error


def without_password(address: str) -> str:
    """Address without the user and password in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def active(run_id: str | None) -> str | None:
    """Return the id of a run if the store has it, and nobody deleted it; otherwise None."""
    import mlflow

    try:
        info = mlflow.get_run(run_id).info if run_id else None
    except mlflow.exceptions.MlflowException:
        return None
    return run_id if info and info.lifecycle_stage == ACTIVE else None


def local_path(address: str) -> Path | None:
    """Path of a local address, a plain path or a `file` URI with its percent-encoding undone; None for others."""
    url = urlsplit(address)
    if url.scheme not in ("", "file"):
        return None
    return Path(unquote(url.path) if url.scheme else address)


def database(tracking_uri: str) -> Path | None:
    """File of a store in SQLite; None for other stores."""
    return Path(tracking_uri.removeprefix(SQLITE)).absolute() if tracking_uri.startswith(SQLITE) else None


def is_database(tracking_uri: str) -> bool:
    """Tell if the store is a database without a server, whose files every process reads and writes by itself."""
    return urlsplit(tracking_uri).scheme.partition("+")[0] in {"sqlite", *PORTS}


def settle(tracking_uri: str, artifacts: str, experiment: str) -> None:
    """Let a store that was copied or renamed with its folder find its files where it lies now.

    MLflow's database holds the absolute address of every file. Addresses below the former folder of artefacts, which
    the experiment names, are replaced by those below `artifacts`, all in one transaction. Nothing changes unless the
    database and the folder lie side by side, as a home keeps them, and the former folder has the same name in a folder
    of the same name: a store that keeps its files elsewhere by somebody's choice is left alone.

    artifacts: address of the folder of artefacts as it is now, a `file` URI.
    """
    file, now = database(tracking_uri), local_path(artifacts)
    if file is None or now is None or not file.is_file() or file.parent.resolve() != now.parent.resolve():
        return
    with closing(sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)) as store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        named = "SELECT artifact_location FROM experiments WHERE name = ?"
        [former] = ("experiments" in tables and store.execute(named, [experiment]).fetchone()) or [artifacts]
        before = local_path(former)
        if before is None or before.resolve() == now.resolve() or before.parts[-2:] != now.parts[-2:]:
            return
        store.execute("BEGIN IMMEDIATE")
        for table in ADDRESSES.keys() & tables:
            known = {name for _, name, *_ in store.execute(f"PRAGMA table_info({table})")}
            for column in known.intersection(ADDRESSES[table]):
                store.execute(
                    f"UPDATE {table} SET {column} = :now || substr({column}, length(:former) + 1) "
                    f"WHERE {column} = :former OR substr({column}, 1, length(:former) + 1) = :former || '/'",
                    {"now": artifacts, "former": former},
                )
        store.execute("COMMIT")
    logger.warning("%s was copied or moved: its files are looked for in %s, no longer in %s", file, now, before)


@dataclass(frozen=True)
class MLflowRun:
    """Open MLflow run, to which a training logs."""

    run_id: str
    url: str

    @contextmanager
    def child(self, name: str) -> Iterator["MLflowRun"]:
        """Open a nested run, such as a trial of a study."""
        import mlflow

        # What the machine does is measured by the run around it.
        with mlflow.start_run(run_name=name, nested=True, log_system_metrics=False) as run:
            yield MLflowRun(run.info.run_id, self.url.replace(self.run_id, run.info.run_id))

    def log_input(self, name: str, version: str, file: Path) -> None:
        """Record a file that the run reads as a dataset of MLflow: its name, its SHA-256 and its place."""
        from mlflow import MlflowClient
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, version[:DIGEST], "local", json.dumps({"uri": file.absolute().as_uri()}))
        MlflowClient().log_inputs(self.run_id, [DatasetInput(dataset, [InputTag(DATA_VERSION, version)])])

    def log_settings(self, settings: dict[str, Any]) -> None:
        """Record the settings as parameters."""
        import mlflow

        mlflow.log_params(settings)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a point to each metric's series; without a step, record single numbers."""
        import mlflow

        mlflow.log_metrics(metrics, step=step)

    def log_picture(self, image: bytes, name: str) -> None:
        """Store a PNG among the run's artefacts."""
        import mlflow

        with temporary_folder() as folder:
            (folder / name).write_bytes(image)
            mlflow.log_artifact(str(folder / name))
