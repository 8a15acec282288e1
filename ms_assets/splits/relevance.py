"""Relevance of songs to users in the held-out parts: the ground truth."""

from collections.abc import Iterator

import duckdb

from ms_assets.events import EVENT_TYPES, KNOWN, POSITIVES, EventType
from ms_assets.streams import Relation

LISTEN_PLUS_RATIO = 0.5
"""Played ratio beyond which a listen counts as listen+."""
IN_WORDS = ", ".join(
    f"{name} {kind.relevance[0]:g}" + f" + {kind.relevance[1]:g} × played ratio" * bool(kind.relevance[1])
    for name, kind in POSITIVES.items()
)
"""Terms of the base relevance by event type, in words."""
MAX_REPLAY_BONUS, REPLAYS_FOR_MAX_BONUS = 0.05, 20


def ground_truth(con: duckdb.DuckDBPyConnection, train: Relation, validation: Relation, test: Relation) -> Relation:
    """One row per split, user and song: base_relevance, adjusted_relevance and the counts behind them.

    base = Σ over events (intercept + slope · played ratio, unknown as 0) by `EventType.relevance`;
    adjusted = min(base · (1 + 0.05 · min(n_train_plays, 20) / 20), 1). Ratios are summed as decimals, so that
    the sum does not depend on the order in which threads process the events. The query fails for a held-out event
    type that is not in EVENT_TYPES.
    """
    base = " + ".join(term for name, kind in EVENT_TYPES.items() for term in _relevance(name, kind))
    return con.sql(f"""
        WITH held_out AS (
            SELECT * REPLACE ({KNOWN} AS event_type)
            FROM (SELECT 'validation' AS split, * FROM validation UNION ALL SELECT 'test', * FROM test)
        ),
        plays AS (
            SELECT user_id, song_id, count(*) AS n_train_plays
            FROM train SEMI JOIN held_out USING (user_id, song_id) WHERE event_type = 'listen' GROUP BY ALL
        ),
        counted AS (
            SELECT split, user_id, song_id, {base} AS base_relevance,
                count(*) FILTER (event_type = 'listen' AND played_ratio > {LISTEN_PLUS_RATIO}) AS listen_plus,
                count(*) FILTER (event_type = 'like') AS likes,
                count(*) FILTER (event_type = 'dislike') AS dislikes,
                count(*) AS n_events
            FROM held_out GROUP BY ALL
        )
        SELECT split, user_id, song_id, base_relevance,
            least(base_relevance * (1 + {MAX_REPLAY_BONUS}::DOUBLE
                * least(coalesce(n_train_plays, 0), {REPLAYS_FOR_MAX_BONUS}) / {REPLAYS_FOR_MAX_BONUS}), 1.0)
                AS adjusted_relevance,
            listen_plus, likes, dislikes, n_events, coalesce(n_train_plays, 0) AS n_train_plays
        FROM counted LEFT JOIN plays USING (user_id, song_id)
        ORDER BY user_id, split, song_id
    """)


def _relevance(name: str, kind: EventType) -> Iterator[str]:
    """Terms of the base relevance for events of one type, as SQL."""
    of_type = f"FILTER (event_type = '{name}')"
    intercept, slope = kind.relevance
    if intercept:
        yield f"{intercept}::DOUBLE * count(*) {of_type}"
    if slope:
        yield f"{slope}::DOUBLE * coalesce(sum(played_ratio::DECIMAL(12, 9)) {of_type}, 0)::DOUBLE"
