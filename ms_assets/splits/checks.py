"""What must hold of the splits: dense ids, and no event of the future in the past."""

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.resources import DuckDB

TRAIN = {"train": dg.AssetIn(["splits", "train"])}


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


def _in_order(duckdb: DuckDB, earlier: Relation, later: Relation) -> dg.AssetCheckResult:
    [(n_users, n_broken)] = duckdb.connection.sql("""
        SELECT count(*), count(*) FILTER (first < last)
        FROM (SELECT user_id, max(timestamp) AS last FROM earlier GROUP BY user_id)
        JOIN (SELECT user_id, min(timestamp) AS first FROM later GROUP BY user_id) USING (user_id)
    """).fetchall()
    return dg.AssetCheckResult(passed=n_broken == 0, metadata={"n_users": n_users, "n_users_out_of_order": n_broken})


@dg.asset_check(asset=["splits", "validation"], additional_ins=TRAIN, blocking=True)
def validation_follows_train(duckdb: DuckDB, validation: Relation, train: Relation) -> dg.AssetCheckResult:
    """No validation event is earlier than the user's last train event."""
    return _in_order(duckdb, train, validation)


@dg.asset_check(asset=["splits", "test"], additional_ins=TRAIN, blocking=True)
def test_follows_train(duckdb: DuckDB, test: Relation, train: Relation) -> dg.AssetCheckResult:
    """No test event is earlier than the user's last train event."""
    return _in_order(duckdb, train, test)


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
    user_ids_are_dense,
    song_ids_are_dense,
    graph_songs_come_first,
    validation_follows_train,
    test_follows_train,
    ground_truth_counts_every_event,
]
