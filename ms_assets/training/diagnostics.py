"""A look into a trained model: how long its vectors are, and what it learned that edges weigh."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets import pictures
from ms_assets.events import POSITIVES
from ms_assets.graph.statistics import degree_picture
from ms_assets.settings import TrainingSettings
from ms_assets.training.curves import training_curves
from ms_assets.training.edge_weights import EdgeWeightMLP
from ms_assets.training.lightgcn import LightGCN
from ms_assets.training.trainer import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 50
RATIOS = np.linspace(0, 1, 21)
COUNTS = (1, 10)
"""Numbers of events for which the learned weight is drawn."""


@dataclass(frozen=True)
class Diagnosis:
    """Of one trained model."""

    norms: dict[str, NDArray[np.float32]]
    """Lengths of vectors, by what they are: parameters, the parts of songs, and propagated nodes."""
    scales: dict[str, float]
    """By which audio and metadata are multiplied."""
    weights: dict[str, NDArray[np.float32]]
    """Learned weight over `RATIOS` by event type and count; empty where weights are not learned."""

    def numbers(self) -> dict[str, float]:
        """Scales and mean lengths, by name."""
        means = {f"mean norm of {name}": float(lengths.mean()) for name, lengths in self.norms.items() if len(lengths)}
        return {**{f"{name} scale": scale for name, scale in self.scales.items()}, **means}


def of_training(trained: Trained, graph: Any, settings: TrainingSettings) -> tuple[dict[str, float], dict[str, bytes]]:
    """What there is to say of a training, and to show, as PNG: drawn once for Dagster and MLflow."""
    model = LightGCN(graph, settings)
    model.load_state_dict(trained.state)
    diagnosis = diagnose(model.eval())
    shown = {
        "training curves": training_curves(trained.history, trained.best),
        "embedding norms": norms_picture(diagnosis),
        "degrees": degree_picture(graph),
    }
    if diagnosis.weights:
        shown["edge weights"] = weights_picture(diagnosis)
    return diagnosis.numbers(), {name: pictures.png(picture) for name, picture in shown.items()}


@torch.no_grad()
def diagnose(model: LightGCN) -> Diagnosis:
    """Look into a model on the CPU."""
    encoder = model.encoder
    graph_songs = model.features.select(torch.arange(model.n_graph_songs))
    names = ["audio"] * encoder.uses_audio + ["metadata"] * encoder.uses_metadata
    parts = dict(zip(names, encoder.parts(graph_songs), strict=True))
    widths = [part.shape[1] for _, part in parts.values()]
    projections = encoder.projection.weight.split(widths, dim=1)
    norms: dict[str, Tensor] = {"user parameters": model.users}
    norms |= {f"{owner} embeddings": table.get_parameter("weight") for owner, table in encoder.owners.items()}
    for (name, (scale, part)), weight in zip(parts.items(), projections, strict=True):
        norms[f"{name} in songs"] = scale * part @ weight.T
    if model.residual is not None:
        norms["residuals of songs"] = model.residual
    start = model.start(graph_songs)
    users, songs = model.frozen_propagation()(start).tensor_split([model.n_users])
    norms |= {"propagated users": users, "propagated songs": songs}
    return Diagnosis(
        {name: vectors.norm(dim=1).numpy() for name, vectors in norms.items()},
        {name: float(scale) for name, (scale, _) in parts.items()},
        _learned_weights(model.edge_weights) if isinstance(model.edge_weights, EdgeWeightMLP) else {},
    )


def _learned_weights(network: EdgeWeightMLP) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, kind in POSITIVES.items():
        for count in COUNTS:
            n = len(RATIOS)
            attributes = [np.full(n, kind.code), np.full(n, count), RATIOS, np.full(n, kind.edge_weight)]
            weights = network.weights_of(torch.from_numpy(np.stack(attributes, axis=1).astype(np.float32)))
            found[f"{name}, {count} event{'s' * (count > 1)}"] = weights.numpy()
    return found


def norms_picture(diagnosis: Diagnosis) -> "Figure":
    """A histogram of lengths for each kind of vector."""
    figure = pictures.figure(9, 3.5)
    before, after = figure.subplots(1, 2)
    for name, lengths in diagnosis.norms.items():
        pane = after if name.startswith("propagated") else before
        pane.hist(lengths, bins=BINS, histtype="step", density=True, label=f"{name}, mean {lengths.mean():.2f}")
    scales = ", ".join(f"{name} {scale:.2f}" for name, scale in diagnosis.scales.items())
    before.set(title=f"before propagation (scales: {scales or 'none'})", xlabel="length of the vector")
    after.set(title="after propagation, before scaling to 1", xlabel="length of the vector")
    for pane in (before, after):
        pane.grid(alpha=0.3)
        pane.legend(fontsize="small")
    return figure


def weights_picture(diagnosis: Diagnosis) -> "Figure":
    """The learned weight of an edge by its played ratio, a line for each event type and count."""
    figure = pictures.figure(9, 3.5)
    pane = figure.subplots()
    for i, (name, weights) in enumerate(diagnosis.weights.items()):
        kind, many = divmod(i, len(COUNTS))
        colour = pictures.PALETTE[kind % len(pictures.PALETTE)]
        pane.plot(RATIOS, weights, label=name, color=colour, linestyle=("-", "--")[many])
    pane.set(title="learned edge weights", xlabel="played ratio", ylabel="weight", ylim=(0, 1))
    pane.grid(alpha=0.3)
    pane.legend(fontsize="small")
    return figure
