"""Sampling of negatives, the songs to rank below positives: a user's explicit negatives, and random songs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ms_assets.interactions import Interactions
from ms_assets.settings import TrainingSettings
from ms_assets.training.pairs import PairSet

FLAGS_AT_ONCE, FLAGS_ON_CARD = 1 << 20, 1 << 24
"""Number of pairs that are looked up in the histories at a time, on the CPU and on a card."""


@dataclass(frozen=True)
class Piece:
    """Piece of a step: positives in groups, the last of which may be short, and the negatives drawn for them."""

    edges: Tensor
    """Positive edges, int64 [n]."""
    user: Tensor
    """User of each edge, int64 [n]."""
    disliking: Tensor
    """Positions in `edges` whose users have explicit negatives, int64 [n_hard]."""
    hard: Tensor
    """Explicit negative for each of these positions, int64 [n_hard]."""
    neutral: Tensor
    """Random songs that the positives of a group share, int64 [n_groups, k]."""
    unheard: Tensor
    """Flags of the neutral negatives of its group that a user has not heard, bool [n, k]."""


@dataclass(frozen=True)
class NegativeSampler:
    """Sampler of explicit negatives per user and neutral ones per group; all draws come from one generator.

    Songs are numbered as in `songs`: graph songs keep their ids, and cold negatives follow them without gaps.
    """

    songs: Tensor
    """Ids of graph songs and cold negatives, int64; on the CPU."""
    heard: PairSet
    """Pairs of users and the songs that they heard: all positives."""
    offsets: Tensor
    """Beginning of each user's explicit negatives in `disliked`, int64 [n_users + 1]."""
    disliked: Tensor
    """Explicit negatives, user after user, int64."""
    n_graph_songs: int

    @classmethod
    def of(cls, heard: Interactions, disliked: Interactions, n_graph_songs: int, device: torch.device) -> Self:
        """Build the sampler from positives, which are of graph songs alone, and explicit negatives."""
        n, song = n_graph_songs, disliked.song
        cold = np.unique(song[song >= n])
        places = np.where(song < n, song, n + np.searchsorted(cold, song))
        songs = torch.from_numpy(np.concatenate([np.arange(n), cold]))
        keys, offsets, explicit = (
            torch.from_numpy(array).to(device) for array in (heard.keys, disliked.offsets, places)
        )
        return cls(songs, PairSet.of(keys, heard.n_songs), offsets, explicit, n)

    def pieces(
        self, edges: Tensor, user: Tensor, n: int, settings: TrainingSettings, generator: torch.Generator
    ) -> Iterator[Piece]:
        """Draw negatives for the positives of a step, and cut these into about n pieces of whole groups."""
        hard, has_hard = self.hard(user, generator)
        n_groups = math.ceil(len(edges) / settings.group_size)
        neutral = self.neutral(n_groups, settings.neutral_negatives, generator)
        groups_at_once = math.ceil(n_groups / n)
        size = groups_at_once * settings.group_size
        parts = (*(part.split(size) for part in (edges, user, hard, has_hard)), neutral.split(groups_at_once))
        for some, users, explicit, has_explicit, shared in zip(*parts, strict=True):
            disliking = has_explicit.nonzero().squeeze(1)
            unheard = self.unheard(users, shared, settings.group_size)
            yield Piece(some, users, disliking, explicit[disliking], shared, unheard)

    def unheard(self, user: Tensor, drawn: Tensor, group_size: int) -> Tensor:
        """Flags of the songs drawn for its group that a user has not heard, bool [n, k].

        Some groups at a time, for a look-up takes some twenty bytes for each flag.

        Args:
            user: users, group after group, the last of which may be short, [n].
            drawn: songs drawn for each group, int64 [n_groups, k].
            group_size: number of users in a group.
        """
        most = FLAGS_AT_ONCE if user.device.type == "cpu" else FLAGS_ON_CARD
        at_once = max(most // (group_size * drawn.shape[1]), 1)
        return torch.cat(
            [
                ~self.heard.contains(some[:, None], songs.repeat_interleave(group_size, dim=0)[: len(some)])
                for some, songs in zip(user.split(at_once * group_size), drawn.split(at_once), strict=True)
            ]
        )

    def neutral(self, n_groups: int, n: int, generator: torch.Generator) -> Tensor:
        """Random graph songs, int64 [n_groups, n]."""
        drawn = torch.randint(self.n_graph_songs, (n_groups, n), generator=generator)
        return drawn.to(self.disliked.device)

    def hard(self, user: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random explicit negative of each user, int64 [n], and flags of the users who have any, bool [n]."""
        start, count = self.offsets[user], self.offsets[user + 1] - self.offsets[user]
        if not len(self.disliked):
            return torch.zeros_like(user), torch.zeros_like(user, dtype=torch.bool)
        draw = torch.rand(len(user), generator=generator).to(user.device)
        place = start + (draw * count).long().clamp(max=(count - 1).clamp(min=0))
        return self.disliked[place.clamp(max=len(self.disliked) - 1)], count > 0
