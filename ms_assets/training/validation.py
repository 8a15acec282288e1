"""Validation during training: the leaderboard's NDCG on the validation part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets import ranking
from ms_assets.interactions import Interactions
from ms_assets.settings import TrainingSettings
from ms_assets.training.data import TrainingData

VALIDATION_K = 10
SCORES_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Validator:
    """Validator that ranks graph songs for a draw of validation users, without songs heard in train."""

    users: NDArray[np.int64]
    targets: Interactions
    heard: Interactions

    @classmethod
    def of(cls, data: TrainingData, settings: TrainingSettings, cold: bool = False) -> Self:
        """Draw validation users from those with a relevant song that they have not heard in train.

        cold: cold songs are among the targets, and will be among the songs that are ranked.
        """
        heard, known = data.graph.heard, data.graph.n_songs if cold else data.graph.n_graph_songs
        wanted = (data.targets.song < known) & (data.targets.values["relevance"] > 0)
        targets = data.targets.keep(wanted).without(heard)
        users = np.flatnonzero(targets.counts)
        if len(users) > settings.validation_users:
            drawn = np.random.default_rng(settings.seed).choice(users, settings.validation_users, replace=False)
            users = np.sort(drawn)
        return cls(users, targets.of_users(users), heard.of_users(users))

    def ndcg(self, user_embeddings: Tensor, song_embeddings: Tensor) -> float:
        """Mean NDCG of the validation users; 0 if there are none: then all epochs tie, and the last is kept."""
        if not len(self.users):
            return 0.0
        return float(np.nanmean(self.ndcg_of_users(user_embeddings, song_embeddings)))

    def ndcg_of_users(self, user_embeddings: Tensor, song_embeddings: Tensor) -> NDArray[np.float64]:
        """NDCG of each validation user, float64 [n_drawn]."""
        recommended = np.concatenate(list(self._recommend(user_embeddings, song_embeddings)))
        ideal = self.targets.ideal_dcg("relevance", recommended.shape[1])
        return ranking.ndcg(self.targets.gains("relevance", recommended), ideal)

    def _recommend(self, users: Tensor, songs: Tensor) -> Iterator[NDArray[np.int64]]:
        drawn = users[torch.from_numpy(self.users).to(users.device)]
        chunk = max(SCORES_AT_ONCE // len(songs), 1)
        for begin in range(0, len(drawn), chunk):
            scores = drawn[begin : begin + chunk] @ songs.T
            here = slice(*np.searchsorted(self.heard.user, [begin, begin + chunk]))
            heard = np.stack([self.heard.user[here] - begin, self.heard.song[here]])
            scores[tuple(torch.from_numpy(heard).to(users.device))] = -torch.inf
            yield scores.topk(min(VALIDATION_K, len(songs)), dim=1).indices.cpu().numpy()
