"""Cold songs in ranked lists where hardly anybody took to one in the validation part: rankers learned nothing of them.

Songs that appear in the test part alone are candidates before, and not relevant: trees put them last, whatever they
are worth. Such songs keep the places of LightGCN's list, which was calibrated for them, and the ranker orders the rest.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

PLACED_BY = ("lightgcn_replay", "lightgcn")
"""Sources that place cold songs; the second one for users for whom the first lists nothing."""


def places(
    ranks: Mapping[str, NDArray[np.float32]], cold: NDArray[np.bool_], user: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Ranks that cold candidates keep, float32 [n]; NaN for others.

    Args:
        ranks: rank of each candidate by source, NaN where it does not list the song.
        cold: flags of candidates without a listener in the train part, [n].
        user: user of each candidate, [n].
    """
    place, is_placed = np.full(len(cold), np.nan, np.float32), np.zeros(len(cold), np.bool_)
    for rank in (ranks[source] for source in PLACED_BY if source in ranks):
        place = np.where(is_placed, place, rank)
        is_placed |= np.isin(user, user[~np.isnan(rank)])
    return np.where(cold, place, np.float32(np.nan))


def kept(
    best: NDArray[np.int64], user: NDArray[np.int64], place: NDArray[np.float32], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Move the candidates that keep a place there, and let the others close up around them in their order.

    Args:
        best: candidates in order, user after user, [n].
        user: user of each candidate, ascending, [n].
        place: rank that a candidate keeps, [n], or NaN.
        scores: scores of candidates, [n].

    Returns:
        Candidates in the new order, and scores by candidate: one that kept its place scores as the one before it does.
    """
    keeps = ~np.isnan(place[best])
    movable, fixed = best[~keeps], best[keeps]
    fixed = fixed[np.lexsort((place[fixed], user[fixed]))]
    # The i-th movable candidate, from 0, takes the i-th free position: behind each fixed one with at most i free ones
    # before it.
    free_before = place[fixed].astype(np.int64) - 1 - _number(user[fixed])
    number, far = _number(user[movable]), len(best) + int(place[fixed].max(initial=0))
    before = np.searchsorted(user[fixed] * far + free_before, user[movable] * far + number, side="right")
    position = np.empty(len(best))
    position[movable] = number + before - np.searchsorted(user[fixed], user[movable])
    position[fixed] = place[fixed] - 1
    order = np.lexsort((position, user))
    return order, _levelled(order, user, ~np.isnan(place), scores)


def _number(user: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each row among those of its user, from 0; users ascending, [n]."""
    return np.arange(len(user)) - np.searchsorted(user, user)


def _levelled(
    order: NDArray[np.int64], user: NDArray[np.int64], keeps: NDArray[np.bool_], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    row, of_user = np.arange(len(order)), user[order]
    before = np.maximum.accumulate(np.where(keeps[order], -1, row))
    after = np.minimum.accumulate(np.where(keeps[order], len(row), row)[::-1])[::-1]
    first = np.searchsorted(of_user, of_user)
    source = np.where(before >= first, before, after.clip(max=len(row) - 1))
    levelled = scores.copy()
    levelled[order] = scores[order][np.where(of_user[source] == of_user, source, row)]
    return levelled
