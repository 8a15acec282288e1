"""Dataset that every recommender learns from: users, songs, and the users' train events."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.machine import free_memory, refuse_beyond
from ms_assets.retrieval.memory import LEAST, Needs, estimate
from ms_assets.splits.frames import Frame, Tables, tables
from ms_assets.streams import Relation, in_user_ranges
from ms_assets.vectors import vector_column

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ONE = 1 << 40
ROWS = 1 << 20
"""Number of train events whose histories are made at a time."""


@dataclass(frozen=True)
class Dataset:
    """Users and songs by dense id, positive train events, and, if known, validation part and audio."""

    user_ids: NDArray[Any]
    """Original ids by user_id, [n_users]."""
    song_ids: NDArray[Any]
    """Original ids by song_id, [n_songs]; songs with a train event come first, the others are cold."""
    n_graph_songs: int
    """Number of songs with a train event."""
    heard: Interactions
    """Pairs with positive train events; values n_events, and last, the latest event's second, −1 if unknown."""
    train: Relation | None = None
    """Positive train events, one row each."""
    validation: Interactions | None = None
    """Validation part, with the relevance of each pair."""
    audio: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None
    """Unit audio vectors [n_songs, dimensions], zeros where unknown, and flags of songs with one; None if none has."""
    tables: Tables | None = None
    """Tables made from frames; None for a dataset of other tables."""

    @classmethod
    def of(
        cls, users: Relation, songs: Relation, train: Relation, ground_truth: Relation | None = None,
        needs: Needs = LEAST,
    ) -> Self:  # fmt: skip
        """Read the tables splits/users, songs and train, and the validation part of splits/ground_truth.

        needs: what the step takes beside, for the refusal of data that do not fit into memory.
        """
        song_table = songs.order("song_id").to_arrow_table()
        uid, item_id = users.order("user_id").to_arrow_table()["uid"].to_numpy(), song_table["item_id"].to_numpy()
        shape, n_graph_songs = (len(uid), len(item_id)), int(song_table["in_graph"].to_numpy().sum())
        validated = [] if ground_truth is None else [ground_truth.filter("split = 'validation'")]
        ranges, n_validated = in_user_ranges(_histories, train, rows=ROWS).tables, sum(map(len, validated))
        histories = _within_memory(ranges, len(train), len(uid), n_graph_songs, n_validated, needs)
        heard, validation = Interactions.of_tables(histories, *shape), None
        for rows in validated:
            validation = Interactions.of_tables(in_user_ranges(_relevance, rows, rows=ROWS).tables, *shape)
        return cls(uid, item_id, n_graph_songs, heard, train, validation)

    @classmethod
    def of_frames(cls, train: Frame, validation: Frame | None = None, songs: Frame | None = None) -> Self:
        """Build the dataset from frames of events and songs, with the columns described in `splits.frames`.

        Raises:
            ValueError: names the frame, the column, what was found and what was expected.
        """
        found = tables(train, validation, songs=songs)
        dataset = cls.of(found.users, found.songs, found.train, found.ground_truth)
        if not len(dataset.heard):
            raise ValueError("train: found no listen, like or undislike, expected events to learn from")
        table = found.audio.to_arrow_table()
        audio, has_audio = vector_column(table, "audio"), table["has_audio"].to_numpy()
        return replace(
            dataset,
            user_ids=found.user_ids,
            song_ids=found.song_ids,
            audio=(audio, has_audio) if has_audio.any() else None,
            tables=found,
        )

    @property
    def n_songs(self) -> int:
        """Number of songs, cold ones included."""
        return len(self.song_ids)

    @property
    def counts(self) -> "csr_matrix":
        """Number of positive train events of each user with each graph song, as `matrix`."""
        return self.matrix(self.heard.values["n_events"])

    def matrix(self, values: NDArray[Any]) -> "csr_matrix":
        """SciPy's sparse matrix of a value for each pair in `heard`, float32 [n_users, n_graph_songs]."""
        return self.heard.csr(values, self.n_graph_songs)

    def aged(self, weight: str) -> NDArray[np.float64]:
        """Sum over the events of each pair in `heard` of a weight by their age, float64 [n_pairs].

        weight: SQL over `age`, the seconds between the event and the user's last; an event without a time counts as the
        user's oldest.
        """
        weights = np.empty(len(self.heard))
        for users, aged in self.aged_by_range(weight):
            weights[self.heard.pairs_of(users)] = aged
        return weights

    def aged_by_range(self, weight: str) -> Iterator[tuple[range, NDArray[np.float64]]]:
        """Compute `aged` for one range of users after another: users, and the weights of their pairs in `heard`."""
        assert self.train is not None, "a dataset to learn from has its events"
        for table in in_user_ranges(partial(_aged, total(weight)), self.train, rows=ROWS).tables:
            pairs = Interactions.of_table(table, self.heard.n_users, self.heard.n_songs)
            if len(pairs):
                users = range(*(int(pairs.keys[n]) // pairs.n_songs + at for n, at in ((0, 0), (-1, 1))))
                places = np.searchsorted(pairs.keys, self.heard.keys[self.heard.pairs_of(users)])
                yield users, pairs.values["weight"][places] / ONE

    def of_users(self, users: NDArray[np.int64]) -> Self:
        """Copy the dataset with the train events of some users alone; users and songs stay the same."""
        is_kept = np.isin(np.arange(self.heard.n_users), users)
        return replace(self, heard=self.heard.keep(np.repeat(is_kept, self.heard.counts)))


def _within_memory(
    histories: Iterable[pa.Table], n_events: int, n_users: int, n_graph_songs: int, n_validated: int = 0,
    needs: Needs = LEAST,
) -> Iterator[pa.Table]:  # fmt: skip
    """Pass histories of ranges of users on, once the first tells how many pairs there are for an event.

    Raises:
        NotEnoughMemoryError: the histories of all, and what is made from them, do not fit into free memory.
    """
    for number, some in enumerate(histories):
        if not number:
            n_pairs = round(len(some) / max(some["n_events"].to_numpy().sum(), 1) * n_events)
            refuse_beyond(
                free_memory(),
                f"retrieval for {n_users:,} users with {n_events:,} train events",
                estimate(n_users, n_graph_songs, n_pairs, n_validated, needs, n_events),
                "let fewer users take part (splits__users.min_events, max_events), or recommend on a machine with more "
                "memory",
            )
        yield some


def _histories(train: Relation) -> Relation:
    counted = "count(*)::INTEGER AS n_events, coalesce(max(timestamp), -1) AS last"
    return train.aggregate(f"user_id, song_id, {counted}", "user_id, song_id")


def _relevance(validated: Relation) -> Relation:
    return validated.project("user_id, song_id, adjusted_relevance AS relevance")


def _aged(weight: str, train: Relation) -> Relation:
    span = train.aggregate("user_id, min(timestamp) AS first, max(timestamp) AS last", "user_id")
    aged = (
        train.set_alias("events")
        .join(span.set_alias("span"), "user_id")
        .project("user_id, song_id, coalesce(last - coalesce(timestamp, first), 0)::BIGINT AS age")
    )
    return aged.aggregate(f"user_id, song_id, {weight} AS weight", "user_id, song_id")


def total(weight: str) -> str:
    """SQL that sums a weight in units of 1 / ONE; floating-point sums would depend on the order of threads."""
    return f"sum(round(({weight}) * {ONE})::BIGINT)::DOUBLE"
