"""Memory of a step that knows everybody's histories, estimated by arithmetic before it begins."""

from typing import NamedTuple

from ms_assets.machine import IN_FLIGHT
from ms_assets.retrieval import exact

HISTORY, JOINED = 20, 8
"""Bytes a pair of user and song: its key, number of events and last event; a copy of a key while parts are joined."""
VALIDATED = 16
"""Bytes a pair of the validation part: its key and relevance."""
LISTS = 4_000
"""Bytes a user: a hundred songs in two views, as they are ranked and as they are kept."""
USERS_AT_ONCE = 256
SONGS_AT_ONCE = 1 << 22
"""Number of candidates held at a time for these users together, 16,384 each."""
CANDIDATE = 35
"""Bytes a candidate."""
LONGEST = 6
"""Length of the longest history over that of the mean one, about that of Yambda."""
LIBRARY = 32 << 20
"""Bytes of what a method imports, and of small arrays."""
MOST_USERS = 6_000
"""Number of users that `EASE` learns from at most; its time grows with the cube, its memory with the square."""
DRAWN = 12 << 20
"""Bytes of the users by whose validation part vectors are chosen."""
FLOAT = 4
FACTORS = 64 * FLOAT
"""Bytes of a vector that a baseline learns."""


class Taken(NamedTuple):
    """Bytes that a step takes at a moment beside histories, by what they grow with."""

    pair: int = 0
    """Bytes of a pair of user and song."""
    user: int = 0
    song: int = 0
    fixed: int = 0
    two_users: int = 0
    """Bytes of two of the users that `EASE` learns from."""


class Needs(NamedTuple):
    """Bytes that a step takes at the largest moment of learning, and of ranking songs."""

    learning: Taken = Taken()
    ranking: Taken = Taken(user=LISTS)
    scores: int = 0
    """Number of blocks of scores of all songs, `exact.AT_ONCE` at most, while songs are ranked."""


LEAST = Needs()
"""Needs of a method that keeps a number for each song at most."""
NEEDS = {
    # Activation of each pair, then also songs and activation in order.
    "replay": Needs(Taken(20, fixed=LIBRARY), Taken(12, LISTS, fixed=LIBRARY)),
    # Activation of each pair, in two views; vectors of users and songs.
    "lightgcn_replay": Needs(Taken(16, FACTORS, FACTORS), Taken(16, FACTORS + LISTS, FACTORS)),
    # Shares of means and their matrix; means of 128 dimensions.
    "content_based": Needs(Taken(12, 8 * 128), Taken(0, 4 * 128 + LISTS), scores=1),
    # Of the 300 songs most played, 0.3 of all: histories and weighted matrices. 200 neighbours of a song, 16 bytes each
    # and then 12. Counts by user.
    "item_knn": Needs(Taken(22, 0, 200 * (16 + 12), LIBRARY), Taken(8, LISTS, 200 * 12, LIBRARY)),
    # Counts by user, weighted, and by song; vectors before and after they are scaled.
    "ials": Needs(Taken(24, 2 * FACTORS, 2 * FACTORS, LIBRARY), Taken(0, FACTORS + LISTS, FACTORS, LIBRARY), 1),
    # Counts by user, and the user of each pair, first as int64.
    "bpr": Needs(Taken(20, 2 * FACTORS, 2 * FACTORS, LIBRARY), Taken(0, FACTORS + LISTS, FACTORS, LIBRARY), 1),
    # A matrix of ones; a basis of 74 vectors, its factors, and copies.
    "collaborative_filtering": Needs(
        Taken(8, 5 * FACTORS, 5 * FACTORS, 3 * LIBRARY), Taken(0, FACTORS + LISTS, FACTORS, 3 * LIBRARY), 1
    ),
    # Three matrices, one while it is made; strongest vectors of songs, scaled in two ways.
    "graph_filter": Needs(
        Taken(8, 5 * FACTORS, 5 * FACTORS, 3 * LIBRARY), Taken(28, LISTS, 3 * FACTORS, 3 * LIBRARY), 2
    ),
    # Weights, and three matrices, one while it is made.
    "session_knn": Needs(Taken(12, fixed=LIBRARY), Taken(32, LISTS, fixed=LIBRARY), 2),
    # Weights and their matrix; a song that followed for each pair, in a table, as arrays, and as a matrix.
    "transitions": Needs(Taken(12 + 16, fixed=LIBRARY), Taken(12 + 68, LISTS, fixed=LIBRARY), 1),
    # A matrix; the Gram matrix of some users, its factor and its inverse, and then this alone.
    "ease": Needs(Taken(12, 0, 8, LIBRARY, 28), Taken(12, LISTS, 8, LIBRARY, 4), 2),
}
"""Needs of methods; LEAST of those that are not named."""


OF_QUERIES, OF_COLD_SONGS = (6, 3), (2, 6)
"""Numbers of vectors of each user and song that these steps hold, for `of_vectors`."""


def of_vectors(dimensions: int, of_users: int, of_songs: int) -> Needs:
    """Needs of a step that makes vectors, so many of each user and song at a time, and searches some users' exactly."""
    row = FLOAT * dimensions
    fixed = LIBRARY + DRAWN
    return Needs(Taken(0, of_users * row, of_songs * row, fixed), Taken(0, of_users * row, row, fixed), scores=1)


def estimate(n_users: int, n_songs: int, n_pairs: int, n_validated: int = 0, needs: Needs = LEAST) -> dict[str, int]:
    """Estimate the bytes of a step of the room by purpose, beside what it was given.

    n_songs: number of songs with a train event; n_validated: number of pairs of the validation part.
    """

    def bytes_of(taken: Taken) -> int:
        of_each = taken.pair * n_pairs + taken.user * n_users + taken.song * n_songs
        return of_each + taken.fixed + taken.two_users * min(n_users, MOST_USERS) ** 2

    at_once, in_flight = min(n_users, USERS_AT_ONCE), min(IN_FLIGHT, 128 * n_pairs)
    candidates = min(n_songs, 100 + LONGEST * n_pairs // max(n_users, 1)) * at_once
    search = needs.scores * FLOAT * min(at_once * n_songs, exact.AT_ONCE) + CANDIDATE * min(candidates, SONGS_AT_ONCE)
    moments = {
        "joined histories and tables in flight": JOINED * n_pairs + in_flight,
        "learning and tables in flight": bytes_of(needs.learning) + in_flight,
        "ranking": bytes_of(needs.ranking) + search,
    }
    largest = max(moments, key=lambda moment: moments[moment])
    return {
        "histories": HISTORY * n_pairs,
        "validation part": VALIDATED * n_validated,
        "songs": 24 * n_songs,
        largest: moments[largest],
    }
