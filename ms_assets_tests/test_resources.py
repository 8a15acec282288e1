"""What a run is lent: how much memory a person grants, and what keeps to it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ms_assets.defs.platform.resources import DuckDB, Environment
from ms_assets.files import own_folder
from ms_assets_tests.conftest import Platform, unchanged
from ms_assets_tests.workplace import ROOT
from ms_assets_tests.worlds import World, listen

MIB = 1 << 20
SIZES = {
    "1GiB": 1 << 30,
    "500MB": 500_000_000,
    "2 GB": 2_000_000_000,
    "1.5gib": 3 << 29,
    "256MiB": 256 * MIB,
    str(300 * MIB): 300 * MIB,
}


@pytest.mark.parametrize(("memory", "n_bytes"), SIZES.items(), ids=SIZES)
def test_memory_is_granted_as_a_size_that_a_person_writes(tmp_path, memory, n_bytes):
    duckdb = DuckDB(temp_directory=str(tmp_path), memory=memory)
    [(limit, folder)] = duckdb.connection.sql(
        "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
    ).fetchall()
    number, unit = limit.split()
    assert float(number) * {"MiB": MIB, "GiB": 1 << 30}[unit] == pytest.approx(n_bytes, rel=0.1)
    assert Path(folder).parent == tmp_path
    # An event and all that is computed of it take some hundred bytes.
    assert 100 * duckdb.rows < n_bytes < 10_000 * duckdb.rows


@pytest.mark.parametrize(
    "memory", ["much", "", "GiB", "1 byte", "1GiB or so", "-1GiB", "0", "255MiB", "200MB", "1KiB", "nan"]
)
def test_memory_that_is_no_size_or_too_little_is_refused_by_the_variable(tmp_path, memory):
    duckdb = DuckDB(temp_directory=str(tmp_path), memory=memory)
    expected = f"MS_ASSETS_MEMORY: found {memory!r}, expected a size such as 1GiB, at least 256MiB"
    for look in (lambda: duckdb.connection, lambda: duckdb.rows):
        with pytest.raises(ValueError, match=expected):
            look()


def test_a_run_with_a_wrong_memory_leaves_nothing(tmp_path):
    platform = Platform(tmp_path, memory="plenty")
    World([listen(1, 0, 10)], [10]).write(platform.source)
    with unchanged(platform), pytest.raises(ValueError, match="MS_ASSETS_MEMORY: found 'plenty'"):
        platform.materialise("raw/multi_event")


def test_more_memory_lets_more_rows_be_held(tmp_path):
    rows = [DuckDB(temp_directory=str(tmp_path), memory=memory).rows for memory in ("256MiB", "1GiB", "64GiB")]
    assert rows == sorted(set(rows))


def test_threads_are_those_that_were_asked_for(tmp_path):
    connection = DuckDB(temp_directory=str(tmp_path), threads=3).connection
    assert connection.sql("SELECT current_setting('threads')").fetchall() == [(3,)]
    assert DuckDB(temp_directory=str(tmp_path), threads=3).connection is connection, "there is one for a process"


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_a_home_that_the_address_of_a_database_cannot_name_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / name))
    with pytest.raises(ValueError, match=r"MS_ASSETS_HOME: found .* expected a path without \? and %"):
        Environment.read()


# the project's folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project without settings in the environment, and a folder below it, in which commands run."""
    for name in [name for name in os.environ if name.startswith(("MS_ASSETS", "MLFLOW_TRACKING"))]:
        monkeypatch.delenv(name)
    (tmp_path / "dagster.yaml").touch()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what `.env` adds is for this test alone
    return tmp_path


def test_commands_in_a_subfolder_share_the_home_of_the_project(project):
    assert Environment.read().home == project / "var"
    assert Environment.read().tracking_uri == f"sqlite:///{project}/var/mlflow/mlflow.db"


def test_a_home_is_relative_to_the_project_and_may_begin_with_the_home_of_the_user(project, monkeypatch):
    monkeypatch.setenv("MS_ASSETS_HOME", "../music")
    assert Environment.read().home.resolve() == project.parent / "music"
    monkeypatch.setenv("MS_ASSETS_HOME", "~/music")
    assert Environment.read().home == Path("~/music").expanduser()


def test_settings_in_the_env_file_hold_for_every_command_and_the_environment_goes_before(project, monkeypatch):
    (project / ".env").write_text("MS_ASSETS_HOME=elsewhere\nMS_ASSETS_MEMORY=2GiB\n")
    monkeypatch.setenv("MS_ASSETS_MEMORY", "3GiB")
    found = Environment.read()
    assert (found.home, found.memory) == (project / "elsewhere", "3GiB")


def test_without_a_project_the_working_directory_has_the_home(project):
    (project / "dagster.yaml").unlink()
    assert Environment.read().home == project / "docs" / "var"


def test_dagsters_history_lies_in_the_home(project, monkeypatch):
    monkeypatch.setenv("MS_ASSETS_HOME", str(project / "first"))
    shutil.copy(ROOT / "dagster.yaml", project)
    with dg.DagsterInstance.from_config(str(project)) as instance:
        create_run_for_test(instance)
        assert instance.get_runs_count() == 1
    assert list((project / "first/dagster").rglob("runs.db"))
    monkeypatch.setenv("MS_ASSETS_HOME", str(project / "second"))
    with dg.DagsterInstance.from_config(str(project)) as instance:
        assert instance.get_runs_count() == 0


# folders of processes


def test_a_process_spills_to_a_folder_of_its_own_and_removes_those_of_processes_that_are_gone(tmp_path):
    program = (
        "import sys; from pathlib import Path; from ms_assets.files import own_folder; "
        "print(own_folder(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        others = Path(living.stdout.readline().strip())
        ours = own_folder(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([ours, others])
        living.kill()
        living.wait()
        again = own_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, again])
