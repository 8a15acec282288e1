"""Hyper-parameters chosen on the validation part, with the metric that training and evaluation use."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.interactions import Interactions
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.recommender import VIEWS, Rank, Recommender, ranked

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
    heard: Interactions
    """Of all users."""
    targets: dict[str, Interactions]
    """Relevance by view, the drawn users renumbered."""

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Draw users of a dataset with a validation part."""
        assert dataset.validation is not None, "tuning needs the validation part"
        relevant = dataset.validation.keep(dataset.validation.values["relevance"] > 0)
        users = np.random.default_rng(SEED).permutation(np.unique(relevant.user))[:TUNING_USERS]
        users.sort()
        everything = relevant.of_users(users)
        discovery = everything.without(dataset.heard.of_users(users))
        return cls(users, dataset.heard, {"all": everything, "discovery": discovery})

    def ndcg(self, rank: Rank) -> dict[str, float]:
        """Mean NDCG@10 of the drawn users by view; 0 where nobody has a target."""
        songs, _ = ranked(rank, self.users, self.heard, self.heard.n_songs, TUNING_K)
        return {view: self._mean(self.targets[view], songs[row]) for row, view in enumerate(VIEWS)}

    def _mean(self, targets: Interactions, songs: NDArray[np.int64]) -> float:
        if not len(targets):
            return 0.0
        ideal = targets.ideal_dcg("relevance", TUNING_K)
        return float(np.nanmean(ranking.ratio(ranking.dcg(targets.gains("relevance", songs)), ideal)))

    def choose(self, grid: Sequence[Setting], make: Callable[..., Recommender], views: Sequence[str] = VIEWS) -> Tuned:
        """The setting whose recommender ranks best for the drawn users; the grid's first where nobody validates.

        The best has the highest geometric mean of the views' NDCG, so that neither view's size decides.
        """
        if not len(self.users):
            return Tuned(grid[0], [])
        trials = []
        for setting in grid:
            trials.append((setting, self.ndcg(make(**setting).rank)))
            logger.info("%s: NDCG@%d %s", _in_words(setting), TUNING_K, _in_words(trials[-1][1]))
        reached = [sum(math.log(max(ndcg[view], LOWEST)) for view in views) for _, ndcg in trials]
        return Tuned(grid[int(np.argmax(reached))], trials)


def _in_words(numbers: Setting) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
