"""The recommendations table against a plain loop over users, whoever recommends."""

import numpy as np
import pytest

from ms_assets.retrieval import recommendations
from ms_assets.retrieval.recommendations import recommend
from ms_assets_tests.retrieval.histories import (
    audience_of,
    by_scores,
    random_histories,
    rows_of,
    songs_of,
)


def slow_table(scores, audience, heard, k):
    rows = []
    for view in ("all", "discovery"):
        for user, row in enumerate(scores):
            ranked = sorted((-value, song) for song, value in enumerate(row.tolist()) if value == value)
            kept = [(song, -value) for value, song in ranked if view == "all" or song not in heard[user]]
            rows += [
                (view, user, audience.uid[user], rank, song, audience.item_id[song], value)
                for rank, (song, value) in enumerate(kept[:k], start=1)
            ]
    return rows


@pytest.mark.parametrize("n_songs", [1, 20, 99, 100, 240])
@pytest.mark.parametrize("share_missing", [0, 0.5])
def test_the_table_equals_a_loop_over_users(n_songs, share_missing):
    rng = np.random.default_rng(n_songs)
    heard = random_histories(rng, 30, n_songs)
    audience = audience_of(heard, n_songs)
    scores = rng.standard_normal((30, n_songs)).astype(np.float32)
    scores[rng.random(scores.shape) < share_missing] = np.nan
    found = rows_of(recommend(audience, by_scores(scores)))
    assert sorted(found) == sorted(slow_table(scores, audience, heard, 100))


@pytest.mark.parametrize("users_at_once", [1, 7, 29, 1_000])
def test_how_many_users_are_served_at_once_changes_nothing(users_at_once, monkeypatch):
    rng = np.random.default_rng(3)
    audience = audience_of(random_histories(rng, 30, 150), 150)
    recommender = by_scores(rng.standard_normal((30, 150)).astype(np.float32))
    wanted = recommend(audience, recommender)
    monkeypatch.setattr(recommendations, "USERS_AT_ONCE", users_at_once)
    assert recommend(audience, recommender).equals(wanted)


def test_discovery_leaves_out_what_was_heard_and_all_does_not():
    heard = [set(range(120)), {0, 2}, set()]
    falling = np.tile(-np.arange(130, dtype=np.float32), (3, 1))
    lists = songs_of(recommend(audience_of(heard, 130), by_scores(falling)))
    assert [lists["all", user] for user in range(3)] == [list(range(100))] * 3
    assert lists["discovery", 0] == list(range(120, 130))
    assert lists["discovery", 1] == [1, *range(3, 102)]
    assert lists["discovery", 2] == list(range(100))


def test_who_has_heard_everything_has_nothing_to_discover():
    lists = songs_of(recommend(audience_of([{0, 1, 2}], 3), by_scores(np.zeros((1, 3), np.float32))))
    assert lists == {("all", 0): [0, 1, 2]}


def test_a_place_that_a_recommender_leaves_empty_never_becomes_a_song():
    def recommender(users, n):
        songs = np.tile([-1, 4, -1, 2, -1], (len(users), 1))
        return songs, np.zeros(songs.shape, np.float32)

    lists = songs_of(recommend(audience_of([set(), {4}], 5), recommender))
    assert lists == {("all", 0): [4, 2], ("all", 1): [4, 2], ("discovery", 0): [4, 2], ("discovery", 1): [2]}


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    rng = np.random.default_rng(5)
    audience = audience_of(random_histories(rng, 10, 60), 60)
    recommender = by_scores(rng.standard_normal((10, 60)).astype(np.float32))
    short, long = (songs_of(recommend(audience, recommender, k)) for k in (5, 50))
    assert {key: songs[:5] for key, songs in long.items()} == short
