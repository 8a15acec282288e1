"""How much memory a training takes, by arithmetic, before it begins."""

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
    """A training does not fit, however small its pieces."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of nodes, edges and features of a graph."""

    n_users: int
    n_graph_songs: int
    n_songs: int
    n_edges: int
    n_owners: int
    """Artists and albums, one for unknown of each included."""
    audio_dimensions: int = 128

    @classmethod
    def of(cls, graph: GraphTensors) -> Self:
        """Count those of a graph."""
        n_owners, n_dimensions = sum(graph.features.n_owners.values()), graph.features.audio.shape[1]
        return cls(graph.n_users, graph.n_graph_songs, graph.n_songs, graph.n_edges, n_owners, n_dimensions)


def estimate(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Bytes on the training device, by what they are for; an upper end, libraries and the loaded graph apart."""
    d, nodes = settings.embedding_dim, sizes.n_users + sizes.n_graph_songs
    vectors = nodes * d * FLOAT
    width = settings.audio * sizes.audio_dimensions + settings.metadata * d
    parameters = (
        FLOAT
        * d
        * (sizes.n_users + settings.metadata * sizes.n_owners + settings.song_residual * sizes.n_graph_songs + width)
    )
    # Gradients, and the optimiser's own: two moments for AdamW, one for momentum; and the best state so far.
    copies = 1 + 1 + (2 if settings.optimizer == "adamw" else 1) + 1
    # A layer that learns edge weights keeps its input and its output for its backward pass.
    layers = 6 + (2 * settings.layers if settings.edge_weights == "learned" else 0)
    # Two entries of the CSR, each two int32 and a float; the pairs, their weights and keys, an order.
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
    """The settings, with steps in more pieces where memory is short; what a step computes stays the same.

    Raises:
        NotEnoughMemoryError: not even pieces of 1,024 edges fit; says what takes how much, and what to change.
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
            f"training needs about {text(sum(parts.values()))} on {device} ({described(parts)}), where "
            f"{text(available)} are free: lower embedding_dim or layers, turn edge_weights to heuristic, take the "
            "optimizer sgd, or train on a smaller scale or a larger machine"
        )
    logger.info("memory: about %s of %s (%s)", text(sum(parts.values())), text(available), described(parts))
    return settings


def described(parts: dict[str, int]) -> str:
    """Parts of an estimate, largest first, as one line."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {text(n_bytes)}" for name, n_bytes in ordered)


def text(n_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def _piece(sizes: Sizes, settings: TrainingSettings) -> int:
    edges = math.ceil(settings.step_size(sizes.n_edges) / settings.n_pieces(sizes.n_edges))
    negatives = settings.neutral_negatives * math.ceil(edges / settings.group_size)
    rows = 3 * edges + negatives
    # Rows and their gradients, split and padded; scores, their loss and gradients, and keys to look songs up.
    return 5 * FLOAT * settings.embedding_dim * rows + (5 * FLOAT + 3 * LONG) * edges * settings.neutral_negatives
