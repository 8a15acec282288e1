"""The leaderboard: means, bootstrap intervals, order, and what is undefined for everybody."""

import math

import numpy as np
import polars as pl
import pytest

from ms_assets import certainty
from ms_assets.certainty import Resamples
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import official
from ms_assets.evaluation.exposure import COMPARED
from ms_assets.evaluation.leaderboard import OFFICIAL, differences, leaderboard, summary, to_markdown, verdict
from ms_assets.evaluation.metrics import METRICS
from ms_assets.machine import NotEnoughMemoryError
from ms_assets_tests.evaluation.boards import frames, panes

COLUMNS = {
    "method": pl.String, "view": pl.String, "k": pl.Int32, "metric": pl.String,
    "mean": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64, "n_users": pl.Int64,
}  # fmt: skip


def board_of(**given):
    per_user, shown = frames(**given)
    return leaderboard(panes(per_user), shown)


def row_of(board, metric, method="lightgcn", view="all", k=10):
    [row] = board.filter(method=method, view=view, k=k, metric=metric).to_dicts()
    return row


def test_there_is_one_row_for_each_method_view_k_and_metric_in_order():
    board = board_of()
    assert dict(board.schema) == COLUMNS
    keys = board.select("view", "k", "metric", "method").rows()
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == 2 * 2 * 2 * (len(METRICS) + len(COMPARED))


def test_the_mean_is_over_the_users_for_whom_a_metric_is_defined():
    values = [0.5, None, 0.25, None, 1.0, 0.25]
    row = row_of(board_of(n_users=6, recall=values), "recall")
    assert row["mean"] == pytest.approx((0.5 + 0.25 + 1 + 0.25) / 4)
    assert row["n_users"] == 4
    assert row["ci_low"] < row["mean"] < row["ci_high"]


def test_every_interval_holds_its_mean():
    board = board_of().drop_nulls("ci_low")
    assert len(board) == 2 * 2 * 2 * len(METRICS)
    assert board.select(((pl.col("ci_low") < pl.col("mean")) & (pl.col("mean") < pl.col("ci_high"))).all()).item()


def test_the_interval_is_that_of_the_normal_approximation_for_many_users():
    n = 1_000
    values = np.random.default_rng(3).random(n)
    row = row_of(board_of(n_users=n, methods=["lightgcn"], views=["all"], ks=[10], ndcg=values), "ndcg")
    error = values.std() / n**0.5
    assert row["ci_low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert row["ci_high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_more_users_narrow_the_interval():
    one = {"methods": ["lightgcn"], "views": ["all"], "ks": [10]}
    rows = [row_of(board_of(n_users=n, **one), "ndcg") for n in (10, 100, 1_000)]
    widths = [row["ci_high"] - row["ci_low"] for row in rows]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_same_metrics_give_the_same_board_whatever_the_order_of_their_rows():
    per_user, shown = frames()
    shuffled = per_user.sample(fraction=1, shuffle=True, seed=5)
    assert leaderboard(panes(per_user), shown).equals(leaderboard(panes(shuffled), shown))
    assert differences(panes(per_user)).equals(differences(panes(shuffled)))


def test_methods_that_agree_on_every_user_have_the_same_interval():
    per_user, shown = frames(methods=["lightgcn"])
    twin = per_user.with_columns(method=pl.lit("popular"))
    measured = panes(pl.concat([per_user, twin]))
    board = leaderboard(measured, shown)
    assert differences(measured).select("difference", "ci_low", "ci_high").unique().rows() == [(0, 0, 0)]
    for metric in METRICS:
        one, other = (row_of(board, metric, method) for method in ("lightgcn", "popular"))
        assert one | {"method": None} == other | {"method": None}


def test_a_metric_undefined_for_everybody_has_no_mean_and_no_interval():
    row = row_of(board_of(n_users=5, hit_like=[None] * 5), "hit_like")
    assert (row["mean"], row["ci_low"], row["ci_high"], row["n_users"]) == (None, None, None, 0)


def test_a_single_user_has_a_mean_and_no_interval():
    row = row_of(board_of(n_users=1, ndcg=[0.5]), "ndcg")
    assert (row["mean"], row["ci_low"], row["ci_high"], row["n_users"]) == (0.5, None, None, 1)


def test_numbers_of_all_lists_together_have_no_interval():
    per_user, shown = frames(n_users=7)
    board = leaderboard(panes(per_user), shown)
    for method, view, k, *means in shown.rows():
        for name, mean in zip(COMPARED, means, strict=True):
            row = row_of(board, name, method, view, k)
            assert (row["mean"], row["ci_low"], row["ci_high"], row["n_users"]) == (mean, None, None, 7)


def official_rows(**users):
    """Rows of official metrics: for each method the (dcg, ideal_dcg, recall) of users 0, 1, …"""
    rows = [(m, "official_like", 10, uid, *row) for m, found in users.items() for uid, row in enumerate(found)]
    return pl.DataFrame(rows, schema=official.SCHEMA, orient="row")


def test_official_ndcg_is_the_mean_dcg_over_the_mean_ideal_dcg():
    measured = panes(official_rows(lightgcn=[(0.5, 1, 0.2), (1.0, 3, 0.6)]), OFFICIAL)
    board = leaderboard(measured, frames()[1])
    assert row_of(board, "ndcg", view="official_like")["mean"] == pytest.approx((0.5 + 1) / (1 + 3))
    assert row_of(board, "recall", view="official_like")["mean"] == pytest.approx(0.4)


def test_a_difference_is_that_of_the_means_with_the_interval_of_a_paired_bootstrap():
    rng, n = np.random.default_rng(2), 300
    other = rng.random(n)
    mine = other + rng.normal(0.02, 0.05, n)
    per_user, _ = frames(n_users=n, views=["all"], ks=[10])
    per_user = per_user.sort("method", "uid").with_columns(recall=pl.Series([*mine, *other]))
    [row] = differences(panes(per_user)).filter(metric="recall").to_dicts()
    assert (row["method"], row["other"], row["n_users"]) == ("lightgcn", "popular", n)
    assert row["difference"] == pytest.approx(np.mean(mine - other))
    error = (mine - other).std() / n**0.5
    assert row["ci_low"] == pytest.approx(row["difference"] - 1.96 * error, abs=0.3 * error)
    assert row["ci_high"] == pytest.approx(row["difference"] + 1.96 * error, abs=0.3 * error)


def test_resamples_are_those_of_drawing_users_with_replacement():
    values = np.random.default_rng(0).random((50, 3))
    resamples = Resamples.of(50)
    assert (resamples.times.sum(axis=1) == 50).all()
    slow = [[values[np.repeat(np.arange(50), times), c].sum() for c in range(3)] for times in resamples.times]
    np.testing.assert_allclose(resamples.sums(values), slow)
    in_parts = sum(resamples.sums(values[first : first + 7], first) for first in range(0, 50, 7))
    np.testing.assert_allclose(in_parts, slow)


def test_sums_are_exact_so_that_equal_columns_have_equal_ones_in_any_place_and_any_order_of_addition():
    rng = np.random.default_rng(0)
    resamples, values = Resamples.of(500), rng.random((500, 7)) ** 9 * [1, 1e6, 1e-6, 1, 0, -1, 1]
    sums = resamples.sums(values)
    for columns in ([3], [3, 3, 0], [1, 2, 4, 5, 6, 3]):
        assert (resamples.sums(values[:, columns]) == sums[:, columns]).all()
    order = rng.permutation(500)
    assert (Resamples(resamples.times[:, order]).sums(values[order]) == sums).all()
    slow = [[math.fsum(np.repeat(column, times)) for column in values.T] for times in resamples.times[:20]]
    np.testing.assert_allclose(sums[:20], slow, rtol=2**-52, atol=0)


@pytest.mark.parametrize("at_once", [1, 1_500])
def test_sums_do_not_depend_on_how_many_values_are_added_up_at_once(at_once, monkeypatch):
    values = np.random.default_rng(0).random((500, 7)) ** 9 * [1, 1e6, 1e-6, 1, 0, -1, 1]
    resamples = Resamples.of(500)
    whole = resamples.sums(values)
    monkeypatch.setattr(certainty, "VALUES_AT_ONCE", at_once)
    assert (resamples.sums(values) == whole).all()


def test_a_comparison_of_more_users_than_memory_holds_is_refused(duckdb, monkeypatch):
    rows = duckdb.connection.from_arrow(official_rows(lightgcn=[(0.5, 1, 0.2), (1.0, 3, 0.6)]).to_arrow())
    # Two metrics of two lists: for each of four values 16 bytes in arrays, 40 while it is summed, a flag, and 24 as it
    # is read; 1,001 bytes for each user, and 32 MiB of libraries.
    needed = 4 * (16 + 40 + 1 + 24) + 2 * 1_001 + (32 << 20)
    monkeypatch.setattr(boards, "free_memory", lambda: needed)
    assert len(boards.panes(rows, OFFICIAL)) == 1
    monkeypatch.setattr(boards, "free_memory", lambda: needed - 1)
    with pytest.raises(NotEnoughMemoryError, match="comparison of 2 lists of 2 users needs") as refusal:
        boards.panes(rows, OFFICIAL)
    assert "min_events" in str(refusal.value)


def test_the_verdict_tells_real_differences_from_chance():
    rows = [("a", 0.1, 0.05, 0.2), ("b", 0.01, -0.02, 0.03), ("c", -0.3, -0.4, -0.2), ("d", 0.0, None, None)]
    compared = pl.DataFrame(rows, ["other", "difference", "ci_low", "ci_high"], orient="row").with_columns(
        method=pl.lit("lightgcn")
    )
    assert verdict(compared, "lightgcn") == (
        "By ndcg, lightgcn is better than a (+0.1000, +0.0500 to +0.2000); level with b (+0.0100, -0.0200 to +0.0300); "
        "worse than c (-0.3000, -0.4000 to -0.2000)."
    )
    assert "cannot be compared" in verdict(compared, "ranked")


def test_both_the_model_and_what_is_served_are_compared_with_every_other_method():
    per_user, shown = frames(methods=("lightgcn", "popular", "ranked"), n_users=20, views=["all"], ks=[10])
    found = differences(measured := panes(per_user)).filter(metric="ndcg")
    pairs = [("lightgcn", "popular"), ("lightgcn", "ranked"), ("ranked", "lightgcn"), ("ranked", "popular")]
    assert found.select("method", "other").rows() == pairs
    mine, theirs = found.filter(method="lightgcn", other="ranked"), found.filter(method="ranked", other="lightgcn")
    assert mine["difference"].item() == -theirs["difference"].item()
    text = to_markdown(leaderboard(measured, shown), found)
    assert "By ndcg, lightgcn is" in text
    assert "By ndcg, ranked is" in text


def test_the_summary_puts_the_best_by_ndcg_first_and_the_undefined_last():
    per_user, coverage = frames(methods=("a", "b", "c", "d"), n_users=3, views=["all"], ks=[10])
    worth = {"a": 0.1, "b": None, "c": 0.9, "d": 0.1}
    per_user = per_user.with_columns(
        ndcg=pl.col("method").replace_strict(list(worth), list(worth.values()), return_dtype=pl.Float64)
    )
    found = summary(leaderboard(panes(per_user), coverage), "all", 10)
    assert found.columns == ["method", "ndcg", "recall", "coverage", "dislike_fpr", "novelty"]
    assert found["method"].to_list() == ["c", "a", "d", "b"]


def test_markdown_shows_every_view_and_k_with_undefined_numbers_among_them():
    per_user, shown = frames(n_users=3, ndcg=[None] * 3)
    measured = panes(per_user)
    text = to_markdown(leaderboard(measured, shown), differences(measured))
    for view in ("all", "discovery"):
        for k in (10, 100):
            assert f"**{view}, K = {k}**" in text
    assert "| lightgcn | – | – |" in text


def test_markdown_shows_the_interval_of_ndcg_beside_it():
    per_user, shown = frames(n_users=20, views=["all"], ks=[10])
    measured = panes(per_user)
    board = leaderboard(measured, shown)
    row = row_of(board, "ndcg")
    wanted = f"| lightgcn | {row['mean']:.4f} | {round(row['ci_low'], 4)} to {round(row['ci_high'], 4)} |"
    assert wanted in to_markdown(board, differences(measured))
