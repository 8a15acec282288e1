"""Rehearsal of cold songs: what is hidden, and the length that songs of which only content is known get by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ms_assets.training import rehearsal, trainer
from ms_assets.training.regression import ridge
from ms_assets_tests import slow_metrics
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, block_of, data_of, graph_of, pairs_of, unit_rows
from ms_assets_tests.training.tastes import CPU, one_thread, settings_of

pytestmark = one_thread
N_COLD = 20


def world(tells=True, validated_cold=0):
    """Two tastes, which audio tells or not; 20 cold songs, some of them met in validation."""
    rng = np.random.default_rng(0)
    audio = unit_rows(rng, N_SONGS + N_COLD)
    if tells:
        audio[:, 0] += np.where(block_of(np.arange(N_SONGS + N_COLD) % N_SONGS, N_SONGS), 2.0, -2.0)
        audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    edges, later = [], []
    for user in range(N_USERS):
        own = np.flatnonzero(block_of(range(N_SONGS), N_SONGS) == block_of(user, N_USERS))
        drawn = rng.permutation(own).tolist()
        edges += [(user, song, "listen", 1, 0.9) for song in drawn[:12]]
        later.append(sorted({*drawn[12:15], *range(N_SONGS, N_SONGS + validated_cold)}))
    return data_of(graph_of(edges, N_USERS, N_SONGS, N_COLD, audio=audio), wanted=pairs_of(later))


SETTINGS = settings_of(epochs=3, metadata=False)


def test_hidden_songs_lose_their_edges_and_become_targets_and_cold_songs_are_left_out():
    data = world()
    found = rehearsal.without_songs(data, 8, seed=0)
    assert (found.graph.n_graph_songs, found.graph.n_songs) == (72, 80)
    audio = {tuple(row): song for song, row in enumerate(data.graph.features.audio.tolist())}
    original = np.array([audio[tuple(row)] for row in found.graph.features.audio.tolist()])
    assert sorted(original) == list(range(N_SONGS))
    heard = set(zip(data.graph.user.tolist(), data.graph.song.tolist(), strict=True))
    kept = set(zip(found.graph.user.tolist(), original[found.graph.song].tolist(), strict=True))
    hidden = {pair for pair in heard if pair[1] in original[72:]}
    assert kept == heard - hidden
    later = set(zip(data.targets.user.tolist(), data.targets.song.tolist(), strict=True))
    targets = set(zip(found.targets.user.tolist(), original[found.targets.song].tolist(), strict=True))
    assert targets == later | hidden
    assert set(found.targets.values["relevance"]) == {1.0}, "the mean of validation, where every target has 1"


def test_listeners_of_hidden_songs_are_as_many_as_targets_of_a_short_validation_and_drawn_from_all():
    data = world()
    few = replace(data, targets=data.targets.keep(data.targets.user % 16 == 0))
    found, whole = (rehearsal.without_songs(given, 8, seed=0) for given in (few, data))
    hidden, of_all = (given.targets.keep(given.targets.song >= 72) for given in (found, whole))
    assert len(found.targets) - len(hidden) <= len(few.targets) < len(of_all)
    assert len(found.targets) == 2 * len(few.targets)
    drawn, known = (set(zip(pairs.user.tolist(), pairs.song.tolist(), strict=True)) for pairs in (hidden, of_all))
    assert drawn < known and len({user for user, _ in drawn}) > len(set(few.targets.user.tolist()))


def test_the_length_is_one_of_those_tried_and_the_rest_of_the_model_stays():
    data = world()
    trained = trainer.fit(data, SETTINGS, CPU)
    found = rehearsal.with_cold_length(data, trained, CPU)
    mean = trained.state["log_lengths"].exp().mean()
    factor = float(found.state["cold_length"] / mean)
    assert min(abs(factor - known) for known in rehearsal.FACTORS) < 1e-5
    assert all(torch.equal(found.state[name], trained.state[name]) for name in trained.state if name != "cold_length")
    _, songs = found.embeddings(data.graph)
    torch.testing.assert_close(songs[N_SONGS:].norm(dim=1), found.state["cold_length"].expand(N_COLD))


def test_the_length_is_the_shortest_that_ranks_the_hidden_songs_and_the_rest_best_but_for_one_standard_error():
    data = world()
    trained = trainer.fit(data, SETTINGS, CPU)
    found = rehearsal.with_cold_length(data, trained, CPU)
    hidden = rehearsal.without_songs(data, 8, SETTINGS.seed)
    users, songs = trainer.fit(hidden, SETTINGS, CPU, last_epoch=trained.best.number).embeddings(hidden.graph)
    mean = float(songs[:72].norm(dim=1).mean())

    def slow_ndcg(factor):
        scores = users @ torch.cat([songs[:72], factor * mean * songs[72:]]).T
        scores[hidden.graph.user, hidden.graph.song] = -torch.inf
        found = scores.argsort(dim=1, descending=True)[:, :10].tolist()
        wanted = [hidden.targets.song[hidden.targets.user == user].tolist() for user in range(N_USERS)]
        return np.array([slow_metrics.ndcg(f, dict.fromkeys(w, 1.0)) for f, w in zip(found, wanted, strict=True) if w])

    chosen = float(found.state["cold_length"] / trained.state["log_lengths"].exp().mean())
    reached = {factor: slow_ndcg(factor) for factor in rehearsal.FACTORS}
    best = max(reached.values(), key=np.mean)

    def errors_lost(factor):
        lost = best - reached[factor]
        return lost.mean() / max(lost.std() / len(lost) ** 0.5, 1e-12)

    tried = min(rehearsal.FACTORS, key=lambda factor: abs(factor - chosen))
    assert tried == pytest.approx(chosen) and errors_lost(tried) < 1.05
    assert all(errors_lost(shorter) > 0.95 for shorter in rehearsal.FACTORS if shorter < tried)


def test_of_equal_lengths_the_shortest_is_taken_and_a_worse_one_only_within_chance():
    good, noisy = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.9, 0.0, 0.5, 0.5])
    bad = good - np.array([0.1, 0.1, 0.1, 0.05])
    assert rehearsal.shortest_within_one_error([bad, good, good]) == 1
    assert rehearsal.shortest_within_one_error([noisy, good]) == 0, "0.025 less, with an error of 0.16"


@pytest.mark.parametrize("changed", [{"audio": False}, {}], ids=["nothing known", "validation meets a tenth of them"])
def test_there_is_no_rehearsal_where_nothing_is_known_or_validation_speaks_for_cold_songs(changed, monkeypatch):
    data = world(validated_cold=0 if changed else 2)
    trained = trainer.fit(data, settings_of(epochs=1, metadata=False, **changed), CPU)
    monkeypatch.setattr(rehearsal.trainer, "fit", None)
    trained.state["log_lengths"] -= 5
    found = rehearsal.with_cold_length(data, trained, CPU)
    _, songs = found.embeddings(data.graph)
    lengths = songs.norm(dim=1)
    # Cold songs of length 1 would crowd out all others: those of a plain SVD are hundreds of times as short.
    torch.testing.assert_close(lengths[N_SONGS:], lengths[:N_SONGS].mean().expand(N_COLD))
    assert all(torch.equal(found.state[name], trained.state[name]) for name in trained.state if name != "cold_length")


def test_a_ridge_regression_on_what_tells_nothing_is_flat_and_otherwise_finds_the_weights():
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(300, 40, generator=generator), torch.randn(40, 3, generator=generator)
    weight, intercept = ridge(x, x @ w + 5, seed=0)
    torch.testing.assert_close(weight, w, atol=0.1, rtol=0)
    torch.testing.assert_close(intercept, torch.full((3,), 5.0), atol=0.1, rtol=0)
    noise = torch.randn(300, 3, generator=generator)
    assert ridge(x, noise, seed=0)[0].norm() < 0.1 * w.norm()
