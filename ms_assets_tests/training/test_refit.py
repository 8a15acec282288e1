"""Training anew on train and validation: which edges that means, how long it goes on, and what it is for."""

import numpy as np
import polars as pl
import pytest
import torch

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.settings import TrainingSettings
from ms_assets.training import refit, trainer
from ms_assets.training.trained import TrainedModel
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, data_of, graph_of
from ms_assets_tests.training.tastes import CPU, GRAPH, WANTED, plant, plant_train, settings_of

EVENT = "user_id song_id event_type played_ratio"
TRAIN = [(0, 0, "listen", 0.5), (0, 1, "like", None), (1, 2, "listen", 1.0)]
VALIDATION = [
    (0, 0, "listen", 1.0),  # heard in train already: its edge counts both
    (0, 2, "listen", None),
    (1, 2, "dislike", None),
    (1, 1, "unlike", None),
    (1, 1, "undislike", None),
    (1, 3, "like", None),  # a cold song
]


@pytest.fixture
def graph():
    edges = [(0, 0, "listen", 1, 0.5), (0, 1, "like", 1, 0), (1, 2, "listen", 1, 1.0)]
    return graph_of(edges, n_users=2, n_graph_songs=3, n_cold=1)


def test_edges_are_those_of_both_parts_among_the_graphs_songs(duckdb, table, graph):
    found = refit.graph_of_train_and_validation(
        duckdb.connection, graph, table(EVENT, *TRAIN), table(EVENT, *VALIDATION)
    )
    rows = torch.cat([found[INTERACTS].edge_index.T, found[INTERACTS].edge_attr], dim=1).tolist()
    # user, song, type code, n_events, played ratio, weight
    wanted = [
        [0, 0, 1, 2, 0.75, 0.7],
        [0, 1, 2, 1, 1.0, 1.0],
        [0, 2, 1, 1, 0.5, 0.7],
        [1, 1, 5, 1, 0.5, 0.3],
        [1, 2, 1, 1, 1.0, 0.7],
    ]
    np.testing.assert_allclose(rows, wanted, rtol=1e-6)
    assert graph[INTERACTS].num_edges == 3
    assert found["song"].in_graph.tolist() == [True, True, True, False]


def test_dislikes_of_both_parts_are_explicit_negatives(duckdb, table, graph):
    negatives = table("user_id song_id event_type", (0, 2, "dislike"), (1, 2, "unlike"))
    train, validation = table(EVENT, *TRAIN), table(EVENT, *VALIDATION)
    found = refit.refit_data(duckdb.connection, graph, negatives, train, validation)
    pairs = zip(found.disliked.user.tolist(), found.disliked.song.tolist(), strict=True)
    assert sorted(pairs) == [(0, 2), (1, 1), (1, 2)]
    assert len(found.targets) == 0


@pytest.fixture(scope="module")
def world():
    """Two tastes: data of train, and data whose graph knows what validation holds too."""
    pairs = [*GRAPH[INTERACTS].edge_index.T.tolist(), *np.transpose(WANTED).tolist()]
    more = graph_of(sorted((user, song, "listen", 1, 0.9) for user, song in pairs), N_USERS, N_SONGS, n_cold=2)
    return data_of(GRAPH, wanted=WANTED), data_of(more)


def test_it_trains_as_many_epochs_as_were_best_and_keeps_what_validation_said(world):
    data, more = world
    settings = TrainingSettings(embedding_dim=16, layers=2, epochs=20, patience=3, learning_rate=0.1)
    fitted = trainer.fit(data, settings, CPU)
    assert fitted.best.number < len(fitted.history) < 20
    found = trainer.refit(more, fitted, CPU)
    assert (found.best, found.history) == (fitted.best, fitted.history)
    wanted = trainer.fit(more, settings, CPU, last_epoch=fitted.best.number)
    assert len(wanted.history) == fitted.best.number
    assert all(torch.equal(found.state[name], wanted.state[name]) for name in wanted.state)


def test_the_model_before_is_kept_for_whatever_is_tuned_on_validation(world):
    data, more = world
    fitted = trainer.fit(data, settings_of(epochs=3), CPU)
    again = trainer.refit(more, fitted, CPU)
    assert fitted.validated.state is fitted.state
    for ours, theirs in zip(again.validated.embeddings(data.graph), fitted.embeddings(data.graph), strict=True):
        assert torch.equal(ours, theirs)
    stored = TrainedModel.from_dict(again.to_dict())
    assert all(torch.equal(stored.unrefitted[name], fitted.state[name]) for name in fitted.state)


def test_a_refit_keeps_the_length_of_cold_songs(world):
    data, more = world
    fitted = trainer.fit(data, settings_of(epochs=2), CPU)
    fitted.state["cold_length"] = torch.tensor(1.7)
    assert trainer.refit(more, fitted, CPU).state["cold_length"] == torch.tensor(1.7)


def test_tables_of_embeddings_hold_those_of_before_beside_them(platform_at, tmp_path):
    platform, config = platform_at(tmp_path), {"epochs": 2, "embedding_dim": 8, "temperature": 0.2}
    plant(platform)
    plant_train(platform)
    keys, tables = [f"training/{name}" for name in ("lightgcn", "user_embeddings", "song_embeddings")], []
    for refit_too in (False, True):
        given = {"training__lightgcn": {**config, "refit": refit_too}}
        platform.materialise(*keys, alone=True, config=given)
        tables.append({key: pl.DataFrame(platform.rows(key)) for key in keys[1:]})
    for key in keys[1:]:
        without, refitted = (found[key] for found in tables)
        assert without["before_refit"].null_count() == len(without)
        assert refitted["before_refit"].to_list() == without["embedding"].to_list()


def test_afterwards_users_are_nearer_to_what_they_heard_in_validation(world):
    data, more = world
    fitted = trainer.fit(data, TrainingSettings(embedding_dim=16, layers=2, epochs=6), CPU)
    again = trainer.refit(more, fitted, CPU)
    user, song = torch.from_numpy(data.targets.user), torch.from_numpy(data.targets.song)
    scores = []
    for knows, result in ((data, fitted), (more, again)):
        users, songs = result.embeddings(knows.graph)
        scores.append(float((users[user] * songs[song]).sum(dim=1).mean()))
    assert scores[1] > scores[0] + 0.01


def test_explicit_negatives_of_both_parts_come_once_each_and_always_in_the_same_order(duckdb, table):
    # Enough rows for several threads, which meet them in another order each time.
    n = 200_000
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(2_000, size=(n, 2)), axis=0)
    negatives = table("user_id song_id event_type", *((int(u), int(s), "dislike") for u, s in rng.permutation(pairs)))
    later = table(EVENT, (3, 4, "dislike", None), (3, 4, "unlike", None), (5_000, 1, "unlike", None),
                  (1, 1, "like", None))  # fmt: skip
    graph, train = graph_of([(0, 0, "like", 1, 1.0)], 5_001, 2_000), table(EVENT, (0, 0, "like", None))
    found = refit.refit_data(duckdb.connection, graph, negatives, train, later).disliked
    in_order = list(zip(found.user.tolist(), found.song.tolist(), strict=True))
    assert in_order == sorted({*map(tuple, pairs.tolist()), (3, 4), (5_000, 1)})
