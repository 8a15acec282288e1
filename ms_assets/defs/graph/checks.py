"""Checks of the graph."""

from typing import Any

import dagster as dg

from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import assets_of
from ms_assets.graph.bipartite import INTERACTS
from ms_assets.streams import Relation, user_ranges


@asset_check(asset=["graph", "edges"], additional_ins=assets_of("splits", "train"), blocking=True)
def edges_are_distinct_and_weighted(edges: Relation, train: Relation) -> dg.AssetCheckResult:
    """Edges are distinct by user, song and event type, with a count, a played ratio within 0–1 and a weight up to 1."""
    # Edges are sorted by their keys, so that equal ones would be neighbours and nothing has to be held in memory.
    key = "(user_id, song_id, event_type)"
    n_edges, n_unsorted, n_broken, n_events = (
        edges.project(f"""
            coalesce({key} > lag({key}) OVER (), true) AS above_last, n_events,
            coalesce(user_id >= 0 AND song_id >= 0 AND n_events > 0
                AND weight > 0 AND weight <= 1 AND played_ratio BETWEEN 0 AND 1, false) AS good
        """)
        .aggregate("count(*), count(*) FILTER (NOT above_last), count(*) FILTER (NOT good), coalesce(sum(n_events), 0)")
        .fetchall()[0]
    )
    n_train = train.count("*").fetchall()[0][0]
    return dg.AssetCheckResult(
        passed=n_edges > 0 and not n_unsorted and not n_broken and n_events == n_train,
        metadata={
            "n_edges": n_edges,
            "n_out_of_order_or_twice": n_unsorted,
            "n_broken": n_broken,
            "n_events": int(n_events),
            "n_train_events": n_train,
        },
    )


@asset_check(asset=["graph", "edges"], additional_ins=assets_of("splits", "train"), blocking=True)
def edges_are_of_train_alone(duckdb: DuckDB, edges: Relation, train: Relation) -> dg.AssetCheckResult:
    """Edges come from events in train alone, so that the model learns from no held-out event."""
    n_leaked, example = 0, list[tuple]()
    for first, last in user_ranges(edges, train, rows=duckdb.rows):
        of_range = (table.filter(f"user_id BETWEEN {first} AND {last}") for table in (edges, train))
        here, there = (table.project("user_id, song_id, event_type") for table in of_range)
        leaked = here.except_(there).order("1, 2, 3")
        n_leaked += len(leaked)
        example = example or leaked.limit(1).fetchall()
    said = [f"user_id {user} has song_id {song} by a {kind} that is not in train" for user, song, kind in example]
    found = {"n_leaked": n_leaked}
    return dg.AssetCheckResult(passed=not n_leaked, description=", ".join(said) or None, metadata=found)


@asset_check(asset=["graph", "bipartite_graph"], blocking=True)
def graph_songs_have_edges_and_cold_ones_none(bipartite_graph: Any) -> dg.AssetCheckResult:
    """Songs that the graph flags as graph songs have an edge; cold songs have none."""
    songs = bipartite_graph["song"]
    linked = songs.in_graph.new_zeros(songs.num_nodes)
    linked[bipartite_graph[INTERACTS].edge_index[1]] = True
    n_wrong = int((linked != songs.in_graph).sum())
    return dg.AssetCheckResult(passed=n_wrong == 0, metadata={"n_songs": songs.num_nodes, "n_wrong": n_wrong})
