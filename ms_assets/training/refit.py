"""Train and validation together, for a last training once validation has chosen."""

from typing import TYPE_CHECKING

import duckdb

from ms_assets.events import IS_NEGATIVE, IS_POSITIVE
from ms_assets.graph.bipartite import with_edges
from ms_assets.graph.edges import edges
from ms_assets.streams import Relation

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def graph_of_train_and_validation(
    con: duckdb.DuckDBPyConnection, graph: "HeteroData", train: Relation, validation: Relation
) -> "HeteroData":
    """The graph with edges from the positive events of both parts.

    Its songs stay the same: what validation knows of songs without a train event is left out, they stay cold.
    """
    n_graph_songs = int(graph["song"].in_graph.sum())
    later = validation.filter(f"song_id < {n_graph_songs} AND {IS_POSITIVE}")
    return with_edges(graph, edges(con, train.union(later)).to_arrow_table())


def explicit_negatives(negatives: Relation, validation: Relation) -> Relation:
    """Distinct user_id, song_id of explicit negatives in either part, in this order."""
    later = validation.filter(IS_NEGATIVE)
    either = negatives.project("user_id, song_id").union(later.project("user_id, song_id"))
    return either.distinct().order("user_id, song_id")
