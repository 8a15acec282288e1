"""Exposure: coverage of the catalogue by a method's lists, and how unevenly songs are recommended."""

import numpy as np
from numpy.typing import NDArray

from ms_assets.interactions import Flags, Integers

METRICS = {
    "coverage": "distinct songs recommended over the songs of the catalogue",
    "exposure_gini": "Gini coefficient of how often the catalogue's songs are recommended: 0 all alike, 1 one alone",
    "head_share": "share of the recommendations that are head songs",
    "tail_share": "share of the recommendations that are warm songs of the tail",
    "cold_share": "share of the recommendations that are cold songs",
}
COMPARED = ("coverage", "exposure_gini")
"""Metrics that the leaderboard shows; its own cold_share is a mean over users."""


def times_shown(recommended: Integers, n_songs: int) -> NDArray[np.int64]:
    """Number of times each song is in lists of song ids [n_users, k], −1 where there is none, int64 [n_songs]."""
    return np.bincount(recommended[recommended >= 0], minlength=n_songs)


def exposure(times: NDArray[np.int64], is_head: Flags, cold: Flags) -> dict[str, float | None]:
    """Exposure metrics (METRICS) from the times each song was recommended, int64 [n_songs]; None if none was."""
    if not (total := int(times.sum())):
        return dict.fromkeys(METRICS) | {"coverage": 0.0}
    shares = {"head_share": times[is_head].sum(), "tail_share": times[~is_head & ~cold].sum()}
    shares["cold_share"] = times[cold].sum()
    return {
        "coverage": np.count_nonzero(times) / len(times),
        "exposure_gini": gini(times),
        **{name: float(n / total) for name, n in shares.items()},
    }


def gini(amounts: Integers) -> float:
    """Gini coefficient of amounts [n] that are not all 0: 0 when all are alike, 1 − 1/n when one has everything."""
    ascending = np.sort(amounts)
    n = len(ascending)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ascending / (n * ascending.sum()))
