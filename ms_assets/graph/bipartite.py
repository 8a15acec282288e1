"""Bipartite user–song graph as a PyTorch Geometric (PyG) object."""

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.events import EVENT_TYPES, EventType, UnknownEventTypeError, name_of
from ms_assets.machine import IN_FLIGHT, free_memory, refuse_beyond
from ms_assets.raw.arrival import vector_length
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged, vector_column

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import HeteroData

INTERACTS = ("user", "interacts", "song")
EDGE_ATTRIBUTES = ("event_type", "n_events", "played_ratio", "weight")


AUDIO_AT_ONCE = 1 << 14
"""Number of songs whose audio is read at a time."""
Audio = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Unit audio vectors of songs [n_songs, n], zeros where unknown, and flags of songs with one [n_songs]."""


def song_audio(item_id: NDArray[np.int64], embeddings: Relation) -> Audio:
    """Read the audio of songs, a batch at a time, for a join would hold all vectors twice beside the result.

    Args:
        item_id: Yambda's id of each song, int64 [n_songs].
        embeddings: rows of raw/embeddings.
    """
    audio = np.zeros((len(item_id), vector_length(embeddings, "normalized_embed")), np.float32)
    has_audio, order = np.zeros(len(item_id), bool), np.argsort(item_id)
    if not len(item_id):
        return audio, has_audio
    known = embeddings.filter("normalized_embed IS NOT NULL")
    for batch in known.project("item_id, normalized_embed::FLOAT[] AS audio").to_arrow_reader(AUDIO_AT_ONCE):
        ids = batch.column("item_id").to_numpy()
        song = order[np.searchsorted(item_id, ids, sorter=order).clip(max=len(item_id) - 1)]
        wanted = item_id[song] == ids
        audio[song[wanted]] = vector_column(pa.table(batch), "audio")[wanted]
        has_audio[song[wanted]] = True
    return audio, has_audio


def estimate(n_users: int, n_songs: int, n_edges: int, dimensions: int) -> dict[str, int]:
    """Estimate the bytes that building a graph takes, by purpose; dimensions: those of the audio."""
    # The lists of artists and albums stand in a table beside the graph's own. Tables in flight are of edges; those of
    # audio are still held.
    audio = 4 * dimensions * n_songs
    return {
        "edges": 24 * n_edges,
        "audio": audio,
        "other features": 96 * n_songs + 8 * n_users,
        "tables in flight": IN_FLIGHT + min(IN_FLIGHT, audio),
    }


def refuse_without_room(n_users: int, n_songs: int, n_edges: int, embeddings: Relation) -> None:
    """Check that a graph fits into free memory while it is built; embeddings: the audio, of which the length counts.

    Raises:
        NotEnoughMemoryError: it does not; names the parts' sizes and what to change.
    """
    refuse_beyond(
        free_memory(),
        f"graph/bipartite_graph of {n_edges:,} edges, {n_users:,} users and {n_songs:,} songs",
        estimate(n_users, n_songs, n_edges, vector_length(embeddings, "normalized_embed")),
        "let fewer users take part (splits__users.min_events, max_events), or build it on a machine with more memory",
    )


def bipartite_graph(
    users: pa.Table, songs: pa.Table, audio: Audio, most_edges: int, edges: Iterable[pa.RecordBatch]
) -> "HeteroData":
    """Build the graph from tables whose rows are in the order of their dense ids.

    `user`: uid int64 [n_users]. `song`: x float32 [n_songs, n] (unit audio vectors, zeros where has_audio bool is
    false), item_id int64, in_graph bool, and the ragged artist_ids, album_ids int64 with their offsets. Cold songs
    are nodes without edges. Edges `(user, interacts, song)`: edge_index int32 [2, n_edges], edge_attr float32
    [n_edges, 4] = event type code, n_events, played ratio, weight.

    Raises:
        ValueError: an edge names an unknown user, song or event type.
    """
    import torch
    from torch_geometric.data import HeteroData

    graph = HeteroData()
    graph["user"].uid = _tensor(users, "uid")
    graph["user"].num_nodes = users.num_rows
    graph["song"].x, graph["song"].has_audio = (torch.from_numpy(array) for array in audio)
    graph["song"].item_id = _tensor(songs, "item_id")
    graph["song"].in_graph = _tensor(songs, "in_graph")
    for owner in ("artist", "album"):
        lists = Ragged.from_column(songs, f"{owner}_ids")
        graph["song"][f"{owner}_ids"] = torch.from_numpy(lists.values)
        graph["song"][f"{owner}_offsets"] = torch.from_numpy(lists.offsets)
    return with_edges(graph, most_edges, edges)


def with_edges(graph: "HeteroData", most_edges: int, edges: Iterable[pa.RecordBatch]) -> "HeteroData":
    """Copy a graph with these edges in place of its own.

    Edges arrive a batch at a time, because Arrow counts the characters of a column of names with 32 bits, and because
    nothing but the graph's own arrays, 24 bytes an edge, is then held of all edges.

    Args:
        graph: users and songs.
        most_edges: an upper bound of the number of edges.
        edges: rows of graph/edges.

    Raises:
        ValueError: an edge names a user or song that the graph does not have, or an unknown event type.
    """
    import torch

    nodes = {"user": graph["user"].num_nodes, "song": graph["song"].num_nodes}
    ends = np.empty((2, most_edges), np.int32)
    attributes = np.empty((most_edges, len(EDGE_ATTRIBUTES)), np.float32)
    n_edges = 0
    for batch in edges:
        here = slice(n_edges, n_edges + len(batch))
        for side, (name, n) in enumerate(nodes.items()):
            ids = batch.column(f"{name}_id").to_numpy()
            if len(ids) and not 0 <= ids.min() <= ids.max() < n:
                raise ValueError(f"edges: {name}_id runs from {ids.min()} to {ids.max()}, expected 0 to {n - 1}")
            ends[side, here] = ids
        attributes[here, 0] = _codes(batch.column("event_type"))
        for place, name in enumerate(EDGE_ATTRIBUTES[1:], start=1):
            attributes[here, place] = batch.column(name).to_numpy()
        n_edges = here.stop
    graph = copy.copy(graph)
    graph[INTERACTS].edge_index = torch.from_numpy(ends[:, :n_edges])
    graph[INTERACTS].edge_attr = torch.from_numpy(attributes[:n_edges])
    return graph


def _codes(event_types: pa.Array) -> NDArray[np.float32]:
    found = event_types.dictionary_encode()
    names = found.dictionary.to_pylist()
    for name in set(names) - set(EVENT_TYPES):
        raise UnknownEventTypeError(name, EVENT_TYPES)
    return np.array([EVENT_TYPES[name].code for name in names], np.float32)[found.indices.to_numpy()]


def refuse_other_types(edge_attributes: "torch.Tensor", expected: Mapping[str, EventType]) -> None:
    """Check that all edges, edge_attr float32 [n_edges, 4], are of the expected event types.

    Raises:
        UnknownEventTypeError: an edge is of another type.
    """
    import torch

    codes = torch.tensor([kind.code for kind in expected.values()], dtype=edge_attributes.dtype)
    for code in edge_attributes[~torch.isin(edge_attributes[:, 0], codes), 0][:1].tolist():
        raise UnknownEventTypeError(name_of(code), expected)


def _tensor(table: pa.Table, name: str) -> "torch.Tensor":
    import torch

    return torch.from_numpy(table.column(name).to_numpy().copy())
