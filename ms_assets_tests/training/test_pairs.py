"""A set of pairs tells its pairs from all others, whatever the filter in front of it says."""

import numpy as np
import pytest
import torch

from ms_assets.training import pairs
from ms_assets.training.pairs import PairSet

N_FIRST, N_SECOND = 40, 60


def some_pairs(n):
    return np.sort(np.random.default_rng(0).choice(N_FIRST * N_SECOND, n, replace=False))


@pytest.mark.parametrize("n", [1, 7, 500, N_FIRST * N_SECOND])
@pytest.mark.parametrize("most_bits", [3, 8, 31])
def test_pairs_are_told_from_all_others_with_filters_of_any_size(monkeypatch, n, most_bits):
    monkeypatch.setattr(pairs, "MOST_BITS", most_bits)
    keys = some_pairs(n)
    first, second = torch.arange(N_FIRST, dtype=torch.int32)[:, None], torch.arange(N_SECOND)[None]
    found = PairSet.of(torch.from_numpy(keys), N_SECOND).contains(first, second)
    assert found.shape == (N_FIRST, N_SECOND)
    assert found.flatten().nonzero().squeeze(1).tolist() == keys.tolist()


def test_the_filter_leaves_few_pairs_to_the_search():
    found = PairSet.of(torch.from_numpy(some_pairs(300)), N_SECOND)
    bits = np.unpackbits(found.bits.numpy())
    assert 16 * 300 <= len(bits) <= 32 * 300
    assert 150 < bits.sum() <= 300


def test_places_are_those_of_the_filter_where_users_times_songs_are_beyond_32_bits():
    keys = torch.tensor([0, 999_999 * 9_400_000 + 9_399_999])
    found = PairSet.of(keys, 9_400_000)
    first, second = torch.tensor([0, 999_999, 999_999]), torch.tensor([0, 9_399_999, 9_399_998])
    assert found.contains(first, second).tolist() == [True, True, False]
