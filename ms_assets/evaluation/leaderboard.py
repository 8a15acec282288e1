"""Leaderboard: methods compared by means over users with bootstrap intervals, and by paired differences."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import pictures, ranking
from ms_assets.certainty import N_RESAMPLES, VALUES_AT_ONCE, Resamples, estimates
from ms_assets.evaluation import exposure
from ms_assets.evaluation.metrics import KEYS, METRICS
from ms_assets.interactions import Floats
from ms_assets.machine import free_memory, refuse_beyond
from ms_assets.retrieval.memory import LIBRARY
from ms_assets.retrieval.methods import RANKED
from ms_assets.streams import Relation

ESTIMATE = {"ci_low": pl.Float64, "ci_high": pl.Float64, "n_users": pl.Int64}
SCHEMA = pl.Schema({**KEYS, "metric": pl.String, "mean": pl.Float64, **ESTIMATE})
DIFFERENCES = pl.Schema(
    {
        "view": pl.String,
        "k": pl.Int32,
        **dict.fromkeys(("metric", "method", "other"), pl.String),
        "difference": pl.Float64,
        **ESTIMATE,
    }
)
ROWS = 1 << 16
"""Number of rows of metrics that are read at a time."""
COMPARED = ("lightgcn", RANKED)
"""Methods whose difference from every other one is computed: the model, and what is served."""
SHOWN = ("ndcg", "recall", "coverage", "dislike_fpr", "novelty")


@dataclass(frozen=True)
class Pane:
    """Comparison of all methods in one view at one k."""

    view: str
    k: int
    methods: list[str]
    metrics: tuple[str, ...]
    samples: Floats
    """Means over all users, then over each resample, [1 + resamples, n_methods, n_metrics]."""
    known: NDArray[np.bool_]
    """Flags of users for whom a metric is defined, [n_users, n_methods, n_metrics]."""


Parts = dict[str, tuple[pl.Expr, pl.Expr]]
"""Numerator and denominator of every metric, each summed over users; a mean's denominator counts users with a value."""
MEANS: Parts = {name: (pl.col(name), pl.col(name).is_not_null()) for name in METRICS}
OFFICIAL: Parts = {"ndcg": (pl.col("dcg"), pl.col("ideal_dcg")), "recall": (pl.col("recall"), pl.lit(1.0))}


def estimate(n_users: int, n_lists: int, metrics: Parts, n_panes: int) -> dict[str, int]:
    """Estimate the bytes of comparisons by purpose; n_lists: lists of all methods in one view at one k."""
    n_values = n_lists * len(metrics)
    n_summed = n_values / max(math.ceil(n_values / VALUES_AT_ONCE), 1)
    return {
        "numerators and denominators": 2 * 8 * n_values,
        "resamples, and values while they are summed": (1 + N_RESAMPLES) * n_users + round(5 * 8 * n_summed),
        "flags of all comparisons": n_panes * n_values,
        # A batch of rows as it is read, as a frame, and as numbers.
        "rows in flight and library": 3 * 8 * len(metrics) * min(n_lists, ROWS) + LIBRARY,
    }


def pane(rows: Relation, metrics: Parts) -> Pane:
    """Compare methods in one view at one k.

    Args:
        rows: rows of evaluation/user_metrics or official_user_metrics, of one view and k.
        metrics: MEANS or OFFICIAL.
    """
    [(view, k)] = rows.project("view, k").distinct().fetchall()
    users, methods = (np.sort(rows.project(name).distinct().fetchnumpy()[name]) for name in ("uid", "method"))
    place = pl.Enum(methods.tolist())
    arrays = np.zeros((2, len(users), len(methods), len(metrics)))
    # A batch at a time: all rows would take as much again.
    for batch in rows.to_arrow_reader(ROWS):
        some = pl.DataFrame(batch)
        at = np.searchsorted(users, some["uid"].to_numpy()), some["method"].cast(place).to_physical().to_numpy()
        for part, array in enumerate(arrays):
            array[at] = some.select(
                both[part].cast(pl.Float64).fill_null(0.0).alias(name) for name, both in metrics.items()
            ).to_numpy()
    resamples = Resamples.of(len(users))
    sums = [resamples.sums(array.reshape(len(users), -1)) for array in arrays]
    samples = ranking.ratio(*sums).reshape(-1, len(methods), len(metrics))
    return Pane(view, k, methods.tolist(), tuple(metrics), samples, arrays[1] > 0)


def panes(per_user: Relation, metrics: Parts = MEANS) -> list[Pane]:
    """Compare methods in every view at every k, one after the other, so that only one is held in memory.

    Args:
        per_user: evaluation/user_metrics or official_user_metrics.
        metrics: MEANS or OFFICIAL.

    Raises:
        NotEnoughMemoryError: the users of one comparison do not fit into free memory.
    """
    counted = per_user.aggregate("view, k, count(DISTINCT uid) AS n_users, count(*) AS n_lists", "view, k").fetchall()
    for _, _, n_users, n_lists in counted:
        refuse_beyond(
            free_memory(),
            f"comparison of {n_lists:,} lists of {n_users:,} users",
            estimate(n_users, n_lists, metrics, len(counted)),
            "let fewer users take part (splits__users.min_events, max_events), or evaluate on a machine with more "
            "memory",
        )
    return [pane(per_user.filter(f"view = '{view}' AND k = {k}"), metrics) for view, k, *_ in sorted(counted)]


def leaderboard(measured: list[Pane], shown: pl.DataFrame) -> pl.DataFrame:
    """One row per method, view, k and metric: mean, ci_low, ci_high, n_users.

    shown: method, view, k and the columns `exposure.COMPARED`, numbers over all lists together, without interval.
    """
    boards = [
        estimates(pane.samples, pane.known.sum(axis=0), _keys(pane, "method", pane.methods), SCHEMA)
        for pane in measured
    ]
    counted = [(pane.view, pane.k, len(pane.known)) for pane in measured]
    n_users = pl.DataFrame(counted, {"view": pl.String, "k": pl.Int32, "n_users": pl.Int64}, orient="row")
    whole = shown.unpivot(exposure.COMPARED, index=[*KEYS], variable_name="metric", value_name="mean")
    whole = whole.drop_nulls("mean").join(n_users, on=["view", "k"]).with_columns(ci_low=None, ci_high=None)
    boards.append(whole.select(*SCHEMA).cast(SCHEMA))
    return pl.concat(boards).sort("view", "k", "metric", "method")


NDCG_OF_LIGHTGCN = "ndcg_of_lightgcn"
"""Metadata of the leaderboard, which the next one is compared with."""


def ndcg_of_lightgcn(board: pl.DataFrame) -> dict[str, list[float]]:
    """NDCG of LightGCN, mean and interval, by view and k, such as "discovery at 10"."""
    rows = board.filter(method="lightgcn", metric="ndcg").drop_nulls(["mean", "ci_low", "ci_high"])
    return {f"{row['view']} at {row['k']}": [row["mean"], row["ci_low"], row["ci_high"]] for row in rows.to_dicts()}


def _keys(pane: Pane, name: str, methods: list[str]) -> pl.DataFrame:
    """Keys of every metric of some methods, which stand in a column of this name."""
    return pl.DataFrame(list(product(methods, pane.metrics)), [name, "metric"], orient="row").with_columns(
        view=pl.lit(pane.view), k=pl.lit(pane.k)
    )


def differences(measured: list[Pane]) -> pl.DataFrame:
    """Differences of each of COMPARED minus every other method, one row per view, k, metric and two methods.

    Users are resampled with both methods, so that users who are easy for both do not blur the difference.
    """
    found = [DIFFERENCES.to_frame()]
    for pane, method in product(measured, COMPARED):
        if method not in pane.methods:
            continue
        mine = pane.methods.index(method)
        others = [n for n in range(len(pane.methods)) if n != mine]
        samples = pane.samples[:, [mine]] - pane.samples[:, others]
        n_users = (pane.known[:, [mine]] & pane.known[:, others]).sum(axis=0)
        keys = _keys(pane, "other", [pane.methods[n] for n in others]).with_columns(method=pl.lit(method))
        found.append(estimates(samples, n_users, keys, DIFFERENCES, "difference"))
    return pl.concat(found).sort("view", "k", "metric", "method", "other")


def summary(board: pl.DataFrame, view: str, k: int) -> pl.DataFrame:
    """Main metrics of one view and k, one row per method, the best by NDCG first."""
    chosen = board.filter(pl.col("metric").is_in(SHOWN), view=view, k=k)
    wide = chosen.pivot("metric", index="method", values="mean")
    return wide.select("method", *(m for m in SHOWN if m in wide.columns)).sort(
        "ndcg", "method", descending=[True, False], nulls_last=True
    )


def to_markdown(board: pl.DataFrame, compared: pl.DataFrame) -> str:
    """Markdown tables of the main metrics, one per view and k, each with a verdict on the differences in NDCG."""
    ndcg = board.filter(metric="ndcg").with_columns(
        pl.format("{} to {}", pl.col("ci_low").round(4), pl.col("ci_high").round(4)).alias("95 % of ndcg")
    )
    said, first = [], ("method", "ndcg", "95 % of ndcg")
    for (view, k), rows in ndcg.sort("view", "k").group_by("view", "k", maintain_order=True):
        intervals = rows.select("method", "95 % of ndcg")
        table = summary(board, view, k).join(intervals, on="method", how="left", maintain_order="left")
        text = pictures.table_to_markdown(table.select(*first, pl.exclude(*first)))
        here = compared.filter(view=view, k=k, metric="ndcg")
        verdicts = [verdict(here, method) for method in COMPARED if method in rows["method"]]
        said.append("\n\n".join([f"**{view}, K = {k}**", text, *verdicts]))
    return "\n\n".join(said)


def verdict(compared: pl.DataFrame, method: str) -> str:
    """Sentence that names what a method beats, is level with and loses to by NDCG.

    compared: rows of `differences`, of one view, k and metric.
    """
    found: dict[str, list[str]] = {"better than": [], "level with": [], "worse than": []}
    rows = compared.filter(method=method).drop_nulls("ci_low").sort("difference", descending=True)
    for row in rows.iter_rows(named=True):
        word = "better than" if row["ci_low"] > 0 else "worse than" if row["ci_high"] < 0 else "level with"
        found[word].append(f"{row['other']} ({row['difference']:+.4f}, {row['ci_low']:+.4f} to {row['ci_high']:+.4f})")
    said = "; ".join(f"{word} {', '.join(others)}" for word, others in found.items() if others)
    return f"By ndcg, {method} is {said}." if said else f"ndcg of {method} cannot be compared."
