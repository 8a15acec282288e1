"""Candidates: the songs that any recommender lists for a user, once each, with the rank and score of every source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.streams import Relation

Lists = Mapping[str, Relation | None]
"""Tables of recommendations by source; None for a source that is missing."""


class Listed(NamedTuple):
    """List of one source for some users, in the order of users and ranks."""

    keys: NDArray[np.int64]
    """Keys user · n_songs + song, the users numbered from 0."""
    rank: NDArray[np.integer]
    """Ranks from 1."""
    score: NDArray[np.floating]


@dataclass(frozen=True)
class Pool:
    """Candidates of some users in one view."""

    pairs: Interactions
    """Pairs of user, numbered from the first of the range, and candidate."""
    ranks: dict[str, NDArray[np.float32]]
    """Rank from 1 in the list of each source, [n_pairs]; NaN where it does not list the song."""
    scores: dict[str, NDArray[np.float32]]
    """Scores, likewise."""

    @property
    def n_sources(self) -> NDArray[np.float32]:
        """Number of sources that list each candidate, [n_pairs]."""
        return np.sum([~np.isnan(rank) for rank in self.ranks.values()], axis=0, dtype=np.float32)

    def of_users(self, users: NDArray[np.int64]) -> Self:
        """Keep the candidates of some users; they stay numbered as they are."""
        kept = np.isin(self.pairs.user, users)
        ranks, scores = (
            {source: values[kept] for source, values in by_source.items()} for by_source in (self.ranks, self.scores)
        )
        return type(self)(self.pairs.keep(kept), ranks, scores)


def pool(
    lists: Lists, view: str, users: tuple[int, int], n_songs: int, heard: Interactions, of_late: NDArray[np.int64]
) -> Pool:
    """Unite the lists of one view for a range of users (first, last).

    A user with fewer than TOP_K candidates also gets the songs that are popular of late.

    Args:
        lists: tables of recommendations by source.
        view: the view.
        users: first and last user of the range.
        n_songs: number of songs.
        heard: pairs that the view leaves out, the users numbered from 0; no pair in `all`.
        of_late: songs in the order of their recent popularity.
    """
    return united(listed(lists, view, users, n_songs), heard, of_late)


def listed(lists: Lists, view: str, users: tuple[int, int], n_songs: int) -> dict[str, Listed]:
    """Read the lists of one view for a range of users (first, last), by source; those of a missing one are empty."""
    (first, last), found = users, {}
    for source, table in lists.items():
        found[source] = Listed(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        if table is not None:
            rows = table.filter(f"view = '{view}' AND user_id BETWEEN {first} AND {last}")
            columns = rows.project(f"user_id - {first} AS user_id, song_id, rank, score").fetchnumpy()
            keys = columns["user_id"].astype(np.int64) * n_songs + columns["song_id"]
            found[source] = Listed(keys, columns["rank"], columns["score"])
    return found


def united(found: Mapping[str, Listed], heard: Interactions, of_late: NDArray[np.int64]) -> Pool:
    """Unite lists by source, the users numbered from 0; `heard` and `of_late` as in `pool`."""
    n_users, n_songs = heard.n_users, heard.n_songs
    keys = np.unique(np.concatenate([np.empty(0, np.int64), *(source.keys for source in found.values())]))
    short = np.flatnonzero(np.bincount(keys // n_songs, minlength=n_users) < TOP_K)
    keys = np.union1d(keys, _filled(short, heard, of_late, n_songs))
    ranks, scores = ({source: np.full(len(keys), np.nan, np.float32) for source in found} for _ in range(2))
    for source, each in found.items():
        place = np.searchsorted(keys, each.keys)
        ranks[source][place], scores[source][place] = each.rank, each.score
    return Pool(Interactions(keys, n_users, n_songs), ranks, scores)


def _filled(
    users: NDArray[np.int64], heard: Interactions, of_late: NDArray[np.int64], n_songs: int
) -> NDArray[np.int64]:
    """Keys of the TOP_K songs most popular of late that each of these users has not heard."""
    keys = [np.empty(0, np.int64)]
    for user in users:
        mine = user * n_songs + of_late[: TOP_K + heard.counts[user]]
        keys.append(np.setdiff1d(mine, heard.keys, assume_unique=True)[:TOP_K])
    return np.concatenate(keys)
