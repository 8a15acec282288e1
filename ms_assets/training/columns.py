"""Columns of the embeddings that a process holds, and what it computes together with those that hold the others.

Propagation acts on each column of the embeddings alone, so that processes that train together (`ranks.py`) propagate
their columns without talking. Only sums over columns need the others: scores, lengths of vectors, gradients of
parameters that all of them hold.
"""

from typing import Any

import torch
from torch import Tensor


class Columns:
    """Columns of one process that holds all of them: every sum is its own already."""

    number, of = 0, 1
    """Number of this process, from 0, and of how many."""

    @property
    def first(self) -> bool:
        """Tell if this is the process that saves, logs, and decides where time decides."""
        return self.number == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum of x over the processes, equal in all of them; each part has the gradient of the sum."""
        return x

    def norm(self, own: Tensor) -> Tensor:
        """Norms of vectors, given those of their own columns."""
        return own

    def own(self, x: Tensor, dim: int) -> Tensor:
        """Own columns of a tensor that has all of them along a dimension."""
        return x

    def all(self, x: Tensor, dim: int) -> Tensor:
        """All columns, in every process, of a tensor of own columns."""
        return x

    def all_in_first(self, x: Tensor, dim: int) -> Tensor:
        """All columns in the first process, in main memory; own columns in the others, where nobody asks for more."""
        return x

    def decided(self, by_first: bool) -> bool:
        """Decide as the first process does."""
        return by_first

    def copy_first(self, x: Tensor) -> None:
        """Overwrite x by that of the first process."""


WHOLE = Columns()
"""Columns of a training in one process."""


class Divided(Columns):
    """Columns of one of several processes, contiguous and as many as each of the others holds.

    Subclasses connect the processes, which make the same calls in the same order.
    """

    def __init__(self, number: int, of: int) -> None:
        self.number, self.of = number, of
        self.summed = 0
        """Bytes summed over the processes so far."""

    def _add_up(self, x: Tensor) -> None:
        """Overwrite x, contiguous, by its sum over the processes."""
        raise NotImplementedError

    def _collected(self, x: Tensor) -> list[Tensor]:
        """Tensors x, contiguous, of all processes in their order."""
        raise NotImplementedError

    def sum(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self)

    def norm(self, own: Tensor) -> Tensor:
        return self.sum(own.square()).sqrt()

    def own(self, x: Tensor, dim: int) -> Tensor:
        width = x.shape[dim] // self.of
        return x.narrow(dim, self.number * width, width).clone(memory_format=torch.contiguous_format)

    def all(self, x: Tensor, dim: int) -> Tensor:
        return torch.cat(self._collected(x.contiguous()), dim)

    def all_in_first(self, x: Tensor, dim: int) -> Tensor:
        whole = self.all(x, dim)
        return whole.cpu() if self.first else x


class _Sum(torch.autograd.Function):
    """Sum over processes that all go on with it in the same way, so that its gradient is that of each part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Divided) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        columns._add_up(total)
        columns.summed += total.nbytes
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
