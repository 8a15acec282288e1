"""How much a song in a held-out part was worth to a user."""

import duckdb

Relation = duckdb.DuckDBPyRelation

LISTEN_WEIGHT, LIKE_WEIGHT, UNDISLIKE_WEIGHT = 0.7, 1.0, 0.3
LISTEN_PLUS_RATIO = 0.5
"""A listen counts as listen+ beyond this played ratio."""
MAX_REPLAY_BONUS, REPLAYS_FOR_MAX_BONUS = 0.05, 20


def ground_truth(con: duckdb.DuckDBPyConnection, train: Relation, validation: Relation, test: Relation) -> Relation:
    """One row per split, user and song: base_relevance, adjusted_relevance and the counts behind them.

    base = Σ over events (0.7 · played ratio of a listen, null as 0; 1 for a like; 0.3 for an undislike);
    adjusted = min(base · (1 + 0.05 · min(n_train_plays, 20) / 20), 1). Ratios are summed as decimals, so that
    the sum does not depend on the order in which threads meet the events.
    """
    return con.sql(f"""
        WITH held_out AS (
            SELECT 'validation' AS split, * FROM validation UNION ALL SELECT 'test', * FROM test
        ),
        plays AS (
            SELECT user_id, song_id, count(*) AS n_train_plays
            FROM train SEMI JOIN held_out USING (user_id, song_id) WHERE event_type = 'listen' GROUP BY ALL
        ),
        counted AS (
            SELECT split, user_id, song_id,
                {LISTEN_WEIGHT}::DOUBLE * coalesce(
                    sum(played_ratio::DECIMAL(12, 9)) FILTER (event_type = 'listen'), 0)::DOUBLE
                + {LIKE_WEIGHT}::DOUBLE * count(*) FILTER (event_type = 'like')
                + {UNDISLIKE_WEIGHT}::DOUBLE * count(*) FILTER (event_type = 'undislike') AS base_relevance,
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
