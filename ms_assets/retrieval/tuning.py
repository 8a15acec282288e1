"""Tuning of recommenders: settings chosen on the validation part, by the metric of training and evaluation."""

import logging
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
TUNING_PAIRS = 1 << 20
"""Number of pairs of user and song to which trials are fitted at most, unless the drawn users have more."""
TUNING_K = 10
SEED = 0
Setting = dict[str, Any]


@dataclass(frozen=True)
class Tuned:
    """Best setting of each view on validation, and the results of every setting of the grid."""

    settings: dict[str, Setting]
    trials: list[tuple[Setting, dict[str, float]]]
    """Settings with their NDCG by view; empty if there are no validation users, so that the default stays."""
    recommenders: dict[str, Recommender]
    """Recommender of each view's setting, as its trial made it from everybody's history; empty if it saw some alone."""

    def made(self, **setting: Any) -> Recommender:
        """Recommender that the trial of a chosen setting made from everybody's history."""
        return next(self.recommenders[view] for view, chosen in self.settings.items() if chosen == setting)


@dataclass(frozen=True)
class Tuner:
    """Tuner on a draw of users with a relevant song in the validation part."""

    users: NDArray[np.int64]
    heard: Interactions
    """Pairs of all users with positive train events."""
    targets: dict[str, Interactions]
    """Relevance by view, the drawn users renumbered."""
    sample: NDArray[np.int64]
    """Users to whose histories trials are fitted: the drawn ones, and others up to TUNING_PAIRS pairs."""

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Draw users from a dataset with a validation part."""
        assert dataset.validation is not None, "tuning needs the validation part"
        relevant = dataset.validation.keep(dataset.validation.values["relevance"] > 0)
        rng = np.random.default_rng(SEED)
        drawn = rng.permutation(np.flatnonzero(relevant.counts))[:TUNING_USERS]
        sample = np.append(drawn, rng.permutation(np.setdiff1d(np.arange(dataset.heard.n_users), drawn)))
        n_within = np.searchsorted(np.cumsum(dataset.heard.counts[sample]), TUNING_PAIRS, side="right")
        sample = sample[: max(n_within, len(drawn))]
        users = np.sort(drawn)
        everything = relevant.of_users(users)
        discovery = everything.without(dataset.heard.of_users(users))
        return cls(users, dataset.heard, {"all": everything, "discovery": discovery}, sample)

    def ndcg(self, rank: Rank) -> dict[str, float]:
        """Mean NDCG@10 of the drawn users by view; 0 if no user has a target."""
        songs, _ = ranked(rank, self.users, self.heard, self.heard.n_songs, TUNING_K)
        return {
            view: float(np.nanmean(_ndcg(targets, songs[VIEWS.index(view)]))) if len(targets) else 0.0
            for view, targets in self.targets.items()
        }

    def ndcg_of_users(self, rank: Rank, view: str, k: int) -> NDArray[np.float64]:
        """NDCG@k of each drawn user in a view, float64 [n_drawn]; NaN for users without a target."""
        return self.ndcg_of_lists(self.lists(rank, view, k), view)

    def lists(self, rank: Rank, view: str, k: int) -> NDArray[np.int64]:
        """Lists of k songs of each drawn user in a view, int64 [n_drawn, k], −1 where they have ended."""
        songs, _ = ranked(rank, self.users, self.heard, self.heard.n_songs, k)
        return songs[VIEWS.index(view)]

    def ndcg_of_lists(self, songs: NDArray[np.int64], view: str) -> NDArray[np.float64]:
        """NDCG@k of each drawn user's list in a view, float64 [n_drawn]; NaN for users without a target.

        songs: lists int64 [n_drawn, k], −1 where they have ended.
        """
        return _ndcg(self.targets[view], songs)

    def choose(self, grid: Sequence[Setting], make: Callable[..., Recommender]) -> Tuned:
        """Choose for each view the setting whose recommender ranks best for the drawn users.

        The earlier setting of the grid is chosen among equals; its first if there are no users.
        """
        if not len(self.users):
            return Tuned(dict.fromkeys(VIEWS, grid[0]), [], {})
        trials: list[tuple[Setting, dict[str, float]]] = []
        best: dict[str, float] = {}
        settings: dict[str, Setting] = {}
        recommenders: dict[str, Recommender] = {}
        for setting in grid:
            recommender = make(**setting)
            ndcg = self.ndcg(recommender.rank)
            logger.info("%s: NDCG@%d %s", _in_words(setting), TUNING_K, _in_words(ndcg))
            trials.append((setting, ndcg))
            for view in VIEWS:
                if view not in best or ndcg[view] > best[view]:
                    best[view], settings[view] = ndcg[view], setting
                    if len(self.sample) == self.heard.n_users:  # others are fitted again, and take memory until then
                        recommenders[view] = recommender
            del recommender  # before the next one takes as much
        return Tuned(settings, trials, recommenders)


def _ndcg(targets: Interactions, songs: NDArray[np.int64]) -> NDArray[np.float64]:
    return ranking.ndcg(targets.gains("relevance", songs), targets.ideal_dcg("relevance", songs.shape[1]))


def _in_words(numbers: Setting) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
