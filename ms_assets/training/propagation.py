"""Propagation of LightGCN over the bipartite graph (He et al., 2020, arXiv 2002.02126), with edge weights.

    P x = mean over l = 0…L of Â^l x,    Â = D^-1/2 (W + I) D^-1/2,    D = rowsum(W) + 1

Nodes are the users, then the graph's songs. A sparse product is one call with int32 indices that never holds a
message of edges × dimensions: `embedding_bag` on the CPU, cuSPARSE on a card. Â is symmetric: every backward pass is
again a product with Â, and with fixed weights P is its own backward pass and stores nothing for it.
"""

import warnings
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ms_assets.streams import starts

LARGEST_INT32 = 2**31 - 1
ENTRIES_AT_ONCE = 1 << 24
"""Number of entries whose gradient is computed at a time."""


class Adjacency(nn.Module):
    """Adjacency matrix's symmetric sparsity pattern in CSR form: each edge is in its user's row and in its song's."""

    user: Tensor
    """User of each edge, int32 [n_edges]."""
    song: Tensor
    """Song of each edge, int32 [n_edges]."""
    neighbours: Tensor
    """Node at the other end of each entry, int32 [2 n_edges]."""
    offsets: Tensor
    """Beginning of each node's row, int32 [n_nodes + 1]."""
    edge: Tensor
    """Edge that each entry belongs to, int32 [2 n_edges]."""

    def __init__(self, user: Tensor, song: Tensor, n_users: int, n_songs: int) -> None:
        """Build the pattern from edges, integers [n_edges] each; several edges may join the same user and song.

        Raises:
            ValueError: there are more edges than 32-bit offsets can count, 2^30.
        """
        super().__init__()
        n_edges, self.n_users, self.n_nodes = len(user), n_users, n_users + n_songs
        if 2 * n_edges > LARGEST_INT32:
            raise ValueError(f"found {n_edges:,} edges, expected {LARGEST_INT32 // 2:,} at most: leave out some users")
        users, songs = (ids.int().numpy() for ids in (user, song))
        of_users, of_songs = _in_rows(users, songs, n_users, n_songs), _in_rows(songs, users, n_songs, n_users)
        arrays = {
            "user": users,
            "song": songs,
            "neighbours": np.concatenate([of_users.neighbours + n_users, of_songs.neighbours], dtype=np.int32),
            "offsets": np.concatenate([of_users.offsets, n_edges + of_songs.offsets[1:]], dtype=np.int32),
            "edge": np.concatenate([of_users.edge, of_songs.edge]),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        rows = np.append(starts(arrays["offsets"][:-1] // ENTRIES_AT_ONCE), self.n_nodes)
        self.borders = [(row, int(arrays["offsets"][row])) for row in rows.tolist()]
        """Rows between which lie about ENTRIES_AT_ONCE entries, and the first entry of each."""

    def forward(self, entries: Tensor, x: Tensor) -> Tensor:
        """Product of the matrix whose non-zeros are `entries` [2 n_edges] with x [n_nodes, d], without a gradient."""
        return sparse_product(self.offsets, self.neighbours, entries, x)

    def gradient_of_entries(self, entries: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the product for its entries, [2 n_edges], given that of the product, [n_nodes, d].

        Some rows at a time: for all of them at once `embedding_bag` would hold two more numbers for each entry.
        """
        found = torch.empty_like(entries)
        for (first, begin), (last, end) in pairwise(self.borders):
            rows = self.offsets[first : last + 1] - begin, self.neighbours[begin:end], entries[begin:end]
            found[begin:end] = _gradient_of_entries(*rows, x, gradient[first:last])
        return found

    def inverse_root_degrees(self, weights: Tensor) -> Tensor:
        """Inverse square roots of the degrees, D^-1/2, [n_nodes] for edge weights [n_edges] and a self-loop of 1."""
        return _Degrees.apply(weights, self).rsqrt()


def sparse_product(offsets: Tensor, columns: Tensor, entries: Tensor, x: Tensor) -> Tensor:
    """Product of a sparse matrix in CSR form with x [n_columns, d], [n_rows, d]; on the CPU differentiable in entries.

    offsets: int32 [n_rows + 1]; columns int32 and entries float32 [n_entries]. x has to be contiguous on the CPU:
    `embedding_bag` takes ten times as long otherwise.
    """
    if x.is_cuda:
        return _csr(offsets, columns, entries, len(x)) @ x
    return functional.embedding_bag(
        columns, x, offsets, mode="sum", per_sample_weights=entries, include_last_offset=True
    )


def _gradient_of_entries(offsets: Tensor, columns: Tensor, entries: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of `sparse_product` for its entries, [n_entries], given that of the product, [n_rows, d]."""
    if x.is_cuda:
        return torch.sparse.sampled_addmm(_csr(offsets, columns, entries, len(x)), gradient, x.T, beta=0.0).values()
    with torch.enable_grad():
        entries = entries.detach().requires_grad_()
        product = sparse_product(offsets, columns, entries, x)
    return torch.autograd.grad(product, entries, gradient)[0]


def _csr(offsets: Tensor, columns: Tensor, entries: Tensor, n_columns: int) -> Tensor:
    """Sparse matrix [n_rows, n_columns] in CSR form; offsets [n_rows + 1], columns and entries [n_entries]."""
    with warnings.catch_warnings(action="ignore"):  # "in beta state"
        shape = len(offsets) - 1, n_columns
        return torch.sparse_csr_tensor(offsets, columns, entries, shape, check_invariants=False)


class _Rows(NamedTuple):
    """Edges in the rows of one side's nodes: neighbours and edges int32 [n_edges], offsets int32 [n_nodes + 1]."""

    neighbours: NDArray[np.int32]
    edge: NDArray[np.int32]
    offsets: NDArray[np.int32]


def _in_rows(node: NDArray[np.int32], neighbour: NDArray[np.int32], n_nodes: int, n_neighbours: int) -> _Rows:
    """Order edges by node, then neighbour, then edge: by counting, in a third of the memory of sorting them."""
    by_neighbour, _ = _counted(neighbour, n_neighbours)
    order, offsets = _counted(node[by_neighbour], n_nodes)
    edge = by_neighbour[order]
    return _Rows(neighbour[edge], edge, offsets)


def _counted(ids: NDArray[np.int32], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Order of ids below n, equal ones as they stand, int32 [n_ids], and the beginning of each, int32 [n + 1]."""
    from scipy.sparse import csr_matrix

    # One entry in each row: turning rows into columns is a counting sort.
    rows = csr_matrix((np.zeros(len(ids), np.int8), ids, np.arange(len(ids) + 1, dtype=np.int32)), (len(ids), n))
    columns = rows.tocsc()
    return columns.indices, columns.indptr


class _Degrees(torch.autograd.Function):
    """Degrees of all nodes for edge weights, added up in the order of edges; keeps nothing for the gradient."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        degrees = weights.new_ones(adjacency.n_nodes)
        degrees[: adjacency.n_users].index_add_(0, adjacency.user, weights)
        degrees[adjacency.n_users :].index_add_(0, adjacency.song, weights)
        return degrees

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        adjacency = ctx.adjacency
        of_users, of_songs = gradient.tensor_split([adjacency.n_users])
        return of_users.index_select(0, adjacency.user).add_(of_songs.index_select(0, adjacency.song)), None


class Propagation:
    """Propagation P for fixed edge weights: differentiable in x alone, and as cheap backward as forward."""

    def __init__(self, adjacency: Adjacency, weights: Tensor, n_layers: int) -> None:
        """Freeze edge weights [n_edges]."""
        self.adjacency, self.n_layers = adjacency, n_layers
        # Indexing would convert the int32 edges of all entries to int64.
        self.entries = weights.detach().index_select(0, adjacency.edge)
        self.roots = adjacency.inverse_root_degrees(weights.detach())[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """Propagate x [n_nodes, d]: P x."""
        return _SelfAdjoint.apply(x, self)

    def power_sum(self, x: Tensor) -> Tensor:
        """Compute P x by Horner's rule, without a graph for autograd; holds x and two more tensors of its size."""
        y = x.clone()
        for _ in range(self.n_layers):
            scaled = y.mul_(self.roots)
            y = self.adjacency(self.entries, scaled).add_(scaled).mul_(self.roots).add_(x)
        return y.div_(self.n_layers + 1)


class _SelfAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, propagation: Propagation) -> Tensor:
        ctx.propagation = propagation
        return propagation.power_sum(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.propagation.power_sum(gradient), None


def propagate_learning(adjacency: Adjacency, weights: Tensor, x: Tensor, n_layers: int) -> Tensor:
    """Propagate x, P x, differentiable in the edge weights [n_edges] too; keeps some [n_nodes, d] tensors a layer."""
    roots = adjacency.inverse_root_degrees(weights)[:, None]
    # `index_select` rather than indexing: its gradient adds up in a fixed order on the CPU.
    entries, y = weights.index_select(0, adjacency.edge), x
    for _ in range(n_layers):
        # Roots of degrees scale the nodes' rows, so that only the raw weights enter the sparse product.
        scaled = roots * y
        y = roots * (_Product.apply(entries, scaled, adjacency) + scaled) + x
    return y / (n_layers + 1)


class _Product(torch.autograd.Function):
    """Product W x with gradients for W and x; W is symmetric, so the gradient of x is again a product with W."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, x: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.save_for_backward(entries, x)
        ctx.adjacency = adjacency
        return adjacency(entries, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (entries, x), gradient = ctx.saved_tensors, gradient.contiguous()
        return ctx.adjacency.gradient_of_entries(entries, x, gradient), ctx.adjacency(entries, gradient), None
