"""Results published by Yambda's authors (arXiv 2505.22238): their models on their test day."""

import polars as pl

FIGURES = {
    ("ndcg", 10): "NDCG@10",
    ("ndcg", 100): "NDCG@100",
    ("recall", 10): "Recall@10",
    ("recall", 100): "Recall@100",
    ("coverage", 100): "Coverage@100",
}
"""Headings of the published figures by metric and k, in the authors' order."""

RESULTS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "50m": {
        "official_listen_plus": {
            "MostPop": (0.0186, 0.0249, 0.0064, 0.0321, 0.0002),
            "DecayPop": (0.0260, 0.0323, 0.0122, 0.0479, 0.0002),
            "ItemKNN": (0.0781, 0.0934, 0.0373, 0.1297, 0.0874),
            "iALS": (0.0407, 0.0642, 0.0128, 0.0808, 0.0156),
            "BPR": (0.0389, 0.0641, 0.0139, 0.0836, 0.0999),
            "SASRec": (0.0748, 0.0764, 0.0325, 0.1026, 0.0310),
        },
        "official_like": {
            "DecayPop": (0.0180, 0.0269, 0.0333, 0.0651),
            "ItemKNN": (0.0125, 0.0251, 0.0199, 0.0648),
            "iALS": (0.0078, 0.0224, 0.0103, 0.0568),
            "BPR": (0.0056, 0.0187, 0.0073, 0.0526),
        },
    },
    "500m": {
        "official_listen_plus": {
            "MostPop": (0.0173, 0.0237, 0.0060, 0.0309, 0.0001),
            "DecayPop": (0.0267, 0.0340, 0.0127, 0.0505, 0.0001),
            "ItemKNN": (0.0708, 0.0771, 0.0320, 0.1049, 0.0917),
            "iALS": (0.0384, 0.0621, 0.0131, 0.0811, 0.0067),
            "BPR": (0.0400, 0.0652, 0.0137, 0.0861, 0.0758),
            "SASRec": (0.0754, 0.0884, 0.0336, 0.1240, 0.0824),
        },
    },
    "5b": {
        "official_listen_plus": {
            "MostPop": (0.0175, 0.0239, 0.0062, 0.0313, 0.0000),
            "DecayPop": (0.0271, 0.0348, 0.0130, 0.0509, 0.0000),
            "iALS": (0.0388, 0.0628, 0.0132, 0.0816, 0.0027),
            "BPR": (0.0408, 0.0664, 0.0141, 0.0870, 0.0508),
            "SASRec": (0.0647, 0.0847, 0.0289, 0.1214, 0.0456),
        },
    },
}
"""Published results by scale, view of the leaderboard and model, in the order of FIGURES; the last may be missing."""


def beside(board: pl.DataFrame, scale: str, view: str) -> pl.DataFrame:
    """Official figures of the leaderboard beside the published ones: method, source, and a column for each of FIGURES.

    board: evaluation/leaderboard; figures that it does not hold (another k) are null.
    """
    ours = board.filter(pl.col("view") == view)
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
