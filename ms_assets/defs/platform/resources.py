"""Resources of runs: settings from the environment, a DuckDB connection, the source of the data, the MLflow store.

Nothing else in the package reads the environment.
"""

import atexit
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import dagster as dg
import duckdb
from dotenv import load_dotenv
from pydantic import ByteSize, TypeAdapter, ValidationError

from ms_assets import tracking
from ms_assets.defs.platform import database, lineage
from ms_assets.defs.platform.locks import FileLocks, Locks
from ms_assets.defs.platform.objects import KIND, Bucket
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets.files import own_folder
from ms_assets.raw.schema import SourceError, SourceTable
from ms_assets.raw.source import FOLDER, Source, SourceFile
from ms_assets.registry import Registry
from ms_assets.tracking import MLflowRun


def _silence_teardown() -> None:
    # With torch in the process, DuckDB's binding library takes objects that live until the very end for leaks
    # and prints a page about them after every command. This runs last of all exit handlers, when nothing of
    # this project is left to report.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


atexit.register(_silence_teardown)

# Every training step allocates and frees tensors of hundreds of megabytes; in pages of 2 MiB the system allocates them
# so much faster that a step takes 3.4 s instead of 5.8. Linux only; torch reads this when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# MLflow draws a progress bar for every small file that a run reads from its store.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow measures processors, memory, disk and network during a run, from a thread, every ten seconds.
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")


EXECUTORS = ("local", "ray", "k8s")


@dataclass(frozen=True)
class Environment:
    """Environment variables: sources, destinations and limits; every variable is optional."""

    home: Path
    """MS_ASSETS_HOME: everything generated; relative to the project's folder, `var` by default. If that is in a bucket,
    its cache, in a folder of its own below MS_ASSETS_CACHE, `var/cache` by default."""
    source: str
    """MS_ASSETS_SOURCE: a folder in the hub's layout, or a dataset id on the hub."""
    revision: str
    """MS_ASSETS_REVISION: branch, tag or commit on the hub."""
    tracking_uri: str
    """MLFLOW_TRACKING_URI: SQLite under the home by default."""
    layout: str = "flat"
    """MS_ASSETS_LAYOUT: published layout of the interaction files, `flat` or `sequential`."""
    memory: str = "1GiB"
    """MS_ASSETS_MEMORY: memory limit of steps that make tables, beside about half a GiB of the process itself."""
    retrain_cron: str = "0 3 * * 1"
    """MS_ASSETS_RETRAIN_CRON: time of the retraining schedules, in cron's five fields."""
    retrain_timezone: str = "UTC"
    """MS_ASSETS_RETRAIN_TIMEZONE: time zone of these schedules, by its name in the IANA database."""
    database: str = ""
    """MS_ASSETS_DATABASE: PostgreSQL for Dagster's history and for studies; SQLite under the home by default."""
    alerts: str = ""
    """MS_ASSETS_ALERTS: webhook or mail server that is told of failed runs and checks; nobody is by default."""
    ui: str = ""
    """MS_ASSETS_UI: address at which people reach Dagster's UI, for links in alerts."""
    executor: str = "local"
    """MS_ASSETS_EXECUTOR: where steps run: `local`, or on a cluster, `ray` or `k8s`, which needs MS_ASSETS_DATABASE."""
    ray_address: str = ""
    """RAY_ADDRESS: address of the Ray cluster's dashboard, such as http://head:8265."""
    bucket: str = ""
    """MS_ASSETS_HOME, if it is in a bucket: `s3://bucket/prefix`."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment of the process and, as Dagster does, the file `.env` of the project.

        Raises:
            ValueError: the path of the home cannot be part of a database address, or is an address of another kind; the
                executor is unknown, or has no database.
        """
        root = _project()
        load_dotenv(root / ".env")
        given_home, bucket = os.environ.get("MS_ASSETS_HOME") or "var", ""
        if "://" in given_home:
            bucket = given_home.rstrip("/")
            if not re.fullmatch(KIND + r"[^/]+(/[^/]+)+", bucket):
                raise ValueError(f"MS_ASSETS_HOME: found {given_home!r}, expected a folder or s3://bucket/prefix")
            given_home = f"{os.environ.get('MS_ASSETS_CACHE') or 'var/cache'}/{bucket.removeprefix(KIND)}"
        home = root / Path(given_home).expanduser()
        if {"?", "%"} & set(str(home)):
            raise ValueError(
                f"MS_ASSETS_HOME: found {str(home)!r}, expected a path without ? and %, which have a meaning of their "
                "own in SQLite's addresses"
            )
        defaults = {
            "source": "yandex/yambda", "revision": "main",
            "tracking_uri": "" if bucket else f"sqlite:///{home}/mlflow/mlflow.db",
        }  # fmt: skip
        own = ("home", "bucket")
        variables = {field.name: f"MS_ASSETS_{field.name.upper()}" for field in fields(cls) if field.name not in own}
        variables |= {"tracking_uri": "MLFLOW_TRACKING_URI", "ray_address": "RAY_ADDRESS"}
        given = {name: value for name, variable in variables.items() if (value := os.environ.get(variable))}
        return cls(home, **{**defaults, **given, "bucket": bucket})._checked()

    def _checked(self) -> Self:
        found = f"MS_ASSETS_EXECUTOR: found {self.executor!r}"
        if self.executor not in EXECUTORS:
            raise ValueError(f"{found}, expected {', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}")
        if self.on_cluster and not self.database:
            raise ValueError(
                f"{found}, but no MS_ASSETS_DATABASE, expected the PostgreSQL through which the machines of a cluster "
                "share history and locks"
            )
        return self

    @property
    def data(self) -> Path:
        """Folder of all artefacts."""
        return self.home / "data"

    @property
    def models(self) -> str:
        """Address of the models' files of an MLflow store that is a database: in the home."""
        return f"{self.bucket}/mlflow/artifacts" if self.bucket else (self.home / "mlflow" / "artifacts").as_uri()

    @property
    def locks(self) -> Locks:
        """Locks of runs: in files of the home, or, where steps run on a cluster, in the database."""
        return SessionLocks(self.database) if self.on_cluster else FileLocks(self.home)

    @property
    def on_cluster(self) -> bool:
        """Flag of steps that run on a cluster."""
        return self.executor != "local"

    @property
    def of_steps(self) -> dict[str, str]:
        """Variables that decide what a step makes and where, by name; steps on other machines have them from their run.

        None of them is secret. Where copies of a bucket lie, and whom a machine asks, is its own affair.
        """
        folder = Path(self.source).expanduser()
        return {
            "MS_ASSETS_EXECUTOR": self.executor, "MS_ASSETS_HOME": self.bucket or str(self.home),
            "MS_ASSETS_LAYOUT": self.layout, "MS_ASSETS_MEMORY": self.memory, "MS_ASSETS_REVISION": self.revision,
            "MS_ASSETS_SOURCE": str(folder.absolute()) if folder.is_dir() else self.source,
        }  # fmt: skip


def _project() -> Path:
    """Folder of the project: the nearest one from the working directory upwards that has a `dagster.yaml`.

    Commands in its subfolders then share its home and its `.env`. Without one it is the working directory.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dagster.yaml").is_file()), here)


class DuckDB(dg.ConfigurableResource):
    """DuckDB connection, one per process, so that relations of different assets can be joined."""

    temp_directory: str
    """Folder in which each process spills to a folder of its own."""
    memory: str = Environment.memory
    threads: int | None = None

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """Connection of the process; beyond its memory limit it spills to the disk."""
        return _connect(self.temp_directory, self.bytes, self.threads)

    @property
    def rows(self) -> int:
        """Number of rows of a table to hold at a time where whole tables are not held."""
        return self.bytes // BYTES_PER_ROW

    @property
    def bytes(self) -> int:
        """Memory limit, in bytes."""
        # The adapter alone would take "1GiB or so" for a size.
        known = re.fullmatch(r"[\d.]+ ?\w*", self.memory)
        try:
            size = TypeAdapter(ByteSize).validate_python(self.memory if known else "0B")
        except ValidationError:
            size = ByteSize(0)
        if size < SMALLEST_MEMORY:
            raise ValueError(f"MS_ASSETS_MEMORY: found {self.memory!r}, expected a size such as 1GiB, at least 256MiB")
        return int(size)


SMALLEST_MEMORY = 256 << 20
BYTES_PER_ROW = 1024
"""Bytes for an event and everything that is computed from it at a time, with room to spare."""


TUNING = {
    # Files that are read again are in the system's cache already; a second cache would only take memory.
    "enable_external_file_cache": False,
    # With asynchronous writing, a query that fails half way may hang instead of raising its error (DuckDB 2.0).
    "async_threads": 0,
}
"""Settings that some versions of DuckDB do not have; they are set only if the version knows them."""


@lru_cache
def _connect(temp_directory: str, memory: int, threads: int | None) -> duckdb.DuckDBPyConnection:
    limits = {"memory_limit": f"{memory}B"} | ({} if threads is None else {"threads": str(threads)})
    connection = duckdb.connect(config={"temp_directory": str(own_folder(Path(temp_directory))), **limits})
    known = connection.sql("SELECT name FROM duckdb_settings()").fetchall()
    for name in TUNING.keys() & {name for (name,) in known}:
        connection.execute(f"SET {name} = {TUNING[name]}")
    atexit.register(connection.close)
    return connection


HUB_WAITS = (60.0, 180.0, 420.0)
"""Seconds before each further attempt, more or less by up to the first of them, so that machines do not ask together;
a download itself has waited for minutes before it gives up."""


@dataclass(frozen=True)
class SharedSource(Source):
    """Source for machines that share a home in a bucket, where revisions are pinned for all of them."""

    bucket: Bucket

    def pin(self, commit: str, first: bool = False) -> None:
        """Pin the revision to a commit, which later runs read; first: unless another machine has pinned it."""
        while True:
            _, tag = self.bucket.record(self.pin_name)
            if (first and tag) or self.bucket.put_record(self.pin_name, commit.encode(), tag):
                return

    def pinned(self) -> str | None:
        """Content of the pin, a commit; None if the revision is not pinned; a commit needs no pin."""
        from ms_assets.raw.hub import COMMIT

        if COMMIT.fullmatch(self.revision):  # nor permission to write one
            return self.revision
        content, tag = self.bucket.record(self.pin_name)
        return content.decode() if tag else None

    @property
    def pin_address(self) -> str:
        """Address of the pin, for people."""
        return f"{self.bucket.address}/records/{self.pin_name}"


class YambdaSource(dg.ConfigurableResource):
    """Source of the raw tables: `raw.source.Source`, with its settings shown in the UI."""

    location: str
    revision: str
    layout: str = Environment.layout
    source_home: str
    bucket: str = ""
    """Address of the bucket in which a shared home lies."""

    @property
    def source(self) -> Source:
        """Reader of the source files."""
        given = self.location, self.revision, self.layout, Path(self.source_home)
        return SharedSource(*given, Bucket(self.bucket)) if self.bucket else Source(*given)

    def found_again(self, made: lineage.Made, table: SourceTable, scale: str) -> SourceFile:
        """Find the file that another machine has linked, by what its record says of it.

        Raises:
            SourceError: it is not to be had here, or is another one here.
            HubError: the hub cannot give it.
        """
        told, source = made.metadata, self.source
        if told["revision"] != FOLDER:  # a folder may lie in another place here
            source = replace(source, location=told["source"], revision=told["revision"], layout=told["layout"])
        file = source.fetch(table, scale)
        if file.content != made.version:
            raise SourceError(
                f"{file.path}: found {file.content}, expected {made.version}, from which raw/{table.name} was made for "
                f"{scale} elsewhere ({told['source']}); copy that file here with its time, or materialise "
                f"raw/{table.name}"
            )
        return file

    def fetch_for(self, context: dg.AssetExecutionContext, table: SourceTable) -> SourceFile:
        """Fetch the table's file for a step; the step is retried later if the hub is unreachable."""
        from ms_assets.raw.transfer import HubError

        try:
            return self.source.fetch(table, context.partition_key)
        except HubError as error:  # no other error can pass by itself
            if not error.may_pass or context.retry_number == len(HUB_WAITS):
                raise
            wait = HUB_WAITS[context.retry_number] + random.uniform(-HUB_WAITS[0], HUB_WAITS[0])
            raise dg.RetryRequested(len(HUB_WAITS), wait) from error


class StudyStorage(dg.ConfigurableResource):
    """Storage of Optuna's trials, which several processes may share: an SQLite file per scale, or the database."""

    folder: str
    database: str = ""

    def url(self, scale: str) -> str:
        """Storage URL of a scale's studies, for Optuna and its dashboard."""
        if self.database:
            return database.schema(self.database, "studies")
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / scale}.db"


DATA_ROOMS = ("splits", "graph")
"""Rooms whose assets are data to a training."""
DAGSTER_UI = "http://127.0.0.1:3000"
"""Address at which `make ui` serves."""


class MLflow(dg.ConfigurableResource):
    """MLflow tracking store, with one run for each training."""

    tracking_uri: str
    artifact_location: str
    experiment: str = "ms_assets"

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, run_id: str | None = None) -> Iterator[MLflowRun]:
        """Open an MLflow run with tags that name the Dagster run; it ends as FAILED if the body raises.

        run_id: run of an interrupted training, which is resumed if the store still has it.
        """
        import mlflow

        self._open_to_write()
        _end_lost(context.instance)
        page = f"{DAGSTER_UI}/runs/{context.run_id}"
        tags = {
            "dagster.run_id": context.run_id,
            "dagster.run_url": page,
            "dagster.asset_key": context.asset_key.to_user_string(),
            "dagster.partition": context.partition_key,
        }
        name = f"{context.asset_key.path[-1]} {context.partition_key}"
        said = f"Made by the [Dagster run {context.run_id}]({page})."
        with mlflow.start_run(run_id=tracking.active(run_id), run_name=name, tags=tags, description=said) as run:
            page = f"{self._server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            opened = MLflowRun(run.info.run_id, page)
            self._log_inputs(context, opened)
            yield opened

    def _log_inputs(self, context: dg.AssetExecutionContext, run: MLflowRun) -> None:
        """Record the data that the asset reads, by the records of their origin; a model among its inputs is no data."""
        spec, scale = context.assets_def.get_asset_spec(context.asset_key), context.partition_key
        read = [dep.asset_key for dep in spec.deps if dep.asset_key.path[0] in DATA_ROOMS]
        if not read:  # nor is there need for records, which a run of other I/O managers has not
            return
        records = lineage.of_run(context.run_id)
        for key, made in records.inputs(read, scale).items():
            run.log_input(f"{key} {scale}", made.version, records.file(dg.AssetKey.from_user_string(key), made))

    def registry(self, scale: str) -> Registry:
        """Registry of a scale's models."""
        return self.registered(f"{self.experiment}-{scale}")

    def registered(self, name: str) -> Registry:
        """Registry of a registered model by its name."""
        self.open()
        return Registry(name, self.tracking_uri)

    def known_run(self, run_id: str) -> str | None:
        """Return the id if the store has the run, otherwise None."""
        self._open_to_write()
        return tracking.active(run_id)

    def version_url(self, registry: Registry, number: int) -> str:
        """Page of a registered model's version in MLflow."""
        return f"{self._server}/#/models/{registry.name}/versions/{number}"

    def open(self) -> None:
        """Open the store; one that is new is created, one that was moved with its home finds its files.

        Raises:
            StoreError: it cannot be opened.
        """
        import mlflow

        if not self.tracking_uri:
            raise tracking.StoreError(
                "MLFLOW_TRACKING_URI: found nothing, expected the address of an MLflow server or database, for "
                "MS_ASSETS_HOME is in a bucket"
            )
        with tracking.opening(self.tracking_uri):
            if file := tracking.database(self.tracking_uri):
                file.parent.mkdir(parents=True, exist_ok=True)
                tracking.settle(self.tracking_uri, self.artifact_location, self.experiment)
            mlflow.set_tracking_uri(self.tracking_uri)
            if mlflow.get_experiment_by_name(self.experiment) is None:
                place = self.artifact_location if tracking.is_database(self.tracking_uri) else None
                mlflow.create_experiment(self.experiment, place)
            if self._deleted() is None:
                mlflow.set_experiment(self.experiment)

    def _open_to_write(self) -> None:
        self.open()
        if deleted := self._deleted():
            raise tracking.StoreError(
                f"the experiment {self.experiment} was deleted in MLflow, so nothing can be logged; to restore it: "
                f"MLFLOW_TRACKING_URI={tracking.without_password(self.tracking_uri)} "
                f"mlflow experiments restore --experiment-id {deleted}"
            )

    def _deleted(self) -> str | None:
        """Return the id of the experiment if somebody deleted it."""
        import mlflow

        found = mlflow.get_experiment_by_name(self.experiment)
        return None if found is None or found.lifecycle_stage == tracking.ACTIVE else found.experiment_id

    @property
    def _server(self) -> str:
        server = self.tracking_uri if self.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
        return server.rstrip("/")


def _end_lost(instance: dg.DagsterInstance) -> None:
    """End MLflow runs that a killed process left open, whose Dagster run is over."""
    import mlflow

    for run in mlflow.search_runs(filter_string="attributes.status = 'RUNNING'", output_format="list"):
        made_by = instance.get_run_by_id(run.data.tags.get("dagster.run_id", ""))
        if made_by is not None and made_by.is_finished:
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
