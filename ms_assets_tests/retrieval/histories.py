"""Histories of what users heard, and the lists that they are recommended, as plain values."""

import numpy as np

from ms_assets.interactions import Interactions
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.recommender import Recommender

COLUMNS = ["view", "user_id", "uid", "rank", "song_id", "item_id", "score"]


def dataset_of(heard, n_songs, n_graph_songs=None, **known):
    """heard: for each user a set of songs, or the number of events and the time of the last for each song."""
    rows = [
        (user, song, *(songs[song] if isinstance(songs, dict) else (1, -1)))
        for user, songs in enumerate(heard)
        for song in sorted(songs)
    ]
    user, song, n_events, last = np.array(rows, np.int64).reshape(-1, 4).T
    uid, item_id = 10 * np.arange(len(heard)) + 3, 2**32 - 1 - 7 * np.arange(n_songs)
    pairs = Interactions.of(user, song, len(heard), n_songs, n_events=n_events, last=last)
    return Dataset(uid, item_id, n_songs if n_graph_songs is None else n_graph_songs, pairs, **known)


def random_histories(rng, n_users, n_songs):
    sizes = rng.choice([0, 1, 3, n_songs // 2, n_songs - 1, n_songs], n_users)
    return [set(rng.choice(n_songs, min(size, n_songs), replace=False).tolist()) for size in sizes]


class ByScores(Recommender):
    """Recommend by a matrix of scores, float32 [n_users, n_songs]; a NaN is never recommended."""

    def __init__(self, scores, dataset=None):
        self.scores, self.dataset = scores, dataset

    def _learn(self, dataset):
        return {}

    def rank(self, user, n):
        best = np.argsort(-self.scores[user], axis=1, kind="stable")[:, :n]  # NaN sorts last
        values = np.take_along_axis(self.scores[user], best, axis=1)
        return np.where(np.isnan(values), -1, best), values


def rows_of(table):
    assert table.column_names == COLUMNS
    return [tuple(row.values()) for row in table.to_pylist()]


def songs_of(table):
    """The lists by view and user, in the order of their ranks."""
    lists = {}
    for view, user, _, rank, song, *_ in sorted(rows_of(table), key=lambda row: row[3]):
        lists.setdefault((view, user), []).append(song)
        assert len(lists[view, user]) == rank
    return lists
