"""Tables of the divided events: train, validation, test and explicit negatives, and the counts behind song ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.splits.protocols import KINDS, LISTEN, NO_TYPE, PARTS, TRAIN, PartedEvents

EVENT_COLUMNS = ("timestamp", "played_ratio_pct", "is_organic")
"""Columns of raw/multi_event that `tables` needs beside users, songs, types and parts."""


@dataclass(frozen=True)
class Tally:
    """Counts of the divided events, by candidate song [n_candidates] and by part."""

    in_graph: NDArray[np.bool_]
    """Songs with a positive train event."""
    n_train_plays: NDArray[np.int64]
    """Listens in the train part."""
    n_rows: dict[str, int]
    """Rows of each part's table."""

    @property
    def song_ids(self) -> NDArray[np.int32]:
        """Song_id of each candidate song: graph songs first, then cold ones, each in the candidates' order."""
        song_ids = np.empty(len(self.in_graph), np.int32)
        song_ids[np.argsort(~self.in_graph, kind="stable")] = np.arange(len(self.in_graph))
        return song_ids


def tally(blocks: Iterable[PartedEvents], n_candidates: int) -> Tally:
    """Count the events of each part, and the train events of each candidate song."""
    in_graph = np.zeros(n_candidates, np.bool_)
    plays = np.zeros(n_candidates, np.int64)
    n_rows = np.zeros(len(PARTS), np.int64)
    for events in blocks:
        trained = events.song[(events.part == TRAIN) & events.positive]
        in_graph[trained] = True
        np.add.at(plays, events.song[(events.part == TRAIN) & (events.kind == LISTEN)], 1)
        held_out = np.bincount(events.part, minlength=len(PARTS))[: len(PARTS)]
        held_out[TRAIN] = len(trained)
        n_rows += held_out
    return Tally(in_graph, plays, dict(zip(PARTS, n_rows.tolist(), strict=True)))


def tables(blocks: Iterable[PartedEvents], tally: Tally) -> Iterator[dict[str, pa.Table]]:
    """Tables train, validation, test and negatives, block by block, in the order of users and time.

    Train holds positive events only; validation and test hold every type. Negatives are distinct by user, song
    and event type, and sorted by them.

    Args:
        blocks: divided events with EVENT_COLUMNS.
        tally: counts of these events.
    """
    song_ids = tally.song_ids
    for events in blocks:
        rows = pa.table(
            {
                "user_id": events.user_id,
                "song_id": song_ids[events.song],
                "timestamp": events.published["timestamp"].cast(pa.int64()),
                "event_type": _names(events.kind),
                "played_ratio": _share(events.published["played_ratio_pct"]),
                "is_organic": events.published["is_organic"].cast(pa.uint8()),
            }
        )
        of_part = {name: events.part == number for number, name in enumerate(PARTS)}
        of_part["train"] &= events.positive
        divided = {name: rows.filter(pa.array(flags)) for name, flags in of_part.items()}
        yield {**divided, "negatives": _negatives(events, song_ids, tally.in_graph)}


def _negatives(events: PartedEvents, song_ids: NDArray[np.int32], in_graph: NDArray[np.bool_]) -> pa.Table:
    rows = np.flatnonzero((events.part == TRAIN) & events.negative)
    song = events.song[rows]
    columns = {"user_id": events.user_id[rows], "song_id": song_ids[song], "kind": events.kind[rows]}
    found = pl.DataFrame({**columns, "in_graph": in_graph[song]}).unique().sort("user_id", "song_id", "kind")
    table = found.to_arrow()
    return table.set_column(2, "event_type", _names(found["kind"].to_numpy()))


def _share(percent: pa.Array) -> pa.Array:
    """Share of a percentage: min(percent, 100) / 100, null where the percentage is null."""
    from pyarrow import compute

    at_most_all = compute.min_element_wise(percent.cast(pa.float64()), 100.0, skip_nulls=False)
    return compute.divide(at_most_all, 100.0)


def _names(kind: NDArray[np.uint8]) -> pa.DictionaryArray:
    indices = pa.array(kind.astype(np.int8), mask=kind == NO_TYPE)
    return pa.DictionaryArray.from_arrays(indices, KINDS)
