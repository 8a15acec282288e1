"""Negatives are songs a user disliked, or random graph songs that can be told from heard ones."""

import numpy as np
import pytest
import torch

from ms_assets.interactions import Interactions
from ms_assets.training import negatives
from ms_assets.training.negatives import NegativeSampler

N_USERS, N_SONGS, N_GRAPH_SONGS = 6, 12, 9
HEARD = {(0, 0), (0, 8), (1, 3), (5, 8), (3, 11)}
DISLIKED = {0: {2}, 2: {1, 10, 11}, 5: {4, 8}}


@pytest.fixture
def sampler():
    pairs = [(user, song) for user, songs in DISLIKED.items() for song in songs]
    heard, disliked = interactions(HEARD), interactions([*pairs, *pairs][::-1])
    return NegativeSampler.of(heard, disliked, N_GRAPH_SONGS, torch.device("cpu"))


def interactions(pairs, n_users=N_USERS, n_songs=N_SONGS):
    user, song = np.array(list(pairs), np.int64).reshape(-1, 2).T
    return Interactions.of(user, song, n_users, n_songs)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_neutral_negatives_are_graph_songs_and_all_of_them_come(sampler):
    drawn = sampler.neutral(50, 40, generator())
    assert drawn.shape == (50, 40)
    assert sorted(drawn.unique().tolist()) == list(range(N_GRAPH_SONGS))
    shares = drawn.flatten().bincount() / drawn.numel()
    assert shares.tolist() == pytest.approx([1 / N_GRAPH_SONGS] * N_GRAPH_SONGS, abs=0.03)


def test_heard_songs_are_told_where_users_times_songs_are_beyond_32_bits():
    pairs = [(900_000, 9_000_000), (900_000, 9_000_001)]
    heard = interactions(pairs, 1_000_000, 9_400_000)
    sampler = NegativeSampler.of(heard, interactions([], 1_000_000, 9_400_000), 9_400_000, torch.device("cpu"))
    user = torch.tensor([900_000, 900_000, 899_999], dtype=torch.int32)
    song = torch.tensor([9_000_001, 9_000_002, 9_000_001], dtype=torch.int32)
    assert sampler.heard.contains(user, song).tolist() == [True, False, False]


def test_heard_songs_are_told_from_others(sampler):
    user, song = torch.meshgrid(torch.arange(N_USERS), torch.arange(N_SONGS), indexing="ij")
    found = sampler.heard.contains(user, song)
    assert {(u, s) for u, s in found.nonzero().tolist()} == HEARD


def test_heard_songs_are_told_for_users_against_shared_draws(sampler):
    found = sampler.heard.contains(torch.tensor([0, 1])[:, None], torch.tensor([[0, 3, 8], [0, 3, 8]]))
    assert found.tolist() == [[True, False, True], [False, True, False]]


def test_hard_negatives_come_from_the_users_own_alone_cold_songs_included(sampler):
    user = torch.arange(N_USERS).repeat(300)
    song, has = sampler.hard(user, generator())
    for u in range(N_USERS):
        own = DISLIKED.get(u, set())
        assert has[user == u].unique().tolist() == [bool(own)]
        if own:
            assert set(sampler.songs[song[user == u]].tolist()) == own


def test_each_of_a_users_hard_negatives_is_as_likely_as_another(sampler):
    song, _ = sampler.hard(torch.full((9_000,), 2), generator())
    shares = {s: (sampler.songs[song] == s).float().mean().item() for s in DISLIKED[2]}
    assert shares == pytest.approx(dict.fromkeys(DISLIKED[2], 1 / 3), abs=0.02)


def test_draws_are_songs_even_for_users_who_dislike_nothing(sampler):
    song, has = sampler.hard(torch.tensor([1, 3, 4]), generator())
    assert not has.any()
    assert bool(((song >= 0) & (song < N_SONGS)).all())


def test_without_any_dislike_nobody_has_hard_negatives():
    sampler = NegativeSampler.of(interactions([(0, 3)], 2, 4), interactions([], 2, 4), 4, torch.device("cpu"))
    song, has = sampler.hard(torch.tensor([0, 1, 1]), generator())
    assert not has.any()
    assert song.tolist() == [0, 0, 0]


def test_the_same_generator_draws_the_same_again(sampler):
    user = torch.arange(N_USERS).repeat(20)
    for draw in (lambda g: sampler.neutral(5, 8, g), lambda g: sampler.hard(user, g)[0]):
        assert torch.equal(draw(generator(7)), draw(generator(7)))
        assert not torch.equal(draw(generator(7)), draw(generator(8)))


@pytest.mark.parametrize("at_once", [1, 12, 1 << 20])
def test_songs_of_a_group_are_told_apart_for_any_number_of_pairs_at_a_time(sampler, monkeypatch, at_once):
    monkeypatch.setattr(negatives, "FLAGS_AT_ONCE", at_once)
    users, drawn = torch.tensor([0, 1, 5, 3, 2]), torch.tensor([[0, 8, 3], [8, 3, 1], [3, 0, 8]])
    # Groups of two, the last of which is short.
    expected = [[(user, song) not in HEARD for song in drawn[n // 2].tolist()] for n, user in enumerate(users.tolist())]
    assert sampler.unheard(users, drawn, 2).tolist() == expected
