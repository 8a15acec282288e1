"""Weighted edges between users and songs."""

import duckdb

from ms_assets.events import POSITIVES, sql_case
from ms_assets.streams import Relation

UNKNOWN_RATIO = 0.5
MEAN_RATIO = f"coalesce(sum(played_ratio::DECIMAL(12, 9))::DOUBLE / count(played_ratio), {UNKNOWN_RATIO})"


def edges(con: duckdb.DuckDBPyConnection, train: Relation) -> Relation:
    """One edge per (user, song, event type) of the train part: n_events, played_ratio and weight.

    Types without a fixed played ratio (`EventType.edge_ratio`) take the mean of their events' known ratios, 0.5 if none
    is known. The query fails for an event of a type that is not positive.
    """
    fixed = {name: kind.edge_ratio for name, kind in POSITIVES.items()}
    ratios = {name: MEAN_RATIO if ratio is None else f"{ratio}::DOUBLE" for name, ratio in fixed.items()}
    weights = {name: f"{kind.edge_weight}::DOUBLE" for name, kind in POSITIVES.items()}
    return con.sql(f"""
        SELECT user_id, song_id, event_type, count(*) AS n_events,
            {sql_case(ratios)} AS played_ratio, {sql_case(weights)} AS weight
        FROM train GROUP BY user_id, song_id, event_type
        ORDER BY user_id, song_id, event_type
    """)
