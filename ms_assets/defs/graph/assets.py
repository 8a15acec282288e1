"""Assets of room 3, graph: weighted edges, the bipartite graph, its statistics."""

from functools import partial
from typing import Any

import dagster as dg

from ms_assets import pictures
from ms_assets.defs.platform import shown
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import assets_of, room
from ms_assets.defs.platform.schemas import columns
from ms_assets.events import POSITIVES, listed
from ms_assets.graph import bipartite, statistics
from ms_assets.graph import edges as weighting
from ms_assets.streams import Relation, TableStream, in_user_ranges

asset = room("graph")


@asset(
    kinds={"duckdb"},
    code_version="1",
    ins=assets_of("splits", "train"),
    metadata=columns(
        "graph/edges",
        positives=listed(POSITIVES),
        unknown_ratio=str(weighting.UNKNOWN_RATIO),
        ratios=", ".join(f"{name} {t.edge_ratio}" for name, t in POSITIVES.items() if t.edge_ratio is not None),
        weights=", ".join(f"{name} {t.edge_weight}" for name, t in POSITIVES.items()),
    ),
)
def edges(duckdb: DuckDB, train: Relation) -> TableStream:
    """One weighted edge per user, song and event type of the train part.

    LightGCN propagates embeddings along them; an edge's weight is learned from its number of events, its played ratio
    and its type.
    """
    return in_user_ranges(partial(weighting.edges, duckdb.connection), train, rows=duckdb.rows)


@asset(
    kinds={"pytorch"},
    code_version="3",
    io_manager_key="graph_files",
    ins=assets_of("splits", "users", "songs") | assets_of("raw", "embeddings"),
)
def bipartite_graph(users: Relation, songs: Relation, embeddings: Relation, edges: Relation) -> dg.MaterializeResult:
    """Bipartite graph: users, songs with their audio, artists and albums, and the weighted edges between them.

    Input of training, in one file of PyTorch Geometric; cold songs are in it, without edges.
    """
    bipartite.refuse_without_room(len(users), len(songs), len(edges), embeddings)
    in_order = songs.order("song_id").to_arrow_table()
    graph = bipartite.bipartite_graph(
        users.order("user_id").to_arrow_table(),
        in_order,
        bipartite.song_audio(in_order["item_id"].to_numpy(), embeddings),
        len(edges),
        edges.to_arrow_reader(),
    )
    return dg.MaterializeResult(value=graph, metadata={"graph": str(graph)})


@asset(kinds={"polars"}, code_version="1", name="statistics", metadata=columns("graph/statistics"))
def graph_statistics(bipartite_graph: Any) -> dg.MaterializeResult:
    """One row per statistic of the graph: nodes, edges, event types, degrees; with a picture of the degrees.

    Useful before a training: users with few songs and songs with few users are hard to learn.
    """
    numbers = statistics.graph_statistics(bipartite_graph)
    picture = pictures.png(statistics.degree_picture(statistics.degrees(bipartite_graph)))
    return dg.MaterializeResult(value=numbers, metadata=shown.images({"degrees": picture}))
