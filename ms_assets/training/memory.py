"""Memory of a training, estimated by arithmetic before it begins."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Self

from ms_assets.machine import described, refuse_beyond, text
from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors
from ms_assets.training.rehearsal import number_hidden

logger = logging.getLogger(__name__)

FLOAT, LONG, INT = 4, 8, 4
BYTES = {"fp32": 4, "bf16": 2}
SMALLEST_PIECE = 1_024
EDGE = 24
"""Bytes an edge of a graph: its ends and four attributes."""
BUILDING = 32
"""Bytes an edge while the adjacency is built."""
LEARNED_LAYER = 3
"""Tensors of the size of all embeddings that a layer keeps while edge weights are learned."""


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
    """Estimate the bytes of a training on the CPU at its peak, by purpose, without libraries and the loaded graph.

    That is the training itself, or the one with some songs hidden, which follows it and has its own copy of the graph;
    of all ranks, which share nothing but the loaded graph.
    """
    trainings = (estimate_alone(sizes, settings), _estimate_again(sizes, settings))
    largest = max(trainings, key=lambda parts: sum(parts.values()))
    return {name: settings.ranks * part for name, part in largest.items()} | _first_rank(sizes, settings)


def _first_rank(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate what the first of several ranks holds in main memory of the others' columns while it saves."""
    if settings.ranks == 1:
        return {}
    alone = estimate_alone(sizes, settings.model_copy(update={"ranks": 1}))
    return {"columns of all ranks": (_copies(settings) - 1) * alone["parameters"] // _copies(settings)}


def _estimate_again(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate of the training with some songs hidden, and of what it holds beside; nothing where there is none."""
    n_hidden = number_hidden(sizes.n_graph_songs, sizes.n_songs)
    if not n_hidden or not (settings.audio or settings.metadata):
        return {}
    share = 1 - n_hidden / sizes.n_graph_songs
    kept = replace(sizes, n_graph_songs=sizes.n_graph_songs - n_hidden, n_edges=round(share * sizes.n_edges))
    alone = estimate_alone(kept, settings)
    return alone | {
        "graph without hidden songs": EDGE * kept.n_edges + FLOAT * sizes.audio_dimensions * sizes.n_graph_songs,
        "training before": LONG * sizes.n_edges + alone["parameters"] // _copies(settings),
    }


def estimate_alone(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of one rank on its device at its peak, by purpose, without libraries and loaded graph."""
    d, nodes = settings.embedding_dim, sizes.n_users + sizes.n_graph_songs
    own = d // settings.ranks
    vectors = nodes * own * FLOAT
    width = settings.audio * sizes.audio_dimensions + settings.metadata * d
    divided = sizes.n_users + settings.song_residual * sizes.n_graph_songs + width
    parameters = FLOAT * (own * divided + d * settings.metadata * sizes.n_owners)
    # A layer that learns edge weights keeps its input, scaled and unscaled, for its backward pass.
    learned = settings.edge_weights == "learned"
    # For validation a rank collects the columns of all, and puts them together.
    collected = 1 + 2 * settings.ranks if settings.ranks > 1 else 0
    layers = max(2, 1 + LEARNED_LAYER * settings.layers if learned else 0, collected)
    # Both entries of an edge, each two int32; bucket or weight; key of the pair; weight in the loss; order of an epoch.
    held = 2 * 2 * INT + FLOAT + LONG + FLOAT + LONG
    frozen = 2 * (BYTES[settings.precision] + (FLOAT if settings.precision != "fp32" else 0)) + FLOAT
    # Weights and entries; gradients of the entries by two layers; those of the weights, twice.
    learning = FLOAT + 2 * FLOAT + 2 * 2 * FLOAT + 2 * FLOAT
    return {
        "parameters": _copies(settings) * parameters,
        "song features": (FLOAT * sizes.audio_dimensions + 4 * LONG) * sizes.n_graph_songs,
        # Metadata and their gradient, of all columns; the sum, the unit vectors, and their gradient.
        "song encoder": (2 * d + 3 * own) * FLOAT * sizes.n_graph_songs,
        "propagation": layers * vectors,
        "edges": (held + max(frozen, learning if learned else 0)) * sizes.n_edges,
        "piece of a step": _piece(sizes, settings),
    }


def _copies(settings: TrainingSettings) -> int:
    """Parameters, gradients, the optimiser's state (two moments for AdamW, one for momentum), the best state so far."""
    return 1 + 1 + (2 if settings.optimizer == "adamw" else 1) + 1


def estimate_beside(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of main memory that a training on another device needs, by purpose, beside the loaded graph.

    The network is built in main memory, and its best state and the keys of pairs stay there.
    """
    parts = estimate_alone(sizes, settings)
    again = _estimate_again(sizes, settings)
    held = {name: again[name] for name in ("graph without hidden songs", "training before") if again}
    whole = estimate_alone(sizes, settings.model_copy(update={"ranks": 1}))
    of_one = held | {
        "network and its best state": 2 * whole["parameters"] // _copies(settings),
        "song features": parts["song features"],
        # Rows of the adjacency and what counting them takes; bucket, key of the pair, weight in the loss, order.
        "edges": (BUILDING + FLOAT + LONG + FLOAT + LONG) * sizes.n_edges,
    }
    return {name: settings.ranks * part for name, part in of_one.items()} | _first_rank(sizes, settings)


def estimate_on(device: str, sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of a training on a device; copies of the graph stay in main memory."""
    return estimate(sizes, settings) if device == "cpu" else estimate_alone(sizes, settings)


def fitted(sizes: Sizes, settings: TrainingSettings, available: int, device: str) -> TrainingSettings:
    """Adapt settings to the available bytes by more pieces per step, which leaves the result of a step the same.

    Raises:
        NotEnoughMemoryError: not even pieces of 1,024 edges fit; names the parts' sizes, what would fit, and what to
            change.
    """
    parts = estimate_on(device, sizes, settings)
    most = math.ceil(settings.step_size(sizes.n_edges) / SMALLEST_PIECE)
    pieces = settings.n_pieces(sizes.n_edges)
    while sum(parts.values()) > available and pieces < most:
        pieces = min(2 * pieces, most)
        settings = settings.model_copy(update={"accumulation": pieces})
        parts = estimate_on(device, sizes, settings)
    refuse_beyond(
        available,
        f"{_training(sizes)} on {device}",
        parts,
        "lower embedding_dim or layers, set edge_weights to heuristic or optimizer to sgd, let fewer users take part "
        "(splits__users.min_events, max_events), or train on a larger machine",
        _what_fits(sizes, settings, available, device),
    )
    logger.info("memory: about %s of %s (%s)", text(sum(parts.values())), text(available), described(parts))
    return settings


def refuse_without_room_beside(sizes: Sizes, settings: TrainingSettings, available: int) -> None:
    """Check that main memory holds what a training on another device keeps there.

    Raises:
        NotEnoughMemoryError: it does not; names the parts' sizes and what to change.
    """
    refuse_beyond(
        available,
        f"{_training(sizes)} on another device in main memory",
        estimate_beside(sizes, settings),
        "let fewer users take part (splits__users.min_events, max_events), or train on a machine with more memory",
    )


def _training(sizes: Sizes) -> str:
    return f"training on {sizes.n_edges:,} edges of {sizes.n_users:,} users and {sizes.n_graph_songs:,} songs"


def _what_fits(sizes: Sizes, settings: TrainingSettings, available: int, device: str) -> str:
    """Say, for the error, with what dimensions the training would fit; empty if with none."""
    for dimensions in (64, 32, 16, 8):
        smaller = settings.model_copy(update={"embedding_dim": dimensions})
        possible = dimensions < settings.embedding_dim and dimensions % settings.ranks == 0
        if possible and sum(estimate_on(device, sizes, smaller).values()) <= available:
            return f", enough for embedding_dim {dimensions}"
    return ""


def _piece(sizes: Sizes, settings: TrainingSettings) -> int:
    edges = math.ceil(settings.step_size(sizes.n_edges) / settings.n_pieces(sizes.n_edges))
    negatives = settings.neutral_negatives * math.ceil(edges / settings.group_size)
    rows = 3 * edges + negatives
    # Rows and their gradients, split and padded; scores, their losses and gradients, and keys for looking songs up.
    own = settings.embedding_dim // settings.ranks
    return 5 * FLOAT * own * rows + (5 * FLOAT + 3 * LONG) * edges * settings.neutral_negatives
