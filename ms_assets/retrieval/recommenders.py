"""LightGCN's recommender, and the four that it has to beat."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval.recommendations import Recommender
from ms_assets.vectors import Ragged

if TYPE_CHECKING:
    import faiss

METHODS = ("lightgcn", "popular", "random", "collaborative_filtering", "content_based")
"""Every recommender: the asset `retrieval/<method>` holds its recommendations."""
BASELINES = METHODS[1:]
FACTORS = 64


def from_index(index: "faiss.Index", users: NDArray[np.float32], item_id: NDArray[np.int64]) -> Recommender:
    """Search the song index for each user's embedding, float32 [n_users, d].

    item_id: original ids by song id, int64 [n_songs].
    """
    by_item = np.argsort(item_id)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores, items = index.search(np.ascontiguousarray(users[user]), n)
        place = np.searchsorted(item_id, items, sorter=by_item).clip(max=len(item_id) - 1)
        return np.where(items >= 0, by_item[place], -1), scores

    return recommend


def popular(n_train_events: NDArray[np.int64]) -> Recommender:
    """The same songs for everybody: those with the most positive train events, int64 [n_songs]."""
    best = np.argsort(-n_train_events, kind="stable")

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        shape = (len(user), n)
        return np.broadcast_to(best[:n], shape), np.broadcast_to(n_train_events[best[:n]].astype(np.float32), shape)

    return recommend


def random(n_songs: int, seed: int) -> Recommender:
    """Any songs of the catalogue, all equally likely, drawn for each user from a seed of the user's own."""

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        drawn = [_distinct(n_songs, n, [seed, u]) for u in user]
        falling = 1 / np.arange(1, n + 1, dtype=np.float32)
        return np.stack(drawn), np.broadcast_to(falling, (len(user), n))

    return recommend


def _distinct(n_songs: int, n: int, seed: list[int]) -> NDArray[np.int64]:
    """The first n distinct draws; asking for more continues the same sequence."""
    size = n
    while True:
        draws = np.random.default_rng(seed).integers(n_songs, size=size)
        _, first = np.unique(draws, return_index=True)
        if len(first) >= n:
            return draws[np.sort(first)[:n]]
        size *= 2


def collaborative_filtering(heard: Ragged, n_graph_songs: int, seed: int) -> Recommender:
    """Truncated SVD, 64 factors, of the binary user × song matrix of positives; scores are its reconstruction."""
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    ones = np.ones(len(heard.values), np.float32)
    matrix = csr_matrix((ones, heard.values, heard.offsets), shape=(len(heard.lengths), n_graph_songs))
    rank = max(min(FACTORS, *(size - 1 for size in matrix.shape)), 1)
    left, singular, right = randomized_svd(matrix, rank, n_iter=5, random_state=seed)
    return _nearest((left * singular).astype(np.float32), right.T.astype(np.float32))


def content_based(heard: Ragged, audio: NDArray[np.float32]) -> Recommender:
    """Songs that sound like the mean of what the user has heard: inner product with unit audio [n_songs, 128]."""
    from scipy.sparse import csr_matrix

    lengths = heard.lengths
    share = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    mean = csr_matrix((share, heard.values, heard.offsets), shape=(len(lengths), len(audio))) @ audio
    return _nearest(np.ascontiguousarray(mean, np.float32), audio)


def _nearest(users: NDArray[np.float32], songs: NDArray[np.float32]) -> Recommender:
    import faiss

    songs = np.ascontiguousarray(songs)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = min(n, len(songs))
        scores, song = faiss.knn(np.ascontiguousarray(users[user]), songs, found, metric=faiss.METRIC_INNER_PRODUCT)
        missing = ((0, 0), (0, n - found))
        return np.pad(song, missing, constant_values=-1), np.pad(scores, missing)

    return recommend
