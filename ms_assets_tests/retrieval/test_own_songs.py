"""Replays, their blend with LightGCN, and popularity of late, worked out by hand."""

import numpy as np
import pytest

from ms_assets.retrieval import recommenders
from ms_assets.retrieval.blend import lightgcn_replay
from ms_assets.retrieval.recommendations import recommend
from ms_assets_tests.retrieval.histories import audience_of, history_of, random_histories, songs_of
from ms_assets_tests.training.graphs import unit_rows

DAY = 86_400


def test_a_user_is_replayed_what_they_played_most_and_of_equals_what_they_played_last():
    history = history_of([{4: (2, 10), 7: (5, 3), 1: (2, 90), 0: (2, -1)}, {}, {2: (1, 1)}])
    songs, scores = recommenders.replay(history)(np.array([2, 0, 1]), 5)
    assert songs.tolist() == [[2, -1, -1, -1, -1], [7, 1, 4, 0, -1], [-1] * 5]
    assert scores[1].tolist() == [5, 2, 2, 2, 0]


def test_a_song_that_nobody_knows_the_times_of_is_replayed_by_its_id():
    assert recommenders.replay(history_of([{9: (1, -1), 3: (1, -1)}]))(np.array([0]), 2)[0].tolist() == [[3, 9]]


def test_where_nobody_has_heard_anything_nothing_is_replayed():
    songs, _ = recommenders.replay(history_of([{}, {}]))(np.array([0, 1]), 2)
    assert songs.tolist() == [[-1, -1]] * 2


def test_replay_gives_no_rows_in_discovery():
    audience = audience_of([{1: (1, 5), 0: (1, 9)}, {}], 3)
    assert songs_of(recommend(audience, recommenders.replay(audience.history))) == {("all", 0): [0, 1]}


def test_an_event_counts_half_as_much_for_every_half_life_of_its_age(table):
    rows = [(0, 10 * DAY), (0, 9 * DAY), (2, 8 * DAY), (3, 10 * DAY), (3, None), (3, 6 * DAY)]
    found = recommenders.decayed_events(table("song_id timestamp", *rows), [1, 2], n_songs=5)
    expected = [
        [1 + 1 / 2, 0, 1 / 4, 1 + 1 / 16 + 1 / 16, 0],
        [1 + 2**-0.5, 0, 1 / 2, 1 + 1 / 4 + 1 / 4, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("time", [None, 77])
def test_where_all_events_are_of_one_time_popularity_does_not_decay(table, time):
    found = recommenders.decayed_events(table("song_id timestamp", (1, time), (1, time), (0, time)), [7], n_songs=2)
    assert found.tolist() == [[1, 2]]


@pytest.fixture
def blended():
    """A blend of some weight, and the scores of its formula [n_users, n_songs]; songs from 50 on are cold."""
    rng = np.random.default_rng(0)
    users, songs = unit_rows(rng, 30, 8), unit_rows(rng, 60, 8)
    heard = random_histories(rng, 30, 50)
    plays = [{song: (int(rng.integers(1, 9)), 0) for song in own} for own in heard]
    audience = audience_of(plays, 60)

    def make(weight):
        scores = users @ songs.T
        for user, own in enumerate(plays):
            most = max((n for n, _ in own.values()), default=1)
            for song, (n, _) in own.items():
                scores[user, song] += weight * np.log1p(n) / np.log1p(most)
        found = recommenders.nearest(users, songs)
        return lightgcn_replay(found, users, songs[:50], audience.history, weight), scores

    return audience, make


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
def test_a_blend_ranks_by_its_formula(blended, weight):
    _, make = blended
    recommender, scores = make(weight)
    songs, values = recommender(np.arange(30), 60)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, songs, axis=1), values, atol=1e-5)


def test_a_blend_discovers_what_lightgcn_discovers(blended):
    audience, make = blended
    lightgcn, lists = (songs_of(recommend(audience, make(weight)[0], 10)) for weight in (0.0, 5.0))
    assert all(lists[key] == songs for key, songs in lightgcn.items() if key[0] == "discovery")
    assert any(lists[key] != songs for key, songs in lightgcn.items() if key[0] == "all")


def test_a_heavy_weight_puts_the_users_own_songs_first(blended):
    audience, make = blended
    lists = songs_of(recommend(audience, make(5.0)[0], 3))
    replayed = songs_of(recommend(audience, recommenders.replay(audience.history), 3))
    own = {user: set(songs.tolist()) for user, songs in enumerate(np.split(
        audience.history.songs.values, audience.history.songs.offsets[1:-1]))}  # fmt: skip
    assert all(set(lists["all", user]) <= own[user] for (_, user), songs in replayed.items() if len(songs) == 3)
