"""What must hold of the splits: dense ids, and no event of the future in the past."""

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.resources import DuckDB


@dg.asset_check(
    asset=["splits", "candidate_songs"],
    additional_ins={"multi_event": dg.AssetIn(["raw", "multi_event"])},
    blocking=True,
)
def events_name_songs_with_audio(
    duckdb: DuckDB, candidate_songs: Relation, multi_event: Relation
) -> dg.AssetCheckResult:
    """Events and audio speak of the same songs: without a common song nothing could be recommended."""
    [(n_events, n_with_audio)] = duckdb.connection.sql("""
        SELECT count(*), count(*) FILTER (item_id IN (SELECT item_id FROM candidate_songs)) FROM multi_event
    """).fetchall()
    share = n_with_audio / n_events if n_events else 0.0
    return dg.AssetCheckResult(passed=n_with_audio > 0, metadata={"n_events": n_events, "share_with_audio": share})


def _dense_ids(table: Relation, name: str) -> dg.AssetCheckResult:
    n_rows, n_ids, low, high = table.aggregate(
        f"count(*), count(DISTINCT {name}), min({name}), max({name})"
    ).fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_rows > 0 and (n_ids, low, high) == (n_rows, 0, n_rows - 1),
        metadata={"n_rows": n_rows, "n_ids": n_ids, "lowest": low, "highest": high},
    )


@dg.asset_check(asset=["splits", "users"], blocking=True)
def user_ids_are_dense(users: Relation) -> dg.AssetCheckResult:
    """User ids are 0…n−1, each once: they are row numbers of embeddings."""
    return _dense_ids(users, "user_id")


@dg.asset_check(asset=["splits", "songs"], blocking=True)
def song_ids_are_dense(songs: Relation) -> dg.AssetCheckResult:
    """Song ids are 0…n−1, each once: they are row numbers of embeddings."""
    return _dense_ids(songs, "song_id")


@dg.asset_check(asset=["splits", "songs"], blocking=True)
def graph_songs_come_first(songs: Relation) -> dg.AssetCheckResult:
    """Songs of the graph have the lowest ids, so that a song's id is its row in the graph."""
    n_graph, last = songs.aggregate("count(*) FILTER (in_graph), max(song_id) FILTER (in_graph)").fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_graph > 0 and last == n_graph - 1,
        metadata={"n_graph_songs": n_graph, "last_graph_song": last},
    )


@dg.asset_check(
    asset=["splits", "ground_truth"],
    additional_ins={name: dg.AssetIn(["splits", name]) for name in ("train", "validation", "test")},
    blocking=True,
)
def held_out_events_follow_train(
    duckdb: DuckDB, train: Relation, validation: Relation, test: Relation
) -> dg.AssetCheckResult:
    """No validation event is earlier than the user's last train event, and no test event than either."""
    [(n_users, n_broken)] = duckdb.connection.sql("""
        WITH spans AS (
            SELECT user_id, 1 AS part, min(timestamp) AS first, max(timestamp) AS last FROM train GROUP BY user_id
            UNION ALL SELECT user_id, 2, min(timestamp), max(timestamp) FROM validation GROUP BY user_id
            UNION ALL SELECT user_id, 3, min(timestamp), max(timestamp) FROM test GROUP BY user_id
        )
        SELECT count(DISTINCT earlier.user_id),
            count(DISTINCT earlier.user_id) FILTER (later.first < earlier.last)
        FROM spans earlier JOIN spans later ON earlier.user_id = later.user_id AND earlier.part < later.part
    """).fetchall()
    return dg.AssetCheckResult(passed=n_broken == 0, metadata={"n_users": n_users, "n_users_out_of_order": n_broken})


@dg.asset_check(
    asset=["splits", "ground_truth"],
    additional_ins={name: dg.AssetIn(["splits", name]) for name in ("validation", "test")},
    blocking=True,
)
def ground_truth_counts_every_event(
    ground_truth: Relation, validation: Relation, test: Relation
) -> dg.AssetCheckResult:
    """The events behind the ground truth are those of validation and test, none lost and none twice."""
    counted = dict(ground_truth.aggregate("split, sum(n_events)::BIGINT").fetchall())
    expected = {"validation": len(validation), "test": len(test)}
    found = {name: counted.get(name, 0) for name in expected}
    return dg.AssetCheckResult(passed=found == expected, metadata={"found": found, "expected": expected})


checks = [
    events_name_songs_with_audio,
    user_ids_are_dense,
    song_ids_are_dense,
    graph_songs_come_first,
    held_out_events_follow_train,
    ground_truth_counts_every_event,
]
