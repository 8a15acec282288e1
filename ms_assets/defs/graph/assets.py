"""Assets of room 3, graph: weighted edges, the bipartite graph, its statistics."""

from functools import partial
from typing import Any

import dagster as dg

from ms_assets import pictures
from ms_assets.defs.platform.io_managers import Relation
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import room
from ms_assets.defs.platform.schemas import columns, each
from ms_assets.events import POSITIVES, listed
from ms_assets.graph import bipartite, statistics
from ms_assets.graph import edges as weighting
from ms_assets.streams import TableStream, in_user_ranges

asset = room("graph")


@asset(
    kinds={"duckdb"},
    code_version="1",
    ins={"train": dg.AssetIn(["splits", "train"])},
    metadata=columns(
        user_id=("INTEGER", "dense user id", "splits/train.user_id"),
        song_id=("INTEGER", "dense song id", "splits/train.song_id"),
        event_type=("VARCHAR", listed(POSITIVES), "splits/train.event_type"),
        n_events=("BIGINT", "events of this type", *each("splits/train", "user_id", "song_id", "event_type")),
        played_ratio=(
            "DOUBLE",
            f"mean of the known played ratios ({weighting.UNKNOWN_RATIO} if none is known); for "
            + ", ".join(f"{name} {kind.edge_ratio}" for name, kind in POSITIVES.items() if kind.edge_ratio is not None),
            *each("splits/train", "event_type", "played_ratio"),
        ),
        weight=(
            "DOUBLE",
            ", ".join(f"{name} {kind.edge_weight}" for name, kind in POSITIVES.items()),
            "splits/train.event_type",
        ),
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
    code_version="2",
    io_manager_key="graph_files",
    ins={name: dg.AssetIn(["splits", name]) for name in ("users", "songs")}
    | {"embeddings": dg.AssetIn(["raw", "embeddings"])},
)
def bipartite_graph(
    duckdb: DuckDB, users: Relation, songs: Relation, embeddings: Relation, edges: Relation
) -> dg.MaterializeResult:
    """Bipartite graph: users, songs with their audio, artists and albums, and the weighted edges between them.

    Input of training, in one file of PyTorch Geometric; cold songs are in it, without edges.
    """
    graph = bipartite.bipartite_graph(
        users.order("user_id").to_arrow_table(),
        songs.order("song_id").to_arrow_table(),
        bipartite.song_audio(duckdb.connection, songs, embeddings).to_arrow_table(),
        edges.to_arrow_table(),
    )
    return dg.MaterializeResult(value=graph, metadata={"graph": str(graph)})


@asset(
    kinds={"polars"},
    code_version="1",
    name="statistics",
    metadata=columns(
        name=("VARCHAR", "what is counted"),
        value=(
            "DOUBLE",
            "its value",
            *each("graph/edges", "user_id", "song_id", "event_type", "played_ratio"),
            *each("splits/songs", "song_id", "artist_ids", "album_ids", "in_graph"),
            "splits/users.user_id",
            "raw/embeddings.item_id",
        ),
    ),
)
def graph_statistics(bipartite_graph: Any) -> dg.MaterializeResult:
    """One row per statistic of the graph: nodes, edges, event types, degrees; with a picture of the degrees.

    Useful before a training: users with few songs and songs with few users are hard to learn.
    """
    numbers = statistics.graph_statistics(bipartite_graph)
    picture = pictures.to_markdown(
        pictures.png(statistics.degree_picture(statistics.degrees(bipartite_graph))), "degrees"
    )
    return dg.MaterializeResult(value=numbers, metadata={"degrees": dg.MetadataValue.md(picture)})
