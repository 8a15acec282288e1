"""A world of two planted tastes, and small trainings on it."""

import numpy as np
import polars as pl
import pytest
import torch

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.settings import TrainingSettings
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.devices import CPU
from ms_assets.training.network import Network
from ms_assets.training.steps import Steps
from ms_assets.training.trainer import fit
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, block_of, data_of, pairs_of, two_blocks

GRAPH, HELD_OUT = two_blocks()
WANTED = pairs_of(HELD_OUT)
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


def gradients(device=CPU, **changed):
    """The mean loss of the first batch and the parameters' gradients, before any step."""
    data, settings = data_of(GRAPH, EXPLICIT), settings_of(spectral_start=False, **changed)
    torch.manual_seed(0)
    network = Network(data.graph, settings).to(device)
    steps = Steps(network, data, settings)
    edges = torch.arange(700, device=device)
    loss = steps._add_gradients(edges, steps.propagation)
    return loss, {name: p.grad.cpu() for name, p in network.named_parameters() if p.grad is not None}


class Killed(BaseException):
    """Nothing in the training catches this, as nothing catches the end of a process."""


class KilledAfter(Checkpoint):
    """Kills the training as soon as it has saved so many checkpoints."""

    n_left = 0

    def save(self, state):
        super().save(state)
        self.n_left -= 1
        if not self.n_left:
            raise Killed


def kill(file, data, settings, device, after):
    """Train until so many checkpoints have been saved in the file."""
    dying = KilledAfter.open(file, data, settings)
    dying.n_left = after
    with pytest.raises(Killed):
        fit(data, settings, device, checkpoint=dying)


def new_songs(scores, k):
    """The k best graph songs of each user that they have not heard; scores: [users, songs]."""
    user, song = GRAPH[INTERACTS].edge_index.numpy()
    scores = scores[:, :N_SONGS].copy()
    scores[user, song] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def share_of_own_block(scores, k):
    """Share of the users' k best new songs that are of their own taste."""
    found = block_of(new_songs(scores, k), N_SONGS)
    return (found == block_of(np.arange(N_USERS), N_USERS)[:, None]).mean()


def plant(platform):
    """Publish the inputs of training directly: a graph of two tastes, no dislikes, and what users hear later."""
    truth = pl.DataFrame(
        [("validation", user, song, 1.0) for user, songs in enumerate(HELD_OUT) for song in songs],
        schema={"split": pl.String, "user_id": pl.Int32, "song_id": pl.Int32, "adjusted_relevance": pl.Float64},
        orient="row",
    )
    nobody = pl.DataFrame(schema={"user_id": pl.Int32, "song_id": pl.Int32})
    events = {
        "user_id": pl.Int32, "song_id": pl.Int32, "event_type": pl.String, "played_ratio": pl.Float64,
        "timestamp": pl.Int64,
    }  # fmt: skip
    tables = {"splits/ground_truth": truth, "splits/negatives": nobody}
    tables |= {f"splits/{name}": pl.DataFrame(schema=events) for name in ("train", "validation")}
    for key, table in tables.items():
        file = platform.file(key)
        file.parent.mkdir(parents=True)
        table.write_parquet(file)
        platform.record(key)
    file = platform.file("graph/bipartite_graph", extension=".pt")
    file.parent.mkdir(parents=True)
    torch.save(GRAPH.to_dict(), file)
    platform.record("graph/bipartite_graph", extension=".pt")


def plant_train(platform):
    """Publish the events that the planted graph is made of, which a refit reads."""
    user, song = GRAPH[INTERACTS].edge_index.numpy()
    events = pl.read_parquet(platform.file("splits/train")).clear()
    heard = pl.DataFrame({"user_id": user, "song_id": song, "event_type": "listen", "played_ratio": 0.9})
    heard = heard.with_columns(timestamp=0)
    events.extend(heard.cast(dict(events.schema))).write_parquet(platform.file("splits/train"))
    platform.record("splits/train")
