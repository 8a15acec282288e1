"""Statistics of the graph, and a picture of its degrees."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ms_assets import pictures
from ms_assets.events import EVENT_TYPES
from ms_assets.graph.bipartite import INTERACTS, refuse_other_types

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch_geometric.data import HeteroData


def graph_statistics(graph: "HeteroData") -> pl.DataFrame:
    """Node, edge and feature counts of a graph, one row per number: name, value.

    Raises:
        UnknownEventTypeError: an edge is of a type that is not in EVENT_TYPES.
    """
    users, songs, attributes = graph["user"], graph["song"], graph[INTERACTS].edge_attr
    refuse_other_types(attributes, EVENT_TYPES)
    numbers: dict[str, float] = {
        "n_users": users.num_nodes,
        "n_songs": songs.num_nodes,
        "n_cold_songs": int((~songs.in_graph).sum()),
        "n_edges": len(attributes),
        "density": len(attributes) / max(users.num_nodes * int(songs.in_graph.sum()), 1),
        "n_songs_without_audio": int((~songs.has_audio).sum()),
        "n_songs_without_artist": int((songs.artist_offsets.diff() == 0).sum()),
        "n_songs_with_several_artists": int((songs.artist_offsets.diff() > 1).sum()),
        "n_songs_without_album": int((songs.album_offsets.diff() == 0).sum()),
    }
    for name, kind in EVENT_TYPES.items():
        if n := int((attributes[:, 0] == kind.code).sum()):
            numbers[f"n_{name}_edges"] = n
            numbers[f"mean_played_ratio_{name}"] = float(attributes[attributes[:, 0] == kind.code, 2].mean())
    for node, degree in degrees(graph).items():
        for q in (0, 25, 50, 75, 100):
            numbers[f"{node}_degree_p{q}"] = float(np.percentile(degree, q)) if len(degree) else 0.0
    return pl.DataFrame({"name": list(numbers), "value": [float(v) for v in numbers.values()]})


def degrees(graph: "HeteroData") -> dict[str, np.ndarray]:
    """Degree, the number of edges, of each user and each graph song."""
    user, song = graph[INTERACTS].edge_index.numpy()
    n_graph_songs = int(graph["song"].in_graph.sum())
    return {
        "user": np.bincount(user, minlength=graph["user"].num_nodes),
        "song": np.bincount(song, minlength=n_graph_songs),
    }


def degree_picture(degrees: dict[str, np.ndarray]) -> "Figure":
    """Picture of the numbers of users and songs with at least so many edges, on logarithmic axes.

    degrees: number of edges of each node, by `user` and `song`.
    """
    figure = pictures.figure(9, 3.5)
    panes = figure.subplots(1, 2)
    for pane, (node, degree), colour in zip(panes, degrees.items(), pictures.PALETTE, strict=False):
        ordered = np.sort(degree[degree > 0])[::-1]
        pane.loglog(ordered, np.arange(1, len(ordered) + 1), color=colour)
        pane.set(title=f"{node}s", xlabel="edges, at least", ylabel=f"number of {node}s")
        pane.grid(alpha=0.3)
    return figure
