"""Phases after a refit: what rankers learn from has not seen validation, what their lists are made from has."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.reranking import assets
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.reranking import passes, phases
from ms_assets.reranking.phases import SOURCES, Stored
from ms_assets.reranking.ranker import Ranker, learn
from ms_assets.vectors import embedding_columns
from ms_assets_tests.reranking.tastes import DAY, EVENT, N_SONGS, N_USERS, SONGS_OF_AN_ARTIST, Tastes, table, tables
from ms_assets_tests.training.graphs import unit_rows

N_COLD, DIMENSIONS = 4, 8
LENGTH = 1.5
"""Of cold songs."""


@pytest.fixture(scope="module")
def vectors():
    """Vectors of users and songs before the refit, then after it."""
    rng = np.random.default_rng(4)
    return [[unit_rows(rng, n, DIMENSIONS) for n in (N_USERS, N_SONGS)] for _ in range(2)]


@pytest.fixture(scope="module")
def given(vectors):
    """Tables of a division whose LightGCN was refitted, by the names of the assets' inputs."""
    import duckdb

    con, tastes = duckdb.connect(), Tastes.of()
    train, ground_truth, lists = tables(con, tastes)
    (users_before, songs_before), (users_after, songs_after) = vectors
    song, user = np.arange(N_SONGS), np.arange(N_USERS)
    cold = song >= N_SONGS - N_COLD
    later = [
        {"user_id": one, "song_id": int(tastes.new[one]), "timestamp": 410 * DAY + n, **EVENT}
        for one in user.tolist() for n in range(9)
    ]  # fmt: skip
    columns = {
        "users": {"user_id": user, "uid": 10 * user},
        "songs": {"song_id": song, "item_id": 7 * song, "in_graph": ~cold,
                  "artist_ids": [[one] for one in (song // SONGS_OF_AN_ARTIST).tolist()],
                  "album_ids": pa.array([[]] * N_SONGS, pa.list_(pa.int64()))},
        "queries": {"user_id": user, **embedding_columns(users_after, users_before)},
        "song_embeddings": {"song_id": song, "cold": cold, **embedding_columns(songs_after, songs_before)},
        "cold_songs": {"song_id": song[cold], **embedding_columns(LENGTH * songs_after[cold], None)},
    }  # fmt: skip
    found = {name: con.from_arrow(pa.table(each)) for name, each in columns.items()}
    refitted = {"lightgcn": lists["item_knn"], "lightgcn_replay": lists["item_knn"]}
    return found | {
        "train": train, "negatives": train.filter("false"), "ground_truth": ground_truth,
        "validation": table(con, later), "connection": con, **dict.fromkeys(SOURCES), **lists, **refitted,
    }  # fmt: skip


def stored(given):
    names = ("users", "songs", "train", "negatives", "queries", "song_embeddings", "cold_songs")
    lists = {source: given[source] for source in SOURCES}
    return Stored(**{name: given[name] for name in names}, audio=np.zeros((N_SONGS, 2), np.float32), lists=lists)


def n_events(known):
    return known.past.pairs(0, N_USERS - 1).values["n"].sum()


def test_rankers_learn_from_vectors_lists_and_events_that_have_not_seen_validation(given, vectors):
    phase, (users, songs) = stored(given).before_validation(given["connection"]), vectors[0]
    trained = N_SONGS - N_COLD
    assert np.array_equal(phase.known.embeddings[0], users)
    found = phase.known.embeddings[1]
    assert np.array_equal(found[:trained], songs[:trained])
    assert np.linalg.norm(found[trained:], axis=1) == pytest.approx(LENGTH)
    # The artist of the cold songs has no song in the graph: they point where the encoder says.
    assert found[trained:] == pytest.approx(LENGTH * songs[trained:], abs=1e-6)
    assert n_events(phase.known) == len(given["train"])
    first = phase.lists["lightgcn"].filter("view = 'all' AND rank = 1").order("user_id").fetchnumpy()["song_id"]
    assert first.tolist() == (users @ found.T).argmax(axis=1).tolist()
    assert phase.lists["lightgcn_replay"] is None
    assert phase.lists["replay"] is given["replay"]


def test_what_is_known_of_all_songs_is_refused_before_it_is_read_where_it_does_not_fit(given, monkeypatch):
    monkeypatch.setattr(phases, "free_memory", lambda: 1 << 20)
    for begin in (stored(given).known_before_validation, lambda: stored(given).before_test(given["validation"])):
        with pytest.raises(
            NotEnoughMemoryError, match=f"for {N_USERS:,} users among {N_SONGS:,} songs needs"
        ) as refusal:
            begin()
        assert "embedding_dim" in str(refusal.value)


def test_lists_are_ranked_by_vectors_lists_and_events_of_the_refit(given, vectors):
    phase = stored(given).before_test(given["validation"])
    users, songs = vectors[1]
    assert np.array_equal(phase.known.embeddings[0], users)
    assert np.array_equal(phase.known.embeddings[1][: N_SONGS - N_COLD], songs[: N_SONGS - N_COLD])
    assert n_events(phase.known) == len(given["train"]) + len(given["validation"])
    assert phase.lists["lightgcn"] is given["lightgcn"] and phase.lists["lightgcn_replay"] is None


def test_after_a_refit_what_was_played_in_validation_moves_up_and_without_one_nothing_is_known_of_it(given):
    graph, connection, tastes = HeteroData(), given["connection"], Tastes.of()
    graph["song"].x = torch.zeros(N_SONGS, 2)
    unrefitted = {
        name: given[name].project("* REPLACE (before_refit AS embedding, NULL::FLOAT[] AS before_refit)")
        for name in ("queries", "song_embeddings")
    }
    phase, users = stored(given).before_validation(connection), passes.learners(given["ground_truth"])
    rows = pa.concat_tables(passes.material(phase.known, phase.lists, given["train"], given["ground_truth"], users))
    material = passes.read(connection.from_arrow(rows))["all"]
    learned = learn(material)
    files, places = Ranker({"all": learned.models}, material.names, {"all": learned.start}).to_files(), {}
    for more in ({}, unrefitted):
        inputs = {name: of for name, of in (given | more).items() if name not in ("connection", "ground_truth")}
        result = assets.ranked(files, graph, **inputs)
        lists = pa.concat_tables(result.value.tables).to_pylist()
        places[result.metadata["history"]] = np.array(
            [row["rank"] for row in lists if row["song_id"] == tastes.new[row["user_id"]]]
        )
    refitted, without = places["train and validation"], places["train"]
    # Without a refit the artist's other song, which nobody plays either, comes before it for half of the users.
    assert len(refitted) == len(without) == N_USERS
    assert (refitted <= without).all() and (refitted < without).mean() > 0.25
