"""Truncated SVD of a sparse matrix by randomised subspace iteration (Halko et al., 2011, arXiv 0909.4061)."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ms_assets.training.propagation import sparse_product

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

OVERSAMPLING = 16
"""Number of vectors that are iterated beside those that are wanted."""
ROWS_AT_ONCE = 1 << 16


def truncated_svd(matrix: "csr_matrix", rank: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Largest singular values of a matrix [n, m], with their vectors: U Σ [n, rank], Σ [rank] and V Σ [m, rank].

    Vectors are made orthonormal on the smaller side alone, and go through the larger one by products with the matrix:
    QR of the larger side would take most of the time. Seven iterations, four where a tenth of all values is wanted.

    Args:
        matrix: float32; its indices int32.
        rank: number of values, at most the smaller side of the matrix.
        seed: of the random vectors to begin with.
        device: where it is computed; results are on the CPU, float32.
    """
    by_row, by_column = (_on(device, in_rows) for in_rows in (matrix, matrix.tocsc()))  # both for products by rows
    rows_are_fewer = matrix.shape[0] <= matrix.shape[1]
    to_fewer, to_more = (by_row, by_column) if rows_are_fewer else (by_column, by_row)
    n_fewer, n_more = sorted(matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_more, min(rank + OVERSAMPLING, n_fewer), generator=generator).to(device)
    for _ in range(7 if rank < 0.1 * n_fewer else 4):
        x = sparse_product(*to_more, _orthonormal(sparse_product(*to_fewer, x)))
    of_fewer = _orthonormal(sparse_product(*to_fewer, x))
    del x  # what follows takes as much twice
    of_more = sparse_product(*to_more, of_fewer)
    # of_more = V Σ Wᵀ, so W are the eigenvectors of its Gram matrix, and Σ² the eigenvalues.
    squares, rotation = (part.float().flip(-1)[..., :rank] for part in torch.linalg.eigh(_gram(of_more)))
    values, rotation = squares.clamp(min=0).sqrt(), rotation.to(device)
    fewer, more = (of_fewer @ rotation).cpu() * values, (of_more @ rotation).cpu()
    return (fewer, values, more) if rows_are_fewer else (more, values, fewer)


def _on(device: torch.device, in_rows: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, columns and entries of a matrix in CSR form, or rows, of one in CSC form, on a device."""
    offsets, columns, entries = (
        torch.from_numpy(x).to(device) for x in (in_rows.indptr, in_rows.indices, in_rows.data)
    )
    return offsets, columns, entries


def _orthonormal(x: Tensor) -> Tensor:
    """Orthonormal columns that span those of x; row after row in memory, as products read them."""
    return torch.linalg.qr(x).Q.contiguous()


def _gram(x: Tensor) -> Tensor:
    """Products of the columns of x [n, d], float64 [d, d] on the CPU: float32 would lose squares of small values."""
    return torch.stack([(some.T @ some).cpu() for some in map(Tensor.double, x.split(ROWS_AT_ONCE))]).sum(dim=0)
