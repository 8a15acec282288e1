"""Memory of a pass over all users, estimated by arithmetic before its first block of users."""

from typing import NamedTuple

from ms_assets.certainty import N_RESAMPLES
from ms_assets.evaluation.tables import USERS_AT_ONCE
from ms_assets.machine import IN_FLIGHT
from ms_assets.retrieval.memory import LIBRARY
from ms_assets.retrieval.recommender import TOP_K

HISTORY = 20
"""Bytes of a train event of a block of users: rows, keys and flags."""


class Taken(NamedTuple):
    """Bytes that a pass takes by what they grow with; those of songs, test part and lists are fitted."""

    song: int
    """Bytes of a song: the table, and the catalogue made of it."""
    listed: int
    """Bytes of a place of the lists of a block of users."""
    tested: int = 0
    """Bytes of a row of the test part of a block of users: the row and its order, and each measure's value."""
    event: int = 0
    """Bytes of a train event of a block of users."""
    user: int = 0
    """Bytes of a user that stay for the whole pass."""
    method: int = 0
    """Bytes of a method's sums, which stay too."""


PASSES = {
    "user_metrics": Taken(song=190, listed=176, tested=160, event=HISTORY),
    "official_user_metrics": Taken(song=10, listed=40, tested=10),
    # The resamples, and in each of them sums and numbers of users, 8 bytes each, in 168 columns: 120 of them are 3
    # metrics × 10 slices × 2 views × 2 lengths, the rest is fitted.
    "slices": Taken(160, 160, 80, HISTORY, user=1 + N_RESAMPLES, method=2 * 8 * (1 + N_RESAMPLES) * 168),
    "recall_curve": Taken(song=140, listed=40, tested=24, event=HISTORY),
    "exposure": Taken(song=190, listed=40),
}
"""Bytes of each pass, by the table that it makes."""


def estimate(what: str, n_users: int, n_songs: int, n_events: int, n_tested: int, n_methods: int) -> dict[str, int]:
    """Estimate the bytes of a pass by purpose.

    Args:
        what: key of PASSES.
        n_users: number of all users.
        n_songs: number of songs, cold ones included.
        n_events: number of train events.
        n_tested: number of rows of the test part that the pass reads.
        n_methods: number of methods.
    """
    taken, block = PASSES[what], min(n_users, USERS_AT_ONCE)
    share = block / max(n_users, 1)
    return {
        "songs": taken.song * n_songs,
        "histories of some users": round(taken.event * share * n_events),
        "test part of some users": round(taken.tested * share * n_tested),
        "lists of some users": taken.listed * TOP_K * block,
        "resamples and sums": taken.user * n_users + taken.method * n_methods,
        "tables in flight and library": min(IN_FLIGHT, 128 * max(n_tested, 2 * n_songs)) + LIBRARY,
    }
