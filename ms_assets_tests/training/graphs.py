"""Small graphs for training, built by the project's own builder from plain rows."""

import numpy as np
import pyarrow as pa
import torch

from ms_assets.graph.bipartite import bipartite_graph
from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors, TrainingData
from ms_assets.training.network import Network
from ms_assets.training.trained import Epoch, TrainedModel

NOBODY = (np.empty(0, np.int64), np.empty(0, np.int64))
RATIOS = {"like": 1.0, "undislike": 0.5}
WEIGHTS = {"listen": 0.7, "like": 1.0, "undislike": 0.3}


def graph_of(edges, n_users, n_graph_songs, n_cold=0, artists=None, albums=None, audio=None, silent=()):
    """Edges are (user, song, event type, n_events, played ratio of a listen); silent songs have no audio."""
    n_songs = n_graph_songs + n_cold
    columns = {
        "user_id": [user for user, *_ in edges],
        "song_id": [song for _, song, *_ in edges],
        "event_type": [kind for _, _, kind, *_ in edges],
        "n_events": [n for *_, n, _ in edges],
        "played_ratio": [float(RATIOS.get(kind, ratio)) for _, _, kind, _, ratio in edges],
        "weight": [WEIGHTS[kind] for _, _, kind, *_ in edges],
    }
    songs = {
        "item_id": [1_000 + 3 * song for song in range(n_songs)],
        "in_graph": [song < n_graph_songs for song in range(n_songs)],
        "artist_ids": pa.array(artists or [[song % 5] for song in range(n_songs)], pa.list_(pa.int32())),
        "album_ids": pa.array(albums or [[song % 7] for song in range(n_songs)], pa.list_(pa.int32())),
    }
    audio = unit_rows(np.random.default_rng(0), n_songs) if audio is None else audio
    audio[list(silent)] = 0
    heard = np.array([song not in silent for song in range(n_songs)])
    return bipartite_graph(
        pa.table({"uid": [10 * user for user in range(n_users)]}),
        pa.table(songs),
        (audio.astype(np.float32), heard),
        len(edges),
        pa.table(columns).to_batches(),
    )


def trained_model(losses=(0.5,), best=0.1, **said):
    """A model without parameters, whose epochs had these losses."""
    history = [Epoch(number, loss, best, 0.1, 7.0) for number, loss in enumerate(losses, start=1)]
    return TrainedModel(TrainingSettings(), {}, history[-1], history, **said)


def data_of(graph, explicit=NOBODY, wanted=NOBODY):
    """What a training is given: explicit negatives, and validation targets of relevance 1, are (users, songs)."""
    tensors = GraphTensors.of(graph)
    relevance = np.ones(len(wanted[0]))
    return TrainingData(tensors, tensors.pairs(*explicit), tensors.pairs(*wanted, relevance=relevance))


def features_of(graph):
    return GraphTensors.of(graph).features


def network_of(graph, settings):
    """A network with the parameters that seed 0 draws."""
    torch.manual_seed(0)
    return Network(GraphTensors.of(graph), settings)


def pairs_of(lists):
    """Users and songs of one list of songs for each user."""
    user = np.repeat(np.arange(len(lists)), [len(songs) for songs in lists])
    return user, np.array([song for songs in lists for song in songs], np.int64)


def unit_rows(rng, n, dimensions=128):
    vectors = rng.standard_normal((n, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_graph(seed, n_users=12, n_graph_songs=15, n_cold=3):
    """Every user and graph song has an edge, some pairs several, of every type."""
    rng = np.random.default_rng(seed)
    pairs = [(u, int(rng.integers(n_graph_songs))) for u in range(n_users)]
    pairs += [(int(rng.integers(n_users)), s) for s in range(n_graph_songs)]
    pairs += [tuple(rng.integers((n_users, n_graph_songs)).tolist()) for _ in range(60)]
    kinds = list(WEIGHTS)
    distinct = {(user, song, kinds[rng.integers(3)]) for user, song in pairs}
    edges = [(*key, int(rng.integers(1, 40)), float(rng.random())) for key in sorted(distinct)]
    return graph_of(edges, n_users, n_graph_songs, n_cold)


N_USERS, N_SONGS = 60, 80


def block_of(ids, n):
    """The first half of the ids is block 0, the second block 1."""
    return np.asarray(ids) >= n // 2


def two_blocks(seed=0, n_heard=12):
    """A world of two tastes: each user heard a few songs of their block; the held-out ones, one list per user.

    Audio, artists and albums say nothing of the blocks: only the graph does. The last two songs are cold.
    """
    rng = np.random.default_rng(seed)
    edges, held_out = [], []
    for user in range(N_USERS):
        own = np.flatnonzero(block_of(range(N_SONGS), N_SONGS) == block_of(user, N_USERS))
        drawn = rng.permutation(own).tolist()
        edges += [(user, song, "listen", 1, 0.9) for song in drawn[:n_heard]]
        held_out.append(sorted(drawn[n_heard : n_heard + 8]))
    return graph_of(edges, N_USERS, N_SONGS, n_cold=2), held_out
