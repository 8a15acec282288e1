"""The assets of the room over tables of a few rows."""

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from ms_assets.defs.evaluation import assets
from ms_assets.evaluation import leaderboard, passes, tables
from ms_assets.retrieval.recommender import VIEWS
from ms_assets_tests import slow_metrics

GRAPH_SONGS, COLD_SONGS = 12, 3


@pytest.fixture
def splits():
    """Two users, fifteen songs; user 1 heard song 0 and, in the test part, listened to songs 0 to 11."""
    con, n_songs = duckdb.connect(), GRAPH_SONGS + COLD_SONGS
    plays = [2, 0, 0, 0, 0, 1, *[0] * 9]
    test = [(1, song, 100, "listen", 1.0, song % 2) for song in range(12)]
    events = ["user_id", "song_id", "timestamp", "event_type", "played_ratio", "is_organic"]
    frames = {
        "users": pl.DataFrame({"user_id": [1, 0], "uid": [80, 40]}),
        "songs": pl.DataFrame({"song_id": range(n_songs), "in_graph": [s < GRAPH_SONGS for s in range(n_songs)],
                               "n_train_plays": plays, "artist_ids": [[s // 2] for s in range(n_songs)]}),
        "train": pl.DataFrame({"user_id": [1, 1, 0], "song_id": [0, 0, 5], "timestamp": [1, 2, 3]}),
        "validation": pl.DataFrame(schema={"timestamp": pl.Int64}),
        "test": pl.DataFrame(test, events, orient="row"),
        "ground_truth": pl.DataFrame({"song_id": range(12)}).with_columns(
            split=pl.lit("test"), user_id=1, base_relevance=0.7, adjusted_relevance=0.7,
            listen_plus=1, likes=0, dislikes=0,
        ),
    }  # fmt: skip
    return {name: con.from_arrow(frame.to_arrow()) for name, frame in frames.items()} | {"con": con}


def recommended(splits, lists):
    """Relations of recommendations; lists: for each method, user 1's songs, best first; user 0 gets songs 3, 4."""
    found = {}
    for method, songs in lists.items():
        rows = [(view, 1, rank, song) for view in VIEWS for rank, song in enumerate(songs, start=1)]
        rows += [(view, 0, rank, rank + 2) for view in VIEWS for rank in (1, 2)]
        frame = pl.DataFrame(rows, schema=["view", "user_id", "rank", "song_id"], orient="row")
        found[method] = splits["con"].from_arrow(frame.to_arrow())
    return found


def inputs(splits, *names):
    return {name: splits[name] for name in names}


def table_of(stream):
    return pl.concat([pl.DataFrame(table) for table in stream.tables])


def metrics_of(splits, lists, ks):
    """The table user_metrics."""
    context = dg.build_asset_context(partition_key="sample", asset_config={"ks": ks})
    given = inputs(splits, "users", "songs", "train", "ground_truth")
    return table_of(assets.user_metrics(context, **given, **recommended(splits, lists)).value)


def by_key(frame):
    return {(row["method"], row["view"], row["k"]): row for row in frame.to_dicts()}


def test_there_is_a_row_for_each_method_view_k_and_tested_user(splits):
    frame = metrics_of(splits, {"popular": range(10), "random": range(5, 15)}, ks=[3, 10])
    found = by_key(frame)
    assert len(frame) == len(found) == 2 * 2 * 2
    assert {row["uid"] for row in found.values()} == {80}
    assert found["popular", "all", 3]["ndcg"] == pytest.approx(1)
    assert found["popular", "all", 3]["recall"] == 3 / 12
    assert found["random", "all", 10]["recall"] == 7 / 12
    assert found["random", "discovery", 10]["recall"] == 7 / 11
    assert found["random", "all", 10]["cold_share"] == 3 / 10
    assert found["random", "all", 10]["artist_diversity"] == 6 / 10


def test_a_list_shorter_than_k_misses_the_places_that_it_leaves_empty(splits):
    found = by_key(metrics_of(splits, {"popular": range(10), "random": range(3)}, ks=[10]))
    assert found["popular", "all", 10]["ndcg"] == pytest.approx(1)
    assert found["random", "all", 10]["ndcg"] < 0.5  # three of ten places: the best ten are the ideal
    assert found["random", "all", 10]["precision"] == 3 / 10


def measured(splits, lists, ks=(2, 10)):
    """The inputs of the assets that follow user_metrics."""
    per_user = splits["con"].from_arrow(metrics_of(splits, lists, list(ks)).to_arrow())
    return {"user_metrics": per_user, **recommended(splits, lists)}


def test_exposure_counts_the_songs_shown_to_anybody(splits):
    given = measured(splits, {"popular": [0, 5], "random": [3, 14]})
    found = by_key(assets.exposure(**given, **inputs(splits, "users", "songs", "train", "validation", "test")))
    row = found["random", "all", 2]
    assert row["coverage"] == 3 / 15
    assert row["exposure_gini"] == pytest.approx(slow_metrics.gini([0, 0, 0, 2, 1, *[0] * 9, 1]))
    # Song 0 has two of the three plays, and is the head.
    assert (row["head_share"], row["tail_share"], row["cold_share"]) == (0, 3 / 4, 1 / 4)
    assert found["popular", "all", 2]["head_share"] == 1 / 4
    # Train ends before the test part begins: the authors divide by the songs in train.
    assert found["random", "official_like", 2]["coverage"] == 3 / 12


def test_official_metrics_are_there_under_a_global_division_alone(splits):
    given = measured(splits, {"popular": [0, 14]}) | inputs(splits, "users", "songs", "train", "validation")
    found = table_of(assets.official_user_metrics(**given, test=splits["test"]))
    assert found.filter(k=2).select("view", "uid", "recall").rows() == [("official_listen_plus", 80, 1 / 12)]
    early = splits["con"].sql("SELECT 1 AS user_id, 0 AS song_id, 3 AS timestamp, 'like' AS event_type")
    assert table_of(assets.official_user_metrics(**given, test=early)).is_empty()


def test_the_recall_curve_passes_through_the_mean_recalls(many):
    splits, shown = many
    per_user, _, _, curve, _ = everything(splits, shown)
    assert len(curve) == 2 * 4
    for view, k in (("all", 2), ("all", 4), ("discovery", 2), ("discovery", 4)):
        [recall] = curve.filter(view=view, k=k)["recall"]
        assert recall == pytest.approx(per_user.filter(view=view, k=k)["recall"].mean())


def test_slices_look_at_their_own_targets_alone(splits):
    given = measured(splits, {"popular": [0, 1, 2, 14]}) | inputs(
        splits, "users", "songs", "train", "ground_truth", "test"
    )
    rows = assets.slices(**given).filter(view="all", k=10, metric="recall")
    found = {(row["slice"], row["value"]): (row["mean"], row["n_users"]) for row in rows.to_dicts()}
    assert found.pop(("history length", "quarter 1: 2 to 2 events")) == (3 / 12, 1)
    assert found.pop(("popularity", "head")) == (1, 1)
    assert found.pop(("popularity", "tail")) == (2 / 11, 1)
    assert found.pop(("song", "warm")) == (3 / 12, 1)
    assert found.pop(("song", "cold")) == (None, 0)
    assert found.pop(("event", "organic")) == (1 / 6, 1)
    assert found.pop(("event", "recommended")) == (2 / 6, 1)
    assert set(found.values()) == {(None, 0)}  # quarters of nobody


@pytest.fixture
def many(splits):
    """Forty users with something of everything, and three methods' lists of four songs."""
    rng, con = np.random.default_rng(4), splits["con"]
    users = range(40)
    pairs = [(u, s) for u in users for s in rng.choice(15, 5, replace=False).tolist()]
    kinds = ["listen", "like", "dislike"]
    test = [(u, s, 100, str(rng.choice(kinds)), float(rng.random()), int(rng.integers(2))) for u, s in pairs]
    events = ["user_id", "song_id", "timestamp", "event_type", "played_ratio", "is_organic"]
    met = pl.DataFrame(pairs, ["user_id", "song_id"], orient="row").with_columns(
        split=pl.lit("test"), base_relevance=pl.Series(rng.random(len(pairs))),
        **{name: pl.Series(rng.integers(0, 2, len(pairs))) for name in ("listen_plus", "likes", "dislikes")},
    )  # fmt: skip
    lists = [(view, u, rank, s) for view in VIEWS for u in users
             for rank, s in enumerate(rng.choice(15, 4, replace=False).tolist(), start=1)]  # fmt: skip
    heard = [(u, s, 1) for u in users for s in rng.choice(12, u % 7, replace=False).tolist()]
    frames = {
        "users": pl.DataFrame({"user_id": users, "uid": [3 * u for u in users]}),
        "train": pl.DataFrame(heard, ["user_id", "song_id", "timestamp"], orient="row"),
        "test": pl.DataFrame(test, events, orient="row"),
        "ground_truth": met.with_columns(adjusted_relevance=pl.col("base_relevance")),
    }
    shown = pl.DataFrame(lists, ["view", "user_id", "rank", "song_id"], orient="row")
    return splits | {name: con.from_arrow(frame.to_arrow()) for name, frame in frames.items()}, con.from_arrow(
        shown.to_arrow()
    )


def everything(splits, shown):
    """All tables of the room before the leaderboard, sorted."""
    context = dg.build_asset_context(partition_key="sample", asset_config={"ks": [2, 4]})
    given = inputs(splits, "users", "songs", "train", "ground_truth")
    per_user = table_of(assets.user_metrics(context, **given, popular=shown).value)
    given["user_metrics"] = splits["con"].from_arrow(per_user.to_arrow())
    division = inputs(splits, "users", "songs", "train", "validation", "test")
    shared = {"user_metrics": given["user_metrics"], "popular": shown}
    found = [
        per_user,
        table_of(assets.official_user_metrics(**shared, **division)),
        assets.exposure(**shared, **division),
        assets.recall_curve(**shared, **inputs(splits, "users", "songs", "train", "ground_truth")),
        assets.slices(**shared, **inputs(splits, "users", "songs", "train", "test", "ground_truth")),
    ]
    return [frame.sort(pl.col(pl.String, pl.Int32, pl.Int64)) for frame in found]


def test_a_leaderboard_is_made_from_relations_without_any_asset(many):
    splits, shown = many
    names, ks = ("users", "songs", "train", "ground_truth"), [2, 4]
    rows = pa.concat_tables(passes.user_metrics({"popular": shown}, *(splits[name] for name in names), ks))
    exposed = passes.exposure({"popular": shown}, *(splits[name] for name in names[:3]), False, ks)
    board = leaderboard.leaderboard(leaderboard.panes(splits["con"].from_arrow(rows)), exposed)
    assert board.schema == leaderboard.SCHEMA
    for view, k in (("all", 2), ("discovery", 4)):
        [row] = board.filter(view=view, k=k, metric="ndcg").to_dicts()
        mean = pl.DataFrame(rows).filter(view=view, k=k)["ndcg"].mean()
        assert row["mean"] == pytest.approx(mean) and row["ci_low"] < mean < row["ci_high"]
        assert len(board.filter(view=view, k=k, metric="coverage")) == 1


def close(one, other):
    assert all(len(frame) for frame in one)
    for a, b in zip(one, other, strict=True):
        assert_frame_equal(a, b, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize("at_once", [1, 7, 39])
def test_how_many_users_are_taken_at_once_changes_nothing(many, at_once, monkeypatch):
    wanted = everything(*many)
    monkeypatch.setattr(tables, "USERS_AT_ONCE", at_once)
    close(everything(*many), wanted)


def test_the_order_of_rows_changes_nothing(many):
    splits, shown = many
    names = ("users", "train", "test", "ground_truth")
    shuffled = {name: splits[name].order("hash(COLUMNS(*))") for name in names}
    close(everything(splits | shuffled, shown.order("hash(COLUMNS(*))")), everything(*many))
