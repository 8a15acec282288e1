"""Pairs of user and song against dictionaries, and by hand."""

import math
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from ms_assets import interactions
from ms_assets.interactions import Interactions


@dataclass
class Case:
    """Random pairs with two values, as plain Python: {(user, song): value}, in a random order."""

    n_users: int
    n_songs: int
    worth: dict[tuple[int, int], float]
    n_events: dict[tuple[int, int], int]

    @classmethod
    def random(cls, rng, n_users=None, n_songs=None):
        n_users, n_songs = n_users or int(rng.integers(1, 12)), n_songs or int(rng.integers(1, 15))
        cells = [divmod(int(key), n_songs) for key in rng.permutation(n_users * n_songs)]
        pairs = cells[: int(rng.integers(0, len(cells) + 1))]
        return cls(
            n_users,
            n_songs,
            {pair: float(rng.choice([0, 0.25, 0.7, rng.random()])) for pair in pairs},
            {pair: int(rng.integers(1, 9)) for pair in pairs},
        )

    @property
    def pairs(self):
        return sorted(self.worth)

    def songs_of(self, user):
        return [song for of, song in self.pairs if of == user]

    def fast(self):
        user, song = np.array(list(self.worth), np.int32).reshape(-1, 2).T
        values = {
            "worth": np.array([*self.worth.values()], float),
            "n_events": np.array([*self.n_events.values()], int),
        }
        return Interactions.of(user, song, self.n_users, self.n_songs, **values)

    def some(self, pairs):
        kept = set(pairs)
        return replace(
            self,
            worth={pair: value for pair, value in self.worth.items() if pair in kept},
            n_events={pair: value for pair, value in self.n_events.items() if pair in kept},
        )


@pytest.fixture(params=range(12))
def rng(request):
    return np.random.default_rng(request.param)


@pytest.fixture
def case(rng):
    return Case.random(rng)


def same(fast, case):
    """The fast pairs are exactly those of the case, with their values, in order."""
    assert (fast.n_users, fast.n_songs, len(fast)) == (case.n_users, case.n_songs, len(case.pairs))
    assert list(zip(fast.user.tolist(), fast.song.tolist(), strict=True)) == case.pairs
    assert fast.keys.dtype == np.int64
    assert fast.values["worth"].tolist() == [case.worth[pair] for pair in case.pairs]
    assert fast.values["n_events"].tolist() == [case.n_events[pair] for pair in case.pairs]


def test_pairs_are_sorted_by_user_and_song_with_their_values(case):
    same(case.fast(), case)


def test_offsets_and_counts_tell_where_the_pairs_of_a_user_are(case):
    fast = case.fast()
    assert fast.counts.tolist() == [len(case.songs_of(user)) for user in range(case.n_users)]
    for user in range(case.n_users):
        assert fast.song[fast.offsets[user] : fast.offsets[user + 1]].tolist() == case.songs_of(user)
    assert fast.offsets[-1] == len(fast)


def test_pairs_given_twice_without_values_count_once(rng, case):
    user, song = np.array(case.pairs * 3, int).reshape(-1, 2).T
    order = rng.permutation(len(user))
    found = Interactions.of(user[order], song[order], case.n_users, case.n_songs)
    np.testing.assert_array_equal(found.keys, case.fast().keys)


def test_the_sparse_matrix_holds_the_values(case):
    fast = case.fast()
    dense = np.zeros((case.n_users, case.n_songs), np.float32)
    for pair, value in case.worth.items():
        dense[pair] = value
    np.testing.assert_array_equal(fast.csr(fast.values["worth"].astype(np.float32)).toarray(), dense)


@pytest.mark.parametrize("at_once", [1, 4, 1_000])
def test_all_pairs_are_met_some_users_at_a_time(case, at_once, monkeypatch):
    monkeypatch.setattr(interactions, "AT_ONCE", at_once)
    met, users = [], []
    for pairs, user, song in case.fast().blocks():
        assert pairs.start == len(met)
        met += zip(user.tolist(), song.tolist(), strict=True)
        assert pairs.stop == len(met)
        users += set(user.tolist())
    assert met == case.pairs
    assert len(users) == len(set(users))


@pytest.mark.parametrize("at_once", [1, 1_000])
def test_values_are_added_up_by_song(case, at_once, monkeypatch):
    monkeypatch.setattr(interactions, "AT_ONCE", at_once)
    fast, songs = case.fast(), range(case.n_songs)
    assert fast.of_songs().tolist() == [sum(song == of for _, of in case.pairs) for song in songs]
    events = [sum(n for (_, of), n in case.n_events.items() if song == of) for song in songs]
    assert fast.of_songs(fast.values["n_events"]).tolist() == events


def test_songs_of_some_users_are_taken_one_user_after_the_other(rng, case):
    users = rng.integers(0, case.n_users, 5)
    songs, place = case.fast().take(users)
    wanted = [(song, at) for at, user in enumerate(users.tolist()) for song in case.songs_of(user)]
    assert list(zip(songs.tolist(), place.tolist(), strict=True)) == wanted


def test_some_pairs_are_kept_with_their_values(rng, case):
    kept = rng.random(len(case.pairs)) < 0.5
    same(case.fast().keep(kept), case.some(pair for pair, keep in zip(case.pairs, kept, strict=True) if keep))


def test_some_users_are_numbered_anew(rng, case):
    users = np.flatnonzero(rng.random(case.n_users) < 0.6)
    number = {user: place for place, user in enumerate(users.tolist())}
    worth, n_events = (
        {(number[user], song): value for (user, song), value in values.items() if user in number}
        for values in (case.worth, case.n_events)
    )
    same(case.fast().of_users(users), Case(len(users), case.n_songs, worth, n_events))


def test_pairs_are_told_apart_from_others(rng, case):
    other = Case.random(rng, case.n_users, case.n_songs)
    assert case.fast().among(other.fast()).tolist() == [pair in other.worth for pair in case.pairs]
    same(case.fast().without(other.fast()), case.some(pair for pair in case.pairs if pair not in other.worth))


def test_pairs_of_lists_are_found(rng, case):
    fast, lists = case.fast(), rng.integers(-1, case.n_songs, (case.n_users, 6))
    wanted = [[(user, song) for song in songs] for user, songs in enumerate(lists.tolist())]
    place = {pair: place for place, pair in enumerate(case.pairs)}
    assert fast.places(lists).tolist() == [[place.get(pair, len(place)) for pair in row] for row in wanted]
    assert fast.gains("worth", lists).tolist() == [[case.worth.get(pair, 0) for pair in row] for row in wanted]


def test_the_ideal_dcg_is_that_of_the_best_list(case):
    fast = case.fast()
    for k in (1, 3, case.n_songs + 2, 3):
        best = [sorted((case.worth[user, song] for song in case.songs_of(user)), reverse=True)[:k]
                for user in range(case.n_users)]  # fmt: skip
        wanted = [sum(value / math.log2(rank + 2) for rank, value in enumerate(row)) for row in best]
        assert fast.ideal_dcg("worth", k).tolist() == pytest.approx(wanted)
    positive = [sum(case.worth[user, song] > 0 for song in case.songs_of(user)) for user in range(case.n_users)]
    assert fast.n_positive("worth").tolist() == positive


def test_the_ideal_dcg_is_that_of_the_value_asked_for_also_in_a_copy_with_other_values():
    one = Interactions.of(np.array([0, 0]), np.array([4, 1]), 1, 5, worth=np.array([3.0, 1.0]), likes=np.array([0, 1]))
    assert one.ideal_dcg("worth", 1).tolist() == [3]
    assert one.ideal_dcg("likes", 1).tolist() == [1]
    other = replace(one, values={"worth": np.array([0.0, 5.0])})
    assert other.ideal_dcg("worth", 1).tolist() == [5]
    assert other.n_positive("worth").tolist() == [1]
    assert one.keep(np.array([True, False])).ideal_dcg("worth", 2).tolist() == [1]


def test_an_empty_place_is_no_song():
    # −1 of user 1 would be song 9 of user 0 if places were not looked at.
    pairs = Interactions.of(np.array([0, 1, 1]), np.array([9, 9, 0]), 2, 10, worth=np.ones(3))
    assert pairs.gains("worth", np.array([[-1, 9], [-1, 0]])).tolist() == [[0, 1], [0, 1]]


def test_a_pair_with_values_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="user 0 and song 3 are given twice"):
        Interactions.of(np.array([0, 1, 0]), np.array([3, 3, 3]), 2, 10, worth=np.ones(3))


@pytest.mark.parametrize(("user", "song"), [(2, 0), (-1, 0), (0, 10), (0, -1)])
def test_ids_out_of_range_are_refused(user, song):
    with pytest.raises(ValueError, match="expected users below 2 and songs below 10"):
        Interactions.of(np.array([0, user]), np.array([1, song]), 2, 10)


def test_keys_larger_than_32_bits_are_told_apart():
    user, song = np.array([70_000, 70_001], np.int32), np.array([900_000, 0], np.int32)
    pairs = Interactions.of(user, song, 70_002, 1_000_000)
    assert (pairs.user.tolist(), pairs.song.tolist()) == ([70_000, 70_001], [900_000, 0])


def test_pairs_in_any_order_become_sorted_lists():
    pairs = Interactions.of(np.array([2, 0, 2, 0]), np.array([7, 5, 1, 9]), n_users=4, n_songs=10)
    assert pairs.song.tolist() == [5, 9, 1, 7]
    assert pairs.offsets.tolist() == [0, 2, 2, 4, 4]


def test_no_pairs_are_empty_lists():
    pairs = Interactions.of(np.array([], int), np.array([], int), n_users=2, n_songs=10)
    assert pairs.counts.tolist() == [0, 0]


def test_a_matrix_of_many_tables_takes_little_more_than_itself_while_it_is_made():
    n_users, n_songs = 64, 10_000
    song = pa.array(np.arange(n_songs))
    tables = (
        pa.table({"user_id": pa.repeat(user, n_songs), "song_id": song, "n": pa.repeat(float(user), n_songs)})
        for user in range(n_users)
    )
    tracemalloc.start()
    try:
        found = Interactions.of_tables(tables, n_users, n_songs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.keys, np.arange(n_users * n_songs))
    np.testing.assert_array_equal(found.values["n"], np.repeat(np.arange(n_users), n_songs))
    # The pairs of a table are a sixty-fourth, and have a handful of copies. Those of all, kept until the end, are one.
    assert peak < 1.4 * (found.keys.nbytes + found.values["n"].nbytes)
