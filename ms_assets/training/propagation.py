"""LightGCN's propagation over the bipartite graph (He et al., 2020, arXiv 2002.02126), with edge weights.

    P x = mean over l = 0…L of Â^l x,    Â = D^-1/2 (W + I) D^-1/2,    D = rowsum(W) + 1

Nodes are the users, then the graph's songs. A sparse product is one call with int32 indices that never holds an
edges × dimensions message. Â is symmetric: every backward pass is a product with Â again, and with fixed weights
P is its own backward pass and keeps nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional


def embedding_bag_product(adjacency: "Adjacency", entries: Tensor, x: Tensor) -> Tensor:
    """The sparse product as a weighted sum of rows: the fastest on CPUs, and differentiable in the entries."""
    return functional.embedding_bag(
        adjacency.neighbours, x, adjacency.offsets, mode="sum", per_sample_weights=entries, include_last_offset=True
    )


def csr_product(adjacency: "Adjacency", entries: Tensor, x: Tensor) -> Tensor:
    """The sparse product by the vendor's library."""
    shape = (adjacency.n_nodes, adjacency.n_nodes)
    return torch.sparse_csr_tensor(adjacency.offsets, adjacency.neighbours, entries, shape, check_invariants=False) @ x


Product = Callable[["Adjacency", Tensor, Tensor], Tensor]
LARGEST_INT32 = 2**31 - 1
TRIALS = 5


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
    product: "Product" = embedding_bag_product

    @classmethod
    def of(cls, user: Tensor, song: Tensor, n_users: int, n_songs: int) -> Self:
        """Build from edges, int64 [n_edges] each; several edges may join the same user and song.

        Raises:
            ValueError: more edges than 32-bit offsets can count, 2^30.
        """
        n_nodes, n_edges = n_users + n_songs, len(user)
        if 2 * n_edges > LARGEST_INT32:
            raise ValueError(f"found {n_edges:,} edges, expected {LARGEST_INT32 // 2:,} at most: leave out some users")
        source = torch.cat([user, song + n_users])
        target = torch.cat([song + n_users, user])
        order = torch.argsort(source * n_nodes + target, stable=True)
        counts = torch.bincount(source, minlength=n_nodes)
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        return cls(target[order].int(), offsets.int(), (order % n_edges).int(), n_nodes)

    def to(self, device: torch.device) -> "Adjacency":
        """The same pattern on another device."""
        arrays = {name: getattr(self, name).to(device) for name in ("neighbours", "offsets", "edge")}
        return replace(self, **arrays)

    def multiply(self, entries: Tensor, x: Tensor) -> Tensor:
        """The product of the matrix whose non-zeros are `entries` [2 n_edges] with x [n_nodes, d]."""
        return self.product(self, entries, x)

    def inverse_root_degrees(self, weights: Tensor) -> Tensor:
        """D^-1/2 as [n_nodes] for edge weights [n_edges], the self-loop of weight 1 included."""
        ends = torch.repeat_interleave(torch.arange(self.n_nodes, device=weights.device), self.offsets.diff().long())
        degrees = torch.ones(self.n_nodes, device=weights.device)
        return degrees.index_add(0, ends, weights[self.edge]).rsqrt()


@dataclass(frozen=True)
class Noise:
    """What XSimGCL adds to each layer (Yu et al., 2022, arXiv 2209.02544): a step of length `size` from every node.

    Its direction is random, within the orthant of the node's own vector.
    """

    size: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """The steps for x [n_nodes, d]."""
        drawn = torch.rand(x.shape, generator=self.generator, device=x.device)
        return self.size * x.sign() * functional.normalize(drawn, dim=1)


class Propagation:
    """P for fixed edge weights: differentiable in x alone, and as cheap backward as forward."""

    def __init__(
        self, adjacency: Adjacency, weights: Tensor, n_layers: int, precision: torch.dtype = torch.float32
    ) -> None:
        """Take edge weights [n_edges]; products run in `precision`, sums over layers in that of x."""
        self.adjacency, self.n_layers, self.precision = adjacency, n_layers, precision
        self.entries = weights.detach()[adjacency.edge].to(precision)
        self.roots = adjacency.inverse_root_degrees(weights.detach())[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """P x for x [n_nodes, d]."""
        return _SelfAdjoint.apply(x, self)

    def noisy(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """P x with noise on every layer, and the first of these layers; both [n_nodes, d]."""
        return _NoisySelfAdjoint.apply(x, self, noise)

    def power_sum(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """P x + Â · first, by Horner's rule and without a graph for autograd; holds x and two more of its size."""
        y = x.clone()
        for power in range(self.n_layers, 0, -1):
            if power == 1 and first is not None:
                y.add_(first, alpha=self.n_layers + 1)
            y = self.step_(y).add_(x)
        return y.div_(self.n_layers + 1)

    def step_(self, x: Tensor) -> Tensor:
        """Â x; overwrites x."""
        scaled = x.mul_(self.roots).to(self.precision)
        return self.adjacency.multiply(self.entries, scaled).add_(scaled).to(x.dtype).mul_(self.roots)


class _SelfAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation) -> Tensor:
        ctx.propagation = propagation
        return propagation.power_sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.propagation.power_sum(gradient), None


class _NoisySelfAdjoint(torch.autograd.Function):
    """Noise shifts layers without depending on x (but by a sign), so the gradient passes as if there were none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation, noise: Noise) -> tuple[Tensor, Tensor]:
        ctx.propagation = propagation
        return _noisy_layers(lambda y: propagation.step_(y.clone()), x, propagation.n_layers, noise)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, first: Tensor) -> tuple[Tensor, None, None]:
        return ctx.propagation.power_sum(gradient, first), None, None


def propagate_learning(adjacency: Adjacency, weights: Tensor, x: Tensor, n_layers: int) -> Tensor:
    """P x, differentiable in the edge weights [n_edges] too; keeps two [n_nodes, d] tensors per layer."""
    step, y = _learning_step(adjacency, weights), x
    for _ in range(n_layers):
        y = step(y) + x
    return y / (n_layers + 1)


def propagate_learning_noisy(
    adjacency: Adjacency, weights: Tensor, x: Tensor, n_layers: int, noise: Noise
) -> tuple[Tensor, Tensor]:
    """`Propagation.noisy`, differentiable in the edge weights [n_edges] too."""
    return _noisy_layers(_learning_step(adjacency, weights), x, n_layers, noise)


def _learning_step(adjacency: Adjacency, weights: Tensor) -> Callable[[Tensor], Tensor]:
    roots = adjacency.inverse_root_degrees(weights)[:, None]
    # `index_select` rather than indexing: its gradient adds up in a fixed order on the CPU.
    entries = weights.index_select(0, adjacency.edge)

    def step(x: Tensor) -> Tensor:
        # Roots of degrees stand on the nodes' rows, so that only the raw weights enter the sparse product.
        scaled = roots * x
        return roots * (_Product.apply(entries, scaled, adjacency) + scaled)

    return step


def _noisy_layers(step: Callable[[Tensor], Tensor], x: Tensor, n_layers: int, noise: Noise) -> tuple[Tensor, Tensor]:
    total = first = y = x
    for layer in range(n_layers):
        y = step(y)
        y = y + noise(y.detach())
        first = y if layer == 0 else first
        total = total + y
    return total / (n_layers + 1), first.clone()


class _Product(torch.autograd.Function):
    """W x with gradients for both: W is symmetric, so that of x is a product again."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, x: Tensor, adjacency: Adjacency) -> Tensor:
        with torch.enable_grad():
            ctx.entries = entries.detach().requires_grad_()
            ctx.product = embedding_bag_product(adjacency, ctx.entries, x.detach())
        ctx.adjacency = adjacency
        return ctx.product.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradient.contiguous()
        (of_entries,) = torch.autograd.grad(ctx.product, ctx.entries, gradient)
        return of_entries, ctx.adjacency.multiply(ctx.entries.detach(), gradient), None


def fastest_product(adjacency: Adjacency, x: Tensor) -> Product:
    """Which product is faster on this graph, on the device and in the precision of x [n_nodes, d].

    Always the same on the CPU, where the clock must not decide which bits come out, and where `embedding_bag` has
    won wherever it was measured (docs/benchmarks.md).
    """
    if not x.is_cuda:
        return embedding_bag_product
    entries = torch.ones(len(adjacency.edge), dtype=x.dtype, device=x.device)
    seconds = {}
    for product in (embedding_bag_product, csr_product):
        product(adjacency, entries, x)
        torch.cuda.synchronize(x.device)
        started = time.perf_counter()
        for _ in range(TRIALS):
            product(adjacency, entries, x)
        torch.cuda.synchronize(x.device)
        seconds[product] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)
