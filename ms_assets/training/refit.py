"""Refit: data of a last training on train and validation together, once validation has chosen the epoch."""

from typing import TYPE_CHECKING

import duckdb
import numpy as np

from ms_assets.events import IS_NEGATIVE, IS_POSITIVE
from ms_assets.graph.bipartite import with_edges
from ms_assets.graph.edges import edges
from ms_assets.streams import Relation
from ms_assets.training.data import GraphTensors, TrainingData

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def graph_of_train_and_validation(
    con: duckdb.DuckDBPyConnection, graph: "HeteroData", train: Relation, validation: Relation
) -> "HeteroData":
    """Graph with edges from the positive events of both parts.

    Its songs stay the same: validation events of songs without a train event are left out, and these songs stay cold.
    """
    n_graph_songs = int(graph["song"].in_graph.sum())
    later = validation.filter(f"song_id < {n_graph_songs} AND {IS_POSITIVE}")
    both = train.union(later)
    return with_edges(graph, len(both), edges(con, both).to_arrow_reader())


def refit_data(
    con: duckdb.DuckDBPyConnection, graph: "HeteroData", negatives: Relation, train: Relation, validation: Relation
) -> TrainingData:
    """Training data of both parts, graph and explicit negatives, without validation targets."""
    tensors = GraphTensors.of(graph_of_train_and_validation(con, graph, train, validation))
    disliked = explicit_negatives(negatives, validation).to_arrow_table()
    explicit = (disliked[name].to_numpy() for name in ("user_id", "song_id"))
    nobody = np.empty(0, np.int64)
    return TrainingData(tensors, tensors.pairs(*explicit), tensors.pairs(nobody, nobody, relevance=np.empty(0)))


def explicit_negatives(negatives: Relation, validation: Relation) -> Relation:
    """Pairs user_id, song_id that were disliked or unliked in either part; a pair may occur twice."""
    later = validation.filter(IS_NEGATIVE)
    return negatives.project("user_id, song_id").union(later.project("user_id, song_id"))
