"""Dagster's history, studies and MLflow's store in a real PostgreSQL, chosen by the environment alone."""

import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import dagster as dg
import mlflow
import pytest
from dagster._core.test_utils import create_run_for_test

from ms_assets.definitions import define
from ms_assets.defs.platform import database, runs
from ms_assets.defs.platform.database import DatabaseError
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.resources import Environment, MLflow, StudyStorage
from ms_assets.defs.platform.scales import PARTITION_TAG
from ms_assets.defs.platform.sessions import SessionLocks
from ms_assets.training import study as studies
from ms_assets_tests import planted, postgres, s3
from ms_assets_tests.homes import comparable
from ms_assets_tests.training.trials import BASE, SIDE_BY_SIDE
from ms_assets_tests.workplace import ROOT, SHORTLY, Workplace

needs_the_extra = pytest.mark.skipif(
    not importlib.util.find_spec("dagster_postgres"), reason="needs the extra: pip install '.[postgres]'"
)


@pytest.fixture(scope="module")
def server():
    with postgres.running() as server:
        yield server


@pytest.fixture
def address(server, request):
    """A database of a test's own."""
    return server.create(re.sub(r"\W+", "_", request.node.name)[-60:])


@pytest.fixture
def history(address, tmp_path, monkeypatch):
    """Opens Dagster's history of a home, as every command does."""
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MS_ASSETS_DATABASE", address)

    def of(home):
        monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / home))
        return dg.DagsterInstance.from_config(str(tmp_path))

    return of


@needs_the_extra
def test_the_history_lies_in_the_database_where_every_home_that_names_it_finds_it(history, tmp_path):
    with history("one") as instance:
        run = create_run_for_test(instance, status=dg.DagsterRunStatus.SUCCESS)
        instance.report_runless_asset_event(dg.AssetMaterialization("room"))
    with history("other") as instance:
        assert [found.run_id for found in instance.get_runs()] == [run.run_id]
        assert instance.get_asset_keys() == [dg.AssetKey("room")]
    assert list(tmp_path.rglob("*.db")) == []


@needs_the_extra
def test_runs_of_other_homes_in_the_history_are_not_taken_for_dead(history, tmp_path, monkeypatch):
    with history("other") as instance:
        run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags={PARTITION_TAG: "50m"})

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(seconds=runs.SECONDS_TO_START + 1)

    monkeypatch.setattr(runs, "datetime", Later)
    with history("one") as instance:
        runs.mark_lost(instance, FileLocks(tmp_path / "one"))
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED


@needs_the_extra
def test_a_run_has_the_turn_by_a_session_and_the_one_that_its_own_thread_begins_is_refused(address):
    locks = SessionLocks(address)
    assert not locks.join("outer") and not locks.knows("outer") and locks.dead() == []
    with locks.alive("outer"), locks.turn("50m", "outer") as ask:
        assert ask() is None and locks.join("outer") and locks.knows("outer") and locks.dead() == []
        with (
            locks.alive("inner"), locks.turn("50m", "inner") as inner, locks.turn("5b", "inner") as elsewhere,
            ThreadPoolExecutor() as other_thread,
        ):  # fmt: skip
            assert elsewhere() is None
            assert other_thread.submit(inner).result() == "outer"
            with pytest.raises(RuntimeError, match="run inner would wait for run outer, which began it and holds 50m"):
                inner()
    assert not locks.knows("outer") and locks.dead() == []
    with locks.turn("50m", "next") as ask:
        assert ask() is None


@needs_the_extra
def test_processes_side_by_side_share_a_study_in_the_database_and_never_try_the_same(server, address):
    with_history = database.schema(address, "public")
    url = StudyStorage(folder="/nowhere", database=address).url("50m")
    assert url == StudyStorage(folder="/nowhere", database=address).url("sample") != with_history
    studies.open_study(url, "taste", BASE)
    assert subprocess.run([sys.executable, "-c", SIDE_BY_SIDE, url, "6"], check=False).returncode == 0
    table = studies.trials(studies.open_study(url, "taste", BASE))
    assert 6 <= len(table) <= 7, "one may begin its last trial while the other is in its own"
    assert table["parameters"].n_unique() == len(table)
    schemas = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('trials', 'alembic_version')"
    assert server.ask(address.rpartition("/")[2], schemas) == ["studies"]


@needs_the_extra
def test_a_model_is_registered_and_promoted_in_a_store_in_the_database_with_its_files_in_the_home(address, tmp_path):
    store = MLflow(tracking_uri=postgres.of_sqlalchemy(address), artifact_location=(tmp_path / "artifacts").as_uri())
    registry = store.registry("50m")
    version = planted.register(registry, planted.model(0))
    registry.promote(version, {})
    assert registry.champion().number == version.number
    assert planted.register(registry, planted.model(0)).number == version.number, "equal files are registered once"
    assert list((tmp_path / "artifacts").rglob("index.faiss"))
    assert mlflow.get_tracking_uri() == postgres.of_sqlalchemy(address)


@needs_the_extra
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda address: address.replace("not%20told", "wrong"), "password authentication failed"),
        (lambda address: address.rpartition("/")[0] + "/nothing", 'database "nothing" does not exist'),
        (lambda address: re.sub(r":\d+/", ":1/", address), "Connection refused"),
    ],
    ids=["password", "database", "port"],
)
def test_a_database_that_cannot_be_used_is_told_by_its_variable_and_without_the_password(address, changed, why):
    with pytest.raises(DatabaseError) as raised:
        database.history("PostgresRunStorage", changed(address), None)
    said = str(raised.value)
    assert said.startswith("MS_ASSETS_DATABASE: found postgresql://127.0.0.1:")
    assert why in said and said.endswith("start it, or correct or unset the variable")
    assert ":wrong" not in said and "not%20told" not in said and "not told" not in said and "\n" not in said


@needs_the_extra
def test_a_command_that_cannot_reach_the_history_says_so_before_it_begins(tmp_path):
    place = Workplace(tmp_path)
    place.environment["MS_ASSETS_DATABASE"] = "postgresql://ann:secret@127.0.0.1:1/history"
    run = place.launch("--assets", "raw/artist_item_mapping")
    assert run.returncode != 0
    assert "MS_ASSETS_DATABASE: found postgresql://127.0.0.1:1/history, a database that cannot be used" in run.stdout
    assert "secret" not in run.stdout
    assert not (place.home / "data").exists()


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(DatabaseError, match=r"found mysql://host/x, expected an address such as postgresql://user:"):
        database.schema("mysql://ann:secret@host/x", "studies")


@pytest.mark.parametrize("package", ["dagster_postgres", "psycopg2"])
def test_without_the_extra_a_request_for_it_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DatabaseError, match=r"package \w+ is missing; install the extra: pip install 'ms_assets\[postgres\]'"
    ):
        database.schema("postgresql://host/x", "studies")


def test_the_password_stands_in_no_setting_that_the_ui_shows(tmp_path):
    environment = Environment(tmp_path, "source", "main", "sqlite:///x", database="postgresql://ann:secret@host/x")
    shown = define(environment).resources["study_storage"]
    assert "MS_ASSETS_DATABASE" in repr(shown) and "secret" not in repr(shown)


@needs_the_extra
@pytest.mark.slow
@pytest.mark.parametrize("home", ["folder", "bucket"])
def test_the_whole_pipeline_on_postgres_makes_the_artefacts_that_it_makes_on_sqlite(
    server, pipeline, sample_home, tmp_path, home
):
    place, history, store = Workplace(tmp_path), f"history_{home}", f"mlflow_{home}"
    place.environment |= {
        "MS_ASSETS_DATABASE": server.create(history),
        "MLFLOW_TRACKING_URI": postgres.of_sqlalchemy(server.create(store)),
        "MS_ASSETS_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",  # as in the other home: sums by more threads are rounded otherwise
    }
    with ExitStack() as stack:
        bucket = stack.enter_context(s3.home_of(place)) if home == "bucket" else None
        here = bucket and bucket.address
        run = place.launch("--job", "pipeline", config=SHORTLY, home=here)
        assert run.returncode == 0, run.stdout
        shown = place.run("python", "-m", "ms_assets", "champion", "sample", home=here)
        if bucket:
            s3.read_all(bucket, place.home, "sample")
            assert any(name.startswith("mlflow/artifacts/") for name in s3.stored(bucket))
    assert comparable(place.home) == comparable(sample_home)
    assert list(tmp_path.rglob("*.db")) == []
    assert server.ask(history, "SELECT status FROM runs") == ["SUCCESS"]
    assert server.ask(store, "SELECT status FROM runs") == ["FINISHED"]
    assert re.search(r"│ 1 +┆ champion ┆", shown.stdout), shown.stdout
