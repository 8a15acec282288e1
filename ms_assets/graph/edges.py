"""Weighted edges between users and songs."""

import duckdb

Relation = duckdb.DuckDBPyRelation

TYPE_WEIGHTS = {"listen": 0.7, "like": 1.0, "undislike": 0.3}
TYPE_RATIOS = {"like": 1.0, "undislike": 0.5}
UNKNOWN_RATIO = 0.5
TYPE_CODES = {"listen": 1, "like": 2, "dislike": 3, "unlike": 4, "undislike": 5}
"""The codes of event types in edge attributes."""


def edges(con: duckdb.DuckDBPyConnection, train: Relation) -> Relation:
    """One edge per (user, song, event type) of the train part: n_events, played_ratio and weight.

    A listening edge has the mean of its known played ratios, 0.5 when none is known.
    """
    return con.sql(f"""
        SELECT user_id, song_id, event_type, count(*) AS n_events,
            CASE event_type {_cases(TYPE_RATIOS)}
                ELSE coalesce(sum(played_ratio::DECIMAL(12, 9))::DOUBLE / count(played_ratio), {UNKNOWN_RATIO})
            END AS played_ratio,
            CASE event_type {_cases(TYPE_WEIGHTS)} END::DOUBLE AS weight
        FROM train GROUP BY user_id, song_id, event_type
        ORDER BY user_id, song_id, event_type
    """)


def _cases(values: dict[str, float]) -> str:
    return " ".join(f"WHEN '{name}' THEN {value}::DOUBLE" for name, value in values.items())
