"""Methods side by side: means over users, with bootstrap intervals."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import pictures
from ms_assets.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 1_000
CONFIDENCE = 0.95
SEED = 0
KEYS = ["method", "view", "k"]
SCHEMA = pl.Schema(
    {
        "method": pl.String,
        "view": pl.String,
        "k": pl.Int32,
        "metric": pl.String,
        "mean": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
        "n_users": pl.Int64,
    }
)
SHOWN = ("ndcg", "recall", "coverage", "dislike_fpr", "novelty")


def leaderboard(user_metrics: pl.DataFrame, coverage: pl.DataFrame) -> pl.DataFrame:
    """One row per method, view, k and metric: mean, ci_low, ci_high, n_users.

    user_metrics: method, view, k, uid and a column per metric. coverage: method, view, k, mean; it is a number
    of the whole list and has no interval. Intervals are percentiles of a bootstrap over users (Efron, 1979),
    the same resamples for every method.
    """
    groups = {key: group.sort("uid") for key, group in user_metrics.group_by(KEYS, maintain_order=True)}
    values = np.concatenate([group.select(*METRICS).cast(pl.Float64).to_numpy() for group in groups.values()], axis=1)
    mean, low, high = _means_with_intervals(values)
    rows = pl.DataFrame(
        {
            "key": np.repeat(np.arange(len(groups)), len(METRICS)),
            "metric": [*METRICS] * len(groups),
            "mean": mean,
            "ci_low": low,
            "ci_high": high,
            "n_users": (~np.isnan(values)).sum(axis=0),
        }
    ).with_columns(pl.col("mean", "ci_low", "ci_high").fill_nan(None))
    keys = pl.DataFrame(list(groups), schema=KEYS, orient="row").with_row_index("key").cast({"key": pl.Int64})
    n_tested = user_metrics.group_by(KEYS).agg(n_users=pl.len())
    whole = coverage.join(n_tested, on=KEYS).with_columns(
        metric=pl.lit("coverage"), ci_low=pl.lit(None, pl.Float64), ci_high=pl.lit(None, pl.Float64)
    )
    board = pl.concat([part.select(*SCHEMA).cast(SCHEMA) for part in (rows.join(keys, on="key"), whole)])
    return board.sort("view", "k", "metric", "method")


def _means_with_intervals(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Column means [3, n_columns] of float64 [n_users, n_columns]: mean, and the ends of its interval.

    NaN is left out, and is the result where nobody has a value, or only one user has (an interval).
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    rng, n_users = np.random.default_rng(SEED), len(values)
    with np.errstate(invalid="ignore"):
        mean = filled.sum(axis=0) / known.sum(axis=0)
        resampled = np.empty((RESAMPLES, values.shape[1]))
        for i in range(RESAMPLES):
            times = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
            resampled[i] = (times @ filled) / (times @ known)
    ends = np.full((2, values.shape[1]), np.nan)
    several = known.sum(axis=0) > 1
    tail = (1 - CONFIDENCE) / 2
    ends[:, several] = np.nanquantile(resampled[:, several], [tail, 1 - tail], axis=0)
    return np.stack([mean, *ends])


def summary(board: pl.DataFrame, view: str, k: int) -> pl.DataFrame:
    """The main metrics of one view and k, a row per method, the best by NDCG first."""
    chosen = board.filter((pl.col("view") == view) & (pl.col("k") == k) & pl.col("metric").is_in(SHOWN))
    wide = chosen.pivot("metric", index="method", values="mean")
    return wide.select("method", *(m for m in SHOWN if m in wide.columns)).sort(
        "ndcg", "method", descending=[True, False], nulls_last=True
    )


def to_markdown(board: pl.DataFrame) -> str:
    """Tables of the main metrics, one for each view and k."""
    panes = board.select("view", "k").unique().sort("view", "k").rows()
    return "\n\n".join(
        f"**{view}, K = {k}**\n\n{pictures.table_to_markdown(summary(board, view, k))}" for view, k in panes
    )


def picture(board: pl.DataFrame) -> "Figure":
    """NDCG of every method with its interval: a row of panes for each view, a column for each k."""
    ndcg = board.filter(pl.col("metric") == "ndcg")
    views, ks = (ndcg[name].unique().sort().to_list() for name in ("view", "k"))
    figure = pictures.figure(5 * len(ks), len(views) * (0.8 + 0.35 * ndcg["method"].n_unique()))
    for panes, view in zip(figure.subplots(len(views), len(ks), squeeze=False), views, strict=True):
        for pane, k in zip(panes, ks, strict=True):
            rows = ndcg.filter((pl.col("view") == view) & (pl.col("k") == k)).sort("mean")
            mean = rows["mean"].fill_null(0).to_numpy()
            ends = (rows[end].fill_null(pl.Series(mean)).to_numpy() for end in ("ci_low", "ci_high"))
            colours = [pictures.PALETTE[0] if m == "lightgcn" else pictures.PALETTE[4] for m in rows["method"]]
            spread = [np.abs(end - mean) for end in ends]
            pane.barh(rows["method"].to_list(), mean, xerr=spread, color=colours, capsize=3)
            pane.set(title=f"{view}, NDCG@{k}")
            pane.grid(alpha=0.3, axis="x")
    return figure
