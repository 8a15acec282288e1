"""What some users did in the test part, and what they had heard before: the pairs that metrics ask for.

Users are numbered from 0 here, whichever of all users they are, so that a scale can be measured some at a time.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.ranking import Floats, Integers

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Distinct pairs of user and song."""

    keys: NDArray[np.int64]
    """user · n_songs + song, ascending."""
    n_users: int
    n_songs: int

    @classmethod
    def of(cls, user: Integers, song: Integers, n_users: int, n_songs: int) -> Self:
        """Pairs given in any order, repeated ones taken once."""
        keys = np.sort(np.asarray(user, np.int64) * n_songs + song)
        return cls(keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]], n_users, n_songs)

    @cached_property
    def user(self) -> NDArray[np.int64]:
        """The user of each pair."""
        return self.keys // self.n_songs

    @cached_property
    def song(self) -> NDArray[np.int64]:
        """The song of each pair."""
        return self.keys % self.n_songs

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pairs of each user, int64 [n_users]."""
        return np.bincount(self.user, minlength=self.n_users)

    def places(self, recommended: Integers) -> NDArray[np.int64]:
        """Where the pair of each recommendation, int64 [n_users, k], stands; len(keys) where there is none."""
        wanted = np.arange(self.n_users)[:, None] * self.n_songs + recommended
        return np.where(recommended >= 0, self._find(wanted), len(self.keys))

    def among(self, others: "Pairs") -> Flags:
        """Which of these pairs the others hold too."""
        return others._find(self.keys) < len(others.keys)

    def _find(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(self.keys):
            return np.zeros(wanted.shape, np.int64)
        found = np.searchsorted(self.keys, wanted)
        known = self.keys[found.clip(max=len(self.keys) - 1)] == wanted
        return np.where(known, found, len(self.keys))


@dataclass(frozen=True)
class Targets:
    """What was worth finding in the test part, by one measure of worth."""

    worth: Floats
    """Of each pair, and 0 at the end for a pair that is not there."""
    order: NDArray[np.int64]
    """The pairs that are worth something, by user, a user's best pair first."""
    user: NDArray[np.int64]
    """Their users."""
    n_users: int
    _ideal: dict[int, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Pairs, worth: Floats) -> Self:
        """worth: float64 [n_pairs]; a target is worth more than 0."""
        order = np.lexsort((-worth, pairs.user))
        order = order[worth[order] > 0]
        return cls(np.append(worth, 0.0), order, pairs.user[order], pairs.n_users)

    def only(self, kept: Flags) -> "Targets":
        """These targets, less those that are not among the kept pairs, bool [n_pairs]."""
        left = kept[self.order]
        worth = np.where(np.append(kept, True), self.worth, 0.0)
        return Targets(worth, self.order[left], self.user[left], self.n_users)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Targets of each user, int64 [n_users]."""
        return np.bincount(self.user, minlength=self.n_users)

    def ideal_dcg(self, k: int) -> Floats:
        """DCG of each user's best k targets, best first, float64 [n_users]; computed once for each k."""
        if k not in self._ideal:
            first = np.cumsum(self.counts) - self.counts
            rank = np.arange(len(self.user)) - first[self.user] + 1
            gain = np.where(rank <= k, self.worth[self.order] / np.log2(rank + 1), 0.0)
            self._ideal[k] = np.bincount(self.user, gain, minlength=self.n_users).astype(np.float64)
        return self._ideal[k]


RELEVANCES = ("adjusted_relevance", "base_relevance", "listen_plus", "likes", "dislikes", "like_or_listen")


@dataclass(frozen=True)
class Truth:
    """Everything that metrics ask of some users, in one view."""

    uid: NDArray[np.int64]
    tested: NDArray[np.int64]
    """The users with any event in the test part, ascending."""
    pairs: Pairs
    """What they met in the test part."""
    targets: dict[str, Targets]
    """By RELEVANCES."""
    history: Pairs
    """What they have positive train events with."""
    usual_plays: Floats
    """Plays in train of the mean song that each has heard, NaN without any."""
    n_candidates: NDArray[np.int64]
    """Songs that can be recommended to each user."""

    @classmethod
    def of(
        cls,
        met: pl.DataFrame,
        uid: NDArray[np.int64],
        history: Pairs,
        n_plays: Floats,
        relevances: tuple[str, ...] = RELEVANCES,
    ) -> Self:
        """The truth of the view `all`.

        Args:
            met: rows of the test part of splits/ground_truth, users numbered from 0.
            uid: Yambda's id of each user.
            history: what they have positive train events with.
            n_plays: plays of each song in train.
            relevances: those that are asked for.
        """
        met = met.with_columns(like_or_listen=pl.col("likes") + pl.col("listen_plus")).sort("user_id", "song_id")
        pairs = Pairs.of(met["user_id"].to_numpy(), met["song_id"].to_numpy(), history.n_users, history.n_songs)
        if len(pairs.keys) != len(met):
            raise ValueError("splits/ground_truth: a user and song are given twice in the test part; make it anew")
        targets = {name: Targets.of(pairs, met[name].cast(pl.Float64).to_numpy()) for name in relevances}
        plays = np.bincount(history.user, n_plays[history.song], minlength=history.n_users)
        n_candidates = np.full(history.n_users, history.n_songs)
        return cls(
            uid, np.unique(pairs.user), pairs, targets, history, ranking.ratio(plays, history.counts), n_candidates
        )

    def discovery(self) -> "Truth":
        """The truth of the view `discovery`: songs heard in train are neither candidates nor targets."""
        fresh = ~self.pairs.among(self.history)
        left = {name: targets.only(fresh) for name, targets in self.targets.items()}
        return replace(self, targets=left, n_candidates=self.n_candidates - self.history.counts)
