"""The recommenders that need no tuning library: LightGCN's index, popularity, replays, chance, SVD and audio."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval import exact
from ms_assets.retrieval.recommendations import History, Recommender
from ms_assets.vectors import Ragged

if TYPE_CHECKING:
    import faiss

Relation = duckdb.DuckDBPyRelation

BASELINES = (
    "popular",
    "decayed_popularity",
    "random",
    "replay",
    "item_knn",
    "ials",
    "collaborative_filtering",
    "content_based",
)
METHODS = ("lightgcn", "lightgcn_replay", *BASELINES)
"""Every recommender: the asset `retrieval/<method>` holds its recommendations."""
HALF_LIVES = [{"half_life_days": days} for days in (7, 1, 2, 4, 14, 30, 60, 120)]
DAY = 86_400
ONE = 1 << 40
FACTORS = 64
MOST_ON_GPU = 2_048
"""Songs of a query that Faiss finds on a GPU at most."""


def from_index(
    index: "faiss.Index", users: NDArray[np.float32], item_id: NDArray[np.int64], faster: "faiss.Index | None" = None
) -> Recommender:
    """Search the song index for each user's embedding, float32 [n_users, d].

    Where the lists that are probed hold fewer songs than are asked for, more of them are.

    Args:
        index: on the CPU, so that several threads may ask at once.
        users: embeddings by user id.
        item_id: original ids by song id, int64 [n_songs].
        faster: the same index where many users at once are answered sooner, but not several threads.
    """
    import faiss

    by_item, lists = np.argsort(item_id), faiss.try_extract_index_ivf(index)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        queries = np.ascontiguousarray(users[user])
        scores, items = (faster if faster is not None and n <= MOST_ON_GPU else index).search(queries, n)
        probed = lists.nprobe if lists else 0
        while lists and probed < lists.nlist and (short := (items < 0).any(axis=1)).any():
            probed = min(4 * probed, lists.nlist)
            more = faiss.IVFSearchParameters()
            more.nprobe = probed
            scores[short], items[short] = index.search(queries[short], n, params=more)
        place = np.searchsorted(item_id, items, sorter=by_item).clip(max=len(item_id) - 1)
        return np.where(items >= 0, by_item[place], -1), scores

    return recommend


def popular(n_train_events: NDArray[np.integer] | NDArray[np.floating]) -> Recommender:
    """The same songs for everybody: those with the most positive train events, decayed or not, [n_songs]."""
    best = np.argsort(-n_train_events, kind="stable")

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        shape = (len(user), n)
        return np.broadcast_to(best[:n], shape), np.broadcast_to(n_train_events[best[:n]].astype(np.float32), shape)

    return recommend


def decayed_events(train: Relation, half_lives: Sequence[float], n_songs: int) -> NDArray[np.float64]:
    """Positive train events by song, each counting ½ ^ (age / half-life), float64 [n_half_lives, n_songs].

    An age is the time to the last event; an unknown one counts as the oldest. half_lives: days.
    """
    first, last = train.aggregate("coalesce(min(timestamp), 0), coalesce(max(timestamp), 0)").fetchall()[0]
    age = f"{last} - coalesce(timestamp, {first})::BIGINT"
    # Sums of floating-point numbers would depend on the order in which threads meet the rows.
    sums = [f"sum(round(pow(2, ({age}) / {-DAY * days}) * {ONE})::BIGINT)" for days in half_lives]
    rows = train.aggregate(f"song_id, {', '.join(sums)}", "song_id").fetchnumpy()
    song_id, *decayed = rows.values()
    events = np.zeros((len(half_lives), n_songs))
    events[:, song_id] = np.stack(decayed).astype(np.float64) / ONE
    return events


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
    return nearest((left * singular).astype(np.float32), right.T.astype(np.float32))


def content_based(heard: Ragged, audio: NDArray[np.float32], has_audio: NDArray[np.bool_]) -> Recommender:
    """Songs that sound like the mean of what the user has heard: inner product with unit audio [n_songs, 128].

    Songs without audio, whose rows are zeros, are no candidates and say nothing of a user.
    """
    from scipy.sparse import csr_matrix

    lengths = heard.lengths
    share = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    mean = csr_matrix((share, heard.values, heard.offsets), shape=(len(lengths), len(audio))) @ audio
    audible = np.flatnonzero(has_audio)
    search = nearest(np.ascontiguousarray(mean, np.float32), audio[audible])

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found, scores = search(user, n)
        return np.append(audible, -1)[found], scores  # −1 stays −1

    return recommend


def replay(history: History) -> Recommender:
    """Each user's own songs: those with the most positive train events, the latest played of equals first."""
    order, offsets = history.by_plays(), history.songs.offsets
    songs, n_events = history.songs.values[order], history.n_events[order].astype(np.float32)

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        place = offsets[user][:, None] + np.arange(n)
        missing = place >= offsets[user + 1][:, None]
        place[missing] = 0
        if not len(songs):
            return np.full(place.shape, -1), np.zeros(place.shape, np.float32)
        return np.where(missing, -1, songs[place]), np.where(missing, 0, n_events[place])

    return recommend


def nearest(users: NDArray[np.float32], songs: NDArray[np.float32]) -> Recommender:
    """The songs with the largest inner products, by exact search; float32 [n_users, d] and [n_songs, d]."""

    def recommend(user: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        scores, song = exact.search(users[user], songs, min(n, len(songs)))
        missing = ((0, 0), (0, n - song.shape[1]))
        return np.pad(song, missing, constant_values=-1), np.pad(scores, missing)

    return recommend
