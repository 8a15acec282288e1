"""Checks of the splits: dense ids, no event lost or duplicated, no future event in an earlier part."""

from dataclasses import asdict

import dagster as dg

from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import assets_of
from ms_assets.splits import audits
from ms_assets.streams import Relation

LOW_SHARE_OF_CANDIDATES = 0.5


@asset_check(asset=["splits", "candidate_songs"], additional_ins=assets_of("raw", "multi_event"), blocking=True)
def events_name_candidate_songs(candidate_songs: Relation, multi_event: Relation) -> dg.AssetCheckResult:
    """Events name candidate songs: an error if none does, a warning if few do (such as for missing audio)."""
    n_events, n_songs = multi_event.aggregate("count(*), approx_count_distinct(item_id)").fetchall()[0]
    n_candidates, n_named = candidate_songs.aggregate("count(*), coalesce(sum(n_events), 0)").fetchall()[0]
    share = int(n_named) / n_events if n_events else 0.0
    enough = share >= LOW_SHARE_OF_CANDIDATES
    remedy = "a song needs a row in raw/embeddings unless splits__songs has require_audio: false"
    return dg.AssetCheckResult(
        passed=enough,
        description=None
        if enough
        else f"{n_named} of {n_events} events name one of {n_candidates} candidates; {remedy}",
        severity=dg.AssetCheckSeverity.WARN if share else dg.AssetCheckSeverity.ERROR,
        metadata={
            "n_events": n_events,
            "share_of_candidates": share,
            "warns_below": LOW_SHARE_OF_CANDIDATES,
            "about_n_songs": n_songs,
            "n_candidates": n_candidates,
        },
    )


def _dense_ids(table: Relation, name: str) -> dg.AssetCheckResult:
    n_rows, n_ids, low, high = table.aggregate(
        f"count(*), count(DISTINCT {name}), min({name}), max({name})"
    ).fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_rows > 0 and (n_ids, low, high) == (n_rows, 0, n_rows - 1),
        metadata={"n_rows": n_rows, "n_ids": n_ids, "lowest": low, "highest": high},
    )


@asset_check(asset=["splits", "users"], blocking=True)
def user_ids_are_dense(users: Relation) -> dg.AssetCheckResult:
    """User ids are 0…n−1, each once: they are row numbers of embeddings."""
    return _dense_ids(users, "user_id")


@asset_check(asset=["splits", "songs"], blocking=True)
def song_ids_are_dense(songs: Relation) -> dg.AssetCheckResult:
    """Song ids are 0…n−1, each once: they are row numbers of embeddings."""
    return _dense_ids(songs, "song_id")


@asset_check(asset=["splits", "songs"], blocking=True)
def graph_songs_come_first(songs: Relation) -> dg.AssetCheckResult:
    """Songs of the graph have the lowest ids, so that a song's id is its row in the graph."""
    n_graph, last = songs.aggregate("count(*) FILTER (in_graph), max(song_id) FILTER (in_graph)").fetchall()[0]
    return dg.AssetCheckResult(
        passed=n_graph > 0 and last == n_graph - 1, metadata={"n_graph_songs": n_graph, "last_graph_song": last}
    )


@asset_check(
    asset=["splits", "ground_truth"], additional_ins=assets_of("splits", "train", "validation", "test"), blocking=True
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


DIVIDED = ("songs", "validation", "test")


@asset_check(
    asset=["splits", "train"],
    additional_ins=assets_of("raw", "multi_event")
    | assets_of("splits", "users")
    | assets_of("splits", *DIVIDED, optional=True),
    blocking=True,
)
def every_kept_event_is_in_one_part(
    duckdb: DuckDB, train: Relation, multi_event: Relation, users: Relation,
    songs: Relation | None, validation: Relation | None, test: Relation | None,
) -> dg.AssetCheckResult:  # fmt: skip
    """Parts hold the positive events of active users with candidate songs, none lost and none twice.

    Only a division by time may leave some out: those in its gaps, and those of users without a train part.
    """
    if songs is None or validation is None or test is None:
        return dg.AssetCheckResult(passed=True, metadata={"waits_for": f"the other parts: {', '.join(DIVIDED)}"})
    found = audits.conservation(duckdb.connection, multi_event, users, songs, train, validation, test)
    return dg.AssetCheckResult(passed=found.conserved, metadata=asdict(found))


@asset_check(asset=["splits", "train"], additional_ins=assets_of("splits", "songs", optional=True), blocking=True)
def songs_count_the_plays_of_train_alone(
    duckdb: DuckDB, train: Relation, songs: Relation | None
) -> dg.AssetCheckResult:
    """Songs' n_train_plays are their listens in train and no later ones; songs are in the graph if train names them."""
    if songs is None:
        return dg.AssetCheckResult(passed=True, metadata={"waits_for": "splits/songs"})
    [(n_wrong,)] = duckdb.connection.sql("""
        WITH trained AS (
            SELECT song_id, count(*) FILTER (event_type = 'listen') AS n_plays FROM train GROUP BY song_id
        )
        SELECT count(*) FROM songs FULL JOIN trained USING (song_id)
        WHERE n_train_plays IS DISTINCT FROM coalesce(n_plays, 0) OR in_graph <> (n_plays IS NOT NULL)
    """).fetchall()
    return dg.AssetCheckResult(passed=n_wrong == 0, metadata={"n_wrong_songs": n_wrong})


@asset_check(
    asset=["splits", "ground_truth"], additional_ins=assets_of("splits", "train", "validation", "test"), blocking=True
)
def ground_truth_speaks_of_the_events(
    duckdb: DuckDB, ground_truth: Relation, train: Relation, validation: Relation, test: Relation
) -> dg.AssetCheckResult:
    """Ground truth counts every validation and test event once; n_train_plays are the user's listens in train."""
    found = audits.met_in_ground_truth(ground_truth)
    events = {"validation": audits.met_in_events(validation), "test": audits.met_in_events(test)}
    expected = {split: numbers for split, numbers in events.items() if numbers[0]}
    n_wrong = audits.n_wrong_train_plays(duckdb.connection, ground_truth, train, duckdb.rows)
    return dg.AssetCheckResult(
        passed=found == expected and n_wrong == 0,
        metadata={"found": found, "expected": expected, "n_wrong_train_plays": n_wrong},
    )
