"""Hyper-parameters chosen on the validation part, with the metric that training and evaluation use."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.ranking import Judgements
from ms_assets.retrieval.recommendations import VIEWS, Recommender, ranked
from ms_assets.vectors import Ragged

logger = logging.getLogger(__name__)

TUNING_USERS = 1_000
TUNING_K = 10
SEED = 0
LOWEST = 1e-6
"""What an NDCG of 0 counts as in a geometric mean."""
Setting = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """The setting that was best on validation, and what every setting of the grid reached."""

    setting: Setting
    trials: list[tuple[Setting, dict[str, float]]]
    """Each setting with its NDCG by view; empty where there was nothing to choose by, so that the default stays."""


@dataclass(frozen=True)
class Tuner:
    """A draw of users with something to find in the validation part."""

    users: NDArray[np.int64]
    heard: Ragged
    targets: dict[str, Judgements]
    """By view, the drawn users renumbered."""

    @classmethod
    def of(
        cls,
        user: NDArray[np.integer],
        song: NDArray[np.integer],
        relevance: NDArray[np.float64],
        heard: Ragged,
        n_songs: int,
    ) -> Self:
        """From the rows of the validation part's ground truth; heard: the songs of every user's train part."""
        relevant = relevance > 0
        some = np.unique(user[relevant])
        users = np.random.default_rng(SEED).permutation(some)[:TUNING_USERS]
        users.sort()
        chosen = relevant & np.isin(user, users)
        everything = Judgements.of(
            np.searchsorted(users, user[chosen]), song[chosen], relevance[chosen], len(users), n_songs
        )
        rows = np.isin(heard.rows(), users)
        history = Judgements.of(
            np.searchsorted(users, heard.rows()[rows]), heard.values[rows], np.ones(rows.sum()), len(users), n_songs
        )
        return cls(users.astype(np.int64), heard, {"all": everything, "discovery": everything.without(history)})

    def ndcg(self, recommender: Recommender) -> dict[str, float]:
        """Mean NDCG@10 of the drawn users by view; 0 where nobody has a target."""
        n_songs = self.targets["all"].n_songs
        songs, _ = ranked(self.users, self.heard, n_songs, recommender, TUNING_K)
        return {view: self._mean(self.targets[view], songs[row]) for row, view in enumerate(VIEWS)}

    def _mean(self, targets: Judgements, songs: NDArray[np.int64]) -> float:
        if not len(targets.keys):
            return 0.0
        return float(np.nanmean(ranking.ndcg(targets.gains(songs), ranking.dcg(targets.ideal(TUNING_K)))))

    def choose(self, grid: Sequence[Setting], make: Callable[..., Recommender], views: Sequence[str] = VIEWS) -> Tuned:
        """The setting whose recommender ranks best for the drawn users; the grid's first where nobody validates.

        The best has the highest geometric mean of the views' NDCG, so that neither view's size decides.
        """
        if not len(self.users):
            return Tuned(grid[0], [])
        trials = []
        for setting in grid:
            trials.append((setting, self.ndcg(make(**setting))))
            logger.info("%s: NDCG@%d %s", _in_words(setting), TUNING_K, _in_words(trials[-1][1]))
        reached = [sum(math.log(max(ndcg[view], LOWEST)) for view in views) for _, ndcg in trials]
        return Tuned(grid[int(np.argmax(reached))], trials)


def _in_words(numbers: Setting) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
