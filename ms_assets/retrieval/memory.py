"""Memory of a step that knows everybody's histories, estimated by arithmetic before it begins."""

from typing import NamedTuple

from ms_assets.machine import IN_FLIGHT, LARGEST_KEPT
from ms_assets.retrieval import exact

HISTORY = 20
"""Bytes a pair of user and song: its key, number of events and last event."""
VALIDATED = 16
"""Bytes a pair of the validation part: its key and relevance."""
RANKED, LISTS = 2_400, 4_000
"""Bytes a user: a hundred songs in two views as they are ranked, and then as they are ranked and as they are kept."""
USERS_AT_ONCE = 256
SONGS_AT_ONCE = 1 << 22
"""Number of candidates held at a time for these users together, 16,384 each."""
CANDIDATE = 35
"""Bytes a candidate."""
LONGEST = 6
"""Length of the longest history over that of the mean one, about that of Yambda."""
LIBRARY = 32 << 20
"""Bytes of a library that a method imports, and of small arrays."""
LEAN = 16 << 20
"""Bytes of small arrays of a method that imports nothing."""
MOST_USERS = 6_000
"""Number of users that `EASE` learns from at most; its time grows with the cube, its memory with the square."""
DRAWN = 12 << 20
"""Bytes of the users by whose validation part vectors are chosen."""
FLOAT = 4
FACTORS = 64
"""Number of factors of a baseline; SVD also tries others, up to `most_factors`."""
VECTOR = FACTORS * FLOAT
VECTORS = 1 << 25
"""Number of numbers in the vectors of an SVD up to which more than FACTORS are tried: time grows with their square."""
MORE_FACTORS, OVERSAMPLED = (128, 256), 16
"""Larger numbers of factors that an SVD tries; vectors beyond them while they are found (`training/svd.py`)."""
SQUARED = 1 << 16
"""Number of rows of an SVD's vectors that are float64 at a time, while their products are added (`training/svd.py`)."""


class Taken(NamedTuple):
    """Bytes that a step takes at a moment beside histories, by what they grow with."""

    pair: int = 0
    """Bytes of a pair of user and song."""
    user: int = 0
    song: int = 0
    fixed: int = 0
    two_users: int = 0
    """Bytes of two of the users that `EASE` learns from."""
    event: int = 0
    """Bytes of a train event."""
    copies: int = 0
    """Copies of the vectors of an SVD, of users and songs."""


class Needs(NamedTuple):
    """Bytes that a step takes at the largest moment of learning, and of ranking songs."""

    learning: Taken = Taken()
    ranking: Taken = Taken()
    """Those while songs are ranked, beside the lists."""
    scores: int = 0
    """Number of blocks of scores of all songs, `exact.AT_ONCE` at most, while songs are ranked."""
    reads: bool = True
    """True if tables are read, a batch at a time, at the largest moment of learning."""
    lists: bool = True
    """True if the lists of all users are made."""


LEAST = Needs(Taken(fixed=LEAN), Taken(fixed=LEAN), reads=False)
"""Needs of a method that keeps a number for each song at most."""
NEEDS = {
    # Queries.
    "lightgcn": Needs(Taken(0, VECTOR, fixed=LIBRARY), Taken(0, VECTOR, fixed=LIBRARY), reads=False),
    # Activation of each pair, then also songs and activation in order.
    "replay": Needs(Taken(20, fixed=LIBRARY), Taken(12, fixed=LIBRARY)),
    # Activation of each pair, in two views; vectors of users and songs.
    "lightgcn_replay": Needs(Taken(16, VECTOR, VECTOR, LIBRARY), Taken(16, VECTOR, VECTOR, LIBRARY)),
    # Shares of means and their matrix; means of 128 dimensions.
    "content_based": Needs(Taken(12, 8 * 128, fixed=LIBRARY), Taken(0, 4 * 128, fixed=LIBRARY), 1, reads=False),
    # Of the 300 songs most played, 0.3 of all: histories and weighted matrices. 200 neighbours of a song, 16 bytes each
    # as they are found and 12 in a matrix, then 8 more in `implicit`; 8 are fitted. Counts by user.
    "item_knn": Needs(
        Taken(22, 0, 200 * (16 + 12 + 8), 2 * LIBRARY), Taken(8, 0, 200 * (12 + 8), 2 * LIBRARY), reads=False
    ),
    # Counts by user, weighted, and by song; vectors before and after they are scaled.
    "ials": Needs(Taken(24, 2 * VECTOR, 2 * VECTOR, LIBRARY), Taken(0, VECTOR, VECTOR, LIBRARY), 2, False),
    # Counts by user, and the user of each pair, first as int64.
    "bpr": Needs(Taken(20, 2 * VECTOR, 2 * VECTOR, LIBRARY), Taken(0, VECTOR, VECTOR, LIBRARY), 2, False),
    # A matrix by user and by song; vectors before and after they go through it.
    "collaborative_filtering": Needs(
        Taken(16, fixed=2 * LIBRARY, copies=2), Taken(fixed=2 * LIBRARY, copies=1), 1, False
    ),
    # Three matrices, one while it is made; strongest vectors of songs, scaled in two ways.
    "graph_filter": Needs(
        Taken(16, 5 * VECTOR, 5 * VECTOR, 3 * LIBRARY), Taken(28, 0, 3 * VECTOR, 3 * LIBRARY), 2, False
    ),
    # Weights, three matrices, and lengths while the last one is made.
    "session_knn": Needs(Taken(32, fixed=2 * LIBRARY), Taken(28, fixed=2 * LIBRARY), 2),
    # Weights and their matrix; a song that followed for each event, as arrays, these with each song's own, and as a
    # matrix. Scores of a block are sparse before they are dense.
    "transitions": Needs(
        Taken(4, fixed=2 * LIBRARY, event=16 + 16 + 8 + 12), Taken(12, fixed=2 * LIBRARY, event=16 + 8), 3
    ),
    # A matrix; the Gram matrix of some users, sparse and dense, or in two precisions, and then its inverse alone.
    "ease": Needs(Taken(12, 0, 8, 3 * LIBRARY, 12), Taken(12, 0, 8, 3 * LIBRARY, 4), 2, False),
}
"""Needs of methods; LEAST of those that are not named."""


UNTUNED = ("lightgcn", "popular", "random", "content_based")
"""Methods without the validation part."""
OF_VECTORS = {"queries": (6, 1), "cold_songs": (2, 4)}
"""Numbers of vectors of each user and song that steps hold, for `of_vectors`."""


def needs_of(step: str, dimensions: int) -> Needs:
    """Needs of a method, or of a step of OF_VECTORS; dimensions: those of LightGCN's vectors."""
    return of_vectors(dimensions, *OF_VECTORS[step]) if step in OF_VECTORS else NEEDS.get(step, LEAST)


def of_vectors(dimensions: int, of_users: int, of_songs: int) -> Needs:
    """Needs of a step that makes vectors, so many of each user and song at a time, and searches some users' exactly."""
    row = FLOAT * dimensions
    held = Taken(0, of_users * row, of_songs * row, LIBRARY + DRAWN)
    return Needs(held, held, scores=1, lists=False)


def most_factors(n_users: int, n_songs: int) -> int:
    """Largest number of factors that an SVD tries."""
    most = VECTORS // max(n_users + n_songs, 1)
    return max(factors for factors in (FACTORS, *MORE_FACTORS) if factors <= max(most, FACTORS))


def estimate(
    n_users: int, n_songs: int, n_pairs: int, n_validated: int = 0, needs: Needs = LEAST, n_events: int = 0
) -> dict[str, int]:
    """Estimate the bytes of a step of the room by purpose, beside what it was given.

    n_songs: number of songs with a train event; n_validated: number of pairs of the validation part; n_events: number
    of train events.
    """
    row, smallest = (FLOAT * (factors + OVERSAMPLED) for factors in (most_factors(n_users, n_songs), FACTORS))
    vectors, squared = row * (n_users + n_songs), 2 * row * min(max(n_users, n_songs), SQUARED)
    # Vectors of the settings tried first, as they go through the matrix.
    kept = 3 * min(smallest * (n_users + n_songs), LARGEST_KEPT)

    def bytes_of(taken: Taken) -> int:
        of_each = taken.pair * n_pairs + taken.event * n_events + taken.user * n_users + taken.song * n_songs
        return of_each + taken.fixed + taken.two_users * min(n_users, MOST_USERS) ** 2 + taken.copies * vectors

    def block(users: int) -> int:
        pieces = -(-users * n_songs // exact.AT_ONCE)
        return FLOAT * -(-users // max(pieces, 1)) * n_songs

    at_once, in_flight = min(n_users, USERS_AT_ONCE), min(IN_FLIGHT, 128 * n_pairs)
    longest = min(LONGEST, 1 + n_users / USERS_AT_ONCE)  # where there are several blocks of users, by their histories
    candidates = min(n_songs, 100 + round(longest * n_pairs / max(n_users, 1))) * at_once
    search = needs.scores * block(at_once) + CANDIDATE * min(candidates, SONGS_AT_ONCE)
    lists = max(RANKED * n_users + search, LISTS * n_users) if needs.lists else search
    learning = bytes_of(needs.learning) + needs.reads * in_flight + (needs.learning.copies > 0) * (squared + kept)
    moments = {
        "tables in flight": in_flight,
        f"learning{' and tables in flight' * needs.reads}": learning,
        "ranking": bytes_of(needs.ranking) + lists,
    }
    largest = max(moments, key=lambda moment: moments[moment])
    return {
        "histories": HISTORY * n_pairs,
        "validation part": VALIDATED * n_validated,
        "songs": 24 * n_songs,
        largest: moments[largest],
    }
