"""Where artefacts come from: versions that tell what is stale, inputs that are named, columns that are traced."""

import gc
import os
import re
import shutil
from dataclasses import replace

import dagster as dg
import polars as pl
import pytest

from ms_assets.__main__ import main
from ms_assets.definitions import defs
from ms_assets.defs.platform.checks import enough_rows
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import InconsistentInputsError
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALES
from ms_assets.defs.platform.schemas import LINEAGE, SCHEMA, as_metadata
from ms_assets.files import DamagedFileError
from ms_assets_tests.conftest import Platform, unchanged
from ms_assets_tests.homes import FRESH, GRAPH, MISSING, STALE, latest, sha256, statuses
from ms_assets_tests.worlds import Rules, World, listen

SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
COLUMNS = {
    key: [c.name for c in spec.metadata[SCHEMA].columns] for key, spec in SPECS.items() if SCHEMA in spec.metadata
}
TRACED = {key: spec.metadata[LINEAGE].deps_by_column for key, spec in SPECS.items() if LINEAGE in spec.metadata}
MADE_UP = {
    "raw/column_report": {"file", "n_rows", "column", "type"},
    "raw/statistics_report": {"file", "n_events"},
    "splits/ground_truth": {"split"},
    "graph/statistics": {"name"},
    "training/hyperparameter_study": {"number", "state", "is_best", "n_epochs", "seconds", "parameters",
                                      "mlflow_run_id", "remark"},
    "retrieval/own_lists": {"method", "view", "score"},
    "reranking/served_model": {"name", "version"},
    "evaluation/champion": {"name", "challenger", "champion_before", "champion", "promoted", "reason", "n_users",
                            "n_users_dropped", "n_songs", "n_songs_dropped", "users_known", "targets_known"},
    "training/ablation": {"variant", "seed", "best_epoch", "seconds", "mlflow_run_id"},
}  # fmt: skip
"""Columns of no other: names, counts of rows, and what an experiment says of itself."""
WORLD = World([listen(uid, i, 10 + i % 3) for uid in (1, 2) for i in range(20 // uid)], [10, 11, 12])
"""One user has 20 events, the other 10."""
USERS, EDGES = "splits/users", "graph/edges"


# columns


@pytest.mark.parametrize("key", sorted(COLUMNS))
def test_every_source_of_a_column_is_a_declared_column_of_a_table_before(key):
    before = {found.to_user_string() for found in dg.AssetSelection.assets(key).upstream().resolve(GRAPH)} - {key}
    for column, sources in TRACED[key].items():
        assert column in COLUMNS[key]
        for source in sources:
            table = source.asset_key.to_user_string()
            assert table in before, f"{column}: {table} is not before {key}"
            assert source.column_name in COLUMNS[table], f"{column}: {table} has no column {source.column_name}"
        assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("key", sorted(COLUMNS))
def test_every_column_is_traced_but_published_and_made_up_ones(key):
    made_up = set(COLUMNS[key]) - set(TRACED[key])
    if not SPECS[key].deps:
        assert made_up == set(COLUMNS[key])
    elif key in MADE_UP:
        assert made_up == MADE_UP[key]
    elif key.startswith("retrieval/"):
        assert made_up <= {"view", "score"}, "a score by chance is of no column"
    elif key.startswith("evaluation/"):
        assert made_up <= {"method", "view", "k", "metric", "slice", "value", "other"}
    elif key.startswith("reranking/"):
        assert made_up <= {"view", "source", "left_out", "k"}
    else:
        assert made_up == set()


# versions


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_only_other_content_makes_what_follows_stale(platform):
    def users_of(least, alone=True):
        config = {"splits__users": {"min_events": least}}
        platform.materialise(USERS if alone else EDGES, config=config, alone=alone)
        return statuses(platform.instance, USERS, "splits/train", EDGES)

    WORLD.write(platform.source)
    assert users_of(1, alone=False) == [FRESH, FRESH, FRESH]
    assert users_of(10) == [FRESH, FRESH, FRESH], "another setting, the same users"
    assert users_of(11) == [FRESH, STALE, FRESH], "one user less"
    assert users_of(2) == [FRESH, FRESH, FRESH], "both again"
    assert statuses(platform.instance, "graph/statistics") == [MISSING]


def test_the_version_of_an_artefact_is_the_sha256_of_its_file(platform):
    WORLD.write(platform.source)
    platform.materialise("graph/bipartite_graph", config={"splits__users": {"min_events": 1}})
    for key, extension in ((USERS, ".parquet"), (EDGES, ".parquet"), ("graph/bipartite_graph", ".pt")):
        assert latest(platform.instance, key).data_version == sha256(platform.file(key, extension=extension))


def test_a_source_file_has_another_version_when_it_was_changed_and_is_not_read_for_that(platform):
    def version():
        platform.materialise("raw/multi_event")
        return latest(platform.instance, "raw/multi_event").data_version

    WORLD.write(platform.source)
    first, file = version(), platform.source / "flat/50m/multi_event.parquet"
    assert version() == first
    os.utime(file, (1, 1))
    assert version() == f"{file.stat().st_size} bytes of 1000000000 ns"


def test_a_source_that_is_written_anew_has_the_version_of_what_was_written(platform):
    World(WORLD.events[::-1], WORLD.audio).write(platform.source)
    platform.materialise("raw/multi_event")
    written = platform.file("raw/multi_event")
    assert not written.is_symlink()
    assert latest(platform.instance, "raw/multi_event").data_version == sha256(written)


def test_the_generated_sample_has_the_version_of_its_generator(platform):
    platform.materialise("raw/artist_item_mapping", scale="sample")
    [made] = platform.lineage.history(dg.AssetKey(["raw", "artist_item_mapping"]), "sample")
    assert made.version == f"generated by {made.metadata['revision']}"


# inputs


def test_an_artefact_names_its_inputs_their_versions_and_the_runs_that_made_them(platform):
    WORLD.write(platform.source)
    run = platform.materialise(EDGES, config={"splits__users": {"min_events": 1}})
    named = latest(platform.instance, "splits/train").metadata["inputs"]
    assert set(named) == {"raw/multi_event", USERS, "splits/candidate_songs"}
    for key, said in named.items():
        [made] = platform.lineage.history(dg.AssetKey.from_user_string(key), "50m")
        assert said == {"data_version": made.version, "run_id": run.run_id, "at": made.at}
    assert set(latest(platform.instance, EDGES).metadata["inputs"]) == {"splits/train"}
    assert latest(platform.instance, "raw/multi_event").metadata["inputs"] == {}


def test_a_graph_of_two_divisions_is_refused_before_it_is_made(platform):
    def divided(least, *more):
        parts = [f"splits/{name}" for name in ("songs", "train", "validation", "test", "negatives")]
        platform.materialise(*parts, *more, config={"splits__users": {"min_events": least}})

    WORLD.write(platform.source)
    divided(11, EDGES)
    platform.materialise("graph/bipartite_graph", alone=True)
    assert set(latest(platform.instance, "graph/bipartite_graph").metadata["origins"]) == {
        *(f"raw/{name}" for name in ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping")),
        *(f"splits/{name}" for name in ("candidate_songs", "users", "songs", "train")),
        "split_events",
        EDGES,
    }
    divided(1)
    said = "graph/edges and splits/.* of 50m do not belong together: .* materialise graph/edges again"
    with unchanged(platform), pytest.raises(InconsistentInputsError, match=said):
        platform.materialise("graph/bipartite_graph", alone=True)
    platform.materialise(EDGES, alone=True)
    platform.materialise("graph/bipartite_graph", alone=True)


# records


def torn(platform, monkeypatch):
    """Divide the world by another setting, and stop after the first two of the five tables, as a kill does."""
    publish, done = TableIOManager.handle_output, []

    def publish_two(self, context, obj):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(context.asset_key)
        publish(self, context, obj)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TableIOManager, "handle_output", publish_two)
        platform.materialise("splits/train", *DIVIDED, alone=True, config=Rules(train_ratio="0.6").config())
    gc.collect()  # the asset's generator, which removes its drafts


DIVIDED = [f"splits/{name}" for name in ("songs", "validation", "test", "negatives")]


def test_a_division_that_was_torn_by_a_kill_is_read_by_nobody_and_healed_by_dividing_again(platform, monkeypatch):
    platform.split(WORLD, Rules())
    torn(platform, monkeypatch)
    platform.instance = dg.DagsterInstance.ephemeral()
    for key in ("splits/ground_truth", "graph/bipartite_graph"):
        with unchanged(platform), pytest.raises(InconsistentInputsError, match="two versions of split_events"):
            platform.materialise(key, alone=True)
    platform.split(WORLD, Rules(train_ratio="0.6"))


def test_a_file_that_was_changed_behind_the_records_back_is_refused_by_name(platform):
    platform.split(WORLD, Rules())
    for key in ("splits/train", "raw/multi_event"):
        file = platform.file(key)
        content = file.read_bytes()
        for other in (content[:-10], content + b" "):
            file.write_bytes(other)
            expected = f"{key}.* has changed since .* ({len(other):,} bytes found, {len(content):,} recorded)"
            with pytest.raises(DamagedFileError, match=re.escape(expected).replace(r"\.\*", ".*")):
                platform.materialise("splits/users" if key == "raw/multi_event" else EDGES, alone=True)
        file.write_bytes(content)
        if key == "splits/train":  # a copy with another time, whose content is the same
            platform.materialise(EDGES, alone=True)


def test_a_file_without_its_record_is_refused_with_what_to_do(platform):
    platform.split(WORLD, Rules())
    platform.file("splits/train", extension=".origin.json").unlink()
    with (
        unchanged(platform),
        pytest.raises(DamagedFileError, match=r"no record of its origin.*materialise"),
    ):
        platform.materialise(EDGES, alone=True)


def test_the_command_ends_with_that_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path))
    board = tmp_path / "data/evaluation/leaderboard/50m.parquet"
    board.parent.mkdir(parents=True)
    board.touch()
    with pytest.raises(SystemExit, match=f"^{board}: found no record of its origin"):
        main(["50m"])


def test_a_home_that_was_copied_or_renamed_is_read_where_it_is_now(platform, tmp_path):
    platform.materialise("splits/users", scale="sample")
    copy = tmp_path / "copy"
    shutil.copytree(platform.home, copy / "home", symlinks=True)
    shutil.rmtree(platform.home)
    (copy / "source").mkdir()
    moved = Platform(copy)
    moved.materialise("splits/users", scale="sample", alone=True)
    assert not platform.home.exists()


def test_rows_before_are_on_record_although_the_history_of_runs_is_gone(platform):
    platform.split(WORLD, Rules())
    before = platform.lineage.history(dg.AssetKey(["splits", "users"]), "50m")[0]
    platform.instance = dg.DagsterInstance.ephemeral()
    platform.materialise("splits/users", alone=True, config={"splits__users": {"min_events": 11}})
    now, former, *_ = platform.lineage.history(dg.AssetKey(["splits", "users"]), "50m")
    assert former == before
    assert not enough_rows([replace(now, metadata={"dagster/row_count": 0}), former]).passed


def numbers(*rows):
    return pl.DataFrame({"number": rows}, schema={"number": pl.Int64})


def test_a_run_that_would_wait_for_the_run_that_began_it_is_refused(tmp_path, instance):
    manager = TableIOManager(base_dir=str(tmp_path / "data"), duckdb=DuckDB(temp_directory=str(tmp_path / "tmp")))
    number = as_metadata({"number": ("BIGINT", "number")})

    @dg.asset(partitions_def=SCALES, metadata=number)
    def first():
        return numbers(1)

    @dg.asset(partitions_def=SCALES, metadata=number)
    def second():
        dg.materialize([first], instance=instance, resources={"io_manager": manager}, partition_key="50m")
        return numbers(2)

    with pytest.raises(RuntimeError, match=r"would wait for run .*, which began it"):
        dg.materialize([second], instance=instance, resources={"io_manager": manager}, partition_key="50m")
    assert not list((tmp_path / "data").rglob("*.parquet"))


def test_the_trainings_behind_an_artefact_are_named_through_all_that_lies_between(tmp_path, instance):
    manager = TableIOManager(base_dir=str(tmp_path), duckdb=DuckDB(temp_directory=str(tmp_path / "tmp")))
    number = as_metadata({"number": ("BIGINT", "number")})

    def asset(name, *before, page=None):
        @dg.asset(name=name, ins={key: dg.AssetIn(key) for key in before}, partitions_def=SCALES, metadata=number)
        def produce(**inputs):
            return dg.MaterializeResult(value=numbers(1), metadata={"mlflow_run": page} if page else {})

        return produce

    assets = [
        asset("data"),
        asset("left", "data", page="http://left"),
        asset("right", "data", page="http://right"),
        asset("after_left", "left", "data"),
        asset("again", "after_left", page="http://again"),
        asset("after_both", "after_left", "right"),
    ]
    dg.materialize(assets, instance=instance, resources={"io_manager": manager}, partition_key="50m")
    keys = ("data", "after_left", "again", "after_both")
    named = {key: latest(instance, key).metadata.get("mlflow_run") for key in keys}
    assert named == {
        "data": None,
        "after_left": "http://left",
        "again": "http://again",
        "after_both": "http://left http://right",
    }
