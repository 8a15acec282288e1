"""Exact search by inner product: a matrix product and a selection, for blocks of queries."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 1 << 25
"""Number of scores held at a time, 128 MiB."""


def search(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k vectors with the largest inner products for each query, largest first.

    queries: float32 [n_queries, d]; vectors: float32 [n, d], k at most n. Returns scores float32 and rows int64,
    [n_queries, k].
    """
    import torch

    by_dimension = torch.from_numpy(np.ascontiguousarray(vectors)).T
    return best(lambda some: torch.from_numpy(some) @ by_dimension, queries, len(vectors), k)


def best(
    score: Callable[[NDArray[Any]], "Tensor"], queries: NDArray[Any], n: int, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k largest of n scores of each query, as `search` does; score: float32 [n_some, n] of some queries."""
    pieces = min(-(-len(queries) * n // AT_ONCE), len(queries)) or 1
    found = [score(some).topk(k, dim=1) for some in np.array_split(queries, pieces)]
    return np.concatenate([part.values for part in found]), np.concatenate([part.indices for part in found])
