"""Checks of the training and its embeddings."""

from typing import Any

import dagster as dg
import numpy as np

from ms_assets.defs.platform.checks import asset_check
from ms_assets.streams import Relation
from ms_assets.vectors import ALIKE, effective_rank, embeddings

EQUAL = 1 - 1e-4
"""Length of the mean direction from which vectors count as equal: most lie within a degree of it."""
FEWEST_DIMENSIONS = 0.05
"""Least share of the dimensions that embeddings should use; the sample's use 30 to 40 % of 128."""


def _health(table: Relation, key: str, length_1: bool) -> dg.AssetCheckResult:
    vectors = embeddings(table, key)
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(vectors).all(axis=1) & (abs(norms - 1) < 1e-3 if length_1 else norms > 0)
    n_broken = int((~usable).sum())
    directions = vectors[usable] / norms[usable, None]
    n = len(directions)  # one is like no other
    sameness = float(np.linalg.norm(directions.sum(axis=0, dtype=np.float64))) / n if n > 1 else 0.0
    whole = len(vectors) > 0 and n_broken == 0 and sameness < EQUAL
    rank = effective_rank(directions) if whole else 0.0
    return dg.AssetCheckResult(
        passed=whole and sameness < ALIKE and rank >= FEWEST_DIMENSIONS * min(vectors.shape),
        severity=dg.AssetCheckSeverity.WARN if whole else dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_rows": len(vectors),
            "n_broken_vectors": n_broken,
            "length_of_mean_direction": sameness,
            "effective_rank": round(rank, 1),
            "dimensions": vectors.shape[1],
        },
    )


@asset_check(asset=["training", "user_embeddings"], blocking=True)
def user_embeddings_are_healthy(user_embeddings: Relation) -> dg.AssetCheckResult:
    """User embeddings are finite, of length 1, and not all equal; a warning if they are alike or in few dimensions."""
    return _health(user_embeddings, "user_id", length_1=True)


@asset_check(asset=["training", "song_embeddings"], blocking=True)
def song_embeddings_are_healthy(song_embeddings: Relation) -> dg.AssetCheckResult:
    """Song embeddings are finite, not zero, and not all of one direction; a warning as for those of users."""
    return _health(song_embeddings, "song_id", length_1=False)


@asset_check(asset=["training", "lightgcn"])
def training_learned(lightgcn: Any) -> dg.AssetCheckResult:
    """Training learned: the loss fell, and the kept epoch has a validation NDCG above 0."""
    losses = [epoch.loss for epoch in lightgcn.history]
    best = lightgcn.best.validation_ndcg
    return dg.AssetCheckResult(
        passed=bool(np.isfinite(losses).all() and (len(losses) == 1 or losses[-1] < losses[0]) and best > 0),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"first_loss": losses[0], "last_loss": losses[-1], "best_validation_ndcg": best},
    )


@asset_check(asset=["training", "lightgcn"], blocking=True)
def training_did_not_diverge(lightgcn: Any) -> dg.AssetCheckResult:
    """Training did not diverge: if the loss is not finite, the best epoch before is kept, and the run stops."""
    return dg.AssetCheckResult(passed=not lightgcn.diverged, description=lightgcn.diverged or None)
