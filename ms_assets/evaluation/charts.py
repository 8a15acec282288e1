"""Charts of the leaderboard and of the tables behind it."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ms_assets import pictures
from ms_assets.retrieval.recommender import VIEWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIGHLIGHTED = "lightgcn"


def charts(
    board: pl.DataFrame, curves: pl.DataFrame, slices: pl.DataFrame, exposure: pl.DataFrame
) -> "dict[str, Figure]":
    """Charts by name; from evaluation/leaderboard, recall_curve, slices and exposure."""
    return {
        "ndcg_by_method": ndcg_by_method(board),
        "recall_by_k": recall_by_k(curves),
        "ndcg_by_history_length": ndcg_by_history_length(slices),
        "exposure_of_head_and_tail": exposure_of_head_and_tail(exposure),
    }


def ndcg_by_method(board: pl.DataFrame) -> "Figure":
    """Chart of every method's NDCG with its interval: a row of panes per view, a column per k."""
    ndcg = board.filter(metric="ndcg")
    views, ks = (ndcg[name].unique().sort().to_list() for name in ("view", "k"))
    figure = pictures.figure(5 * len(ks), len(views) * (0.8 + 0.35 * ndcg["method"].n_unique()))
    for panes, view in zip(figure.subplots(len(views), len(ks), squeeze=False), views, strict=True):
        for pane, k in zip(panes, ks, strict=True):
            rows = ndcg.filter(view=view, k=k).sort("mean", "method")
            mean = rows["mean"].fill_null(0).to_numpy()
            colours = [pictures.PALETTE[0] if m == HIGHLIGHTED else pictures.PALETTE[4] for m in rows["method"]]
            pane.barh(rows["method"].to_list(), mean, xerr=_spread(rows), color=colours, capsize=3)
            pane.set(title=f"{view}, NDCG@{k}")
            pane.grid(alpha=0.3, axis="x")
    return figure


def recall_by_k(curves: pl.DataFrame) -> "Figure":
    """Chart of every method's mean recall by length of the list, a pane per view; from evaluation/recall_curve."""
    figure = pictures.figure(10, 4.5)
    for pane, view, rows in _panes(figure, curves.sort("k")):
        for method, style in _styles(rows):
            line = rows.filter(method=method)
            pane.plot(line["k"].to_numpy(), line["recall"].to_numpy(), label=method, **style)
        pane.set(title=f"{view}, recall", xlabel="K")
        pane.grid(alpha=0.3)
    return _with_legend(figure)


def ndcg_by_history_length(slices: pl.DataFrame) -> "Figure":
    """Chart of every method's NDCG by quarter of the users' history length, at the largest k, a pane per view."""
    ndcg = slices.filter(slice="history length", metric="ndcg")
    longest = ndcg["k"].to_numpy().max()
    figure = pictures.figure(10, 4.5)
    for pane, view, rows in _panes(figure, ndcg.filter(k=longest).drop_nulls("mean").sort("value")):
        for method, style in _styles(rows):
            line = rows.filter(method=method)
            quarters = line["value"].str.extract(r": (.*) events").str.replace(" to ", "–").to_list()
            pane.errorbar(quarters, line["mean"].to_numpy(), yerr=_spread(line), label=method, capsize=3, **style)
        pane.set(title=f"{view}, NDCG@{longest}", xlabel="positive train events of the user, in quarters of the users")
        pane.grid(alpha=0.3)
    return _with_legend(figure)


def exposure_of_head_and_tail(exposure: pl.DataFrame) -> "Figure":
    """Chart of the head, tail and cold shares of each method's recommendations, at the largest k, a pane per view."""
    longest = exposure["k"].to_numpy().max()
    rows = exposure.filter(k=longest).sort("method", descending=True)
    figure = pictures.figure(10, 1.2 + 0.4 * rows["method"].n_unique())
    for pane, view, shown in _panes(figure, rows):
        left = np.zeros(len(shown))
        for part, colour in zip(("head", "tail", "cold"), pictures.PALETTE, strict=False):
            share = shown[f"{part}_share"].fill_null(0).to_numpy()
            pane.barh(shown["method"].to_list(), share, left=left, color=colour, label=part)
            left += share
        pane.set(title=f"{view}, share of the first {longest}")
    return _with_legend(figure)


def _panes(figure: "Figure", rows: pl.DataFrame) -> "Iterator[tuple[Axes, str, pl.DataFrame]]":
    """A pane for each view, side by side, with the view's rows."""
    for pane, view in zip(figure.subplots(1, len(VIEWS), squeeze=False)[0], VIEWS, strict=True):
        yield pane, view, rows.filter(view=view)


def _styles(rows: pl.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Line style of each method, equal in every pane."""
    styles = product(("-", "--"), pictures.PALETTE)
    return [
        (method, {"color": colour, "linestyle": line, "linewidth": 2.5 if method == HIGHLIGHTED else 1.2})
        for method, (line, colour) in zip(rows["method"].unique().sort(), styles, strict=False)
    ]


def _with_legend(figure: "Figure") -> "Figure":
    """Add one legend below all panes."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    return figure


def _spread(rows: pl.DataFrame) -> list[np.ndarray]:
    """Distances of the interval's ends below and above each mean; 0 where there is no interval."""
    mean = rows["mean"].fill_null(0).to_numpy()
    return [np.abs(rows[end].fill_null(pl.Series(mean)).to_numpy() - mean) for end in ("ci_low", "ci_high")]
