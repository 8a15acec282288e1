"""Past of a phase: everything that features may know, measured from the events before its cut and from nothing else.

Events are measured by user and song, a range of users at a time. All measures but ages are sums, so those of an artist,
an album, a song over all users or a user over all songs are made from these.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.events import IS_POSITIVE
from ms_assets.interactions import Interactions
from ms_assets.retrieval.dataset import ONE, total
from ms_assets.streams import Relation

DAY = 86_400
USERS_AT_ONCE = 256
SKIPPED = 0.25
"""Played ratio up to which a listen counts as skipped."""
Measures = dict[str, NDArray[np.float64]]
"""Measures by name, [n_rows]."""

_FADED = {
    "faded_day": f"pow(2, age / {-DAY})",
    "faded_month": f"pow(2, age / {-30 * DAY})",
    "activation": "pow(age / 60 + 1, -0.5)",
    "late_day": f"pow(2, age_of_all / {-DAY})",
    "late_week": f"pow(2, age_of_all / {-7 * DAY})",
    "late_month": f"pow(2, age_of_all / {-30 * DAY})",
}
MEASURES = {
    "n": f"count(*) FILTER ({IS_POSITIVE})",
    "met": f"count(*) FILTER ({IS_POSITIVE}) > 0",
    "plays": "count(*) FILTER (event_type = 'listen')",
    "likes": "count(*) FILTER (event_type = 'like')",
    "dislikes": "count(*) FILTER (event_type = 'dislike')",
    "skips": f"count(*) FILTER (event_type = 'listen' AND played_ratio <= {SKIPPED})",
    "organic": f"count(*) FILTER ({IS_POSITIVE} AND is_organic = 1)",
    "rated": "count(played_ratio)",
    "ratio": "coalesce(sum(played_ratio::DECIMAL(12, 9)), 0)",
    **{
        name: f"coalesce({total(f'CASE WHEN {IS_POSITIVE} THEN {weight} END')}, 0) / {ONE}"
        for name, weight in _FADED.items()
    },
    "age": f"coalesce(min(age) FILTER ({IS_POSITIVE}), 'inf'::DOUBLE)",
    "idle": f"coalesce(min(age_of_all) FILTER ({IS_POSITIVE}), 'inf'::DOUBLE)",
    "begun": f"coalesce(max(age_of_all) FILTER ({IS_POSITIVE}), '-inf'::DOUBLE)",
}
"""SQL over the events of one user with one song. Ages are in seconds: `age` counts from the user's last event, `idle`
and `begun`, those of the last and the first event, from the last event of all."""
LEAST, MOST = ("age", "idle"), ("begun",)
"""Measures of several pairs together that are the least or the most of theirs; all others are sums."""
EVENT_COLUMNS = ("user_id", "song_id", "timestamp", "event_type", "played_ratio", "is_organic")


class Measured(Protocol):
    """Past as features know it: it tells measures, and no event."""

    @property
    def n_users(self) -> int:
        """Number of users."""

    @property
    def n_songs(self) -> int:
        """Number of songs."""

    def pairs(self, first: int, last: int) -> Interactions:
        """Measures of every pair of these users, who are numbered from 0, with a song."""


@dataclass(frozen=True)
class Past:
    """Events up to the cut, and the songs that they name."""

    events: Relation
    """EVENT_COLUMNS of the events of every type, sorted by user_id; times, ratios and origins may be null."""
    n_users: int
    n_songs: int
    first: int
    last: int
    """Times of the first and the last event, s."""

    @classmethod
    def of(cls, n_users: int, n_songs: int, *events: Relation) -> Self:
        """Take events of some tables; a column of EVENT_COLUMNS that a table lacks is unknown there."""
        columns = [
            ", ".join(name if name in table.columns else f"NULL AS {name}" for name in EVENT_COLUMNS)
            for table in events
        ]
        parts = [table.project(names) for table, names in zip(events, columns, strict=True)]
        every = parts[0]
        for part in parts[1:]:
            every = every.union(part)
        span = every.filter(IS_POSITIVE).aggregate("coalesce(min(timestamp), 0), coalesce(max(timestamp), 0)")
        return cls(every, n_users, n_songs, *map(int, span.fetchall()[0]))

    def pairs(self, first: int, last: int) -> Interactions:
        """Measures of every pair of these users, who are numbered from 0, with a song."""
        events = self.events.filter(f"user_id BETWEEN {first} AND {last}").set_alias("events")
        spans = events.filter(IS_POSITIVE).aggregate(
            "user_id, min(timestamp) AS begun, max(timestamp) AS ended", "user_id"
        )
        aged = events.join(spans.set_alias("spans"), "user_id", how="left").project(
            f"* EXCLUDE (begun, ended), greatest(coalesce(ended - coalesce(timestamp, begun), 0)::BIGINT, 0) AS age, "
            f"greatest({self.last} - coalesce(timestamp, {self.first})::BIGINT, 0) AS age_of_all"
        )
        # NumPy gathers whole numbers into floating-point ones a tenth as fast as floating-point ones.
        measures = ", ".join(f"({sql})::DOUBLE AS {name}" for name, sql in MEASURES.items())
        rows = aged.aggregate(f"user_id - {first} AS user_id, song_id, {measures}", "user_id, song_id")
        return Interactions.of_table(rows.to_arrow_table(), last - first + 1, self.n_songs)

    def of_songs(self) -> Measures:
        """Measures of every song over all users, [n_songs]; the sum of `met` is its number of listeners."""
        sums = {name: unmet(name, self.n_songs) for name in MEASURES}
        for first, last in ranges(self.n_users):
            pairs = self.pairs(first, last)
            for name, values in pairs.values.items():
                gather(name, values, pairs.song, sums[name])
        return sums


def ranges(n_users: int) -> Iterator[tuple[int, int]]:
    """Ranges of USERS_AT_ONCE users (first, last) that cover everybody."""
    for first in range(0, n_users, USERS_AT_ONCE):
        yield first, min(first + USERS_AT_ONCE, n_users) - 1


def unmet(name: str, n: int) -> NDArray[np.float64]:
    """Values of a measure where there are no events, [n]."""
    return np.full(n, np.inf if name in LEAST else -np.inf if name in MOST else 0.0)


def gather(name: str, values: NDArray[np.float64], row: NDArray[np.int64], into: NDArray[np.float64]) -> None:
    """Add the values of a measure to those of their rows, in place."""
    (np.minimum if name in LEAST else np.maximum if name in MOST else np.add).at(into, row, values)
