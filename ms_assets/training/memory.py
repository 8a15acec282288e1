"""Memory of a training, estimated by arithmetic before it begins."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Self

from ms_assets.machine import LARGEST_KEPT, described, free_memory, refuse_beyond, text
from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors
from ms_assets.training.negatives import FLAGS_ON_CARD
from ms_assets.training.network import MOST_REGRESSED
from ms_assets.training.propagation import ENTRIES_AT_ONCE
from ms_assets.training.rehearsal import number_hidden
from ms_assets.training.validation import SCORES_AT_ONCE

logger = logging.getLogger(__name__)

FLOAT, LONG, INT = 4, 8, 4
SMALLEST_PIECE = 1_024
PIECE_ON_CARD = 262_144
"""Edges of a piece on a card: kernels of smaller ones take less time than their launches."""
EDGE = 24
"""Bytes an edge of a graph: its ends and four attributes."""
BUILDING = 32
"""Bytes an edge while the adjacency is built."""
FLAG = 20
"""Bytes of the look-up of a negative in the histories."""
FILTER = 4
"""Bytes an edge, at most, of the filter of pairs."""
BESIDE = 160 << 20
"""Bytes of libraries that a training imports, and of small blocks that the C library keeps for the next ones."""
EMBEDDING = 16 << 20
"""Bytes of libraries and small blocks of a process that computes embeddings, and trains nothing."""
LIBRARIES_OF_CARD = 2 << 30
"""Bytes of main memory that CUDA's libraries take in a process which trains on a card."""
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
    whole = settings.model_copy(update={"ranks": 1})
    return {"columns of all ranks": (_copies(settings) - 1) * _parameters(sizes, whole)}


def _estimate_again(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate of the training with some songs hidden, and of what it holds beside; nothing where there is none."""
    n_hidden = number_hidden(sizes.n_graph_songs, sizes.n_songs)
    if not n_hidden or not (settings.audio or settings.metadata):
        return {}
    share = 1 - n_hidden / sizes.n_graph_songs
    kept = replace(sizes, n_graph_songs=sizes.n_graph_songs - n_hidden, n_edges=round(share * sizes.n_edges))
    return estimate_alone(kept, settings) | {
        "graph without hidden songs": EDGE * kept.n_edges + _features(sizes),
        # Keys, relevance and song of each pair that is hidden.
        "targets": 3 * LONG * (sizes.n_edges - kept.n_edges),
        "training before": LONG * sizes.n_edges + _parameters(kept, settings) + _spectrum(sizes, settings),
    }


def estimate_alone(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of one rank on the CPU at its peak, by purpose, beside the loaded graph."""
    gradients, piece = _gradients_of_edges(sizes, settings), _piece(sizes, settings)
    # A step's pieces are gone when its gradient is propagated.
    largest = {"piece of a step": piece} if piece >= gradients else {"gradients of edges": gradients}
    return {
        "parameters": _copies(settings) * _parameters(sizes, settings),
        **_held(sizes, settings),
        "spectrum": _spectrum(sizes, settings),
        "propagation": _layers(settings) * _vectors(sizes, settings),
        "libraries and small blocks": BESIDE,
        **largest,
    }


def _estimate_on_card(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of one rank on a card at its peak, by purpose; its best state is in main memory.

    That is while the pieces of a step are gone through, before parameters have gradients, or while the step's gradient
    is propagated, by products that need room of their own.
    """
    vectors, parameters = _vectors(sizes, settings), _parameters(sizes, settings)
    flags = settings.neutral_negatives * _edges_of_piece(sizes, settings)
    # The start, what is propagated and its gradient, and to learn edge weights what each layer keeps.
    layers = 3 * settings.layers + 1 if settings.edge_weights == "learned" else 4
    pieces = {
        "parameters": (_copies(settings) - 2) * parameters,
        "propagation": layers * vectors,
        # Negatives have been looked up when their songs' rows are read.
        "piece of a step": max(_piece(sizes, settings), FLAG * min(flags, FLAGS_ON_CARD)),
    }
    propagating = {
        "parameters": (_copies(settings) - 1) * parameters,
        "propagation": _layers(settings) * vectors,
        "gradients of edges": _gradients_of_edges(sizes, settings),
        "sparse products": 2 * FLOAT * sizes.n_edges,
    }
    return _held(sizes, settings) | max(pieces, propagating, key=lambda parts: sum(parts.values()))


def _held(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Bytes that a rank holds all through a step, by purpose, beside parameters and vectors."""
    several = settings.ranks > 1
    # Both entries of an edge, each two int32; bucket or weight; key of the pair, and its bits in the filter; weight in
    # the loss; order of an epoch; weights of both entries.
    edge = 2 * 2 * INT + FLOAT + LONG + FILTER + FLOAT + LONG + 2 * FLOAT
    return {
        "song features": _features(sizes),
        # Where tensors of own columns are small, the gradient of the metadata, of all columns, counts too.
        "song encoder": (1 + several) * FLOAT * sizes.n_graph_songs * settings.embedding_dim * settings.metadata,
        "edges": edge * sizes.n_edges,
    }


def _vectors(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of own columns of a vector for each node of the graph."""
    return (sizes.n_users + sizes.n_graph_songs) * (settings.embedding_dim // settings.ranks) * FLOAT


def _parameters(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of own columns of the parameters, once."""
    d = settings.embedding_dim
    width = settings.audio * sizes.audio_dimensions + settings.metadata * d
    divided = sizes.n_users + settings.song_residual * sizes.n_graph_songs + width
    return FLOAT * (d // settings.ranks * divided + d * settings.metadata * sizes.n_owners)


def _layers(settings: TrainingSettings) -> int:
    """Number of vectors for each node that are held at most while a step's gradient is propagated."""
    # To learn edge weights a layer keeps its input, scaled and unscaled, and its sum. Beside them: layer 0, the result,
    # its gradient, and what a layer makes of that. Gradients of parameters come when these have gone.
    layers = 3 * settings.layers + 4 if settings.edge_weights == "learned" else 7
    # For validation a rank collects the columns of all, and puts them together.
    return max(layers, 1 + 2 * settings.ranks) if settings.ranks > 1 else layers


def _gradients_of_edges(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of the gradients of edge weights, if these are learned.

    Entries have a gradient, of which some are computed at a time with two more numbers each. The second layer adds
    another one, when tensors of the first have gone.
    """
    if settings.edge_weights != "learned":
        return 0
    entries = 2 * FLOAT * sizes.n_edges
    at_once, another = min(2 * sizes.n_edges, ENTRIES_AT_ONCE), max(entries - 3 * _vectors(sizes, settings), 0)
    return entries + another + (FLOAT + LONG) * at_once


def _features(sizes: Sizes) -> int:
    """Bytes of a copy of the graph songs' features: audio, and an artist and an album with their offsets."""
    return _features_of_song(sizes) * sizes.n_graph_songs


def _features_of_song(sizes: Sizes) -> int:
    return FLOAT * sizes.audio_dimensions + 4 * LONG


def _spectrum(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of a spectrum, which a graph keeps for its next training."""
    return FLOAT * settings.embedding_dim * (sizes.n_users + sizes.n_graph_songs) * settings.spectral_start


def _copies(settings: TrainingSettings) -> int:
    """Parameters, gradients, the optimiser's state (two moments for AdamW, one for momentum), the best state so far."""
    return 1 + 1 + (2 if settings.optimizer == "adamw" else 1) + 1


def estimate_beside(sizes: Sizes, settings: TrainingSettings) -> dict[str, int]:
    """Estimate the bytes of main memory that a training on another device needs, by purpose, beside the loaded graph.

    Its peak is where a network is built there, beside the keys of pairs and the best state of the one before. Weights
    and order of the edges come when the network has left for the device, and are smaller.
    """
    again = _estimate_again(sizes, settings)
    held = {name: again[name] for name in ("graph without hidden songs", "targets", "training before") if again}
    whole = settings.model_copy(update={"ranks": 1})
    of_one = held | {
        "network and its best state": 2 * _parameters(sizes, whole),
        "song features": _features(sizes),
        # Rows of the adjacency and what counting them takes; key of the pair.
        "edges": (BUILDING + LONG) * sizes.n_edges,
        "libraries of the card": LIBRARIES_OF_CARD,
    }
    of_first = _first_rank(sizes, settings) | {"spectrum": _spectrum(sizes, settings)}
    return {name: settings.ranks * part for name, part in of_one.items()} | of_first


def estimate_embedding(sizes: Sizes, settings: TrainingSettings, refitted: bool = False) -> dict[str, int]:
    """Estimate the bytes of computing all embeddings from a model in main memory, by purpose, beside the loaded graph.

    refitted: a refit's model has the validation part in its graph, and comes with embeddings of the one before.
    """
    whole, d = settings.model_copy(update={"ranks": 1}), settings.embedding_dim
    vectors = FLOAT * d * (sizes.n_users + sizes.n_songs)
    n_cold, width = sizes.n_songs - sizes.n_graph_songs, settings.audio * sizes.audio_dimensions + settings.metadata * d
    n_regressed = max(min(sizes.n_graph_songs, MOST_REGRESSED), n_cold) if n_cold and width else 0
    # Rows of the adjacency, weights of edges, and entries of the propagation.
    held = (2 * 2 * INT + FLOAT + 2 * FLOAT) * sizes.n_edges
    moments = {
        "building": BUILDING * sizes.n_edges,
        # All nodes put together, at length 1, propagated, and the layers' sum.
        "propagation": held + 5 * vectors,
        # What propagation found, directions of graph songs, and of songs that a regression learns from or is asked
        # for: features, input in parts and together, and metadata.
        "regression": held + 2 * vectors + (_features_of_song(sizes) + FLOAT * (2 * width + d)) * n_regressed,
    }
    largest = max(moments, key=lambda moment: moments[moment])
    return {
        "model and network": 2 * _parameters(sizes, whole),
        "former embeddings and graph": refitted * (vectors + 2 * EDGE * sizes.n_edges),
        "libraries and small blocks": EMBEDDING,
        largest: moments[largest],
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
    """Estimate the bytes of a training on a device at its peak, by purpose; `estimate_beside` is for the rest."""
    return estimate(sizes, settings) if device == "cpu" else _estimate_on_card(sizes, settings)


def fitted(sizes: Sizes, settings: TrainingSettings, available: int, device: str) -> TrainingSettings:
    """Adapt settings to device and available bytes by the pieces of a step, which leave its result the same.

    Raises:
        NotEnoughMemoryError: not even pieces of 1,024 edges fit; names the parts' sizes, what would fit, and what to
            change.
    """
    if device != "cpu" and not settings.accumulation:
        n_pieces = math.ceil(settings.step_size(sizes.n_edges) / PIECE_ON_CARD)
        settings = settings.model_copy(update={"accumulation": n_pieces})
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


def _edges_of_piece(sizes: Sizes, settings: TrainingSettings) -> int:
    return math.ceil(settings.step_size(sizes.n_edges) / settings.n_pieces(sizes.n_edges))


def _piece(sizes: Sizes, settings: TrainingSettings) -> int:
    """Bytes of a piece of a step, with the negatives of all of the step."""
    step, k, edges = settings.step_size(sizes.n_edges), settings.neutral_negatives, _edges_of_piece(sizes, settings)
    row = FLOAT * settings.embedding_dim // settings.ranks
    rows = row * (3 * edges + k * math.ceil(edges / settings.group_size))
    # Two flags of each score; scores, what they become, and gradients of both; users in groups, and gradients of users
    # and positives. When the scores have gone: the gradients of all rows, in parts and together.
    largest = 2 * k * edges + rows + max(4 * FLOAT * k * edges + 3 * row * edges, 2 * rows)
    # Neutral negatives of the whole step; explicit ones, their flags, and users.
    return largest + LONG * k * math.ceil(step / settings.group_size) + (LONG + 1 + INT) * step
