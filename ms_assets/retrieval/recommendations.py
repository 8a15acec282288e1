"""From ranked candidates to the one table that every recommender gives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.vectors import Ragged

TOP_K = 100
VIEWS = ("all", "discovery")
USERS_AT_ONCE = 256

Recommender = Callable[[NDArray[np.int64], int], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Given user ids [b] and n: the n best songs of each, best first, as song ids int64 [b, n] (−1 where there is
none) and scores float32 [b, n]. What a user has heard is among them."""


@dataclass(frozen=True)
class History:
    """What users have positive train events with: the songs of each user, and two numbers for each of those."""

    songs: Ragged
    n_events: NDArray[np.int64]
    last: NDArray[np.int64]
    """Time of the last event, seconds; −1 where no time is known."""

    @classmethod
    def of(cls, rows: pa.Table, n_users: int) -> "History":
        """From rows user_id, song_id, n_events, last, each pair once, sorted by user and song."""
        user, song, n_events, last = (rows[name].to_numpy() for name in ("user_id", "song_id", "n_events", "last"))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))])
        return cls(Ragged(song.astype(np.int64), offsets), n_events, last)

    def keep(self, kept: NDArray[np.bool_]) -> "History":
        """The same users with some of their pairs."""
        rows = self.songs.rows()[kept]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self.songs.lengths)))])
        return History(Ragged(self.songs.values[kept], offsets), self.n_events[kept], self.last[kept])

    def by_plays(self) -> NDArray[np.int64]:
        """Positions of the pairs by user, each user's most played first, the latest played of equals."""
        return np.lexsort((self.songs.values, -self.last, -self.n_events, self.songs.rows()))


@dataclass(frozen=True)
class Audience:
    """Who is recommended to: original ids by dense id, and what each user has positive train events with."""

    uid: NDArray[np.int64]
    item_id: NDArray[np.int64]
    n_graph_songs: int
    """Songs with a train event, which come first; the others are cold."""
    history: History


def recommend(audience: Audience, recommender: Recommender, k: int = TOP_K) -> pa.Table:
    """Rank k songs for every user in both views: view, user_id, uid, rank, song_id, item_id, score."""
    songs, scores = ranked(np.arange(len(audience.uid)), audience.history.songs, len(audience.item_id), recommender, k)
    return _table(audience, songs, scores)


def ranked(
    wanted: NDArray[np.int64], heard: Ragged, n_songs: int, recommender: Recommender, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best songs of the wanted users [n] in both views: song ids int64, scores float32 [views, n, k].

    `all` takes the best; `discovery` the best that the user has not heard, for which candidates are fetched in
    excess of what the user has heard. Where fewer songs are left there is −1.
    """
    songs = np.full((len(VIEWS), len(wanted), k), -1, np.int64)
    scores = np.zeros((len(VIEWS), len(wanted), k), np.float32)
    n_heard = heard.lengths[wanted]
    # Users with similar histories together, so that nobody fetches much more than they need.
    order = np.argsort(n_heard, kind="stable")
    for begin in range(0, len(wanted), USERS_AT_ONCE):
        rows = order[begin : begin + USERS_AT_ONCE]
        candidates, values = recommender(wanted[rows], min(k + int(n_heard[rows].max()), n_songs))
        known = _is_heard(heard, wanted[rows], candidates, n_songs)
        for view, excluded in enumerate((np.zeros_like(known), known)):
            chosen = _first(excluded | (candidates < 0), k)
            width = chosen.shape[1]
            kept = ~np.take_along_axis(excluded, chosen, axis=1)
            songs[view, rows, :width] = np.where(kept, np.take_along_axis(candidates, chosen, axis=1), -1)
            scores[view, rows, :width] = np.take_along_axis(values, chosen, axis=1)
    return songs, scores


def _is_heard(
    heard: Ragged, users: NDArray[np.int64], candidates: NDArray[np.int64], n_songs: int
) -> NDArray[np.bool_]:
    songs, row = heard.take(users)
    keys = row * n_songs + songs
    return np.isin(np.arange(len(users))[:, None] * n_songs + candidates, keys) & (candidates >= 0)


def _first(excluded: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Positions of the first k that are not excluded, in order; excluded ones fill up where too few are left."""
    return np.argsort(excluded, axis=1, kind="stable")[:, :k]


def _table(audience: Audience, songs: NDArray[np.int64], scores: NDArray[np.float32]) -> pa.Table:
    view, user, place = np.nonzero(songs >= 0)
    song = songs[view, user, place]
    return pa.table(
        {
            "view": pa.array(np.array(VIEWS, dtype=object)[view], pa.string()),
            "user_id": user.astype(np.int32),
            "uid": audience.uid[user],
            "rank": (place + 1).astype(np.int32),
            "song_id": song.astype(np.int32),
            "item_id": audience.item_id[song],
            "score": scores[view, user, place],
        }
    )
