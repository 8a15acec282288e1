"""Runs that the sensor on files asks for: changed files in the source folder, changed logs, and another import."""

import shutil
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import duckdb
import polars as pl
import pytest

from ms_assets.defs.automation import source_files
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import Made
from ms_assets.defs.platform.resources import DuckDB, YambdaSource
from ms_assets.raw.importing import import_again, import_events
from ms_assets.raw.own import Import, folder_in
from ms_assets.raw.schema import ALWAYS, TABLES, SourceError
from ms_assets_tests.worlds import World, listen

RAW = [f"raw/{name}" for name in ALWAYS]
NOTHING = "no change, or its run was requested"


class Watched:
    """The sensor over a home and its source folder, evaluated as the daemon does, with its cursor."""

    def __init__(self, folder, instance):
        self.home, self.source, self.instance, self.cursor = folder / "home", folder / "source", instance, None
        self.yambda = YambdaSource(location=str(self.source), revision="main", source_home=str(self.home / "source"))
        self.tables = TableIOManager(base_dir=str(self.home / "data"), duckdb=DuckDB(temp_directory="unused"))

    def write(self, n, scale="50m"):
        World([listen(1, second, 10) for second in range(n)], [10]).write(self.source, scale)

    def make(self, scale="50m"):
        """Leave the records that raw tables leave when they are made of the files as they are now."""
        for name in ALWAYS:
            found = self.yambda.source.fetch(TABLES[name], scale)
            file = self.home / "data/raw" / name / f"{scale}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"rows")
            metadata = {"source": found.origin, "revision": found.revision, "source_state": found.content}
            record = Made.of(file, {}, scale, metadata, name=file.name, version="v", run_id="run")
            self.tables.lineage.note(dg.AssetKey(["raw", name]), scale, record)

    def evaluate(self):
        """Runs that are asked for, as job and scale, or the reason why there are none."""
        resources = {"yambda": self.yambda, "io_manager": self.tables}
        with dg.build_sensor_context(self.instance, self.cursor, resources=resources) as context:
            result = source_files(context)
        self.cursor = result.cursor
        asked = [(run.job_name, run.partition_key) for run in result.run_requests or []]
        return asked or result.skip_reason.skip_message


@pytest.fixture(scope="module")
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def watched(tmp_path, instance):
    return Watched(tmp_path, instance)


WAITS = "{}: files have changed, and may still be written"


def test_a_changed_file_asks_for_one_run_of_each_scale_made_from_it_once_it_rests(watched):
    for scale in ("50m", "5b"):
        watched.write(3, scale)
    watched.make("50m")
    assert [watched.evaluate() for _ in range(2)] == [NOTHING] * 2
    for n in (4, 5):  # it grows between two evaluations
        watched.write(n)
        assert watched.evaluate() == WAITS.format("50m")
    assert [watched.evaluate() for _ in range(3)] == [[("pipeline", "50m")], NOTHING, NOTHING]
    watched.make("50m")
    assert watched.evaluate() == NOTHING
    watched.write(6, "5b")  # with the tables about songs, which both scales share
    assert [watched.evaluate() for _ in range(2)] == [WAITS.format("50m"), [("pipeline", "50m")]]


def test_a_part_that_grows_a_new_part_and_a_table_that_was_missing_are_changes(watched):
    watched.write(3)
    file = watched.source / "flat/50m/multi_event.parquet"
    rows = pl.read_parquet(file)
    file.unlink()
    file.mkdir()
    rows.write_parquet(file / "part-0.parquet")
    songs = watched.source / "album_item_mapping.parquet"
    kept = songs.read_bytes()
    songs.unlink()

    def rewrite(name, times):
        pl.concat([rows] * times).write_parquet(file / name)

    for change in (
        lambda: rewrite("part-0.parquet", 2), lambda: rewrite("part-1.parquet", 1), lambda: songs.write_bytes(kept),
    ):  # fmt: skip
        watched.make()
        assert watched.evaluate() == NOTHING
        change()
        assert [watched.evaluate() for _ in range(2)] == [WAITS.format("50m"), [("pipeline", "50m")]]
    rewrite(".part-2.parquet", 1)  # a writer hides what is not whole
    watched.make()
    assert watched.evaluate() == NOTHING


def test_a_file_that_is_missing_for_now_is_named_and_asks_for_nothing(watched):
    watched.write(3)
    watched.make()
    (watched.source / "flat/50m/multi_event.parquet").unlink()
    for _ in range(2):
        assert "multi_event.parquet: no such file" in watched.evaluate()


def log(folder, name, *songs):
    lines = [f"ann,{song},{1_700_000_000 + n}" for n, song in enumerate(songs)]
    (folder / name).write_text("\n".join(["user,song,time", *lines]) + "\n")


class Logs(NamedTuple):
    watched: Watched
    folder: Path


@pytest.fixture
def logs(watched, tmp_path, monkeypatch):
    """A folder of logs that was imported as the scale `own`, and whose tables were made."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log(folder, "monday.csv", "s1", "s2")
    (folder.parent / "artists.csv").write_text("song,artist\ns1,a1\ns2,a2\n")
    monkeypatch.chdir(tmp_path)
    import_events("logs/*.csv", folder_in(watched.home), artists="artists.csv", types={"play": "listen"})
    monkeypatch.chdir("/")  # that of a daemon
    watched.make("own")
    return Logs(watched, folder)


def test_changed_logs_are_imported_again_with_the_same_options_and_then_the_pipeline_runs(platform_at, logs, tmp_path):
    watched, folder = logs.watched, folder_in(logs.watched.home)
    assert watched.evaluate() == NOTHING
    log(logs.folder, "tuesday.csv", "s3", "s1")
    assert [watched.evaluate() for _ in range(3)] == [WAITS.format("logs"), [("reimport", "own")], NOTHING]
    before, platform = Import.read(folder), platform_at(tmp_path)
    job = platform.definitions.resolve_job_def("reimport")
    assert job.execute_in_process(instance=platform.instance, partition_key="own").success
    after = Import.read(folder)
    assert (before.report["n_songs"], after.report["n_songs"]) == (2, 3)
    assert after.report["request"] == before.report["request"]
    assert len(pl.read_parquet(folder / "artist_ids.parquet")) == 2
    assert [watched.evaluate() for _ in range(3)] == [WAITS.format("own"), [("pipeline", "own")], NOTHING]
    for name in ALWAYS:
        (watched.home / "data/raw" / name / "own.parquet").unlink()
    platform.materialise(*RAW, scale="own")  # which leave the records that the others imitate
    assert watched.evaluate() == NOTHING
    made = platform.lineage.history(dg.AssetKey(["raw", "multi_event"]), "own")[0]
    assert (made.metadata["source"], made.metadata["revision"]) == ("imported", after.revision)
    assert made.metadata["source_state"] == after.files["flat/own/multi_event.parquet"]


def test_logs_that_cannot_be_imported_keep_the_former_import_and_are_tried_once_until_they_change(watched, logs):
    folder = folder_in(watched.home)
    former = Import.read(folder_in(watched.home)).identity
    (logs.folder / "monday.csv").write_text("user,song,time\nann,s1,yesterday\n")
    assert [watched.evaluate() for _ in range(2)][1] == [("reimport", "own")]
    with pytest.raises(SourceError, match="column time has 'yesterday'"):
        import_again(folder, duckdb.connect())
    assert Import.read(folder_in(watched.home)).identity == former
    assert watched.evaluate() == NOTHING
    log(logs.folder, "monday.csv", "s1")
    assert [watched.evaluate() for _ in range(2)][1] == [("reimport", "own")]


def test_logs_that_are_gone_are_named_and_ask_for_nothing(watched, logs):
    shutil.rmtree(logs.folder)
    for _ in range(2):
        assert f"{logs.folder}/*.csv: no such file" in watched.evaluate()


def test_an_import_by_hand_asks_for_the_pipeline_and_an_equal_one_for_nothing(watched, logs):
    folder = folder_in(watched.home)
    import_again(folder, duckdb.connect())
    assert watched.evaluate() == NOTHING
    import_events(logs.folder / "monday.csv", folder)
    assert [watched.evaluate() for _ in range(2)] == [WAITS.format("own"), [("pipeline", "own")]]
    assert watched.evaluate() == NOTHING
