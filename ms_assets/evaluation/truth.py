"""Truth for measuring lists: pairs of the test part, and pairs heard in train.

Users are numbered from 0 within a block of users, so that a scale can be measured block by block.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.interactions import Floats, Interactions

RELEVANCES = {
    **{name: name for name in ("adjusted_relevance", "base_relevance", "listen_plus", "likes", "dislikes")},
    "like_or_listen": "likes + listen_plus",
}
"""Relevance of a song to a user by several measures, as SQL over splits/ground_truth; a target's is above 0."""


@dataclass(frozen=True)
class Truth:
    """Truth about a block of users in one view, from which all metrics are computed."""

    uid: NDArray[np.int64]
    tested: NDArray[np.int64]
    """Users with any event in the test part, ascending, int64 [n_tested]."""
    test: Interactions
    """Pairs of the test part, with values by name of RELEVANCES."""
    history: Interactions
    """Pairs with positive train events."""
    usual_plays: Floats
    """Mean plays in train of the songs that each user has heard, NaN if there are none."""
    n_candidates: NDArray[np.int64]
    """Number of songs that can be recommended to each user."""

    @classmethod
    def of(cls, uid: NDArray[np.int64], test: Interactions, history: Interactions, n_plays: Floats) -> Self:
        """Build the truth of the view `all`; n_plays: plays of each song in train, float64 [n_songs or more]."""
        plays = np.bincount(history.user, n_plays[history.song], minlength=history.n_users)
        n_candidates = np.full(history.n_users, history.n_songs)
        return cls(uid, np.flatnonzero(test.counts), test, history, ranking.ratio(plays, history.counts), n_candidates)

    def discovery(self) -> Self:
        """Convert to the view `discovery`: songs heard in train are neither candidates nor targets."""
        n_candidates = self.n_candidates - self.history.counts
        return replace(self, test=self.test.without(self.history), n_candidates=n_candidates)
