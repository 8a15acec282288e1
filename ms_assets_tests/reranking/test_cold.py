"""Cold songs keep LightGCN's places where validation taught nothing of them."""

import numpy as np
import pytest

from ms_assets.reranking import cold
from ms_assets.reranking.ranker import SMALLEST_LEAF, Material

NAN = np.nan


def test_a_cold_song_keeps_its_rank_and_the_others_close_up_around_it():
    user = np.array([0, 0, 0, 0, 0, 1, 1])
    place = np.array([NAN, 2, NAN, 1, NAN, NAN, 1], np.float32)
    scores = np.array([0.1, -9.0, 0.3, -8.0, 0.2, 0.5, -7.0])
    order, levelled = cold.kept(np.array([2, 4, 0, 3, 1, 5, 6]), user, place, scores)
    assert order.tolist() == [3, 1, 2, 4, 0, 6, 5]
    assert levelled[order].tolist() == [0.3, 0.3, 0.3, 0.2, 0.1, 0.5, 0.5]


def test_a_cold_song_whose_place_lies_beyond_the_list_comes_last():
    order, levelled = cold.kept(
        np.array([1, 2, 0]), np.zeros(3, int), np.array([90, NAN, NAN], np.float32), np.array([-9.0, 2, 1])
    )
    assert order.tolist() == [1, 2, 0]
    assert levelled.tolist() == [1, 2, 1]


def test_a_user_with_nothing_but_cold_songs_has_them_in_their_places():
    order, _ = cold.kept(np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([5, 3, 1], np.float32), np.zeros(3))
    assert order.tolist() == [1, 0, 2]


def test_lists_without_cold_songs_stay_as_they_are():
    best, scores = np.array([1, 0, 2]), np.array([1.0, 2.0, 0.5])
    order, levelled = cold.kept(best, np.zeros(3, int), np.full(3, NAN, np.float32), scores)
    assert order.tolist() == best.tolist() and levelled.tolist() == scores.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_any_lists_are_merged_as_by_putting_one_song_after_the_other(seed):
    rng = np.random.default_rng(seed)
    n, n_users = 60, 4
    user = np.sort(rng.integers(n_users, size=n))
    place, scores = np.full(n, NAN, np.float32), rng.permutation(n).astype(float)
    for one in range(n_users):
        mine = np.flatnonzero(user == one)
        some = mine[rng.random(len(mine)) < rng.random()]
        place[some] = 1 + rng.permutation(2 * len(mine))[: len(some)]
    order, levelled = cold.kept(np.lexsort((-scores, user)), user, place, scores)
    for one in range(n_users):
        mine = np.flatnonzero(user == one)
        fixed = {int(place[row]) - 1: row for row in mine if not np.isnan(place[row])}
        others = [row for row in sorted(mine, key=lambda row: -scores[row]) if np.isnan(place[row])]
        wanted = [fixed.get(position) for position in range(3 * n)]
        wanted = [row if row is not None else (others.pop(0) if others else None) for row in wanted]
        found = order[user[order] == one].tolist()
        assert found == [row for row in wanted if row is not None]
        if others or len(fixed) < len(mine):
            assert (np.diff(levelled[found]) <= 0).all()


def test_a_users_places_are_those_of_the_blend_and_lightgcns_if_the_blend_lists_nothing_for_them():
    user = np.array([0, 0, 0, 1, 1])
    ranks = {
        "lightgcn": np.array([1, 2, NAN, 2, 1]),
        "lightgcn_replay": np.array([3, NAN, 1, NAN, NAN]),
        "popular": np.array([1, 1, 1, 1, 1]),
    }
    is_cold = np.array([True, True, False, True, False])
    np.testing.assert_array_equal(cold.places(ranks, is_cold, user), [3, NAN, NAN, 2, NAN])
    ranks["lightgcn_replay"][:] = NAN
    np.testing.assert_array_equal(cold.places(ranks, is_cold, user), [1, 2, NAN, 2, NAN])
    np.testing.assert_array_equal(cold.places({"popular": ranks["popular"]}, is_cold, user), [NAN] * 5)


@pytest.mark.parametrize(("n_cold", "meets"), [(SMALLEST_LEAF, True), (SMALLEST_LEAF - 1, False)])
def test_cold_songs_are_met_if_the_relevant_ones_would_fill_a_leaf(n_cold, meets):
    n = 3 * SMALLEST_LEAF
    relevance, listeners = np.ones(n), np.full(n, 3, np.float32)
    listeners[:n_cold] = 0
    relevance[-SMALLEST_LEAF:], listeners[-SMALLEST_LEAF:] = 0, 0
    material = Material(np.zeros(n, int), relevance, np.ones((n, 2)), listeners[:, None], ["song_listeners"])
    assert material.meets_cold == meets
