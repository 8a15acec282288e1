"""Songs to rank below the positives: a user's explicit negatives, and random songs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets.vectors import Ragged


@dataclass(frozen=True)
class NegativeSampler:
    """Draws explicit negatives per user and neutral ones per group; all draws come from one generator."""

    heard: Tensor
    """Sorted int64 keys user · n_songs + song of all positives."""
    offsets: Tensor
    """int64 [n_users + 1] into `disliked`."""
    disliked: Tensor
    """int64, the explicit negatives of each user."""
    n_songs: int
    n_graph_songs: int

    @classmethod
    def of(
        cls,
        positives: NDArray[np.int64],
        user: NDArray[np.integer],
        song: NDArray[np.integer],
        n_users: int,
        n_songs: int,
        n_graph_songs: int,
        device: torch.device,
    ) -> "NegativeSampler":
        """Build from sorted positive keys, and explicit negatives as (user, song) pairs in any order.

        n_songs counts every song that has a position, cold negatives included.
        """
        pairs = np.unique(np.stack([user, song], axis=1).astype(np.int64), axis=0)
        lists = Ragged.from_pairs(pairs[:, 0], pairs[:, 1], n_users)
        heard, offsets, disliked = (
            torch.from_numpy(array).to(device) for array in (positives, lists.offsets, lists.values)
        )
        return cls(heard, offsets, disliked, n_songs, n_graph_songs)

    def neutral(self, n_groups: int, n: int, generator: torch.Generator) -> Tensor:
        """Random graph songs, int64 [n_groups, n]."""
        drawn = torch.randint(self.n_graph_songs, (n_groups, n), generator=generator)
        return drawn.to(self.heard.device)

    def is_heard(self, user: Tensor, song: Tensor) -> Tensor:
        """Whether the user has the song among the positives; shapes broadcast."""
        keys = user * self.n_songs + song
        found = torch.searchsorted(self.heard, keys).clamp(max=len(self.heard) - 1)
        return self.heard[found] == keys

    def hard(self, user: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One explicit negative of each user, int64 [n], and whether the user has any, bool [n]."""
        start, count = self.offsets[user], self.offsets[user + 1] - self.offsets[user]
        if not len(self.disliked):
            return torch.zeros_like(user), torch.zeros_like(user, dtype=torch.bool)
        draw = torch.rand(len(user), generator=generator).to(user.device)
        place = start + (draw * count).long().clamp(max=(count - 1).clamp(min=0))
        return self.disliked[place.clamp(max=len(self.disliked) - 1)], count > 0
