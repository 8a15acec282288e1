"""Pictures of a training: curves, lengths of vectors, learned edge weights, and the graph's degrees."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ms_assets import pictures
from ms_assets.graph.statistics import degree_picture
from ms_assets.training.diagnostics import COUNTS, RATIOS, Diagnosis
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets.training.validation import VALIDATION_K

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

BINS = 50


def of_training(trained: TrainedModel, diagnosis: Diagnosis) -> dict[str, bytes]:
    """Pictures of a training as PNG by title, drawn once for Dagster and MLflow.

    A picture that cannot be drawn is left out with a warning, for it must not cost the training.
    """
    wanted: dict[str, Callable[[], Figure]] = {
        "training curves": lambda: training_curves(trained.history, trained.best),
        "embedding norms": lambda: norms_picture(diagnosis),
        "edge weights": lambda: weights_picture(diagnosis),
        "degrees": lambda: degree_picture(diagnosis.degrees),
    }
    if not diagnosis.weights:
        del wanted["edge weights"]
    drawn = {}
    for title, draw in wanted.items():
        try:
            drawn[title] = pictures.png(draw())
        except Exception as error:  # whatever it is, the training is worth more
            logger.warning("%s: no picture, %s", title, error)
    return drawn


def training_curves(history: list[Epoch], best: Epoch) -> "Figure":
    """Picture of loss and validation NDCG by epoch, with the kept epoch marked."""
    figure = pictures.figure(9, 3.5)
    numbers = [epoch.number for epoch in history]
    curves = (
        ("training loss", [epoch.loss for epoch in history]),
        (f"validation NDCG@{VALIDATION_K}", [epoch.validation_ndcg for epoch in history]),
    )
    for pane, (title, values), colour in zip(figure.subplots(1, 2), curves, pictures.PALETTE, strict=False):
        pane.plot(numbers, values, marker=".", color=colour)
        pane.axvline(best.number, color=pictures.PALETTE[4], linestyle="--", label=f"best: epoch {best.number}")
        pane.set(title=title, xlabel="epoch")
        pane.grid(alpha=0.3)
        pane.legend()
    return figure


def norms_picture(diagnosis: Diagnosis) -> "Figure":
    """Histograms of lengths for each kind of vector."""
    figure = pictures.figure(9, 3.5)
    before, after = figure.subplots(1, 2)
    for name, lengths in diagnosis.norms.items():
        pane = after if name.startswith("propagated") else before
        if len(lengths):
            label = f"{name}, mean {lengths.mean():.2f}"
            pane.hist(lengths, bins=_bins(lengths), histtype="step", density=True, label=label)
    scales = ", ".join(f"{name} {scale:.2f}" for name, scale in diagnosis.scales.items())
    before.set(title=f"before propagation (scales: {scales or 'none'})", xlabel="length of the vector")
    after.set(title="after propagation, before scaling to 1", xlabel="length of the vector")
    for pane in (before, after):
        pane.grid(alpha=0.3)
        pane.legend(fontsize="small")
    return figure


def _bins(lengths: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Edges of bins over these lengths, wide enough to be told apart where all are nearly equal; float64 [51]."""
    low, high = float(lengths.min()), float(lengths.max())
    margin = 1e-3 * max(abs(high), 1e-3)
    return np.linspace(low - margin, high + margin, BINS + 1)


def weights_picture(diagnosis: Diagnosis) -> "Figure":
    """Picture of the learned edge weight by played ratio, one line per event type and count."""
    figure = pictures.figure(9, 3.5)
    pane = figure.subplots()
    for i, (name, weights) in enumerate(diagnosis.weights.items()):
        kind, many = divmod(i, len(COUNTS))
        pane.plot(RATIOS, weights, label=name, color=pictures.PALETTE[kind], linestyle=("-", "--")[many])
    pane.set(title="learned edge weights", xlabel="played ratio", ylabel="weight", ylim=(0, 1))
    pane.grid(alpha=0.3)
    pane.legend(fontsize="small")
    return figure
