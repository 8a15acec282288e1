"""Checks of the second stage in a world whose right order is known, and on what they are there to find."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.reranking import checks
from ms_assets.reranking import passes
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
    learned, names = (
        {view: learn(passes.read(table, view)) for view in ("all", "discovery")},
        passes.read(table, "all").names,
    )
    files = Ranker(
        {view: found.models for view, found in learned.items()}, names,
        {view: found.start for view, found in learned.items()},
    ).to_files()  # fmt: skip
    assert checks.ranker_is_worth_its_while(files, table).passed
    reversed_ = con.from_arrow(features).project("* REPLACE (1 - relevance AS relevance)")
    found = checks.ranker_is_worth_its_while(files, reversed_)
    assert not found.passed and "all: mean relevance" in found.metadata
