"""LightGCN's propagation over the bipartite graph (He et al., 2020, arXiv 2002.02126), with edge weights.

    P x = mean over l = 0…L of Â^l x,    Â = D^-1/2 (W + I) D^-1/2,    D = rowsum(W) + 1

Nodes are the users, then the graph's songs. A sparse product is an `embedding_bag`: a CSR product with int32
indices that never holds an edges × dimensions message. With fixed weights P is linear and symmetric, so its
backward pass is the forward pass applied to the gradient, and nothing has to be kept for it.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Adjacency:
    """The symmetric sparsity pattern in CSR form: every edge stands once in its user's row, once in its song's."""

    neighbours: Tensor
    """int32 [2 n_edges], the node at the other end of each entry."""
    offsets: Tensor
    """int32 [n_nodes + 1], where each node's row begins."""
    edge: Tensor
    """int32 [2 n_edges], the edge that each entry belongs to."""
    n_nodes: int

    @classmethod
    def of(cls, user: Tensor, song: Tensor, n_users: int, n_songs: int) -> Self:
        """Build from edges, int64 [n_edges] each; several edges may join the same user and song."""
        n_nodes, n_edges = n_users + n_songs, len(user)
        source = torch.cat([user, song + n_users])
        target = torch.cat([song + n_users, user])
        order = torch.argsort(source * n_nodes + target, stable=True)
        counts = torch.bincount(source, minlength=n_nodes)
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        return cls(target[order].int(), offsets.int(), (order % n_edges).int(), n_nodes)

    def to(self, device: torch.device) -> "Adjacency":
        """The same pattern on another device."""
        return Adjacency(self.neighbours.to(device), self.offsets.to(device), self.edge.to(device), self.n_nodes)

    def multiply(self, entries: Tensor, x: Tensor) -> Tensor:
        """The product of the matrix whose non-zeros are `entries` [2 n_edges] with x [n_nodes, d]."""
        return functional.embedding_bag(
            self.neighbours,
            x,
            self.offsets,
            mode="sum",
            per_sample_weights=entries,
            include_last_offset=True,
        )

    def inverse_root_degrees(self, weights: Tensor) -> Tensor:
        """D^-1/2 as [n_nodes] for edge weights [n_edges], the self-loop of weight 1 included."""
        ends = torch.repeat_interleave(torch.arange(self.n_nodes, device=weights.device), self.offsets.diff().long())
        degrees = torch.ones(self.n_nodes, device=weights.device)
        return degrees.index_add(0, ends, weights[self.edge]).rsqrt()


class Propagation:
    """P for fixed edge weights: differentiable in x alone, and as cheap backward as forward."""

    def __init__(self, adjacency: Adjacency, weights: Tensor, n_layers: int) -> None:
        self.adjacency, self.n_layers = adjacency, n_layers
        self.entries = weights.detach()[adjacency.edge]
        self.roots = adjacency.inverse_root_degrees(weights.detach())[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """P x for x [n_nodes, d]."""
        return _SelfAdjoint.apply(x, self)

    def apply(self, x: Tensor) -> Tensor:
        """P x without a graph for autograd."""
        return _mean_of_powers(self.adjacency, self.entries, self.roots, x, self.n_layers)


class _SelfAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation) -> Tensor:
        ctx.propagation = propagation
        return propagation.apply(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.propagation.apply(gradient.contiguous()), None


def propagate_learning(adjacency: Adjacency, weights: Tensor, x: Tensor, n_layers: int) -> Tensor:
    """P x, differentiable in the edge weights [n_edges] too; keeps one [n_nodes, d] tensor per layer."""
    roots = adjacency.inverse_root_degrees(weights)[:, None]
    return _mean_of_powers(adjacency, weights[adjacency.edge], roots, x, n_layers)


def _mean_of_powers(adjacency: Adjacency, entries: Tensor, roots: Tensor, x: Tensor, n_layers: int) -> Tensor:
    # Roots of degrees stand on the nodes' rows, so that only the raw weights enter the sparse product.
    total = x
    for _ in range(n_layers):
        scaled = roots * x
        x = roots * (adjacency.multiply(entries, scaled) + scaled)
        total = total + x
    return total / (n_layers + 1)
