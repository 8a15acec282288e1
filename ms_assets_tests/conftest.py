"""What the tests share: a platform over a folder of its own, and worlds computed once for all tests."""

import fcntl
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy
import torch
from torch_geometric.data import HeteroData

from ms_assets import tracking
from ms_assets.definitions import define
from ms_assets.defs.platform import resources
from ms_assets.defs.platform.lineage import RECORD, Lineage, Made
from ms_assets.defs.platform.resources import Environment
from ms_assets_tests.observed import observed_workplace
from ms_assets_tests.shelf import Shelf
from ms_assets_tests.workplace import SHORTLY, Workplace
from ms_assets_tests.worlds import Rules, World

SPLITS = ("users", "songs", "train", "validation", "test", "negatives", "ground_truth")
TABLES = {**{name: f"splits/{name}" for name in SPLITS}, "edges": "graph/edges"}
"""The tables that the slow reference computes, with their asset keys."""
COMMON_CHECKS = ("rows_are_no_fewer_than_half",)


class Platform:
    """The project's definitions over one home, one source folder and one history of runs, run in this process.

    Args:
        folder: where both lie.
        settings: layout, memory or bucket, where they are not the default.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.home, self.source = folder / "home", folder / "source"
        self.source.mkdir(parents=True, exist_ok=True)
        tracking_uri = f"sqlite:///{self.home}/mlflow/mlflow.db"
        self.environment = Environment(self.home, str(self.source), "main", tracking_uri, **settings)
        self.definitions = define(self.environment)
        self.duckdb = self.definitions.resources["duckdb"]
        self.instance = dg.DagsterInstance.ephemeral()
        self._job = self.definitions.resolve_implicit_global_asset_job_def()

    def materialise(
        self, *keys: str, scale: str = "50m", config: dict | None = None, alone: bool = False,
        left_out: Collection[str] = COMMON_CHECKS,
    ) -> dg.ExecuteInProcessResult:  # fmt: skip
        """Materialise these assets and, unless `alone`, all that they stand on; a step's error is raised.

        left_out: names of checks that do not run.
        """
        selection = dg.AssetSelection.keys(*keys)
        if not alone:
            selection = selection.upstream()
        graph = self.definitions.resolve_asset_graph()
        chosen = selection.resolve(graph)
        # What all artefacts have in common is checked with the whole pipeline (`test_commands.py`).
        checks = {key for key in graph.asset_check_keys if key.asset_key in chosen and key.name not in left_out}
        return self._job.get_subset(asset_selection=chosen, asset_check_selection=checks).execute_in_process(
            instance=self.instance,
            partition_key=scale,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {op: {"config": settings} for op, settings in (config or {}).items()},
            },
        )

    def split(self, world: World, rules: Rules, *keys: str) -> None:
        """Publish a world, and compute these assets of it, or every table that the slow reference knows."""
        world.write(self.source)
        self.materialise(*(keys or TABLES.values()), config=rules.config())

    @property
    def lineage(self) -> Lineage:
        """Records of all artefacts."""
        return Lineage(self.environment.data)

    def file(self, key: str, scale: str = "50m", extension: str = ".parquet") -> Path:
        """Where an artefact lies by contract."""
        return self.home / "data" / key / f"{scale}{extension}"

    def record(self, key: str, scale: str = "50m", extension: str = ".parquet") -> None:
        """Record a file that a test has put into an artefact's place."""
        file = self.file(key, scale, extension)
        made = Made.of(file, {}, scale, {}, name=file.name, version="by a test", run_id="none")
        self.lineage.note(dg.AssetKey.from_user_string(key), scale, made)

    def rows(self, key: str, scale: str = "50m") -> list[dict]:
        """A table as plain rows, in the order of its file."""
        return pl.read_parquet(self.file(key, scale)).to_dicts()

    def graph(self) -> HeteroData:
        """The graph, read as anybody may: tensors and plain values only."""
        file = self.file("graph/bipartite_graph", extension=".pt")
        return HeteroData.from_dict(torch.load(file, weights_only=True))

    def files(self) -> dict[str, bytes]:
        """Every file under the home with its content, hidden ones included, locks and records of origin left out."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and not path.match("*/locks/*") and not path.name.endswith(RECORD) and path.name != "lock"
        }


@contextmanager
def unchanged(place: Platform | Shelf) -> Iterator[None]:
    """Assert that the block leaves every file as it was, and no other."""
    before = place.files()
    yield
    assert place.files() == before


def metadata_of(run: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the one materialisation of a run, as plain values."""
    [event] = run.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


LONGEST = ("test_commands", "test_study", "test_promises", "test_ui", "test_any_world")
"""Modules that are begun first, so that no process is left alone with one when the others have finished.

The first one runs the pipeline; those that use its home come after two that do not, which would wait for it otherwise.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take longest first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


@pytest.fixture(scope="session")
def platform_at() -> type[Platform]:
    """For modules that compute one world for all their tests."""
    return Platform


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workplace:
    """Workplace after one run of the sample's whole pipeline, which the first test process that asks for it makes.

    The tests of the command lines alone go on in its home; others take `sample_home`.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "pipeline"
    folder.mkdir(exist_ok=True)
    with folder.with_name("pipeline.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place, kept = observed_workplace(folder), folder.with_name("home")
        if not kept.exists():
            run = place.launch("--job", "pipeline", config=SHORTLY)
            assert run.returncode == 0, run.stdout
            folder.with_name("pipeline.log").write_text(run.stdout)
            shutil.copytree(place.home, kept, symlinks=True)
    return place


@pytest.fixture(scope="session")
def sample_home(pipeline: Workplace) -> Path:
    """Home as the run of `pipeline` left it, to be copied."""
    return pipeline.folder.with_name("home")


@pytest.fixture(scope="session", name="duckdb")
def duckdb_resource(tmp_path_factory: pytest.TempPathFactory) -> resources.DuckDB:
    return resources.DuckDB(temp_directory=str(tmp_path_factory.mktemp("duckdb")))


@pytest.fixture(scope="session", autouse=True)
def copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New MLflow stores in SQLite begin as copies of one, whose tables take MLflow a second of migrations to make.

    In the test process; stores of the processes that tests start are made by MLflow itself.
    """
    made, open_store = tmp_path_factory.mktemp("tables") / "mlflow.db", resources.MLflow.open

    def opened(store: resources.MLflow) -> None:
        if (file := tracking.database(store.tracking_uri)) and not file.exists():
            if not made.exists():
                from mlflow.store.db.utils import _initialize_tables

                _initialize_tables(sqlalchemy.create_engine(f"sqlite:///{made}"))
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made, file)
        open_store(store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources.MLflow, "open", opened)
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> resources.MLflow:
    """A real MLflow store: registries in it are told apart by name."""
    folder = tmp_path_factory.mktemp("mlflow")
    return resources.MLflow(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=(folder / "artifacts").as_uri()
    )


@pytest.fixture
def table(duckdb: resources.DuckDB) -> Callable[..., Any]:
    """Rows as a relation: `table("user_id song_id", (0, 1), (0, 2))`."""

    def relation(names: str, *rows: tuple) -> Any:
        columns = zip(*rows, strict=True) if rows else ([] for _ in names.split())
        arrays = [pa.array(column, None if rows else pa.int64()) for column in columns]
        return duckdb.connection.from_arrow(pa.table(arrays, names=names.split()))

    return relation


def metadata(result: dg.AssetCheckResult) -> dict[str, Any]:
    """What a check says, as plain values."""
    return {name: value.value for name, value in result.metadata.items()}


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@contextmanager
def blocks_of(rows: int) -> Iterator[None]:
    """The platform holds about so many rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "BYTES_PER_ROW", (1 << 30) // rows)
        yield


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Platform]:
    """The built-in sample, split by the protocol that is asked for; each protocol is computed once."""
    done: dict[str, Platform] = {}

    def split(protocol: str) -> Platform:
        if protocol not in done:
            done[protocol] = Platform(tmp_path_factory.mktemp(protocol))
            config = {"split_events": {"protocol": protocol}}
            done[protocol].materialise(*TABLES.values(), scale="sample", config=config)
        return done[protocol]

    return split
