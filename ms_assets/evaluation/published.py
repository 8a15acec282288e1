"""Results published by Yambda's authors (arXiv 2505.22238): their models on their test day."""

import tomllib
from pathlib import Path

import polars as pl

FIGURES = {
    ("ndcg", 10): "NDCG@10",
    ("ndcg", 100): "NDCG@100",
    ("recall", 10): "Recall@10",
    ("recall", 100): "Recall@100",
    ("coverage", 100): "Coverage@100",
}
"""Headings of the published figures by metric and k, in the authors' order."""

RESULTS: dict[str, dict[str, dict[str, list[float]]]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
"""Published results by scale, view of the leaderboard and model, in the order of FIGURES; the last may be missing."""


def beside(board: pl.DataFrame, scale: str, view: str) -> pl.DataFrame:
    """Official figures of the leaderboard beside the published ones: method, source, and a column for each of FIGURES.

    board: evaluation/leaderboard; figures that it does not hold (another k) are null.
    """
    ours = board.filter(view=view)
    means = {(row["method"], row["metric"], row["k"]): row["mean"] for row in ours.iter_rows(named=True)}
    rows = [
        (method, "here", *(means.get((method, *figure)) for figure in FIGURES))
        for method in ours["method"].unique(maintain_order=True)
    ]
    for model, figures in RESULTS.get(scale, {}).get(view, {}).items():
        rows.append((model, "published", *figures, *([None] * (len(FIGURES) - len(figures)))))
    schema = {"method": pl.String, "source": pl.String, **dict.fromkeys(FIGURES.values(), pl.Float64)}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.sort("NDCG@100", "method", descending=[True, False], nulls_last=True)
