"""What must hold of the graph."""

from typing import Any

import dagster as dg

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.io_managers import Relation


@dg.asset_check(
    asset=["graph", "edges"],
    additional_ins={name: dg.AssetIn(["splits", name]) for name in ("users", "songs")},
    blocking=True,
)
def edges_join_known_nodes(edges: Relation, users: Relation, songs: Relation) -> dg.AssetCheckResult:
    """Every edge joins a user to a graph song, with a weight and a played ratio within 0–1."""
    n_users, n_songs = len(users), len(songs.filter("in_graph"))
    broken = edges.filter(f"""
        NOT coalesce(user_id BETWEEN 0 AND {n_users - 1} AND song_id BETWEEN 0 AND {n_songs - 1}
            AND weight > 0 AND weight <= 1 AND played_ratio BETWEEN 0 AND 1 AND n_events > 0, false)
    """)
    return dg.AssetCheckResult(
        passed=len(edges) > 0 and len(broken) == 0, metadata={"n_edges": len(edges), "n_broken": len(broken)}
    )


@dg.asset_check(asset=["graph", "bipartite_graph"], blocking=True)
def graph_songs_have_edges_and_cold_ones_none(bipartite_graph: Any) -> dg.AssetCheckResult:
    """What the graph calls a graph song has an edge; what it calls cold has none."""
    songs = bipartite_graph["song"]
    linked = songs.in_graph.new_zeros(songs.num_nodes)
    linked[bipartite_graph[INTERACTS].edge_index[1]] = True
    n_wrong = int((linked != songs.in_graph).sum())
    return dg.AssetCheckResult(passed=n_wrong == 0, metadata={"n_songs": songs.num_nodes, "n_wrong": n_wrong})


checks = [edges_join_known_nodes, graph_songs_have_edges_and_cold_ones_none]
