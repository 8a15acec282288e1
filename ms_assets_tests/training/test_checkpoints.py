"""A training that was cut off goes on as if nothing had happened, and never from another training's state."""

import itertools
import logging

import numpy as np
import pytest
import torch

from ms_assets.defs.platform.io_managers import CheckpointOnDisk
from ms_assets.settings import TrainingSettings
from ms_assets.training import trainer
from ms_assets.training.checkpoints import Checkpoint, OtherTrainingError
from ms_assets.training.trainer import fit
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, data_of, graph_of
from ms_assets_tests.training.tastes import CPU, EXPLICIT, GRAPH, WANTED, Killed, KilledAfter, one_thread

pytestmark = one_thread
SMALL = {
    "embedding_dim": 16, "layers": 2, "epochs": 4, "batch_size": 128, "neutral_negatives": 16,
    "edge_weight_interval": 3, "checkpoint_seconds": 0,
}  # fmt: skip
STEPS = 4 * 6
"""720 edges in batches of 128."""


@pytest.fixture
def file(tmp_path):
    return CheckpointOnDisk(tmp_path / "model.checkpoint")


def trained(file, *, graph=GRAPH, explicit=EXPLICIT, die_after=0, on_epoch=lambda epoch: None, **changed):
    settings, data = TrainingSettings(**{**SMALL, **changed}), data_of(graph, explicit, WANTED)
    checkpoint = KilledAfter.open(file, data, settings)
    checkpoint.n_left = die_after
    return fit(data, settings, CPU, on_epoch, checkpoint)


def kill(file, after, **changed):
    """Train until so many checkpoints have been saved."""
    with pytest.raises(Killed):
        trained(file, die_after=after, **changed)


def outcome(result):
    history = [(epoch.number, epoch.loss, epoch.validation_ndcg, epoch.learning_rate) for epoch in result.history]
    return history, {name: tensor.tolist() for name, tensor in result.state.items()}


@pytest.mark.parametrize("changed", [{}, {"optimizer": "sgd"}, {"spectral_start": False, "objective": "bpr"}], ids=str)
@pytest.mark.parametrize("die_after", [1, 5, 6, 7, 16, STEPS])
def test_a_training_killed_at_any_step_ends_as_an_unbroken_one(file, tmp_path, die_after, changed):
    wanted = outcome(trained(CheckpointOnDisk(tmp_path / "unbroken"), **changed))
    kill(file, die_after, **changed)
    assert outcome(trained(file, **changed)) == wanted


def test_a_training_killed_again_and_again_gets_there(file, tmp_path):
    wanted = outcome(trained(CheckpointOnDisk(tmp_path / "unbroken")))
    for _ in range(STEPS // 5):
        kill(file, 5)
    assert outcome(trained(file)) == wanted


def test_what_is_done_is_not_done_again(file, caplog):
    kill(file, 15)
    told = []
    with caplog.at_level(logging.INFO, logger="ms_assets.training"):
        trained(file, on_epoch=told.append)
    assert [epoch.number for epoch in told] == [3, 4]
    assert "resuming from a checkpoint in epoch 3" in caplog.text


def test_seconds_go_on_where_they_stopped(file):
    kill(file, 15)
    before = file.load()["state"]["seconds"]
    assert trained(file).history[-1].seconds > before > 0


def test_checkpoints_are_as_far_apart_as_asked_for(file):
    trained(file, checkpoint_seconds=3_600)
    assert file.load() is None


class Hands:
    """A clock that only the test moves."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(("interval", "pause"), [(60, 1_800), (3_600, 3_600), (0, 0)])
def test_a_save_that_takes_long_is_not_followed_by_another_after_every_step(interval, pause, monkeypatch):
    hands, saved = Hands(), []
    monkeypatch.setattr(trainer, "time", hands)

    def save(seconds):
        saved.append(hands.now)
        hands.now += 200

    clock = trainer.Clock(0.0, interval)
    while len(saved) < 3:
        hands.now += 1
        clock.save_if_due(save)
    # A tenth of the time at most: 200 seconds of 2,000.
    assert [later - earlier - 200 for earlier, later in itertools.pairwise(saved)] == [max(pause, 1)] * 2


def other_graph():
    edges = [(user, song, "listen", 1, 0.9) for user in range(N_USERS) for song in range(user % 7, N_SONGS, 7)]
    return graph_of(edges, N_USERS, N_SONGS, n_cold=2)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 0.5}, ["learning_rate: the checkpoint's 0.005, this training's 0.5"]),
        ({"seed": 7, "layers": 1}, ["seed: the checkpoint's 0", "layers: the checkpoint's 2, this training's 1"]),
        ({"graph": other_graph()}, ["data: the checkpoint's 60 users, 82 songs, 720 edges", "training's 60 users"]),
        ({"explicit": (np.array([0]), np.array([5]))}, ["data: the checkpoint's"]),
    ],
    ids=["one setting", "two settings", "another graph", "other dislikes"],
)
def test_a_checkpoint_of_other_data_or_settings_is_refused_and_both_are_named(file, changed, named):
    kill(file, 2)
    with pytest.raises(OtherTrainingError, match="replace_checkpoint") as refusal:
        trained(file, **changed)
    assert all(name in str(refusal.value) for name in named)
    assert file.load()["state"]["steps"]["position"] == 2


def test_a_checkpoint_of_another_training_is_thrown_away_on_request(file, tmp_path):
    wanted = outcome(trained(CheckpointOnDisk(tmp_path / "unbroken"), seed=5))
    kill(file, 2)
    assert outcome(trained(file, seed=5, replace_checkpoint=True)) == wanted


def test_a_finished_training_resumes_itself_and_keeps_no_other_from_starting(file, tmp_path):
    settings, data = TrainingSettings(**SMALL), data_of(GRAPH, EXPLICIT, WANTED)
    wanted = outcome(trained(file))
    Checkpoint.open(file, data, settings).finish()
    told = []
    assert outcome(trained(file, on_epoch=told.append)) == wanted
    assert [epoch.number for epoch in told] == [4], "the state of its last step is saved, before validation"
    Checkpoint.open(file, data, settings).finish()
    assert outcome(trained(file, seed=5)) == outcome(trained(CheckpointOnDisk(tmp_path / "unbroken"), seed=5))


def test_a_training_too_short_for_a_checkpoint_finishes_without_one(file):
    Checkpoint.open(file, data_of(GRAPH), TrainingSettings(**SMALL)).finish()
    assert file.load() is None


@pytest.mark.parametrize("harmless", [{"accumulation": 3}, {"checkpoint_seconds": 1.0}, {"refit": True}], ids=str)
def test_settings_that_change_no_result_do_not_keep_a_training_from_going_on(file, harmless):
    kill(file, 15)
    told = []
    trained(file, on_epoch=told.append, **harmless)
    assert told[0].number == 3


def test_notes_outlive_a_killed_training(file):
    data, settings = data_of(GRAPH, EXPLICIT, WANTED), TrainingSettings(**SMALL)
    checkpoint = Checkpoint.open(file, data, settings)
    checkpoint.notes["mlflow_run_id"] = "abc"
    checkpoint.save({})
    again = Checkpoint.open(file, data, settings)
    assert again.notes == {"mlflow_run_id": "abc"}


def test_loading_a_checkpoint_runs_no_code_of_it(file):
    class Malicious:
        def __reduce__(self):
            return print, ("code ran",)

    torch.save(Malicious(), file.path)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        file.load()
