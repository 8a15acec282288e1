"""Audits of a split: its tables agree with each other and with the raw events."""

from dataclasses import dataclass
from itertools import pairwise

import duckdb

from ms_assets.events import IS_POSITIVE
from ms_assets.splits.protocols import GAP, VALIDATION_LENGTH
from ms_assets.splits.relevance import LISTEN_PLUS_RATIO
from ms_assets.streams import Relation, in_user_ranges


@dataclass(frozen=True)
class Conservation:
    """Numbers of positive events that the parts should hold and that they hold."""

    n_kept: int
    """Positive events with an active user and a candidate song."""
    n_between_parts: int
    """Kept events that a division by time leaves out: between two parts, or of users without a train event."""
    n_in_parts: int
    conserved: bool


def conservation(
    con: duckdb.DuckDBPyConnection,
    multi_event: Relation,
    users: Relation,
    songs: Relation,
    train: Relation,
    validation: Relation,
    test: Relation,
) -> Conservation:
    """Compare the parts with the kept events, as bags of (user, song, time, type).

    The parts conserve the events if both bags are equal; or (global_temporal) if the missing events lie within half an
    hour between two parts that are further apart than that, or belong to users without a train event.
    """
    parts = train.union(validation).union(test).filter(IS_POSITIVE)
    in_parts = parts.aggregate(_bag("true")).fetchall()[0]
    gaps = _gaps(train, validation, test)
    trained = train.project("user_id").distinct()  # noqa: F841  (named in the query below)
    number = " ".join(f"WHEN timestamp > {low} AND timestamp < {high} THEN {n}" for n, (low, high) in enumerate(gaps))
    kept = con.sql(f"""
        SELECT user_id, song_id, timestamp, event_type, user_id IN (SELECT user_id FROM trained) AS has_train,
            CASE {number or "WHEN false THEN 0"} END AS gap
        FROM multi_event JOIN users USING (uid) JOIN songs USING (item_id)
        WHERE {IS_POSITIVE}
    """)
    left_out = [f"FILTER (has_train AND gap = {n})" for n in range(len(gaps))]
    n_kept, hash_kept, n_by_time, hash_by_time, *spans = kept.aggregate(
        ", ".join(
            (
                _bag("true"),
                _bag("has_train AND timestamp IS NOT NULL AND gap IS NULL"),
                *(f"coalesce(max(timestamp) {some} - min(timestamp) {some}, 0)" for some in left_out),
            )
        )
    ).fetchall()[0]
    # Without a validation part, two gaps and its missing day lie between train and test.
    longest = GAP if len(gaps) == 2 else 2 * GAP + VALIDATION_LENGTH
    by_time = in_parts == (n_by_time, hash_by_time) and all(
        high - low > GAP and span < longest for (low, high), span in zip(gaps, spans, strict=True)
    )
    return Conservation(n_kept, n_kept - n_by_time, in_parts[0], by_time or in_parts == (n_kept, hash_kept))


def _bag(condition: str) -> str:
    # A sum of hashes does not depend on the order of the rows, and detects duplicates.
    row = "hash(user_id, song_id, timestamp::BIGINT, event_type::VARCHAR)::HUGEINT"
    return f"count(*) FILTER ({condition}), coalesce(sum({row}) FILTER ({condition}), 0)"


def _gaps(train: Relation, validation: Relation, test: Relation) -> list[tuple[int, int]]:
    """Gaps between the end of each part and the start of the next one that has events, over all users."""
    spans = [part.aggregate("min(timestamp), max(timestamp)").fetchall()[0] for part in (train, validation, test)]
    there = [span for span in spans if span[0] is not None]
    return [(end, start) for (_, end), (start, _) in pairwise(there)]


def met_in_ground_truth(ground_truth: Relation) -> dict[str, tuple[int, ...]]:
    """Counts in the ground truth by split: events, listens beyond half the track, likes, dislikes."""
    sums = ", ".join(f"sum({name})::BIGINT" for name in ("n_events", "listen_plus", "likes", "dislikes"))
    return {split: tuple(numbers) for split, *numbers in ground_truth.aggregate(f"split, {sums}").fetchall()}


def met_in_events(part: Relation) -> tuple[int, ...]:
    """Counts in a part's events: events, listens beyond half the track, likes, dislikes."""
    conditions = [f"event_type = 'listen' AND played_ratio > {LISTEN_PLUS_RATIO}"]
    conditions += [f"event_type = '{name}'" for name in ("like", "dislike")]
    return part.aggregate(", ".join(["count(*)", *(f"count(*) FILTER ({c})" for c in conditions)])).fetchall()[0]


def n_wrong_train_plays(con: duckdb.DuckDBPyConnection, ground_truth: Relation, train: Relation, rows: int) -> int:
    """Number of ground-truth rows whose n_train_plays differs from the user's listens of the song in train."""

    def wrong(ground_truth: Relation, train: Relation) -> Relation:
        return con.sql("""
            WITH plays AS (
                SELECT user_id, song_id, count(*) AS n FROM train WHERE event_type = 'listen' GROUP BY ALL
            )
            SELECT count(*) AS n FROM ground_truth LEFT JOIN plays USING (user_id, song_id)
            WHERE n_train_plays <> coalesce(plays.n, 0)
        """)

    return sum(table["n"][0].as_py() for table in in_user_ranges(wrong, ground_truth, train, rows=rows).tables)
