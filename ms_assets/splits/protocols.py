"""The two ways to divide events into train, validation and test.

Within a user, events stand in the order of time, ties in file order. All arithmetic is exact: a ratio is the
decimal that was written, not its nearest binary fraction.
"""

from fractions import Fraction

import duckdb

from ms_assets.settings import SplitSettings

Relation = duckdb.DuckDBPyRelation
Connection = duckdb.DuckDBPyConnection

POSITIVE_TYPES = ("listen", "like", "undislike")
NEGATIVE_TYPES = ("dislike", "unlike")

PARTED_EVENTS = "parted_events_table"

GAP = 1_800
"""Seconds before the validation part, and before the test part, that belong to no part (global_temporal)."""
VALIDATION_LENGTH = 86_400
"""Seconds of the validation part (global_temporal)."""


def parted_events(
    con: Connection,
    multi_event: Relation,
    users: Relation,
    candidate_songs: Relation,
    settings: SplitSettings,
) -> Relation:
    """Every kept event with its part, computed once: user_id, item_id, timestamp, event_type, played_ratio,
    is_organic, positive, part, file_row_number.

    A kept event has an active user and a candidate song. played_ratio is min(percent, 100) / 100, null where
    the percent is. `part` is train, validation or test; events of a gap, and (global_temporal) those that
    validate or test users without a positive train event, are left out.
    """
    kept = con.sql(f"""
        SELECT user_id, item_id::BIGINT AS item_id, timestamp::BIGINT AS timestamp, event_type::VARCHAR AS event_type,
            CASE WHEN played_ratio_pct IS NOT NULL THEN least(played_ratio_pct, 100) / 100.0::DOUBLE END
                AS played_ratio,
            is_organic::UTINYINT AS is_organic, coalesce(event_type IN {POSITIVE_TYPES}, false) AS positive,
            n_events, file_row_number
        FROM multi_event JOIN users USING (uid) SEMI JOIN candidate_songs USING (item_id)
    """)
    per_user = settings.protocol == "per_user"
    parted = _per_user(con, kept, settings) if per_user else _global_temporal(con, kept, settings)
    # A table of the in-memory database, unlike a result held in Python, spills to disk.
    forget(con)
    parted.create(PARTED_EVENTS)
    return con.table(PARTED_EVENTS)


def forget(con: Connection) -> None:
    """Free the memory of the latest parted events."""
    con.execute(f"DROP TABLE IF EXISTS {PARTED_EVENTS}")


def _per_user(con: Connection, kept: Relation, settings: SplitSettings) -> Relation:
    train = Fraction(str(settings.train_ratio))
    seen = train + Fraction(str(settings.validation_ratio))
    # position ≤ ⌊ratio · n⌋ ⇔ position · denominator ≤ numerator · n, in whole numbers.
    return con.sql(f"""
        SELECT * EXCLUDE (position, n_events), CASE
            WHEN position::HUGEINT * {train.denominator} <= {train.numerator}::HUGEINT * n_events THEN 'train'
            WHEN position::HUGEINT * {seen.denominator} <= {seen.numerator}::HUGEINT * n_events THEN 'validation'
            ELSE 'test' END AS part
        FROM (
            SELECT *, row_number() OVER (
                PARTITION BY user_id ORDER BY timestamp NULLS LAST, file_row_number
            ) AS position
            FROM kept
        )
    """)


def _global_temporal(con: Connection, kept: Relation, settings: SplitSettings) -> Relation:
    """Test [T, ∞), validation [T − gap − day, T − gap), train [0, T − gap − day − gap)."""
    validation_end = settings.test_start - GAP
    validation_start = validation_end - VALIDATION_LENGTH
    parted = con.sql(f"""
        SELECT * EXCLUDE (n_events), CASE
            WHEN timestamp >= {settings.test_start} THEN 'test'
            WHEN timestamp >= {validation_start} AND timestamp < {validation_end} THEN 'validation'
            WHEN timestamp < {validation_start - GAP} THEN 'train' END AS part
        FROM kept
    """)
    trained = parted.filter("part = 'train' AND positive").project("user_id").distinct()  # noqa: F841
    return con.sql("""
        SELECT * FROM parted
        WHERE part = 'train' OR (part IS NOT NULL AND user_id IN (SELECT user_id FROM trained))
    """)


def fingerprint(table: Relation) -> tuple[int, int]:
    """Two numbers that equal tables share whatever their order: a hash over all rows, and how many there are."""
    return table.aggregate(f"bit_xor(hash({', '.join(table.columns)})), count(*)").fetchall()[0]


def part(con: Connection, parted_events: Relation, songs: Relation, name: str) -> Relation:
    """One part in the order of users and time: user_id, song_id, timestamp, event_type, played_ratio, is_organic.

    Train holds its positive events only; validation and test hold every type.
    """
    return con.sql(f"""
        SELECT user_id, song_id, timestamp, event_type, played_ratio, is_organic
        FROM parted_events JOIN songs USING (item_id)
        WHERE part = '{name}' AND (positive OR part <> 'train')
        ORDER BY user_id, timestamp, file_row_number
    """)


def negatives(con: Connection, parted_events: Relation, songs: Relation) -> Relation:
    """Distinct explicit negatives of the train part, cold songs included: user_id, song_id, event_type, in_graph."""
    return con.sql(f"""
        SELECT DISTINCT user_id, song_id, event_type, in_graph
        FROM parted_events JOIN songs USING (item_id)
        WHERE part = 'train' AND event_type IN {NEGATIVE_TYPES}
        ORDER BY user_id, song_id, event_type
    """)
