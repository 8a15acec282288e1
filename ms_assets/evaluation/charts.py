"""The comparison in pictures."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ms_assets import pictures
from ms_assets.retrieval.recommendations import VIEWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHLIGHTED = "lightgcn"


def charts(board: pl.DataFrame, slices: pl.DataFrame, exposure: pl.DataFrame) -> "dict[str, Figure]":
    """All pictures by name; from evaluation/leaderboard, slices and exposure."""
    return {
        "ndcg_by_method": ndcg_by_method(board),
        "recall_by_k": recall_by_k(board),
        "ndcg_by_history_length": ndcg_by_history_length(slices),
        "exposure_of_head_and_tail": exposure_of_head_and_tail(exposure),
    }


def ndcg_by_method(board: pl.DataFrame) -> "Figure":
    """NDCG of every method with its interval: a row of panes for each view, a column for each k."""
    ndcg = board.filter(pl.col("metric") == "ndcg")
    views, ks = (ndcg[name].unique().sort().to_list() for name in ("view", "k"))
    figure = pictures.figure(5 * len(ks), len(views) * (0.8 + 0.35 * ndcg["method"].n_unique()))
    for panes, view in zip(figure.subplots(len(views), len(ks), squeeze=False), views, strict=True):
        for pane, k in zip(panes, ks, strict=True):
            rows = ndcg.filter((pl.col("view") == view) & (pl.col("k") == k)).sort("mean", "method")
            mean = rows["mean"].fill_null(0).to_numpy()
            colours = [pictures.PALETTE[0] if m == HIGHLIGHTED else pictures.PALETTE[4] for m in rows["method"]]
            pane.barh(rows["method"].to_list(), mean, xerr=_spread(rows), color=colours, capsize=3)
            pane.set(title=f"{view}, NDCG@{k}")
            pane.grid(alpha=0.3, axis="x")
    return figure


def recall_by_k(board: pl.DataFrame) -> "Figure":
    """Recall of every method over the lengths at which lists are cut, a pane for each view."""
    recall = board.filter(pl.col("metric") == "recall")
    figure = pictures.figure(10, 4)
    for pane, view in zip(figure.subplots(1, len(VIEWS), squeeze=False)[0], VIEWS, strict=True):
        _lines(pane, recall.filter(pl.col("view") == view).sort("k"), "k")
        pane.set(title=f"{view}, recall", xlabel="K", xscale="log")
    pane.legend(fontsize="small")
    return figure


def ndcg_by_history_length(slices: pl.DataFrame) -> "Figure":
    """NDCG of every method by the users' quarters of history length, at the largest k, a pane for each view."""
    ndcg = slices.filter((pl.col("slice") == "history length") & (pl.col("metric") == "ndcg"))
    longest = ndcg["k"].to_numpy().max()
    ndcg = ndcg.filter(pl.col("k") == longest)
    figure = pictures.figure(10, 4.5)
    for pane, view in zip(figure.subplots(1, len(VIEWS), squeeze=False)[0], VIEWS, strict=True):
        rows = ndcg.filter(pl.col("view") == view).sort("value")
        _lines(pane, rows.with_columns(pl.col("value").str.replace(": ", "\n")), "value")
        pane.set(title=f"{view}, NDCG@{longest} by history")
    pane.legend(fontsize="small")
    return figure


def exposure_of_head_and_tail(exposure: pl.DataFrame) -> "Figure":
    """What share of each method's recommendations is head, tail and cold, at the largest k, a pane for each view."""
    longest = exposure["k"].to_numpy().max()
    rows = exposure.filter(pl.col("k") == longest)
    figure = pictures.figure(10, 1 + 0.4 * rows["method"].n_unique())
    for pane, view in zip(figure.subplots(1, len(VIEWS), squeeze=False)[0], VIEWS, strict=True):
        shown = rows.filter(pl.col("view") == view).sort("method", descending=True)
        left = np.zeros(len(shown))
        for part, colour in zip(("head", "tail", "cold"), pictures.PALETTE, strict=False):
            share = shown[f"{part}_share"].fill_null(0).to_numpy()
            pane.barh(shown["method"].to_list(), share, left=left, color=colour, label=part)
            left += share
        pane.set(title=f"{view}, share of the first {longest} recommendations")
    pane.legend(fontsize="small")
    return figure


def _lines(pane: "Axes", rows: pl.DataFrame, x: str) -> None:
    """A line with intervals for each method."""
    for number, method in enumerate(rows["method"].unique().sort()):
        line = rows.filter((pl.col("method") == method) & pl.col("mean").is_not_null())
        colour = pictures.PALETTE[number % len(pictures.PALETTE)]
        pane.errorbar(
            line[x].to_list(),
            line["mean"].to_numpy(),
            yerr=_spread(line),
            label=method,
            color=colour,
            linestyle="-" if number < len(pictures.PALETTE) else "--",
            linewidth=2.5 if method == HIGHLIGHTED else 1.2,
            marker="o",
            markersize=3,
            capsize=3,
        )
    pane.grid(alpha=0.3)


def _spread(rows: pl.DataFrame) -> list[np.ndarray]:
    """How far the interval reaches below and above each mean; not at all where there is none."""
    mean = rows["mean"].fill_null(0).to_numpy()
    return [np.abs(rows[end].fill_null(pl.Series(mean)).to_numpy() - mean) for end in ("ci_low", "ci_high")]
