"""Checks of the second stage in a world whose right order is known, and on what they are there to find."""

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.certainty import Resamples, of_means
from ms_assets.defs.reranking import checks
from ms_assets.reranking import explained, passes
from ms_assets.reranking.ranker import Ranker, learn
from ms_assets.vectors import embedding_columns
from ms_assets_tests.reranking.tastes import (
    N_SONGS,
    N_USERS,
    SONGS_OF_AN_ARTIST,
    Tastes,
    knowledge,
    material,
    tables,
)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    con, tastes = duckdb.connect(), Tastes.of()
    train, ground_truth, lists = tables(con, tastes)
    return con, train, ground_truth, pa.concat_tables(material(knowledge(train), lists, train, ground_truth))


def of_features(world, features):
    """Call the check of features with the tables that `knowledge` stands for."""
    con, train, ground_truth, _ = world
    song, user = np.arange(N_SONGS), np.arange(N_USERS)
    artists = [[int(one)] for one in song // SONGS_OF_AN_ARTIST]
    songs = pa.table(
        {"song_id": song, "artist_ids": artists, "album_ids": pa.array([[]] * N_SONGS, pa.list_(pa.int64()))}
    )
    vectors = {
        "users": {"user_id": user, **embedding_columns(np.zeros((N_USERS, 2), np.float32), None)},
        "songs": {"song_id": song, "cold": np.zeros(N_SONGS, bool),
                  **embedding_columns(np.zeros((N_SONGS, 2), np.float32), None)},
    }  # fmt: skip
    queries, song_embeddings = (con.from_arrow(pa.table(columns)) for columns in vectors.values())
    graph = HeteroData()
    graph["song"].x = torch.zeros(N_SONGS, 2)
    return checks.features_know_only_the_past(
        con.from_arrow(features), con.from_arrow(pa.table({"user_id": user})), con.from_arrow(songs), train,
        train.filter("false"), graph, queries, song_embeddings, song_embeddings.filter("cold"), ground_truth,
    )  # fmt: skip


def test_features_of_the_past_pass_and_what_validation_tells_is_found(world):
    features = world[3]
    assert of_features(world, features).passed
    place = features.column_names.index("own_n")
    more = pa.compute.add(features["own_n"], features["relevance"]).cast(features["own_n"].type)
    found = of_features(world, features.set_column(place, "own_n", more))
    assert not found.passed and "own_n" in found.description


def test_a_ranker_that_learned_is_worth_its_while_and_one_that_puts_the_worst_first_is_not(world):
    con, *_, features = world
    table = con.from_arrow(features)
    materials = passes.read(table)
    learned, names = {view: learn(material) for view, material in materials.items()}, materials["all"].names
    files = Ranker(
        {view: found.models for view, found in learned.items()}, names,
        {view: found.start for view, found in learned.items()},
    ).to_files()  # fmt: skip
    assert checks.ranker_is_worth_its_while(files, table).passed
    reversed_ = con.from_arrow(features).project("* REPLACE (1 - relevance AS relevance)")
    found = checks.ranker_is_worth_its_while(files, reversed_)
    assert not found.passed and "all: mean relevance" in found.metadata


def test_a_pool_counts_what_each_source_lists_and_what_it_lists_alone():
    """Two users with 2 and 3 relevant songs in `all`; nobody has a candidate in `discovery`."""
    features = duckdb.sql("""
        SELECT * FROM (VALUES
            ('all', 0, 2, .5, 2, 1, 3), ('all', 0, 2, 0, 1, NULL, 1), ('all', 0, 2, .5, 1, 4, NULL),
            ('all', 1, 3, .1, 0, NULL, NULL)
        ) t(view, user_id, n_targets, relevance, n_sources, ials_rank, bpr_rank)""")
    assert explained.pool(features).rows() == [
        ("all", "all", 2.0, 3 / 5, 3 / 5), ("all", "ials", 1.0, 2 / 5, 1 / 5), ("all", "bpr", 1.0, 1 / 5, 0.0),
        *(("discovery", source, 0.0, 0.0, 0.0) for source in ("all", "ials", "bpr")),
    ]  # fmt: skip


def test_an_ablation_compares_rankers_with_and_without_each_source_by_bootstrapped_intervals(world):
    con, *_, features = world
    material = passes.read(con.from_arrow(features))["discovery"]
    learned = learn(material)
    whole = Ranker({"discovery": learned.models}, material.names, {"discovery": learned.start})
    found = explained.ablation("discovery", material, whole)
    assert found["left_out"].unique(maintain_order=True).to_list() == [
        "nothing",
        "replay",
    ]  # nothing relevant is left without item_knn
    assert found.filter(left_out="nothing")["difference"].null_count() == 2
    assert found.filter(left_out="nothing", k=10)["ndcg"].item() == pytest.approx(
        material.ndcg(whole.held_out("discovery", material))[:, 0].mean()
    )
    for row in found.filter(pl.col("left_out") != "nothing").iter_rows(named=True):
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]


def test_one_method_is_surely_better_than_another_if_the_bootstrapped_interval_of_their_difference_says_so():
    rng = np.random.default_rng(0)
    found = np.append(rng.random(200), np.nan)
    others = {"level": found + np.append(rng.normal(0, 0.1, 200), np.nan), "better": found + 0.01, "worse": found / 2}
    assert explained.surely_better(others, found) == ["better"]
    one = np.array([[0.2], [0.4], [0.9]])
    means, low, high = of_means(one)
    drawn = Resamples.of(3)
    by_hand = (drawn.times[1:] @ one[:, 0]) / 3
    assert means == pytest.approx([0.5])
    assert (low, high) == (pytest.approx([np.quantile(by_hand, 0.025)]), pytest.approx([np.quantile(by_hand, 0.975)]))
