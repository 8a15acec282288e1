"""Ranking metrics over arrays, one number per user, vectorised.

Validation during training and the evaluation share this code. In every function `recommended` is int64
[n_users, k], best first, −1 where there is none; the result is float64 [n_users], NaN where a metric is
undefined for a user (a recall without targets).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_assets.interactions import Flags, Floats, Integers


def dcg(gains: Floats) -> Floats:
    """Discounted cumulative gain: Σ gain / log2(rank + 1), ranks from 1 (Järvelin and Kekäläinen, 2002, linear gain).

    Equal rows have equal sums, bit for bit, which a product of matrices does not promise.
    """
    return (gains / np.log2(np.arange(gains.shape[1]) + 2)).sum(axis=1)


def ndcg(gains: Floats, ideal_dcg: Floats) -> Floats:
    """Normalised DCG: the list's DCG over that of the best possible list, `Interactions.ideal_dcg`."""
    return ratio(dcg(gains), ideal_dcg)


def recall(gains: Floats, n_targets: Integers) -> Floats:
    """Share of a user's targets that were recommended."""
    return ratio((gains > 0).sum(axis=1), n_targets)


def precision(gains: Floats, n_targets: Integers) -> Floats:
    """Share of the k places that hold a target; a place left empty holds none."""
    return np.where(n_targets > 0, (gains > 0).mean(axis=1), np.nan)


def reciprocal_rank(gains: Floats, n_targets: Integers) -> Floats:
    """Reciprocal rank of the first target, 0 where none was recommended; its mean is MRR."""
    hits = gains > 0
    found = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
    return np.where(n_targets > 0, found, np.nan)


def hit(gains: Floats, n_targets: Integers) -> Floats:
    """Hit: 1 where any target was recommended, 0 where none was."""
    return np.where(n_targets > 0, (gains > 0).any(axis=1), np.nan)


def auc(gains: Floats, n_targets: Integers, recommended: Integers, n_candidates: Integers) -> Floats:
    """Probability that a target ranks above another candidate; songs that are not recommended tie for last place.

    n_candidates: songs that could have been recommended to each user, targets included, int [n_users].
    """
    hits, shown = gains > 0, recommended >= 0
    others = n_candidates - n_targets
    others_above = np.cumsum(shown & ~hits, axis=1)
    won = ((others[:, None] - others_above) * hits).sum(axis=1)
    tied = (n_targets - hits.sum(axis=1)) * (others - (shown & ~hits).sum(axis=1))
    return ratio(won + tied / 2, n_targets * others)


def novelty(heard: Flags, recommended: Integers) -> Floats:
    """Share of the recommendations that the user has not heard; `heard` is not 0 where they have."""
    shown = recommended >= 0
    return ratio((shown & (heard == 0)).sum(axis=1), shown.sum(axis=1))


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Numerator over denominator, NaN where the denominator is not above 0."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)
