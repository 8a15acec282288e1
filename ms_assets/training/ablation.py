"""Ablation: the training repeated with one part of the model changed at a time, to measure what each part is worth."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import polars as pl

from ms_assets import pictures
from ms_assets.settings import TrainingSettings
from ms_assets.training.experiments import Fit
from ms_assets.training.validation import VALIDATION_K

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

COLUMNS = {
    "variant": pl.String,
    "seed": pl.Int64,
    "validation_ndcg": pl.Float64,
    "best_epoch": pl.Int64,
    "seconds": pl.Float64,
    "mlflow_run_id": pl.String,
}
AS_TRAINED = "as trained"
CHANGES: dict[str, dict[str, Any]] = {
    "edge weights learned": {"edge_weights": "learned"},
    "edge weights heuristic": {"edge_weights": "heuristic"},
    "edge weights uniform": {"edge_weights": "uniform"},
    "without audio": {"audio": False},
    "without artists and albums": {"metadata": False},
    "with a residual per song": {"song_residual": True},
    "without a residual per song": {"song_residual": False},
    "all songs of one length": {"song_lengths": False},
    "scales not balanced": {"balance_scales": False},
    "random start": {"spectral_start": False},
    "BPR": {"objective": "bpr"},
    "sampled softmax": {"objective": "softmax"},
    "without explicit negatives": {"hard_weight": 0.0},
    "no propagation": {"layers": 0},
}
"""Changed settings by name of the variant; a variant that changes nothing in the given training is left out."""


def variants(base: TrainingSettings) -> dict[str, TrainingSettings]:
    """Settings of each variant: the training as it is, then every change that differs from it and is valid."""
    found = {AS_TRAINED: base}
    for name, change in CHANGES.items():
        values = {**base.model_dump(), **change}
        knows_songs = values["audio"] or values["metadata"] or values["song_residual"]
        if values != base.model_dump() and knows_songs:
            found[name] = TrainingSettings(**values)
    return found


def table(base: TrainingSettings, seeds: Iterable[int], fit: Fit) -> pl.DataFrame:
    """Train every variant with every seed; one row per variant and seed."""
    rows, compared, seeds = [], variants(base), list(seeds)
    for number, (name, settings) in enumerate(compared.items(), start=1):
        logger.info("variant %d of %d: %s", number, len(compared), name)
        for seed in seeds:
            trained = fit(f"{name}, seed {seed}", settings.model_copy(update={"seed": seed}), lambda epoch: None)
            best, seconds = trained.best, trained.history[-1].seconds
            rows.append((name, seed, best.validation_ndcg, best.number, seconds, trained.mlflow_run_id))
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def picture(summary: pl.DataFrame) -> "Figure":
    """Picture of every variant's NDCG, with the spread over its seeds, the best on top."""
    figure = pictures.figure(9, 0.8 + 0.35 * len(summary))
    pane, rows = figure.subplots(), summary.reverse()
    colours = [pictures.PALETTE[0 if name == AS_TRAINED else 4] for name in rows["variant"]]
    spread = rows["standard_deviation"].fill_null(0).to_list()
    pane.barh(rows["variant"].to_list(), rows["validation_ndcg"].to_list(), xerr=spread, color=colours, capsize=3)
    pane.set(xlabel=f"validation NDCG@{VALIDATION_K}")
    pane.grid(alpha=0.3, axis="x")
    return figure


def summary(table: pl.DataFrame) -> pl.DataFrame:
    """One row per variant over its seeds, the best first: NDCG, standard deviation, difference from the training."""
    means = table.group_by("variant", maintain_order=True).agg(
        validation_ndcg=pl.col("validation_ndcg").mean(),
        standard_deviation=pl.col("validation_ndcg").std(),
        seconds=pl.col("seconds").mean(),
    )
    [whole] = means.filter(pl.col("variant") == AS_TRAINED)["validation_ndcg"]
    difference = (pl.col("validation_ndcg") - whole).alias("against_as_trained")
    return means.with_columns(difference).sort("validation_ndcg", descending=True, maintain_order=True)
