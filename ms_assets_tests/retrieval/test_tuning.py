"""Settings are chosen by validation NDCG of drawn users, and stay the default where nobody validates."""

from dataclasses import replace

import numpy as np
import pytest

from ms_assets.interactions import Interactions
from ms_assets.retrieval import tuning
from ms_assets.retrieval.tuning import Tuner
from ms_assets_tests.retrieval.histories import ByScores, dataset_of

N_SONGS = 20


def tuner_of(rows, heard, n_songs=N_SONGS):
    user, song, relevance = np.array(rows, float).reshape(-1, 3).T
    validation = Interactions.of(user.astype(int), song.astype(int), len(heard), n_songs, relevance=relevance)
    return Tuner.of(replace(dataset_of(heard, n_songs), validation=validation))


def always(*songs):
    """Everybody gets these songs, in this order."""
    scores = np.full((9, N_SONGS), np.nan, np.float32)
    scores[:, list(songs)] = -np.arange(len(songs))
    return ByScores(scores)


def test_ndcg_is_that_of_the_drawn_users_in_both_views():
    # User 1 wants 3 (heard) and 5; user 4 wants 7, which nobody recommends; user 2 has no relevant row.
    tuner = tuner_of([(1, 3, 1.0), (1, 5, 1.0), (4, 7, 0.5), (2, 6, 0.0)], [set(), {3}, set(), set(), {0}])
    assert tuner.users.tolist() == [1, 4]
    found = tuner.ndcg(always(9, 3, 5).rank)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert found["all"] == pytest.approx(((second + third) / (1 + second) + 0) / 2)
    assert found["discovery"] == pytest.approx((second / 1 + 0) / 2)


def test_the_best_setting_is_chosen_with_every_trial_on_record():
    tuner = tuner_of([(0, 3, 1.0)], [set()])
    chosen = tuner.choose([{"song": 1}, {"song": 3}, {"song": 4}], lambda song: always(song))
    assert chosen.settings["all"] == {"song": 3}
    assert [ndcg["all"] for _, ndcg in chosen.trials] == [0, 1, 0]


def test_each_view_has_the_setting_that_is_best_for_it():
    tuner = tuner_of([(0, 3, 1.0), (0, 5, 1.0)], [{3}])
    grid = [{"songs": (3, 1, 2, 4, 5)}, {"songs": (9, 3, 5)}]
    chosen = tuner.choose(grid, lambda songs: always(*songs))
    assert chosen.settings == {"all": grid[0], "discovery": grid[1]}


def test_of_equals_the_first_of_the_grid_is_chosen():
    grid = [{"song": 1}, {"song": 3, "more": 0}, {"song": 3, "more": 1}, {"song": 4}]
    chosen = tuner_of([(0, 3, 1.0)], [set()]).choose(grid, lambda song, more=0: always(song))
    assert chosen.settings == {"all": grid[1], "discovery": grid[1]}


def test_the_default_stays_where_nobody_validates_and_nothing_is_made():
    chosen = tuner_of([], [{1}]).choose([{"song": 1}, {"song": 3}], lambda song: 1 / 0)
    assert (chosen.settings, chosen.trials) == ({"all": {"song": 1}, "discovery": {"song": 1}}, [])


def test_trials_are_fitted_to_the_drawn_users_and_to_others_up_to_a_bounded_number_of_pairs(monkeypatch):
    heard = [set(range(1 + user % 3)) for user in range(30)]
    rows = [(user, 19, 1.0) for user in (4, 8, 23)]  # of 2, 3 and 3 songs
    assert sorted(tuner_of(rows, heard).sample) == list(range(30))
    for most, n_at_least in ((0, 3), (8, 3), (20, 7)):
        monkeypatch.setattr(tuning, "TUNING_PAIRS", most)
        sample = tuner_of(rows, heard).sample
        assert {4, 8, 23} <= set(sample.tolist())
        assert len(sample) == len(set(sample.tolist())) >= n_at_least
        assert sum(len(heard[user]) for user in sample) <= max(most, 8)


def test_a_bounded_number_of_users_is_drawn_always_the_same(monkeypatch):
    monkeypatch.setattr(tuning, "TUNING_USERS", 5)
    rows = [(user, 3, 1.0) for user in range(40)]
    drawn = [tuner_of(rows, [set()] * 40).users.tolist() for _ in range(2)]
    assert drawn[0] == drawn[1] == sorted(set(drawn[0]))
    assert len(drawn[0]) == 5
