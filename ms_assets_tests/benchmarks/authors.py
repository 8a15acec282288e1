"""LightGCN as its authors train it (He et al., 2020, arXiv 2002.02126): what the trainer is compared with.

ID embeddings, unweighted edges, a propagation by sparse COO product with autograd in every step, BPR with one
negative, Adam. Only its sampling is vectorised, in its favour.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

DIMENSIONS, LAYERS, BATCH, RATE, DECAY = 64, 3, 2_048, 1e-3, 1e-4


class PlainLightGCN(nn.Module):
    """Users and songs of a bipartite graph, given as distinct pairs, int64 [n] each."""

    def __init__(self, user: Tensor, song: Tensor, n_users: int, n_songs: int) -> None:
        super().__init__()
        self.n_users = n_users
        self.embeddings = nn.Parameter(torch.randn(n_users + n_songs, DIMENSIONS) * 0.1)
        ends = torch.cat([torch.stack([user, song + n_users]), torch.stack([song + n_users, user])], dim=1)
        degrees = torch.bincount(ends[0], minlength=n_users + n_songs)
        values = (degrees[ends[0]] * degrees[ends[1]]).float().rsqrt()
        self.adjacency = torch.sparse_coo_tensor(ends, values, [n_users + n_songs] * 2).coalesce()

    def forward(self) -> Tensor:
        """Mean of the layers, [n_users + n_songs, d]."""
        layers = [self.embeddings]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(self.adjacency, layers[-1]))
        return torch.stack(layers).mean(dim=0)

    def loss(self, user: Tensor, song: Tensor, negative: Tensor) -> Tensor:
        """BPR of a batch, and the decay of its embeddings before propagation."""
        nodes = torch.stack([user, song + self.n_users, negative + self.n_users])
        wanting, positive, unheard = self()[nodes]
        ranking = functional.softplus((wanting * unheard).sum(dim=1) - (wanting * positive).sum(dim=1)).mean()
        return ranking + DECAY * self.embeddings[nodes].pow(2).sum() / 2 / len(user)


@dataclass(frozen=True)
class Positives:
    """Distinct pairs sorted by user, and draws as the authors make them."""

    user: NDArray[np.int64]
    song: NDArray[np.int64]
    n_users: int
    n_songs: int

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """As many (user, heard song, unheard song) as there are pairs, [3, n]: users uniformly, then their songs."""
        n, keys = len(self.user), self.user * self.n_songs + self.song
        counts = np.bincount(self.user, minlength=self.n_users)
        user = rng.choice(np.flatnonzero((counts > 0) & (counts < self.n_songs)), n)
        starts = np.cumsum(counts) - counts
        song = self.song[starts[user] + (rng.random(n) * counts[user]).astype(np.int64)]
        negative = rng.integers(self.n_songs, size=n)
        while len(heard := np.flatnonzero(np.isin(user * self.n_songs + negative, keys))):
            negative[heard] = rng.integers(self.n_songs, size=len(heard))
        return np.stack([user, song, negative])


def epochs(positives: Positives, seed: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Train for as long as the caller goes on: seconds of training so far, users [n, d] and songs [n, d]."""
    torch.manual_seed(seed)
    rng, seconds, started = np.random.default_rng(seed), 0.0, time.perf_counter()
    pairs = torch.from_numpy(positives.user), torch.from_numpy(positives.song)
    model = PlainLightGCN(*pairs, positives.n_users, positives.n_songs)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    while True:
        for batch in torch.from_numpy(positives.draw(rng)).split(BATCH, dim=1):
            optimiser.zero_grad()
            model.loss(*batch).backward()
            optimiser.step()
        seconds += time.perf_counter() - started
        with torch.no_grad():
            users, songs = model().tensor_split([positives.n_users])
        yield seconds, users, songs
        started = time.perf_counter()
