"""Protocols that divide events into train, validation and test: per user, or at one time for all.

Events of a user are in the order of time, ties in file order, which is the order of raw/multi_event. All
arithmetic is exact: a ratio is the decimal that was written, not its nearest binary fraction. Users are processed
in blocks, so that memory does not grow with the data; the result does not depend on the size of the blocks.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.events import EVENT_TYPES, NEGATIVES, POSITIVES, sql_case
from ms_assets.settings import SplitSettings
from ms_assets.splits.id_map import UNKNOWN, IdMap
from ms_assets.streams import Relation, starts, whole_users, with_progress

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
NO_PART = 3
"""Number for events in no part: those in a gap, and validation or test events of users without a train part."""

KINDS = list(EVENT_TYPES)
NO_TYPE = len(KINDS)
LISTEN = KINDS.index("listen")
MOST_BITS = 1 << 24
"""Largest uid for which one bit per user filters rows while reading; above, all rows are read and filtered later."""

GAP = 1_800
"""Seconds before the validation part, and before the test part, that belong to no part (global_temporal)."""
VALIDATION_LENGTH = 86_400
"""Seconds of the validation part (global_temporal)."""


@dataclass(frozen=True)
class PartedEvents:
    """Divided events of some users, in the order of users and time: parallel arrays [n], and n rows.

    All kept events of these users are there; a kept event has an active user and a candidate song.
    """

    user_id: NDArray[np.int32]
    song: NDArray[np.int32]
    """Position among the candidate songs."""
    kind: NDArray[np.uint8]
    """Position in KINDS; NO_TYPE where the type is null."""
    part: NDArray[np.uint8]
    """TRAIN, VALIDATION, TEST or NO_PART."""
    published: pa.RecordBatch
    """Requested columns of raw/multi_event."""

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Flags of events of positive types, bool [n]."""
        return _is_of(self.kind, POSITIVES)

    @property
    def negative(self) -> NDArray[np.bool_]:
        """Flags of explicit negatives, bool [n]."""
        return _is_of(self.kind, NEGATIVES)


def parted_events(
    multi_event: Relation,
    uids: NDArray[np.int64],
    candidates: IdMap,
    settings: SplitSettings,
    rows: int,
    columns: tuple[str, ...] = (),
) -> Iterator[PartedEvents]:
    """Divide every kept event.

    Raises duckdb.Error for an event type that is not in EVENT_TYPES.

    Args:
        multi_event: events sorted by uid, then time.
        uids: active users, ascending; a user's position is its user_id.
        candidates: positions of candidate songs by item_id.
        settings: protocol and its settings.
        rows: approximate number of rows to hold at a time; a user is never cut.
        columns: columns of raw/multi_event to return.
    """
    kinds = sql_case({name: kind for kind, name in enumerate(KINDS)})
    events = multi_event.filter(f"uid IS NOT NULL AND item_id IS NOT NULL AND {_may_be_of(uids)}").project(
        f"uid, item_id, coalesce({kinds}, {NO_TYPE})::UTINYINT AS kind, "
        f"({_part_by_time(settings)})::UTINYINT AS part, " + ", ".join(columns)
    )
    n_rows, users = multi_event.count("*").fetchall()[0][0], IdMap(uids)
    for block in whole_users(with_progress(events.to_arrow_reader(rows), "events divided", n_rows), "uid"):
        user_id, song = users.positions(block["uid"].to_numpy()), candidates.positions(block["item_id"].to_numpy())
        kept = np.flatnonzero((user_id != UNKNOWN) & (song != UNKNOWN))
        if not len(kept):
            continue
        kind, part = (block[name].to_numpy()[kept] for name in ("kind", "part"))
        parted = PartedEvents(user_id[kept], song[kept], kind, part, block.select(columns).take(pa.array(kept)))
        yield _by_position(parted, settings) if settings.protocol == "per_user" else _of_trained_users(parted)


def _may_be_of(uids: NDArray[np.int64]) -> str:
    """SQL condition that is true for rows of these users, so that the reader need not decode those of others."""
    n_bits = int(uids[-1]) + 2
    if n_bits > MOST_BITS:
        return "true"
    bits = np.full(n_bits, ord("0"), np.uint8)
    bits[uids] = ord("1")
    return f"get_bit('{bits.tobytes().decode()}'::BIT, least(uid, {n_bits - 1})::INTEGER) = 1"


def _by_position(events: PartedEvents, settings: SplitSettings) -> PartedEvents:
    """Divide per_user: of n events the first ⌊train · n⌋ train, those up to ⌊(train + validation) · n⌋ validate."""
    start = starts(events.user_id)
    n_events = np.diff(start, append=len(events.user_id))
    position = np.arange(len(events.user_id)) - np.repeat(start, n_events)
    train = Fraction(str(settings.train_ratio))
    part = np.zeros(len(position), np.uint8)
    for share in (train, train + Fraction(str(settings.validation_ratio))):
        # Computed in Python's integers, which do not overflow however many digits a ratio has.
        end = [share.numerator * n // share.denominator for n in n_events.tolist()]
        part += position >= np.repeat(np.array(end), n_events)
    return replace(events, part=part)


def _part_by_time(settings: SplitSettings) -> str:
    """Part by time (global_temporal): test [T, ∞), validation [T − gap − day, T − gap), train < T − gap − day − gap."""
    if settings.protocol == "per_user":
        return str(NO_PART)
    validation_end = settings.test_start - GAP
    validation_start = validation_end - VALIDATION_LENGTH
    return f"""CASE
        WHEN timestamp >= {settings.test_start} THEN {TEST}
        WHEN timestamp >= {validation_start} AND timestamp < {validation_end} THEN {VALIDATION}
        WHEN timestamp < {validation_start - GAP} THEN {TRAIN}
        ELSE {NO_PART} END"""


def _of_trained_users(events: PartedEvents) -> PartedEvents:
    """Drop the validation and test events of users without a positive train event."""
    start = starts(events.user_id)
    trained = np.logical_or.reduceat((events.part == TRAIN) & events.positive, start)
    trained = np.repeat(trained, np.diff(start, append=len(events.user_id)))
    return replace(events, part=np.where(trained | (events.part == TRAIN), events.part, NO_PART).astype(np.uint8))


def _is_of(kind: NDArray[np.uint8], types: Container[str]) -> NDArray[np.bool_]:
    return np.array([name in types for name in (*KINDS, None)])[kind]
