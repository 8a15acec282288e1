"""Diagnostics of a trained network: lengths of its vectors, and learned edge weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets.events import POSITIVES
from ms_assets.training.data import SongFeatures
from ms_assets.training.edge_weights import EdgeWeightMLP
from ms_assets.training.network import Network

RATIOS = np.linspace(0, 1, 21)
COUNTS = (1, 10)
"""Numbers of events for which the learned weight is drawn."""


@dataclass(frozen=True)
class Diagnosis:
    """Lengths of vectors, scales and edge weights of one trained network."""

    norms: dict[str, NDArray[np.float32]]
    """Lengths of vectors by name: parameters, parts of song encodings, and propagated nodes."""
    scales: dict[str, float]
    """Factors by which audio and metadata are multiplied."""
    weights: dict[str, NDArray[np.float32]]
    """Learned edge weights over `RATIOS` by event type and count; empty where weights are not learned."""
    degrees: dict[str, NDArray[np.int32]]
    """Number of edges of each node, by `user` and `song`."""

    @property
    def numbers(self) -> dict[str, float]:
        """Scales and mean lengths, by name."""
        means = {f"mean norm of {name}": float(lengths.mean()) for name, lengths in self.norms.items() if len(lengths)}
        return {**{f"{name} scale": scale for name, scale in self.scales.items()}, **means}


@torch.no_grad()
def diagnose(network: Network, features: SongFeatures) -> Diagnosis:
    """Measure a network on the CPU.

    features: features of all songs.
    """
    weights = _learned_weights(network.edge_weights) if isinstance(network.edge_weights, EdgeWeightMLP) else {}
    of_users, of_songs = network.adjacency.offsets.diff().tensor_split([network.n_users])
    encoder = network.encoder
    graph_songs = features.select(torch.arange(network.n_graph_songs))
    names = ["audio"] * encoder.uses_audio + ["metadata"] * encoder.uses_metadata
    parts = dict(zip(names, encoder.parts(graph_songs), strict=True))
    widths = [part.shape[1] for _, part in parts.values()]
    projections = encoder.projection.weight.split(widths, dim=1)
    norms: dict[str, Tensor] = {"user parameters": network.users}
    norms |= {f"{owner} embeddings": table.get_parameter("weight") for owner, table in encoder.owners.items()}
    for (name, (scale, part)), weight in zip(parts.items(), projections, strict=True):
        norms[f"{name} in songs"] = scale * part @ weight.T
    if network.residual is not None:
        norms["residuals of songs"] = network.residual
    start = network.start(graph_songs)
    users, songs = network.frozen_propagation()(start).tensor_split([network.n_users])
    norms |= {"propagated users": users, "propagated songs": songs}
    return Diagnosis(
        {name: vectors.norm(dim=1).numpy() for name, vectors in norms.items()},
        {name: float(scale) for name, (scale, _) in parts.items()},
        weights,
        {"user": of_users.numpy(), "song": of_songs.numpy()},
    )


def _learned_weights(mlp: EdgeWeightMLP) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, kind in POSITIVES.items():
        for count in COUNTS:
            n = len(RATIOS)
            attributes = [np.full(n, kind.code), np.full(n, count), RATIOS, np.full(n, kind.edge_weight)]
            weights = mlp.weights_of(torch.from_numpy(np.stack(attributes, axis=1).astype(np.float32)))
            found[f"{name}, {count} event{'s' * (count > 1)}"] = weights.numpy()
    return found
