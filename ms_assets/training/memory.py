"""Memory of a training, estimated by arithmetic before it begins."""

import logging
import math
from dataclasses import dataclass
from typing import Self

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors

logger = logging.getLogger(__name__)

FLOAT, LONG, INT = 4, 8, 4
SMALLEST_PIECE = 1_024


class NotEnoughMemoryError(ValueError):
    """A training does not fit into memory, however small the pieces of a step."""


@dataclass(frozen=True)
class Sizes:
    """Node, edge and feature counts of a graph."""

    n_users: int
    n_graph_songs: int
    n_songs: int
    n_edges: int
    n_owners: int
    """Number of artists and albums."""
    audio_dimensions: int = 128

    @classmethod
    def of(cls, graph: GraphTensors) -> Self:
        """Count the nodes, edges and features of a graph."""
        n_owners, n_dimensions = sum(graph.features.n_owners.values()), graph.features.audio.shape[1]
        return cls(graph.n_users, graph.n_graph_songs, graph.n_songs, graph.n_edges, n_owners, n_dimensions)


def estimate(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes on the training device by purpose: an upper bound, without libraries and the loaded graph."""
    d, nodes = settings.embedding_dim, sizes.n_users + sizes.n_graph_songs
    vectors = nodes * d * FLOAT
    width = settings.audio * sizes.audio_dimensions + settings.metadata * d
    parameters = (
        FLOAT
        * d
        * (sizes.n_users + settings.metadata * sizes.n_owners + settings.song_residual * sizes.n_graph_songs + width)
    )
    # Parameters, gradients, the optimiser's state (two moments for AdamW, one for momentum), the best state so far.
    copies = 1 + 1 + (2 if settings.optimizer == "adamw" else 1) + 1
    # A layer that learns edge weights keeps its input and its output for its backward pass.
    layers = 6 + (2 * settings.layers if settings.edge_weights == "learned" else 0)
    # Two entries of the CSR, each two int32 and a float; then pairs, weights, keys and an order of the edges.
    per_edge = 2 * (2 * INT + FLOAT) + 2 * LONG + FLOAT + LONG + LONG
    return {
        "parameters": copies * parameters,
        "song features": FLOAT * (sizes.n_songs + sizes.n_graph_songs) * sizes.audio_dimensions,
        # Metadata, the sum, the unit vectors, and two gradients.
        "song encoder": 5 * FLOAT * sizes.n_graph_songs * d,
        "propagation": layers * vectors,
        "edges": per_edge * sizes.n_edges,
        "piece of a step": _piece(sizes, settings),
    }


def fitted(sizes: Sizes, settings: TrainingSettings, available: int, device: str) -> TrainingSettings:
    """Adapt settings to the available bytes by more pieces per step, which leaves the result of a step the same.

    Raises:
        NotEnoughMemoryError: not even pieces of 1,024 edges fit; names the parts' sizes and what to change.
    """
    parts = estimate(sizes, settings)
    most = math.ceil(settings.step_size(sizes.n_edges) / SMALLEST_PIECE)
    pieces = settings.n_pieces(sizes.n_edges)
    while sum(parts.values()) > available and pieces < most:
        pieces = min(2 * pieces, most)
        settings = settings.model_copy(update={"accumulation": pieces})
        parts = estimate(sizes, settings)
    if sum(parts.values()) > available:
        raise NotEnoughMemoryError(
            f"training needs about {text(sum(parts.values()))} on {device} ({described(parts)}), but only "
            f"{text(available)} are free: lower embedding_dim or layers, set edge_weights to heuristic or optimizer to "
            "sgd, or train on a smaller scale or a larger machine"
        )
    logger.info("memory: about %s of %s (%s)", text(sum(parts.values())), text(available), described(parts))
    return settings


def described(parts: dict[str, int]) -> str:
    """Format the parts of an estimate in one line, largest first."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {text(n_bytes)}" for name, n_bytes in ordered)


def text(n_bytes: int) -> str:
    """Format bytes in MiB or GiB."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _piece(sizes: Sizes, settings: TrainingSettings) -> int:
    edges = math.ceil(settings.step_size(sizes.n_edges) / settings.n_pieces(sizes.n_edges))
    negatives = settings.neutral_negatives * math.ceil(edges / settings.group_size)
    rows = 3 * edges + negatives
    # Rows and their gradients, split and padded; scores, their losses and gradients, and keys for looking songs up.
    return 5 * FLOAT * settings.embedding_dim * rows + (5 * FLOAT + 3 * LONG) * edges * settings.neutral_negatives
