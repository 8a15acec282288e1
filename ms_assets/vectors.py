"""Conversion between tables and arrays: vector columns, ragged columns, and (row, value) pairs."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.streams import Relation

ROWS = 1 << 14
"""Number of vectors that are read at a time."""


def vector_column(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Read a column of equally long float lists as a float32 array [rows, dimensions].

    Raises:
        ValueError: a list is null, or lengths differ.
    """
    from pyarrow import compute

    column = table.column(name)
    if not len(column):
        return np.empty((0, 0), np.float32)
    # Chunk by chunk, for Arrow counts the values of a list column with 32 bits.
    widths = compute.unique(compute.list_value_length(column)).to_pylist()
    if column.null_count or len(widths) != 1:
        raise ValueError(f"column {name}: expected lists of one length in every row")
    vectors, n_read = np.empty((len(column), widths[0]), np.float32), 0
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        vectors[n_read : n_read + len(chunk)] = values.reshape(len(chunk), widths[0])
        n_read += len(chunk)
    return vectors


def embeddings(table: Relation, key: str) -> NDArray[np.float32]:
    """Read the column `embedding` of a table in the order of its key, float32 [rows, dimensions].

    Tables are stored in that order, so they are read some rows at a time, and sorted only where they are not: sorting
    in SQL takes three times the vectors.
    """
    keys, vectors = np.empty(len(table), np.int64), np.empty((len(table), dimensions(table)), np.float32)
    end = 0
    for batch in table.project(f"{key}, embedding").to_arrow_reader(ROWS):
        here = slice(end, end := end + len(batch))
        keys[here] = batch.column(key).to_numpy()
        vectors[here] = vector_column(pa.table(batch), "embedding")
    return vectors if (keys[1:] >= keys[:-1]).all() else vectors[np.argsort(keys, kind="stable")]


def dimensions(table: Relation) -> int:
    """Number of dimensions of the column `embedding` of a table, 0 without rows."""
    return sum(len(vector) for (vector,) in table.limit(1).project("embedding").fetchall())


def is_refitted(table: Relation) -> bool:
    """Tell whether a table of embeddings is of a refit, a training that has seen the validation part."""
    return len(table.filter("before_refit IS NOT NULL").limit(1)) > 0


def unrefitted(table: Relation, key: str) -> NDArray[np.float32]:
    """Read embeddings that have not seen the validation part: `before_refit`, or `embedding` without a refit."""
    return embeddings(table.project("* REPLACE (coalesce(before_refit, embedding) AS embedding)"), key)


def fixed_size_list(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Turn float32 [rows, dimensions] into an Arrow column that DuckDB and Polars can query."""
    flat = np.ascontiguousarray(vectors, np.float32).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def embedding_columns(
    vectors: NDArray[np.float32], before_refit: NDArray[np.float32] | None
) -> dict[str, pa.FixedSizeListArray]:
    """Columns `embedding` and `before_refit`, the latter of nulls without a refit; float32 [rows, dimensions] each."""
    if before_refit is not None:
        before = fixed_size_list(before_refit)
    else:
        before = pa.nulls(len(vectors), pa.list_(pa.float32(), vectors.shape[1]))
    return {"embedding": fixed_size_list(vectors), "before_refit": before}


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows [n, d] to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Ragged:
    """One list of integers per row, stored flat: row i holds `values[offsets[i]:offsets[i + 1]]`."""

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def from_column(cls, table: pa.Table, name: str) -> Self:
        """Read an Arrow list column; a null counts as an empty list."""
        from pyarrow import compute

        column = table.column(name).combine_chunks()
        lengths = compute.fill_null(compute.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(column.flatten().to_numpy(zero_copy_only=False).astype(np.int64), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of values in each row, int64 [rows]."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Values of some rows, list after list, and each value's position in `rows`; both int64 [n]."""
        lengths = self.lengths[rows]
        first = np.cumsum(lengths) - lengths
        place = np.repeat(np.arange(len(rows)), lengths)
        return self.values[np.arange(len(place)) + (self.offsets[rows] - first)[place]], place

    def rows(self) -> NDArray[np.int64]:
        """Row of each value, int64 [values]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)


ALIKE = 0.95
"""Length of the mean of unit vectors from which they are alike: 1 if all are equal, about 0 if they are spread."""


def effective_rank(vectors: NDArray[np.float32]) -> float:
    """Effective rank, the number of dimensions that vectors [n, d] use: e to the entropy of the principal axes' shares.

    Roy and Vetterli, The effective rank, 2007, with the eigenvalues of the second moments in place of singular values.
    """
    values = np.linalg.eigvalsh((vectors.T @ vectors).astype(np.float64))
    shares = values[values > 0] / values[values > 0].sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
