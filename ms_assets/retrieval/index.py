"""The Faiss index over song embeddings: exact while that is cheap, inverted lists beyond, recall measured."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

EXACT_UP_TO = 100_000
"""Catalogues of at most so many songs are searched exhaustively."""
POINTS_PER_LIST = 64
RECALL_AT = 100
TARGET_RECALL = 0.98
RECALL_QUERIES = 500


@dataclass(frozen=True)
class SongIndex:
    """An index whose ids are original item ids, and how often it finds what exact search finds."""

    index: "faiss.Index"
    kind: str
    recall: float


def build(
    vectors: NDArray[np.float32],
    item_id: NDArray[np.int64],
    queries: NDArray[np.float32],
    exact_up_to: int = EXACT_UP_TO,
) -> SongIndex:
    """Index unit vectors float32 [n, d] by inner product.

    Inverted lists number about √n, and as many of them are probed as reach a recall@100 of 0.98 on a draw of
    the queries float32 [n_queries, d].
    """
    import faiss

    n, dimensions = vectors.shape
    flat = faiss.IndexFlatIP(dimensions)
    if n <= exact_up_to:
        exact = faiss.IndexIDMap2(flat)
        exact.add_with_ids(vectors, item_id)
        return SongIndex(exact, "Flat", 1.0)
    n_lists = round(n**0.5)
    index = faiss.IndexIVFFlat(flat, dimensions, n_lists, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    index.train(vectors[rng.choice(n, min(n, POINTS_PER_LIST * n_lists), replace=False)])
    index.add_with_ids(vectors, item_id)
    drawn = queries[rng.choice(len(queries), min(len(queries), RECALL_QUERIES), replace=False)]
    _, rows = faiss.knn(drawn, vectors, RECALL_AT, metric=faiss.METRIC_INNER_PRODUCT)
    recall = 0.0
    while recall < TARGET_RECALL and index.nprobe < n_lists:
        index.nprobe = min(2 * index.nprobe, n_lists)
        recall = recall_at(index, drawn, item_id[rows])
        logger.info("%d of %d lists probed: recall@%d %.4f", index.nprobe, n_lists, RECALL_AT, recall)
    return SongIndex(index, f"IVF{n_lists},Flat nprobe={index.nprobe}", recall)


def recall_at(index: "faiss.Index", queries: NDArray[np.float32], exact: NDArray[np.int64]) -> float:
    """Share of the exact results, ids int64 [n_queries, k], that the index finds among its first k."""
    _, found = index.search(queries, exact.shape[1])
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return float(np.sum(hits) / exact.size)
