"""Graphs with little in them: they train, or are refused with what to change."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.training.trainer import fit
from ms_assets_tests.training.graphs import NOBODY, data_of, graph_of
from ms_assets_tests.training.tastes import CPU, settings_of


def embeddings(graph, explicit=NOBODY, judged=(), **changed):
    """Users and songs after a training that validates with these (user, song) pairs."""
    data = data_of(graph, explicit, np.array(judged, np.int64).reshape(-1, 2).T)
    users, songs = fit(data, settings_of(epochs=3, **changed), CPU).embeddings(data.graph)
    torch.testing.assert_close(users.norm(dim=1), torch.ones(len(users)))
    assert songs.isfinite().all()
    assert (songs.norm(dim=1) > 0.1).all()
    return users, songs


SWITCHES = [{}, {"objective": "bpr"}, {"spectral_start": False}, {"song_residual": False}, {"edge_weights": "uniform"}]


def test_a_graph_without_edges_is_refused_with_what_to_change():
    graph = graph_of([(0, 0, "like", 1, 1.0)], 3, 1)
    edges = graph[INTERACTS]
    edges.edge_index, edges.edge_attr = edges.edge_index[:, :0], edges.edge_attr[:0]
    with pytest.raises(ValueError, match=r"no edges.*splits__users\.min_events.*split_events"):
        embeddings(graph)


@pytest.mark.parametrize("changed", SWITCHES, ids=str)
def test_a_single_user_trains_and_songs_are_still_told_apart(changed):
    edges = [(0, song, "listen", 1, 0.9) for song in range(4)]
    _, songs = embeddings(graph_of(edges, 1, 4, n_cold=6), **changed)
    assert functional.normalize(songs, dim=1).mean(dim=0).norm() < 0.95


def test_a_single_edge_trains():
    users, songs = embeddings(graph_of([(0, 0, "like", 1, 1.0)], 1, 1))
    assert (users.shape, songs.shape) == ((1, 16), (1, 16))


@pytest.mark.parametrize("changed", SWITCHES, ids=str)
def test_users_who_only_dislike_and_users_without_any_event_have_embeddings_all_the_same(changed):
    edges = [(user, song, "listen", 1, 0.9) for user in range(2) for song in range(3)]
    graph = graph_of(edges, 5, 3, n_cold=3)
    # Users 2 and 3 have nothing but dislikes, one of a graph song and one of a cold song; user 4 has nothing.
    explicit = (np.array([2, 3]), np.array([1, 4]))
    users, _ = embeddings(graph, explicit, judged=[(2, 0), (4, 1)], **changed)
    assert len(users) == 5


def test_dislikes_alone_leave_a_user_where_they_were():
    edges = [(user, song, "listen", 1, 0.9) for user in range(2) for song in range(3)]
    graph = graph_of(edges, 3, 3)
    without, _ = embeddings(graph)
    disliking, _ = embeddings(graph, (np.array([2, 2]), np.array([0, 1])))
    # They are in no positive's group: nothing pulls at them.
    torch.testing.assert_close(disliking, without)
