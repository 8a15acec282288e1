"""Every asset check passes on good data, and fails on data broken in the way that it names."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ms_assets.definitions import defs
from ms_assets.defs.evaluation import checks as evaluation
from ms_assets.defs.platform.checks import asset_check, enough_rows
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.lineage import InconsistentInputsError, Made, origins_of
from ms_assets.defs.platform.scales import SCALES
from ms_assets.defs.platform.schemas import as_metadata, declared, described, difference
from ms_assets.defs.raw import checks as raw
from ms_assets.defs.training import checks as training
from ms_assets.streams import Relation
from ms_assets.vectors import fixed_size_list
from ms_assets_tests.conftest import metadata
from ms_assets_tests.training.graphs import trained_model, unit_rows
from ms_assets_tests.worlds import World, listen

TESTED_BY_ANOTHER_NAME = {"recommendations_are_complete", "rows_are_no_fewer_than_half"}
"""Checks that are made for several assets."""


def test_every_check_is_tested_here():
    source = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_checks.py"))
    names = {key.name for key in defs.resolve_asset_graph().asset_check_keys} - TESTED_BY_ANOTHER_NAME
    assert {name for name in names if f".{name}" not in source} == set()


def test_checks_that_guard_what_follows_stop_it():
    warning = {"events_have_a_time_and_a_type", "every_event_type_occurs", "statistics_are_the_published_ones",
               "audio_vectors_are_finite", "training_learned", "lightgcn_beats_the_baselines",
               "lightgcn_is_as_good_as_before", "rows_are_no_fewer_than_half",
               "ranker_is_worth_its_while", "challenger_is_not_worse"}  # fmt: skip
    graph = defs.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert {spec.name for spec in specs if not spec.blocking} == warning
    assert all(spec.description for spec in specs)


# of every artefact


def made(run="run", origins=(), version="v", **known):
    return Made(
        version=version, name="x.parquet", size=1, modified=1, run_id=run, at=datetime.now(UTC).isoformat(), inputs={},
        origins=dict(origins), metadata=known,
    )  # fmt: skip


def test_inputs_that_stand_on_two_divisions_or_two_sources_are_refused():
    def found(**origins):
        """Of two inputs, each made from one of the versions of these rooms' x, or from the only one."""
        first, second = ({f"{room}/x": versions[place] for room, versions in origins.items()} for place in (0, -1))
        return origins_of({"graph/y": made(origins=first), "graph/z": made(origins=second)}, "50m")

    assert origins_of({}, "50m") == {}, "nothing is known of it"
    assert found(splits=["a"], raw=["b"]) == {"splits/x": "a", "raw/x": "b", "graph/y": "v", "graph/z": "v"}
    for origins, of in (({"splits": "ab", "raw": "c"}, "splits/x"), ({"splits": "a", "raw": "bc"}, "raw/x")):
        said = f"from two versions of {of}; materialise graph/y again, with what lies between it and {of}"
        with pytest.raises(InconsistentInputsError, match=said):
            found(**origins)


def test_an_input_that_another_was_not_made_from_is_refused():
    edges, train = made(origins={"splits/train": "before"}), made(version="now")
    with pytest.raises(InconsistentInputsError, match="graph/edges and splits/train of 50m do not belong together"):
        origins_of({"graph/edges": edges, "splits/train": train}, "50m")
    assert origins_of({"graph/edges": edges, "splits/train": replace(train, version="before")}, "50m")


def test_a_file_of_other_columns_than_declared_is_found(table):
    wanted = declared(as_metadata({"user_id": ("BIGINT", "user"), "event_type": ("VARCHAR", "type")}))

    def result(names, row):
        return difference(described(table(names, row), wanted).columns, wanted)

    assert result("user_id event_type", (1, "like")) is None
    for names, row in (("user_id", (1,)), ("event_type user_id", ("like", 1)), ("user_id event_type", (1, 2)),
                       ("user_id event_type score", (1, "like", 0.5))):  # fmt: skip
        found = result(names, row)
        assert found.startswith("expected columns [('user_id', 'BIGINT'), ('event_type', 'VARCHAR')], found")


def test_a_table_that_lost_more_than_half_of_its_rows_is_worth_a_warning():
    def result(*counts):
        return enough_rows([made(**{"dagster/row_count": n}) for n in counts])

    for fine in (), (5,), (5, 10), (10, 5), (0, 0), (5, 10, 100):
        assert result(*fine).passed, fine
    for lost in (4, 10), (0, 1):
        assert (result(*lost).passed, result(*lost).severity) == (False, dg.AssetCheckSeverity.WARN)
    assert metadata(result(4, 10)) == {"n_rows": 4, "n_rows_before": 10}


def test_a_table_that_a_person_has_reported_has_not_lost_its_rows(platform):
    World([listen(1, 0, 10)], [10]).write(platform.source)
    key = dg.AssetKey(["raw", "multi_event"])
    reported = dg.AssetMaterialization(key, partition="50m")
    platform.instance.report_runless_asset_event(reported)
    assert enough_rows(platform.lineage.history(key, "50m")).passed
    for _ in range(2):
        platform.materialise("raw/multi_event")
        platform.instance.report_runless_asset_event(reported)
        found = enough_rows(platform.lineage.history(key, "50m"))
        assert found.passed
        assert metadata(found)["n_rows"] == 1


def test_every_check_that_is_launched_alone_says_that_it_runs_with_its_asset(platform):
    graph = platform.definitions.resolve_asset_graph()
    checks = {key for key in graph.asset_check_keys if graph.get_check_spec(key).name != raw.FINITE}
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection=set(), asset_check_selection=checks)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run = alone.execute_in_process(quiet, platform.instance, raise_on_error=False)
    errors = [event.step_failure_data.error.to_string() for event in run.all_node_events if event.is_step_failure]
    assert len(errors) == sum(event.is_step_start for event in run.all_node_events) > 60
    expected = "this run has no scale; a check runs with its asset, so materialise the asset for a scale"
    assert [error for error in errors if expected not in error] == []


def test_a_blocking_check_that_ends_in_an_error_has_failed(tmp_path, duckdb):
    number = as_metadata({"number": ("BIGINT", "number")})
    resources = {"io_manager": TableIOManager(base_dir=str(tmp_path / "data"), duckdb=duckdb)}

    @dg.asset(partitions_def=SCALES, metadata=number)
    def numbers():
        return pa.table({"number": [0]})

    @asset_check(asset=["numbers"], blocking=True)
    def divide_one(numbers: Relation) -> dg.AssetCheckResult:
        raise ZeroDivisionError("by 0")

    @dg.asset(partitions_def=SCALES, metadata=number)
    def more(numbers: Relation):
        return numbers

    assert not dg.materialize(
        [numbers, divide_one], resources=resources, partition_key="50m", raise_on_error=False
    ).success
    expected = r"numbers of 50m failed a blocking check \(divide_one: ended in an error \(ZeroDivisionError: by 0\)\)"
    with pytest.raises(InconsistentInputsError, match=expected):
        dg.materialize([dg.AssetSpec("numbers", partitions_def=SCALES), more], resources=resources, partition_key="50m")


# training


def embedding_table(duckdb, key, vectors):
    columns = {key: np.arange(len(vectors)), "embedding": fixed_size_list(vectors)}
    return duckdb.connection.from_arrow(pa.table(columns))


HEALTH = [(training.user_embeddings_are_healthy, "user_id"), (training.song_embeddings_are_healthy, "song_id")]


@pytest.mark.parametrize(("check", "key"), HEALTH, ids=["users", "songs"])
def test_embeddings_are_vectors_that_differ_of_length_1_if_of_users(check, key, duckdb):
    vectors = unit_rows(np.random.default_rng(0), 50, 8)

    def passed(**changed):
        broken = vectors.copy()
        for row, value in changed.items():
            broken[int(row[1:])] = value
        return check(embedding_table(duckdb, key, broken)).passed

    assert passed()
    assert not passed(_3=np.nan)
    assert not passed(_3=np.inf)
    assert not passed(_3=0.0)
    assert passed(_3=1.1 * vectors[3]) == (key == "song_id"), "a song is as long as it is popular"
    nearly_same = vectors[:1] + 0.1 * vectors
    nearly_same /= np.linalg.norm(nearly_same, axis=1, keepdims=True)
    assert not check(embedding_table(duckdb, key, nearly_same)).passed


@pytest.mark.parametrize(("check", "key"), HEALTH, ids=["users", "songs"])
def test_embeddings_in_few_dimensions_are_worth_a_warning_and_broken_ones_an_error(check, key, duckdb):
    angles = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    flat = np.zeros((50, 50), np.float32)
    flat[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = check(embedding_table(duckdb, key, flat))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (metadata(found)["effective_rank"], metadata(found)["dimensions"]) == (2.0, 50)
    assert metadata(check(embedding_table(duckdb, key, np.eye(50, dtype=np.float32))))["effective_rank"] == 50
    flat[0, 0] = np.nan
    assert check(embedding_table(duckdb, key, flat)).severity == dg.AssetCheckSeverity.ERROR


@pytest.mark.parametrize(("check", "key"), HEALTH, ids=["users", "songs"])
def test_embeddings_near_one_direction_are_worth_a_warning_and_equal_ones_an_error(check, key, duckdb):
    # As a start has them whose greatest singular value is far above the others: what differs still orders songs.
    apart = unit_rows(np.random.default_rng(0), 50_000, 8)
    for share, severity in ((0.1, dg.AssetCheckSeverity.WARN), (1e-5, dg.AssetCheckSeverity.ERROR)):
        near = np.eye(8, dtype=np.float32)[:1] + share * apart
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        found = check(embedding_table(duckdb, key, near))
        assert (found.passed, found.severity) == (False, severity)


def test_a_training_learned_when_its_loss_fell_and_it_finds_something():
    def passed(losses, best):
        return training.training_learned(trained_model(losses, best)).passed

    assert passed([0.5, 0.3, 0.35], 0.1)
    assert not passed([0.5, 0.3], 0.0)
    assert not passed([0.5, float("nan")], 0.1)
    assert not passed([0.3, 0.4, 0.5], 0.1), "the loss rose in every epoch"


def test_a_training_that_diverged_stops_what_would_build_on_it_and_says_where():
    assert training.training_did_not_diverge(trained_model()).passed
    found = training.training_did_not_diverge(trained_model(diverged="training diverged in epoch 3, step 4 of 6"))
    assert not found.passed
    assert "epoch 3, step 4" in found.description


# evaluation


def test_metrics_out_of_range_fail_and_undefined_ones_do_not(table):
    check, names = evaluation.metrics_lie_within_their_range, "method view k uid ndcg auc popularity_lift"
    good = [("popular", "all", 10, 500, 1.0, 0.0, 7.5), ("popular", "all", 10, 501, None, 0.5, -1.0)]
    assert check(table(names, *good)).passed
    for broken in (1.01, -0.01, float("nan"), float("inf")):
        result = check(table(names, *good, ("popular", "all", 10, 502, 0.5, broken, 0.0)))
        assert not result.passed
        assert metadata(result)["n_outside"] == {"ndcg": 0, "auc": 1, "popularity_lift": 0}
    for broken in (-1.01, float("nan"), float("inf")):
        assert not check(table(names, *good, ("popular", "all", 10, 502, 0.5, 0.5, broken))).passed
    assert not check(table(names)).passed


def test_lightgcn_has_to_beat_every_baseline_at_every_k(table):
    def result(**changed):
        means = {"lightgcn": 0.5, **dict.fromkeys(evaluation.BASELINES, 0.4)}
        rows = [(name, "discovery", k, "ndcg", mean) for k in (10, 100) for name, mean in means.items()]
        rows += [(name, "all", 10, "ndcg", 1.0) for name in evaluation.BASELINES]
        rows += [(name, "discovery", 10, "recall", 1.0) for name in evaluation.BASELINES]
        rows = [(*row[:4], changed.get(row[0], row[4]) if row[1:4] == ("discovery", 10, "ndcg") else row[4])
                for row in rows]  # fmt: skip
        return evaluation.lightgcn_beats_the_baselines(table("method view k metric mean", *rows))

    assert result().passed
    assert result(popular=None).passed
    for broken in {"popular": 0.5}, {"random": 0.9}, {"lightgcn": 0.1}, {"lightgcn": None}:
        assert not result(**broken).passed
        assert result(**broken).severity == dg.AssetCheckSeverity.WARN
    assert metadata(result(popular=0.6))["not_beaten_at_10"] == "popular"
    assert metadata(result(popular=0.6))["not_beaten_at_100"] == "none"


def board(run, protocol="per_user", **ndcg):
    shown = {f"discovery at {name[1:]}": list(values) for name, values in ndcg.items()}
    return made(run, protocol=protocol, ndcg_of_lightgcn=shown)


def test_lightgcn_falls_when_its_ndcg_lies_below_the_interval_that_it_had():
    before = board("r0", _10=(0.5, 0.45, 0.55), _100=(0.6, 0.58, 0.62))
    assert evaluation.fallen(board("r1", _10=(0.45, 0.4, 0.5), _100=(0.7, 0.6, 0.8)), before).passed
    found = evaluation.fallen(board("r1", _10=(0.449, 0.4, 0.5), _100=(0.7, 0.6, 0.8)), before)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert metadata(found) == {
        "compared": "with run r0", "discovery at 10": "0.4490, before 0.5000 (0.4500 to 0.5500)",
    }  # fmt: skip


def test_leaderboards_of_two_protocols_or_of_other_lengths_are_not_compared():
    low, high = board("r1", _10=(0.1, 0.1, 0.1)), (0.5, 0.4, 0.6)
    for before in (None, board("r0", "global_temporal", _10=high), made("r0")):
        found = evaluation.fallen(low, before)
        assert found.passed
        assert metadata(found) == {"compared": "with none"}
    assert evaluation.fallen(low, board("r0", _20=high)).passed


def test_a_leaderboard_is_compared_with_the_one_before_it_of_its_scale(tmp_path, duckdb):
    key, shown = dg.AssetKey(["evaluation", "leaderboard"]), {}
    columns = as_metadata({"run": ("BIGINT", "run")})

    @dg.asset(key=key, partitions_def=SCALES, metadata=columns)
    def leaderboard():
        told = {"protocol": "per_user", "ndcg_of_lightgcn": {"all at 10": shown["ndcg"]}}
        return dg.MaterializeResult(value=pa.table({"run": [shown["run"]]}), metadata=told)

    checks = [evaluation.lightgcn_is_as_good_as_before]
    stored = {"io_manager": TableIOManager(base_dir=str(tmp_path), duckdb=duckdb)}
    job = dg.Definitions([leaderboard], asset_checks=checks, resources=stored).resolve_implicit_global_asset_job_def()
    passed = []
    with dg.DagsterInstance.ephemeral() as instance:
        for run, (scale, ndcg) in enumerate((("50m", 0.5), ("sample", 0.1), ("50m", 0.4), ("50m", 0.2))):
            shown.update(run=run, ndcg=[ndcg, ndcg - 0.1, ndcg + 0.1])
            [check] = job.execute_in_process(instance=instance, partition_key=scale).get_asset_check_evaluations()
            passed.append(check.passed)
    assert passed == [True, True, True, False]


def test_a_leaderboard_without_ndcg_shows_no_victory(table):
    board = table("method view k metric mean", ("lightgcn", "all", 10, "recall", 0.5))
    assert not evaluation.lightgcn_beats_the_baselines(board).passed
