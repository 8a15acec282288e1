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
class Audience:
    """Who is recommended to: original ids by dense id, and what each user has positive train events with."""

    uid: NDArray[np.int64]
    item_id: NDArray[np.int64]
    heard: Ragged


def recommend(audience: Audience, recommender: Recommender, k: int = TOP_K) -> pa.Table:
    """Rank k songs for every user in both views: view, user_id, uid, rank, song_id, item_id, score.

    `all` takes the best; `discovery` the best that the user has not heard, for which candidates are fetched in
    excess of what the user has heard. A user for whom fewer songs are left gets fewer rows.
    """
    n_users, n_songs = len(audience.uid), len(audience.item_id)
    songs = np.full((len(VIEWS), n_users, k), -1, np.int64)
    scores = np.zeros((len(VIEWS), n_users, k), np.float32)
    n_heard = audience.heard.lengths
    # Users with similar histories together, so that nobody fetches much more than they need.
    order = np.argsort(n_heard, kind="stable")
    for begin in range(0, n_users, USERS_AT_ONCE):
        users = order[begin : begin + USERS_AT_ONCE]
        candidates, values = recommender(users, min(k + int(n_heard[users].max()), n_songs))
        known = _is_heard(audience.heard, users, candidates, n_songs)
        for view, excluded in enumerate((np.zeros_like(known), known)):
            chosen = _first(excluded | (candidates < 0), k)
            width = chosen.shape[1]
            kept = ~np.take_along_axis(excluded, chosen, axis=1)
            songs[view, users, :width] = np.where(kept, np.take_along_axis(candidates, chosen, axis=1), -1)
            scores[view, users, :width] = np.take_along_axis(values, chosen, axis=1)
    return _table(audience, songs, scores)


def _is_heard(
    heard: Ragged, users: NDArray[np.int64], candidates: NDArray[np.int64], n_songs: int
) -> NDArray[np.bool_]:
    lengths = heard.lengths[users]
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    songs = heard.values[np.repeat(heard.offsets[users], lengths) + place]
    keys = np.repeat(np.arange(len(users)), lengths) * n_songs + songs
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
