"""Memory of a training, estimated by arithmetic before it begins."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Self

from ms_assets.machine import described, free_memory, refuse_beyond, text
from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors
from ms_assets.training.propagation import ENTRIES_AT_ONCE
from ms_assets.training.rehearsal import number_hidden
from ms_assets.training.validation import SCORES_AT_ONCE

logger = logging.getLogger(__name__)

FLOAT, LONG, INT = 4, 8, 4
BYTES = {"fp32": 4, "bf16": 2}
SMALLEST_PIECE = 1_024
EDGE = 24
"""Bytes an edge of a graph: its ends and four attributes."""
BUILDING = 32
"""Bytes an edge while the adjacency is built."""
FILTER = 4
"""Bytes an edge, at most, of the filter of pairs."""
BESIDE = 160 << 20
"""Bytes of libraries that a training imports, and of small blocks that the C library keeps for the next ones."""
LARGEST_KEPT = 32 << 20
"""Bytes of the largest block that the C library keeps when it is freed, up to which glibc's threshold grows."""
KEPT = 0.25
"""Bytes of freed blocks that the C library keeps for each byte in use."""


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
    """Estimate the bytes of a training on the CPU at its peak, by purpose, beside the loaded graph.

    That is the training itself, or the one with some songs hidden, which follows it and has its own copy of the graph;
    of all ranks, which share nothing but the loaded graph.
    """
    trainings = (estimate_alone(sizes, settings), _estimate_again(sizes, settings))
    largest = max(trainings, key=lambda parts: sum(parts.values()))
    of_each = largest | _kept(sizes, settings, sum(largest.values()) - BESIDE)
    return {name: settings.ranks * part for name, part in of_each.items()} | _first_rank(sizes, settings)


def _kept(sizes: Sizes, settings: TrainingSettings, used: int) -> dict[str, int]:
    """Estimate what the C library keeps beside the bytes that a rank uses; nothing where vectors are large blocks.

    Blocks that a step has freed are then still held when validation, whose scores are large, asks for more.
    """
    if FLOAT * settings.embedding_dim // settings.ranks * (sizes.n_users + sizes.n_graph_songs) > LARGEST_KEPT:
        return {}
    scores = FLOAT * min(SCORES_AT_ONCE, min(settings.validation_users, sizes.n_users) * sizes.n_graph_songs)
    return {"freed blocks and scores of validation": round(KEPT * used) + scores}


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
        "graph without hidden songs": EDGE * kept.n_edges + _features(sizes),
        # Keys, relevance and song of each pair that is hidden.
        "targets": 3 * LONG * (sizes.n_edges - kept.n_edges),
        "training before": LONG * sizes.n_edges + alone["parameters"] // _copies(settings) + _spectrum(sizes, settings),
    }


def estimate_alone(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of one rank on its device at its peak, by purpose, beside the loaded graph."""
    d, nodes = settings.embedding_dim, sizes.n_users + sizes.n_graph_songs
    own = d // settings.ranks
    vectors = nodes * own * FLOAT
    width = settings.audio * sizes.audio_dimensions + settings.metadata * d
    divided = sizes.n_users + settings.song_residual * sizes.n_graph_songs + width
    parameters = FLOAT * (own * divided + d * settings.metadata * sizes.n_owners)
    learned = settings.edge_weights == "learned"
    # To learn edge weights a layer keeps its input, scaled and unscaled, and its sum. Beside them: layer 0, the result,
    # its gradient, and what a layer makes of that. Gradients of parameters come when these have gone.
    layers = 3 * settings.layers + 4 if learned else 7
    several = settings.ranks > 1
    # For validation a rank collects the columns of all, and puts them together.
    layers = max(layers, several * (1 + 2 * settings.ranks))
    # Both entries of an edge, each two int32; bucket or weight; key of the pair, and its bits in the filter; weight in
    # the loss; order of an epoch.
    held = 2 * 2 * INT + FLOAT + LONG + FILTER + FLOAT + LONG
    entries = 2 * (FLOAT if learned else BYTES[settings.precision])
    parts = {
        "parameters": _copies(settings) * parameters,
        "song features": _features(sizes),
        # Where tensors of own columns are small, the gradient of the metadata, of all columns, counts too.
        "song encoder": (1 + several) * FLOAT * sizes.n_graph_songs * d * settings.metadata,
        "spectrum": _spectrum(sizes, settings),
        "propagation": layers * vectors,
        "edges": (held + entries) * sizes.n_edges,
        "libraries and small blocks": BESIDE,
    }
    # A step's pieces are gone when its gradient is propagated. Entries then have a gradient, of which some are computed
    # at a time with two more numbers each. The second layer adds another one, when tensors of the first have gone.
    at_once, another = min(2 * sizes.n_edges, ENTRIES_AT_ONCE), max(entries * sizes.n_edges - 3 * vectors, 0)
    gradients = learned * (entries * sizes.n_edges + another + (FLOAT + LONG) * at_once)
    largest, name = max((_piece(sizes, settings), "piece of a step"), (gradients, "gradients of edges"))
    return parts | {name: largest}


def _features(sizes: Sizes) -> int:
    """Bytes of a copy of the graph songs' features: audio, and an artist and an album with their offsets."""
    return (FLOAT * sizes.audio_dimensions + 4 * LONG) * sizes.n_graph_songs


def _spectrum(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of a spectrum, which a graph keeps for its next training."""
    return FLOAT * settings.embedding_dim * (sizes.n_users + sizes.n_graph_songs) * settings.spectral_start


def _copies(settings: TrainingSettings) -> int:
    """Parameters, gradients, the optimiser's state (two moments for AdamW, one for momentum), the best state so far."""
    return 1 + 1 + (2 if settings.optimizer == "adamw" else 1) + 1


def estimate_beside(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of main memory that a training on another device needs, by purpose, beside the loaded graph.

    The network is built in main memory, and its best state and the keys of pairs stay there.
    """
    parts = estimate_alone(sizes, settings)
    again = _estimate_again(sizes, settings)
    held = {name: again[name] for name in ("graph without hidden songs", "targets", "training before") if again}
    whole = estimate_alone(sizes, settings.model_copy(update={"ranks": 1}))
    of_one = held | {
        "network and its best state": 2 * whole["parameters"] // _copies(settings),
        "song features": parts["song features"],
        # Rows of the adjacency and what counting them takes; bucket, key of the pair, weight in the loss, order.
        "edges": (BUILDING + FLOAT + LONG + FLOAT + LONG) * sizes.n_edges,
    }
    return {name: settings.ranks * part for name, part in of_one.items()} | _first_rank(sizes, settings)


def estimate_embedding(sizes: Sizes, settings: TrainingSettings, refitted: bool = False) -> dict[str, int]:
    """Estimate the bytes of computing all embeddings from a model in main memory, by purpose, beside the loaded graph.

    refitted: a refit's model has the validation part in its graph, and comes with embeddings of the one before.
    """
    whole = settings.model_copy(update={"ranks": 1})
    vectors = FLOAT * settings.embedding_dim * (sizes.n_users + sizes.n_songs)
    # Rows of the adjacency, weights of edges, and entries of the propagation.
    held = 2 * 2 * INT + FLOAT + 2 * BYTES[settings.precision]
    return {
        "model and network": 2 * estimate_alone(sizes, whole)["parameters"] // _copies(settings),
        "edges": max(BUILDING, held) * sizes.n_edges + refitted * 2 * EDGE * sizes.n_edges,
        # Songs as encoded, all nodes put together, at length 1, propagated, and the layers' sum.
        "propagation": (6 + refitted) * vectors,
    }


def refuse_without_room_to_embed(sizes: Sizes, settings: TrainingSettings, refitted: bool) -> None:
    """Check that computing all embeddings fits into main memory.

    Raises:
        NotEnoughMemoryError: it does not; names the parts' sizes and what to change.
    """
    refuse_beyond(
        free_memory(),
        f"embedding {sizes.n_users:,} users and {sizes.n_songs:,} songs by {sizes.n_edges:,} edges",
        estimate_embedding(sizes, settings, refitted),
        "lower embedding_dim and train again, let fewer users take part (splits__users.min_events, max_events), or "
        "embed on a machine with more memory",
    )


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
    step, k = settings.step_size(sizes.n_edges), settings.neutral_negatives
    edges = math.ceil(step / settings.n_pieces(sizes.n_edges))
    row = FLOAT * settings.embedding_dim // settings.ranks
    rows = row * (3 * edges + k * math.ceil(edges / settings.group_size))
    # Two flags of each score; scores, what they become, and gradients of both; users in groups, and gradients of users
    # and positives. When the scores have gone: the gradients of all rows, in parts and together.
    largest = 2 * k * edges + rows + max(4 * FLOAT * k * edges + 3 * row * edges, 2 * rows)
    # Neutral negatives of the whole step; explicit ones, their flags, and users.
    return largest + LONG * k * math.ceil(step / settings.group_size) + (LONG + 1 + INT) * step
