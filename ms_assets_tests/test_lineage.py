"""Where artefacts come from: versions that tell what is stale, inputs that are named, columns that are traced."""

import os

import dagster as dg
import polars as pl
import pytest

from ms_assets.definitions import defs
from ms_assets.defs.platform import common_checks, lineage
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALES
from ms_assets.defs.platform.schemas import LINEAGE, SCHEMA, as_metadata
from ms_assets_tests.homes import FRESH, GRAPH, MISSING, STALE, latest, sha256, statuses
from ms_assets_tests.worlds import World, listen

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
    "retrieval/served_model": {"name", "version"},
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
    [made] = lineage.history(platform.instance, dg.AssetKey(["raw", "artist_item_mapping"]), "sample")
    assert made.data_version == f"generated by {made.metadata['revision']}"


# inputs


def test_an_artefact_names_its_inputs_their_versions_and_the_runs_that_made_them(platform):
    WORLD.write(platform.source)
    run = platform.materialise(EDGES, config={"splits__users": {"min_events": 1}})
    named = latest(platform.instance, "splits/train").metadata["inputs"]
    assert set(named) == {"raw/multi_event", USERS, "splits/candidate_songs"}
    for key, said in named.items():
        made = latest(platform.instance, key)
        assert said == {"data_version": made.data_version, "run_id": run.run_id, "at": made.at.isoformat()}
    assert set(latest(platform.instance, EDGES).metadata["inputs"]) == {"splits/train"}
    assert latest(platform.instance, "raw/multi_event").metadata["inputs"] == {}


def test_a_graph_of_two_divisions_is_an_error(platform):
    def divided(least, *more):
        parts = [f"splits/{name}" for name in ("songs", "train", "validation", "test", "negatives")]
        platform.materialise(*parts, *more, config={"splits__users": {"min_events": least}})

    def graph():
        platform.materialise("graph/bipartite_graph", alone=True)
        made = latest(platform.instance, "graph/bipartite_graph")
        return made.metadata["origins"], common_checks.inputs_have_one_origin([made])

    WORLD.write(platform.source)
    divided(11, EDGES)
    origins, check = graph()
    assert set(origins) == {
        *(f"raw/{name}" for name in ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping")),
        *(f"splits/{name}" for name in ("candidate_songs", "users", "songs", "train")),
        EDGES,
    }
    assert check.passed
    divided(1)
    origins, check = graph()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert {key for key, versions in origins.items() if len(versions) > 1} == {USERS}
    platform.materialise(EDGES, alone=True)
    assert graph()[1].passed


def numbers(*rows):
    return pl.DataFrame({"number": rows}, schema={"number": pl.Int64})


def test_an_input_that_another_run_replaces_meanwhile_is_named_as_it_was_read(tmp_path, instance):
    manager = TableIOManager(base_dir=str(tmp_path), duckdb=DuckDB(temp_directory=str(tmp_path / "tmp")))
    number, values = as_metadata({"number": ("BIGINT", "number")}), iter(range(9))

    @dg.asset(partitions_def=SCALES, metadata=number)
    def first():
        return numbers(next(values))

    @dg.asset(partitions_def=SCALES, metadata=number)
    def second(first):
        read = first.pl()
        made(first_asset)
        return read

    first_asset = first

    def made(*assets):
        return dg.materialize(assets, instance=instance, resources={"io_manager": manager}, partition_key="50m")

    made(first, second)
    replaced, read = lineage.history(instance, first.key, "50m", limit=2)
    assert replaced.data_version != read.data_version
    assert latest(instance, "second").metadata["inputs"]["first"]["data_version"] == read.data_version
    assert latest(instance, "second").data_version == read.data_version, "the same rows"


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
