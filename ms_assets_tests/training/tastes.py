"""A world of two planted tastes, and small trainings on it."""

import numpy as np
import polars as pl
import pytest
import torch

from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.training.lightgcn import LightGCN
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, two_blocks

CPU = torch.device("cpu")
GRAPH, HELD_OUT = two_blocks()
NOBODY = (np.array([], np.int64), np.array([], np.int64))
EXPLICIT = (np.array([0, 1, 40]), np.array([5, N_SONGS, N_SONGS + 1]))
NOT_VALIDATED = [[]] * N_USERS
"""Nothing to choose an epoch by: the last one is kept."""
SMALL = {
    "embedding_dim": 16, "layers": 2, "epochs": 6, "batch_size": 128, "neutral_negatives": 16, "learning_rate": 0.02,
    "device": "cpu",
}  # fmt: skip
one_thread = pytest.mark.usefixtures("one_thread")


def settings_of(**changed):
    return TrainingSettings(**{**SMALL, **changed})


def judged(lists):
    """Relevance 1 for every song of every user's list."""
    user = np.repeat(np.arange(len(lists)), [len(songs) for songs in lists])
    song = np.array([s for songs in lists for s in songs], np.int64)
    return Judgements.of(user, song, np.ones(len(song)), len(lists), GRAPH["song"].num_nodes)


def embeddings_of(graph, settings, result):
    """Embeddings of users and songs by the state that a training kept."""
    model = LightGCN(graph, settings)
    model.load_state_dict(result.state)
    return model.eval().embed()


def plant(platform):
    """Publish the inputs of training directly: a graph of two tastes, no dislikes, and what users hear later."""
    truth = pl.DataFrame(
        [("validation", user, song, 1.0) for user, songs in enumerate(HELD_OUT) for song in songs],
        schema={"split": pl.String, "user_id": pl.Int32, "song_id": pl.Int32, "adjusted_relevance": pl.Float64},
        orient="row",
    )
    nobody = pl.DataFrame(schema={"user_id": pl.Int32, "song_id": pl.Int32})
    events = {"user_id": pl.Int32, "song_id": pl.Int32, "event_type": pl.String, "played_ratio": pl.Float64}
    tables = {"splits/ground_truth": truth, "splits/negatives": nobody}
    tables |= {f"splits/{name}": pl.DataFrame(schema=events) for name in ("train", "validation")}
    for key, table in tables.items():
        file = platform.file(key)
        file.parent.mkdir(parents=True)
        table.write_parquet(file)
    file = platform.file("graph/bipartite_graph", extension=".pt")
    file.parent.mkdir(parents=True)
    torch.save(GRAPH.to_dict(), file)
