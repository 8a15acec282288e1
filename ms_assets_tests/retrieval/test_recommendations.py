"""The recommendations table against a plain loop over users, whoever recommends."""

import numpy as np
import pytest

from ms_assets.retrieval import recommender
from ms_assets.retrieval.recommender import recommendations
from ms_assets_tests.retrieval.histories import ByScores, dataset_of, random_histories, rows_of, songs_of


def slow_table(scores, dataset, heard, k):
    rows = []
    for view in ("all", "discovery"):
        for user, row in enumerate(scores):
            ranked = sorted((-value, song) for song, value in enumerate(row.tolist()) if value == value)
            kept = [(song, -value) for value, song in ranked if view == "all" or song not in heard[user]]
            rows += [
                (view, user, dataset.user_ids[user], rank, song, dataset.song_ids[song], value)
                for rank, (song, value) in enumerate(kept[:k], start=1)
            ]
    return rows


@pytest.mark.parametrize("n_songs", [1, 20, 99, 100, 240])
@pytest.mark.parametrize("share_missing", [0, 0.5])
def test_the_table_equals_a_loop_over_users(n_songs, share_missing):
    rng = np.random.default_rng(n_songs)
    heard = random_histories(rng, 30, n_songs)
    dataset = dataset_of(heard, n_songs)
    scores = rng.standard_normal((30, n_songs)).astype(np.float32)
    scores[rng.random(scores.shape) < share_missing] = np.nan
    found = rows_of(recommendations(ByScores(scores, dataset)))
    assert sorted(found) == sorted(slow_table(scores, dataset, heard, 100))


@pytest.mark.parametrize("users_at_once", [1, 7, 29, 1_000])
def test_how_many_users_are_served_at_once_changes_nothing(users_at_once, monkeypatch):
    rng = np.random.default_rng(3)
    dataset = dataset_of(random_histories(rng, 30, 150), 150)
    model = ByScores(rng.standard_normal((30, 150)).astype(np.float32), dataset)
    wanted = recommendations(model)
    monkeypatch.setattr(recommender, "USERS_AT_ONCE", users_at_once)
    assert recommendations(model).equals(wanted)


@pytest.mark.parametrize("at_once", [1, 7, 30])
def test_tables_of_some_users_at_a_time_are_that_of_all(at_once, monkeypatch):
    rng = np.random.default_rng(3)
    model = ByScores(np.ones((30, 9), np.float32), dataset_of(random_histories(rng, 30, 9), 9))
    wanted = recommendations(model)
    monkeypatch.setattr(recommender, "LISTS_AT_ONCE", at_once)
    tables = list(recommender.listed(model.dataset, recommender.everybodys(model)))
    assert len(tables) == 2 * -(-30 // at_once)
    assert recommendations(model).equals(wanted)


@pytest.mark.parametrize("songs_at_once", [1, 300, 1_000])
def test_candidates_of_all_users_of_a_block_are_bounded(songs_at_once, monkeypatch):
    class Watched(ByScores):
        def rank(self, user, n):
            asked.append((len(user), n))
            return super().rank(user, n)

    rng, asked = np.random.default_rng(3), []
    dataset = dataset_of([*random_histories(rng, 30, 150), set(range(140))], 150)
    model = Watched(rng.standard_normal((31, 150)).astype(np.float32), dataset)
    wanted = recommendations(model)
    monkeypatch.setattr(recommender, "SONGS_AT_ONCE", songs_at_once)
    asked.clear()
    assert recommendations(model).equals(wanted)
    assert all(n_users * n <= songs_at_once for n_users, n in asked if n_users > 1)
    assert sum(n_users for n_users, _ in asked) == 31


def test_discovery_leaves_out_what_was_heard_and_all_does_not():
    heard = [set(range(120)), {0, 2}, set()]
    falling = np.tile(-np.arange(130, dtype=np.float32), (3, 1))
    lists = songs_of(recommendations(ByScores(falling, dataset_of(heard, 130))))
    assert [lists["all", user] for user in range(3)] == [list(range(100))] * 3
    assert lists["discovery", 0] == list(range(120, 130))
    assert lists["discovery", 1] == [1, *range(3, 102)]
    assert lists["discovery", 2] == list(range(100))


def test_who_has_heard_everything_has_nothing_to_discover():
    lists = songs_of(recommendations(ByScores(np.zeros((1, 3), np.float32), dataset_of([{0, 1, 2}], 3))))
    assert lists == {("all", 0): [0, 1, 2]}


def test_a_place_that_a_recommender_leaves_empty_never_becomes_a_song():
    class WithGaps(ByScores):
        def rank(self, user, n):
            songs = np.tile([-1, 4, -1, 2, -1], (len(user), 1))
            return songs, np.zeros(songs.shape, np.float32)

    lists = songs_of(recommendations(WithGaps(None, dataset_of([set(), {4}], 5))))
    assert lists == {("all", 0): [4, 2], ("all", 1): [4, 2], ("discovery", 0): [4, 2], ("discovery", 1): [2]}


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    rng = np.random.default_rng(5)
    dataset = dataset_of(random_histories(rng, 10, 60), 60)
    model = ByScores(rng.standard_normal((10, 60)).astype(np.float32), dataset)
    short, long = (songs_of(recommendations(model, k)) for k in (5, 50))
    assert {key: songs[:5] for key, songs in long.items()} == short
