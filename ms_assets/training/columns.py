"""Columns of the embeddings that a process holds, and what it computes together with those that hold the others.

Propagation acts on each column of the embeddings alone, so that processes that train together (`ranks.py`) propagate
their columns without talking. Only sums over columns need the others: scores, lengths of vectors, and gradients of
parameters that all of them hold.
"""

from typing import Any, cast

import torch
from torch import Tensor


class Columns:
    """Columns of one of several processes, as many as each of the others holds; by default of one that holds all.

    A subclass connects the processes, which make the same calls in the same order.
    """

    def __init__(self, number: int = 0, of: int = 1) -> None:
        """Columns of a process by its number, from 0, of so many processes."""
        self.number, self.of = number, of
        self.n_bytes = 0
        """Bytes summed over the processes so far."""

    @property
    def first(self) -> bool:
        """Tell if this is the process that saves, logs, and decides where time decides."""
        return self.number == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum of x over the processes, the same in all of them; each one's x has the gradient of the sum."""
        return x if self.of == 1 else cast(Tensor, _Sum.apply(x, self))  # type: ignore[no-untyped-call]

    def norm(self, own: Tensor) -> Tensor:
        """Norms of vectors, given those of their own columns."""
        return own if self.of == 1 else self.sum(own.square()).sqrt()

    def own(self, x: Tensor, dim: int | None) -> Tensor:
        """Own columns of a tensor that has all of them along a dimension, or all of one without columns.

        Several processes get copies, for x may lie in memory that they share.
        """
        if self.of == 1:
            return x
        if dim is None:
            return x.clone()
        width = x.shape[dim] // self.of
        return x.narrow(dim, self.number * width, width).clone(memory_format=torch.contiguous_format)

    def all(self, x: Tensor, dim: int) -> Tensor:
        """All columns, in every process, of a tensor of own columns."""
        return x if self.of == 1 else torch.cat(self._collected(x.contiguous()), dim)

    def all_in_first(self, x: Tensor, dim: int) -> Tensor:
        """All columns in main memory in the first process; in the others their own, for nobody asks them for more."""
        whole = self.all(x, dim)
        return whole.cpu() if self.of > 1 and self.first else x

    def decided(self, by_first: bool) -> bool:
        """Decide as the first process does."""
        decision = torch.tensor(by_first)
        self.copy_first(decision)
        return bool(decision)

    def copy_first(self, x: Tensor) -> None:
        """Overwrite x by that of the first process."""

    def _add_up(self, x: Tensor) -> None:
        """Overwrite x, contiguous, by its sum over the processes."""

    def _collected(self, x: Tensor) -> list[Tensor]:
        """Tensors x, contiguous, of all processes in their order."""
        return [x]


WHOLE = Columns()
"""Columns of a training in one process."""


class _Sum(torch.autograd.Function):
    """Sum over processes that all go on with it in the same way, so that its gradient is that of each part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Columns) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        columns._add_up(total)
        columns.n_bytes += total.nbytes
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
