"""Training on a planted world of two tastes: what it learns, what it keeps, and that it can be repeated."""

import logging

import numpy as np
import pytest
import torch

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.training import trainer
from ms_assets.training.trainer import fit
from ms_assets.training.validation import VALIDATION_K, Validator
from ms_assets_tests import slow_metrics
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, NOBODY, block_of, data_of, graph_of, pairs_of
from ms_assets_tests.training.tastes import (
    CPU,
    EXPLICIT,
    GRAPH,
    HELD_OUT,
    NOT_VALIDATED,
    new_songs,
    one_thread,
    settings_of,
    share_of_own_block,
)

pytestmark = one_thread


def trained(explicit=NOBODY, held_out=HELD_OUT, graph=GRAPH, device=CPU, on_epoch=lambda epoch: None, **changed):
    return fit(data_of(graph, explicit, pairs_of(held_out)), settings_of(**changed), device, on_epoch)


def embeddings(result, graph=GRAPH):
    return result.embeddings(data_of(graph).graph)


def scores_of(result):
    users, songs = embeddings(result)
    return (users @ songs.T).numpy()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"spectral_start": False, "epochs": 40, "temperature": 0.15},
        {"objective": "bpr"},
        {"objective": "bpr", "spectral_start": False, "epochs": 20},
        {"optimizer": "sgd", "spectral_start": False, "epochs": 20, "learning_rate": 3.0},
        {"edge_weights": "heuristic"},
        {"song_residual": False},
        {"edge_weight_interval": 1},
    ],
    ids=lambda changed: ",".join(f"{k}={v}" for k, v in changed.items()) or "defaults",
)
def test_training_finds_the_planted_taste(changed):
    result = trained(**changed, patience=20)
    # By chance half of a user's new songs are of their block, or less, since the heard ones are left out.
    assert share_of_own_block(scores_of(result), 10) > 0.95
    assert result.best.validation_ndcg > 0.2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loss_falls(optimizer):
    rate = {"adamw": 0.02, "sgd": 10.0}[optimizer]
    history = trained(
        optimizer=optimizer, learning_rate=rate, spectral_start=False, epochs=8, patience=8
    ).history  # fmt: skip
    assert history[-1].loss < 0.8 * history[0].loss


def same(one, other):
    return [name for name in one.state if not torch.equal(one.state[name], other.state[name])] == []


@pytest.mark.parametrize("spectral_start", [True, False])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(spectral_start):
    torch.set_num_threads(4)
    one, again, other = (
        trained(EXPLICIT, spectral_start=spectral_start, seed=seed, edge_weight_interval=2, epochs=3)
        for seed in (3, 3, 4)
    )
    assert same(one, again)
    assert [epoch.loss for epoch in one.history] == [epoch.loss for epoch in again.history]
    assert not same(one, other)


def test_training_leaves_the_global_random_numbers_as_they_were():
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    trained(epochs=1)
    assert torch.equal(torch.rand(3), wanted)


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best_epoch():
    told = []
    result = trained(epochs=60, patience=3, learning_rate=0.1, spectral_start=False, on_epoch=told.append)
    scores = [epoch.validation_ndcg for epoch in result.history]
    assert len(scores) == result.best.number + 3 < 60
    assert result.best is result.history[int(np.argmax(scores))]
    assert told == result.history
    assert [epoch.number for epoch in told] == list(range(1, len(told) + 1))


FALLS, RISES = [1.0, 0.5, 0.4, 0.6, 0.8], [0.9, 1.1, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(("visited", "ends", "best"), [(10, 9, 6), (3, 3, 0)])
def test_training_may_fall_below_its_start_and_pass_it_later_as_long_as_few_edges_were_visited(
    monkeypatch, visited, ends, best
):
    told = iter([*FALLS, *RISES])
    monkeypatch.setattr(Validator, "ndcg", lambda *of: next(told))
    monkeypatch.setattr(trainer, "MAY_FALL", visited * data_of(GRAPH).graph.n_edges)
    result = trained(epochs=20, patience=3)
    assert (len(result.history), result.best.number) == (ends, best)


def test_training_ends_when_the_listener_answers_true_and_keeps_the_best_epoch_until_then():
    result = trained(spectral_start=False, epochs=20, patience=20, on_epoch=lambda epoch: epoch.number == 3)
    whole = trained(spectral_start=False, epochs=20, patience=20)
    assert [epoch.loss for epoch in result.history] == [epoch.loss for epoch in whole.history[:3]]
    assert result.best == max(result.history, key=lambda epoch: (epoch.validation_ndcg, epoch.number))


def test_the_kept_state_has_the_validation_ndcg_that_was_reported():
    result = trained(epochs=12, patience=12, learning_rate=0.1, edge_weight_interval=3)
    found = new_songs(scores_of(result), VALIDATION_K).tolist()
    pairs = zip(found, HELD_OUT, strict=True)
    wanted = np.mean([slow_metrics.ndcg(songs, dict.fromkeys(targets, 1.0)) for songs, targets in pairs])
    assert result.best.number < len(result.history)
    # Not nearer, for two songs of nearly equal score may change places.
    assert result.best.validation_ndcg == pytest.approx(wanted, abs=1e-3)


def test_songs_heard_in_train_and_cold_songs_are_not_validated_with():
    user, song = GRAPH[INTERACTS].edge_index.numpy()
    heard = [song[user == u].tolist() for u in range(N_USERS)]
    more = [sorted({*new, *old[:4], N_SONGS}) for new, old in zip(HELD_OUT, heard, strict=True)]
    assert trained(held_out=more, epochs=2).history[1].validation_ndcg == pytest.approx(
        trained(epochs=2).history[1].validation_ndcg
    )


def test_validation_draws_as_many_users_as_asked_for():
    few = trained(validation_users=5, epochs=1).best.validation_ndcg
    assert 0 < few != trained(epochs=1).best.validation_ndcg


def test_without_validation_users_training_goes_on_to_its_last_epoch():
    result = trained(held_out=NOT_VALIDATED, epochs=6, patience=2)
    assert [epoch.validation_ndcg for epoch in result.history] == [0.0] * 6
    assert result.best.number == 6
    assert np.isfinite(scores_of(result)).all()


def disliking(song):
    users = np.flatnonzero(block_of(np.arange(N_USERS), N_USERS) == block_of(song, N_SONGS))
    listened = GRAPH[INTERACTS].edge_index
    fresh = np.setdiff1d(users, listened[0][listened[1] == song].numpy())
    return fresh, np.full(len(fresh), song)


@pytest.mark.parametrize("objective", ["bpr", "softmax"])
def test_a_song_that_users_dislike_falls_for_them(objective):
    song = 7
    users, songs = disliking(song)
    changed = {"hard_weight": 1.0, "epochs": 10, "held_out": NOT_VALIDATED, "objective": objective}
    liked = scores_of(trained(**changed))[users, song].mean()
    disliked = scores_of(trained((users, songs), **changed))[users, song].mean()
    assert disliked < liked - 0.1


@pytest.mark.parametrize("objective", ["bpr", "softmax"])
def test_a_cold_song_that_users_of_one_taste_dislike_falls_for_them(objective):
    users, song = np.flatnonzero(block_of(range(N_USERS), N_USERS)), N_SONGS + 1
    changed = {"hard_weight": 1.0, "epochs": 10, "held_out": NOT_VALIDATED, "objective": objective}
    liked = scores_of(trained(**changed))[users, song].mean()
    disliked = scores_of(trained((users, np.full(len(users), song)), **changed))[users, song].mean()
    assert disliked < liked - 0.1


def test_without_hard_weight_dislikes_change_nothing():
    explicit = disliking(7)
    one = trained(explicit, hard_weight=0.0, epochs=2)
    other = trained((explicit[0], np.full(len(explicit[0]), 9)), hard_weight=0.0, epochs=2)
    torch.testing.assert_close(embeddings(one), embeddings(other))


def test_songs_that_a_user_heard_are_no_neutral_negatives():
    everything = graph_of([(user, song, "like", 1, 1.0) for user in range(3) for song in range(4)], 3, 4)
    result = fit(data_of(everything), settings_of(epochs=2), CPU)
    assert [epoch.loss for epoch in result.history] == [0.0, 0.0]


@pytest.mark.parametrize("odd", [{"group_size": 7}, {"batch_size": 1_000_000}, {"batch_size": 719}, {"layers": 0}])
def test_sizes_that_do_not_divide_the_edges_are_fine(odd):
    history = trained(**{"epochs": 1, "neutral_negatives": 3, **odd}).history
    assert np.isfinite(history[0].loss)


def test_progress_names_epoch_loss_validation_and_time_left(caplog):
    with caplog.at_level(logging.INFO, logger="ms_assets.training"):
        trained(epochs=2)
    assert "epoch 1 of 2: loss" in caplog.text
    assert "s left" in caplog.text


@pytest.mark.parametrize(
    "extreme",
    [
        {"seed": 2**32 - 1}, {"batch_size": 2**31 - 1}, {"accumulation": 2**31 - 1}, {"group_size": 8_192},
        {"validation_users": 2**31 - 1}, {"edge_weight_interval": 2**31 - 1}, {"temperature": 1e-6},
        {"temperature": 10}, {"weight_decay": 1}, {"max_gradient_norm": 1e38}, {"max_gradient_norm": 1e-6},
        {"neutral_weight": 1e6}, {"warmup_epochs": 10_000}, {"margin": 2}, {"momentum": 0.999_999}, {"layers": 8},
        {"checkpoint_seconds": 1e9}, {"patience": 10_000},
    ],
    ids=str,
)  # fmt: skip
def test_the_largest_and_smallest_numbers_that_the_settings_take_train(extreme):
    assert np.isfinite(trained(EXPLICIT, **{"epochs": 1, **extreme}).history[0].loss)
