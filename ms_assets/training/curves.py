"""Training in pictures."""

from typing import TYPE_CHECKING

from ms_assets import pictures
from ms_assets.training.trainer import Epoch
from ms_assets.training.validation import VALIDATION_K

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(history: list[Epoch], best: Epoch) -> "Figure":
    """Loss and validation NDCG by epoch, the kept epoch marked."""
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
