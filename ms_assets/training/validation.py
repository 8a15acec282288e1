"""How good embeddings are while they are trained: the leaderboard's NDCG on the validation part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets import ranking
from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings

VALIDATION_K = 10
SCORES_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Validator:
    """Ranks graph songs for a draw of validation users, songs heard in train left out."""

    users: NDArray[np.int64]
    targets: Judgements
    heard: Judgements

    @classmethod
    def of(
        cls, validation: Judgements, heard: Judgements, settings: TrainingSettings, n_graph_songs: int
    ) -> "Validator":
        """Draw the users among those with something new to find in the graph."""
        user, song = np.divmod(validation.keys, validation.n_songs)
        reachable = song < n_graph_songs
        targets = Judgements.of(
            user[reachable],
            song[reachable],
            validation.relevance[reachable],
            validation.n_users,
            n_graph_songs,
        ).without(heard)
        users = np.flatnonzero(targets.counts)
        if len(users) > settings.validation_users:
            drawn = np.random.default_rng(settings.seed).choice(users, settings.validation_users, replace=False)
            users = np.sort(drawn)
        return cls(users, _rows(targets, users), _rows(heard, users))

    def ndcg(self, user_embeddings: Tensor, song_embeddings: Tensor) -> float:
        """Mean NDCG; 0 when there is nothing to validate with: then all epochs tie, and the last is kept."""
        if not len(self.users):
            return 0.0
        recommended = np.concatenate(list(self._recommend(user_embeddings, song_embeddings)))
        per_user = ranking.ndcg(self.targets.gains(recommended), self.targets.ideal(recommended.shape[1]))
        return float(np.nanmean(per_user))

    def _recommend(self, users: Tensor, songs: Tensor) -> Iterator[NDArray[np.int64]]:
        wanting = users[torch.from_numpy(self.users).to(users.device)]
        heard_user, heard_song = np.divmod(self.heard.keys, self.heard.n_songs)
        chunk = max(SCORES_AT_ONCE // len(songs), 1)
        for begin in range(0, len(wanting), chunk):
            scores = wanting[begin : begin + chunk] @ songs.T
            here = slice(*np.searchsorted(heard_user, [begin, begin + chunk]))
            rows = torch.from_numpy(heard_user[here] - begin).to(users.device)
            scores[rows, torch.from_numpy(heard_song[here]).to(users.device)] = -torch.inf
            yield scores.topk(min(VALIDATION_K, len(songs)), dim=1).indices.cpu().numpy()


def _rows(judgements: Judgements, users: NDArray[np.int64]) -> Judgements:
    """The judgements of these users alone, renumbered in this order (ascending)."""
    user, song = np.divmod(judgements.keys, judgements.n_songs)
    chosen = np.isin(user, users)
    return Judgements.of(
        np.searchsorted(users, user[chosen]),
        song[chosen],
        judgements.relevance[chosen],
        len(users),
        judgements.n_songs,
    )
