"""Histories of what users heard, and the lists that they are recommended, as plain values."""

import numpy as np
import pyarrow as pa

from ms_assets.retrieval.recommendations import Audience, History

COLUMNS = ["view", "user_id", "uid", "rank", "song_id", "item_id", "score"]


def history_of(heard):
    """heard: for each user a set of songs, or the number of events and the time of the last for each song."""
    rows = [
        (user, song, *(songs[song] if isinstance(songs, dict) else (1, -1)))
        for user, songs in enumerate(heard)
        for song in sorted(songs)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return History.of(pa.table(list(columns), names=["user_id", "song_id", "n_events", "last"]), len(heard))


def audience_of(heard, n_songs):
    """heard: a set of songs for each user, or as in `history_of`."""
    uid, item_id = 10 * np.arange(len(heard)) + 3, 2**32 - 1 - 7 * np.arange(n_songs)
    return Audience(uid, item_id, n_songs, history_of(heard))


def random_histories(rng, n_users, n_songs):
    sizes = rng.choice([0, 1, 3, n_songs // 2, n_songs - 1, n_songs], n_users)
    return [set(rng.choice(n_songs, min(size, n_songs), replace=False).tolist()) for size in sizes]


def by_scores(scores):
    """Recommend by a matrix of scores, float32 [n_users, n_songs]; a NaN is never recommended."""

    def recommender(users, n):
        best = np.argsort(-scores[users], axis=1, kind="stable")[:, :n]  # NaN sorts last
        values = np.take_along_axis(scores[users], best, axis=1)
        return np.where(np.isnan(values), -1, best), values

    return recommender


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
