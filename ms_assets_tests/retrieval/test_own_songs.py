"""Replays, their blend with LightGCN, and popularity of late, worked out by hand."""

import numpy as np
import polars as pl
import pytest

from ms_assets.retrieval.baselines import DECAYS, DecayedPopular, Replay, activation
from ms_assets.retrieval.index import SongIndex
from ms_assets.retrieval.lightgcn import BLEND_GRID, LightGCN, LightGCNReplay
from ms_assets.retrieval.recommender import recommendations
from ms_assets_tests.retrieval.histories import dataset_of, random_histories, songs_of
from ms_assets_tests.training.graphs import unit_rows

DAY = 86_400


def test_a_user_is_replayed_what_they_played_most_and_of_equals_what_they_played_last():
    heard = [{4: (2, 10), 7: (5, 3), 1: (2, 90), 0: (2, -1)}, {}, {2: (1, 1)}]
    songs, scores = Replay().fit(dataset_of(heard, 8)).rank(np.array([2, 0, 1]), 5)
    assert songs.tolist() == [[2, -1, -1, -1, -1], [7, 1, 4, 0, -1], [-1] * 5]
    assert scores[1].tolist() == [5, 2, 2, 2, 0]


def test_a_song_that_nobody_knows_the_times_of_is_replayed_by_its_id():
    model = Replay().fit(dataset_of([{9: (1, -1), 3: (1, -1)}], 10))
    assert model.rank(np.array([0]), 2)[0].tolist() == [[3, 9]]


def test_where_nobody_has_heard_anything_there_is_nothing_to_replay():
    with pytest.raises(ValueError, match="train: found no listen, like or undislike, expected events to learn from"):
        Replay().fit(pl.DataFrame({"user": ["ann"], "song": ["a"], "type": ["dislike"]}))


def test_replay_gives_no_rows_in_discovery():
    model = Replay().fit(dataset_of([{1: (1, 5), 0: (1, 9)}, {}], 3))
    assert songs_of(recommendations(model)) == {("all", 0): [0, 1]}


def counted(rows):
    """Histories as `dataset_of` takes them, from rows of user_id, song_id and timestamp."""
    heard = [{} for _ in range(1 + max(user for user, *_ in rows))]
    for user, song, time in rows:
        n, last = heard[user].get(song, (0, -1))
        heard[user][song] = n + 1, max(last, -1 if time is None else time)
    return heard


@pytest.mark.parametrize("decay", [0.25, 0.5, 1.5])
def test_with_a_decay_a_user_is_replayed_by_the_sum_of_powers_of_ages(table, decay):
    rng = np.random.default_rng(5)
    rows = [(int(rng.integers(4)), int(rng.integers(7)), int(rng.integers(20_000))) for _ in range(150)]
    rows += [(5, 2, 7), (6, 3, None), (6, 3, None), (6, 1, None), (7, 3, 60), (7, 5, 0), (7, 1, None)]
    heard = counted(rows)
    train = table("user_id song_id timestamp", *(rows[place] for place in rng.permutation(len(rows))))
    songs, scores = Replay(decay).fit(dataset_of(heard, 9, train=train)).rank(np.arange(8), 8)
    for user, own in enumerate(heard):
        times = [time for other, _, time in rows if other == user and time is not None]
        first, last = min(times, default=0), max(times, default=0)
        expected = dict.fromkeys(own, 0.0)
        for other, song, time in rows:
            if other == user:
                expected[song] += ((last - (first if time is None else time)) / 60 + 1) ** -decay
        listed = songs[user][: len(own)].tolist()
        assert listed == sorted(own, key=lambda song: (-expected[song], -own[song][1], song))
        np.testing.assert_allclose(scores[user][: len(own)], [expected[song] for song in listed], rtol=1e-6)
        assert (songs[user][len(own) :] == -1).all()


def test_counts_alone_are_a_setting_of_replays_and_the_default(table):
    assert DECAYS[0] == {"decay": Replay().decay} == {"decay": 0}
    rows = [(0, 3, 1), (0, 3, 1), (0, 5, 900), (0, 6, 800)]
    lists = [
        Replay(**setting).fit(dataset_of(counted(rows), 9, train=table("user_id song_id timestamp", *rows)))
        for setting in (DECAYS[0], DECAYS[-1])
    ]
    assert [model.rank(np.array([0]), 3)[0].tolist() for model in lists] == [[[3, 5, 6]], [[5, 6, 3]]]


def test_replays_of_some_users_are_those_of_all(table):
    rows = [(user, song, 100 * song + user) for user in range(3) for song in range(user, 4)]
    dataset = dataset_of(counted(rows), 9, train=table("user_id song_id timestamp", *rows))
    everybody, some = (Replay(0.5).fit(d).rank(np.array([1]), 3) for d in (dataset, dataset.of_users(np.array([1, 2]))))
    assert [part.tolist() for part in everybody] == [part.tolist() for part in some]


def decayed(rows, half_life_days, n_songs):
    """Weights of songs; rows: song_id, timestamp."""
    return DecayedPopular(half_life_days).fit(dataset_of([{0}], n_songs, train=rows)).learned["weight"]


def test_an_event_counts_half_as_much_for_every_half_life_of_its_age(table):
    rows = [(0, 10 * DAY), (0, 9 * DAY), (2, 8 * DAY), (3, 10 * DAY), (3, None), (3, 6 * DAY)]
    found = [decayed(table("song_id timestamp", *rows), days, n_songs=5) for days in (1, 2)]
    expected = [
        [1 + 1 / 2, 0, 1 / 4, 1 + 1 / 16 + 1 / 16, 0],
        [1 + 2**-0.5, 0, 1 / 2, 1 + 1 / 4 + 1 / 4, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("time", [None, 77])
def test_where_all_events_are_of_one_time_popularity_does_not_decay(table, time):
    found = decayed(table("song_id timestamp", (1, time), (1, time), (0, time)), 7, n_songs=2)
    assert found.tolist() == [1, 2]


@pytest.fixture
def blended(table):
    """A blend of some weight, and the scores of its formula [n_users, n_songs]; songs from 50 on are cold."""
    rng = np.random.default_rng(0)
    users, songs = unit_rows(rng, 30, 8), unit_rows(rng, 60, 8)
    heard = random_histories(rng, 30, 50)
    plays = [{song: (int(rng.integers(1, 9)), int(rng.integers(500))) for song in own} for own in heard]
    rows = [(user, song, last) for user, own in enumerate(plays) for song, (n, last) in own.items() for _ in range(n)]
    train = table("user_id song_id timestamp", *rows)
    dataset, index = dataset_of(plays, 60, 50, train=train), SongIndex.build(songs)

    def make(weight, decay=0.0):
        scores, active = users @ songs.T, activation(dataset, decay)
        for user, own in enumerate(plays):
            now = max((last for _, last in own.values()), default=0)
            values = {song: n * ((now - last) / 60 + 1) ** -decay for song, (n, last) in own.items()}
            for song, value in values.items():
                scores[user, song] += weight * np.log1p(value) / np.log1p(max(values.values()))
        model = LightGCNReplay(weight, decay).of_embeddings(
            dataset, index, np.arange(60), users=users, songs=songs[:50], activation=active
        )
        return model, scores

    lightgcn = LightGCN().of_embeddings(dataset, index, np.arange(60), users=users)
    return lightgcn, make


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0, -0.5])
def test_a_blend_ranks_by_its_formula(blended, weight, decay):
    _, make = blended
    model, scores = make(weight, decay)
    songs, values = model.rank(np.arange(30), 60)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, songs, axis=1), values, atol=1e-5)


@pytest.mark.parametrize("end", [max, min])
def test_the_grid_of_the_blend_goes_from_new_songs_alone_over_lightgcn_alone_to_the_users_own_songs_alone(blended, end):
    lightgcn, make = blended
    weights = [setting["replay_weight"] for setting in BLEND_GRID]
    assert 0 in weights
    for setting in (setting for setting in BLEND_GRID if setting["replay_weight"] == end(weights)):
        songs, _ = make(*setting.values())[0].rank(np.arange(30), 60)
        for user, own in enumerate(np.split(lightgcn.dataset.heard.song, lightgcn.dataset.heard.offsets[1:-1])):
            there = songs[user, : len(own)] if end is max else songs[user, 60 - len(own) :]
            assert set(there.tolist()) == set(own.tolist())


def test_the_decays_of_the_blend_are_among_those_of_replay():
    assert {setting["decay"] for setting in BLEND_GRID} <= {setting["decay"] for setting in DECAYS}


def test_a_blend_discovers_what_lightgcn_discovers(blended):
    lightgcn, make = blended
    lightgcn, unraised, lists = (songs_of(recommendations(m, 10)) for m in (lightgcn, make(0.0)[0], make(5.0)[0]))
    assert lightgcn == unraised
    assert all(lists[key] == songs for key, songs in lightgcn.items() if key[0] == "discovery")
    assert any(lists[key] != songs for key, songs in lightgcn.items() if key[0] == "all")


def test_a_heavy_weight_puts_the_users_own_songs_first(blended):
    lightgcn, make = blended
    lists, heard = songs_of(recommendations(make(5.0)[0], 3)), lightgcn.dataset.heard
    replayed = songs_of(recommendations(Replay().fit(lightgcn.dataset), 3))
    own = [set(songs.tolist()) for songs in np.split(heard.song, heard.offsets[1:-1])]
    assert all(set(lists["all", user]) <= own[user] for (_, user), songs in replayed.items() if len(songs) == 3)
