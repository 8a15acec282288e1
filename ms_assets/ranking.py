"""Ranking metrics over arrays, one number per user, vectorised.

Training validates with the very code that evaluation reports with. Everywhere: `recommended` is int64
[n_users, k], best first, −1 where there is none; a result is float64 [n_users], NaN where a metric has no
meaning for a user (a recall without targets).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Judgements:
    """What songs were worth to users: a sparse matrix [n_users, n_songs] of positive relevances."""

    keys: NDArray[np.int64]
    """user · n_songs + song, ascending, each once."""
    relevance: Floats
    n_users: int
    n_songs: int

    @classmethod
    def of(cls, user: Integers, song: Integers, relevance: Floats, n_users: int, n_songs: int) -> Self:
        """Build from distinct (user, song) pairs in any order; pairs without relevance are dropped.

        Raises:
            ValueError: a pair is given twice, or an id is out of range.
        """
        relevance = np.asarray(relevance, np.float64)
        if len(user) and not (0 <= user.min() <= user.max() < n_users and 0 <= song.min() <= song.max() < n_songs):
            raise ValueError(f"judgements: expected users below {n_users} and songs below {n_songs}")
        keys = np.asarray(user, np.int64) * n_songs + np.asarray(song, np.int64)
        order = np.argsort(keys, kind="stable")
        keys, relevance = keys[order], relevance[order]
        if (keys[1:] == keys[:-1]).any():
            raise ValueError("judgements: a user and song are given twice")
        return cls(keys[relevance > 0], relevance[relevance > 0], n_users, n_songs)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Relevant songs of each user, int64 [n_users]."""
        return np.bincount(self.keys // self.n_songs, minlength=self.n_users)

    def without(self, others: "Judgements") -> "Judgements":
        """These judgements, less the pairs that the others hold too."""
        kept = ~np.isin(self.keys, others.keys, assume_unique=True)
        return Judgements(self.keys[kept], self.relevance[kept], self.n_users, self.n_songs)

    def gains(self, recommended: Integers) -> Floats:
        """The relevance of each recommendation, 0 where it has none, float64 [n_users, k]."""
        wanted = np.arange(self.n_users)[:, None] * self.n_songs + recommended
        if not len(self.keys):
            return np.zeros(recommended.shape)
        found = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[found] == wanted) & (recommended >= 0), self.relevance[found], 0.0)

    def ideal(self, k: int) -> Floats:
        """The gains of the best possible ranking, float64 [n_users, k]."""
        user = self.keys // self.n_songs
        order = np.lexsort((-self.relevance, user))
        place = np.arange(len(user)) - np.concatenate([[0], np.cumsum(self.counts)])[user]
        best = np.zeros((self.n_users, k))
        shown = place < k
        best[user[shown], place[shown]] = self.relevance[order][shown]
        return best


def dcg(gains: Floats) -> Floats:
    """Σ gain / log2(rank + 1), ranks from 1 (Järvelin and Kekäläinen, 2002, with linear gain)."""
    return gains @ (1 / np.log2(np.arange(gains.shape[1]) + 2))


def ndcg(gains: Floats, ideal_dcg: Floats) -> Floats:
    """DCG over that of the best possible list; `Interactions.ideal_dcg` computes the latter."""
    return ratio(dcg(gains), ideal_dcg)


def recall(gains: Floats, n_targets: Integers) -> Floats:
    """Share of a user's targets that were recommended."""
    return ratio((gains > 0).sum(axis=1), n_targets)


def precision(gains: Floats, n_targets: Integers) -> Floats:
    """Share of the k places that hold a target; a place left empty holds none."""
    return np.where(n_targets > 0, (gains > 0).mean(axis=1), np.nan)


def reciprocal_rank(gains: Floats, n_targets: Integers) -> Floats:
    """1 / rank of the first target, 0 where none was recommended; its mean is MRR."""
    hits = gains > 0
    found = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
    return np.where(n_targets > 0, found, np.nan)


def hit(gains: Floats, n_targets: Integers) -> Floats:
    """1 where any target was recommended, 0 where none was."""
    return np.where(n_targets > 0, (gains > 0).any(axis=1), np.nan)


def auc(gains: Floats, n_targets: Integers, recommended: Integers, n_candidates: Integers) -> Floats:
    """Chance that a target ranks above another candidate, when all that is not recommended ties for last.

    n_candidates: songs that could have been recommended to each user, targets included, int [n_users].
    """
    hits, shown = gains > 0, recommended >= 0
    others = n_candidates - n_targets
    others_above = np.cumsum(shown & ~hits, axis=1)
    won = ((others[:, None] - others_above) * hits).sum(axis=1)
    tied = (n_targets - hits.sum(axis=1)) * (others - (shown & ~hits).sum(axis=1))
    return ratio(won + tied / 2, n_targets * others)


def novelty(heard: NDArray, recommended: Integers) -> Floats:
    """Share of the recommendations that the user has not heard; `heard` is not 0 where they have."""
    shown = recommended >= 0
    return ratio((shown & (heard == 0)).sum(axis=1), shown.sum(axis=1))


def ratio(numerator: NDArray, denominator: NDArray) -> Floats:
    """One over the other, NaN where that is not above 0."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)
