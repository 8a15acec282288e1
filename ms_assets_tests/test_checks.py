"""Every asset check passes on good data, and fails on data broken in the way that it names."""

from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from ms_assets.definitions import defs
from ms_assets.evaluation import checks as evaluation
from ms_assets.training import checks as training
from ms_assets.vectors import fixed_size_list
from ms_assets_tests.conftest import metadata
from ms_assets_tests.training.graphs import unit_rows


def test_every_check_is_tested_here():
    source = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_checks.py"))
    names = {key.name for key in defs.resolve_asset_graph().asset_check_keys} - {"recommendations_are_complete"}
    assert {name for name in names if f".{name}" not in source} == set()


def test_checks_that_guard_what_follows_stop_it():
    warning = {"events_have_a_time_and_a_type", "every_event_type_occurs", "statistics_are_the_published_ones",
               "audio_vectors_are_finite", "training_learned", "lightgcn_beats_the_baselines",
               "challenger_is_not_worse"}  # fmt: skip
    graph = defs.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert {spec.name for spec in specs if not spec.blocking} == warning
    assert all(spec.description for spec in specs)


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


def test_a_training_learned_when_its_loss_fell_and_it_finds_something():
    def passed(losses, best):
        history = [{"loss": loss} for loss in losses]
        return training.training_learned({"history": history, "best": {"validation_ndcg": best}}).passed

    assert passed([0.5, 0.3, 0.35], 0.1)
    assert not passed([0.5, 0.3], 0.0)
    assert not passed([0.5, float("nan")], 0.1)
    assert not passed([0.3, 0.4, 0.5], 0.1), "the loss rose in every epoch"


def test_a_training_that_diverged_stops_what_would_build_on_it_and_says_where():
    assert training.training_did_not_diverge({"diverged": ""}).passed
    found = training.training_did_not_diverge({"diverged": "training diverged in epoch 3, step 4 of 6"})
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


def test_a_leaderboard_without_ndcg_shows_no_victory(table):
    board = table("method view k metric mean", ("lightgcn", "all", 10, "recall", 0.5))
    assert not evaluation.lightgcn_beats_the_baselines(board).passed
