"""The assets of the room over tables of a few rows."""

import dagster as dg
import duckdb
import polars as pl
import pytest

from ms_assets.evaluation import assets

GRAPH_SONGS, COLD_SONGS = 12, 3


@pytest.fixture
def tables():
    """Two users, fifteen songs; user 1 heard song 0 and, in the test part, listened to songs 0 to 11."""
    con, n_songs = duckdb.connect(), GRAPH_SONGS + COLD_SONGS
    frames = {
        "users": pl.DataFrame({"user_id": [1, 0], "uid": [80, 40]}),
        "songs": pl.DataFrame({"song_id": range(n_songs), "in_graph": [s < GRAPH_SONGS for s in range(n_songs)]}),
        "train": pl.DataFrame({"user_id": [1, 1, 0], "song_id": [0, 0, 5]}),
        "ground_truth": pl.DataFrame({"song_id": range(12)}).with_columns(
            split=pl.lit("test"), user_id=1, base_relevance=0.7, adjusted_relevance=0.7,
            listen_plus=1, likes=0, dislikes=0,
        ),
    }  # fmt: skip
    return {name: con.from_arrow(frame.to_arrow()) for name, frame in frames.items()} | {"con": con}


def metrics_of(tables, lists, ks):
    """The rows of user_metrics by (method, view, k); lists: for each method, user 1's songs, best first."""
    con = tables["con"]
    recommended = {}
    for method, songs in lists.items():
        rows = [(view, 1, rank, song) for view in assets.VIEWS for rank, song in enumerate(songs, start=1)]
        frame = pl.DataFrame(rows, schema=["view", "user_id", "rank", "song_id"], orient="row")
        recommended[method] = con.from_arrow(frame.to_arrow())
    context = dg.build_asset_context(partition_key="sample", asset_config={"ks": ks})
    inputs = {name: tables[name] for name in ("users", "songs", "train", "ground_truth")}
    frame = assets.user_metrics(context, **inputs, **recommended).value
    return {(row["method"], row["view"], row["k"]): row for row in frame.to_dicts()}


def test_there_is_a_row_for_each_method_view_k_and_tested_user(tables):
    found = metrics_of(tables, {"popular": range(10), "random": range(5, 15)}, ks=[3, 10])
    assert len(found) == 2 * 2 * 2
    assert {row["uid"] for row in found.values()} == {80}
    assert found["popular", "all", 3]["ndcg"] == pytest.approx(1)
    assert found["popular", "all", 3]["recall"] == 3 / 12
    assert found["random", "all", 10]["recall"] == 7 / 12
    assert found["random", "discovery", 10]["recall"] == 7 / 11


def test_a_list_shorter_than_k_misses_the_places_that_it_leaves_empty(tables):
    found = metrics_of(tables, {"popular": range(10), "random": range(3)}, ks=[10])
    assert found["popular", "all", 10]["ndcg"] == pytest.approx(1)
    assert found["random", "all", 10]["ndcg"] < 0.5  # three of ten places: the best ten are the ideal
