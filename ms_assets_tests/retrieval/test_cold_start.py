"""Where cold songs lie: by encoding and artist, at the length that gives them their share of the top 100."""

from dataclasses import replace

import numpy as np
import pytest

from ms_assets.interactions import Interactions
from ms_assets.retrieval import cold_start, tuning
from ms_assets.retrieval.recommender import nearest, ranked
from ms_assets.retrieval.tuning import Tuner
from ms_assets.training.rehearsal import meets_cold_songs
from ms_assets.vectors import Ragged
from ms_assets_tests.retrieval.histories import dataset_of
from ms_assets_tests.training.graphs import unit_rows

N_USERS, N_TRAINED, N_COLD, DIMENSIONS = 200, 1_500, 400, 16


def ragged(lists):
    values, offsets = [value for row in lists for value in row], np.cumsum([0, *map(len, lists)])
    return Ragged(np.array(values, np.int64), offsets)


def test_a_cold_song_lies_between_its_encoding_and_its_artists_trained_songs():
    trained = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    encodings = np.array([[0, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]], np.float32)
    # Artist 0 has songs 0 and 1, artist 1 song 2, artist 2 none that is trained.
    artists = ragged([[0], [0], [1], [0], [0, 1], [2], []])
    vectors, known = cold_start.directions(encodings, trained, artists)
    first = np.array([0.5**0.5, 0.5**0.5, 0])
    both = np.array([0.5, 0.5, 0.5**0.5])  # half of each artist, of length 1
    expected = [(encodings[0] + first) / 2**0.5, encodings[1] + both, encodings[2], encodings[3]]
    expected[1] /= np.linalg.norm(expected[1])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert known.tolist() == [True, True, False, False]


class Planted:
    """Users and songs of one space; cold songs lean to one side, and some users took to nothing but them."""

    def __init__(self, lean, n_cold_targets):
        rng = np.random.default_rng(0)
        self.users, self.trained = unit_rows(rng, N_USERS, DIMENSIONS), unit_rows(rng, N_TRAINED, DIMENSIONS)
        self.cold = unit_rows(rng, N_COLD, DIMENSIONS)
        self.cold[:, 0] += lean
        self.cold /= np.linalg.norm(self.cold, axis=1, keepdims=True)
        heard = [set(rng.permutation(N_TRAINED)[:30].tolist()) for _ in range(N_USERS)]
        user = np.repeat(np.arange(N_USERS), 20)
        song = np.concatenate([np.arange(20) + (N_TRAINED if u < n_cold_targets else 0) for u in range(N_USERS)])
        n_songs = N_TRAINED + N_COLD
        validation = Interactions.of(user, song, N_USERS, n_songs, relevance=np.ones(len(user)))
        dataset = dataset_of(heard, n_songs, N_TRAINED, validation=validation)
        self.heard, self.validation, self.tuner = dataset.heard, validation, Tuner.of(dataset)

    def share(self, length):
        """Of cold songs among the top 100 of discovery, by search over all songs."""
        songs = np.concatenate([self.trained, np.float32(length) * self.cold])
        found, _ = ranked(nearest(self.users, songs), np.arange(N_USERS), self.heard, len(songs), 100)
        return (found[1] >= N_TRAINED).mean()


@pytest.mark.parametrize("lean", [0.0, 1.0])
@pytest.mark.parametrize("n_cold_targets", [4, 80, 120])
def test_calibration_gives_cold_songs_the_share_that_they_have_in_validation(lean, n_cold_targets):
    planted = Planted(lean, n_cold_targets)
    fit = cold_start.calibrate(planted.users, planted.trained, planted.cold, planted.tuner)
    targets = planted.tuner.targets["discovery"]
    wanted = (targets.song >= N_TRAINED).mean()
    assert fit.wanted_share == pytest.approx(wanted)
    assert planted.share(1.0) == pytest.approx(fit.share_before, abs=1e-3)
    assert planted.share(fit.length) == pytest.approx(fit.share_after, abs=1e-3)
    assert planted.share(fit.length) == pytest.approx(wanted, abs=2e-3)
    assert abs(planted.share(1.0) - wanted) > 0.02


def test_cold_songs_whose_share_is_out_of_reach_do_not_push_out_what_users_return_to():
    rng = np.random.default_rng(2)
    users, n_trained, n_cold = unit_rows(rng, 60, DIMENSIONS), 200, 50
    trained = np.concatenate([users, unit_rows(rng, n_trained - len(users), DIMENSIONS)])
    cold = unit_rows(rng, n_cold, DIMENSIONS)  # half of them lie behind a user, at any length
    # In validation each user plays their own song again, which lies where they do, and takes to cold songs alone.
    user = np.repeat(np.arange(len(users)), 2)
    song = np.stack([np.arange(len(users)), n_trained + np.arange(len(users)) % n_cold], axis=1).ravel()
    validation = Interactions.of(user, song, len(users), n_trained + n_cold, relevance=np.ones(len(user)))
    tuner = Tuner.of(dataset_of([{u} for u in range(len(users))], n_trained + n_cold, n_trained, validation=validation))
    fit = cold_start.calibrate(users, trained, cold, tuner)
    assert fit.wanted_share == 1
    scores = users @ np.concatenate([trained, np.float32(fit.length) * cold]).T
    rank = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    assert (rank < 10).mean() > 0.95
    assert 0 < fit.share_after < 0.5


def around(rng, axis, cosines):
    """Unit vectors with these cosines to an axis, in directions of their own otherwise."""
    own = rng.standard_normal((len(cosines), len(axis)))
    own -= np.outer(own @ axis, axis)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return (np.outer(cosines, axis) + np.sqrt(1 - np.square(cosines))[:, None] * own).astype(np.float32)


def test_cold_songs_do_not_push_out_what_some_users_discover_though_all_keep_what_they_return_to():
    rng, axis, n_users, n_near, n_returned = np.random.default_rng(3), np.eye(64)[0], 200, 60, 5
    # Cold songs lie where some users do; no length brings them to the others.
    users = around(rng, axis, np.repeat([0.6, -0.6], [n_near, n_users - n_near]))
    returned = np.concatenate([around(rng, user, [0.95] * n_returned) for user in users])
    trained = np.concatenate([returned, *(around(rng, user, [0.6]) for user in users)])
    cold = around(rng, axis, np.linspace(0.9, 0.99, 100))
    # In validation everybody returns to songs, discovers a trained one, and a cold one for a moment.
    of_users, n_songs = np.arange(n_users), len(trained) + len(cold)
    discovered = len(returned) + of_users
    kept, new = np.arange(len(returned)).reshape(n_users, -1), len(trained) + of_users % len(cold)
    song, relevance = np.column_stack([kept, discovered, new]), np.tile([1.0] * (n_returned + 1) + [0.01], n_users)
    pairs = np.repeat(of_users, song.shape[1]), song.ravel(), n_users, n_songs
    heard = [set(songs.tolist()) for songs in kept]
    dataset = dataset_of(heard, n_songs, len(trained), validation=Interactions.of(*pairs, relevance=relevance))
    fit = cold_start.calibrate(users, trained, cold, Tuner.of(dataset))
    scores = users @ np.concatenate([trained, np.float32(fit.length) * cold]).T
    before = (scores > scores[of_users, discovered][:, None]).sum(axis=1) - n_returned
    assert (before < 10).mean() > 0.95
    assert 0.1 < fit.share_after < fit.wanted_share


def test_calibration_keeps_the_order_among_cold_songs_and_among_trained_ones():
    planted = Planted(0.5, 40)
    fit = cold_start.calibrate(planted.users, planted.trained, planted.cold, planted.tuner)
    users, cold = planted.users.astype(np.float64), planted.cold.astype(np.float64)
    scores, scaled = (users @ (length * cold).T for length in (1.0, fit.length))
    assert fit.length > 0
    np.testing.assert_array_equal(np.argsort(scores[:, :50]), np.argsort(scaled[:, :50]))


def test_the_length_is_fitted_with_embeddings_that_have_not_seen_validation():
    planted, refitted = Planted(0.5, 80), Planted(0.5, 80)
    songs = np.concatenate([planted.trained, planted.cold])
    dataset = replace(
        dataset_of([{0}] * N_USERS, N_TRAINED + N_COLD, N_TRAINED), heard=planted.heard, validation=planted.validation
    )
    # A refit draws users to what they took to in validation.
    targets = planted.tuner.targets["discovery"]
    np.add.at(refitted.users, planted.tuner.users[targets.user], 0.2 * songs[targets.song])
    artists = ragged([[]] * len(songs))
    _, _, fit = cold_start.placed(dataset, 2 * songs, artists, judged=(planted.users, songs))
    assert fit == cold_start.calibrate(planted.users, planted.trained, planted.cold, planted.tuner)
    assert fit != cold_start.calibrate(refitted.users, planted.trained, planted.cold, planted.tuner)


def test_the_length_is_fitted_where_all_of_validation_meets_cold_songs_though_the_drawn_users_meet_few(monkeypatch):
    monkeypatch.setattr(tuning, "TUNING_USERS", 20)
    rng = np.random.default_rng(1)
    n_songs, users = N_TRAINED + N_COLD, np.arange(N_USERS)
    # A tenth of the cold songs, each of one listener: the drawn users have met a hundredth.
    song = np.where(users < 40, N_TRAINED + users, 0)
    validation = Interactions.of(users, song, N_USERS, n_songs, relevance=np.ones(N_USERS))
    dataset = dataset_of([{1}] * N_USERS, n_songs, N_TRAINED, validation=validation)
    songs = unit_rows(rng, n_songs, DIMENSIONS)
    songs[:N_TRAINED] *= 0.01
    vectors, _, fit = cold_start.placed(dataset, songs, ragged([[]] * n_songs), (unit_rows(rng, N_USERS, 16), songs))
    assert 0 < fit.wanted_share < 0.5
    assert fit.share_after == pytest.approx(fit.wanted_share, abs=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), fit.length, rtol=1e-5)
    assert fit.length < 0.02, "as long as trained songs"


@pytest.mark.parametrize("factor", [1e-4, 1e3])
def test_the_length_of_cold_songs_is_in_proportion_to_that_of_trained_ones(factor):
    planted = Planted(0.5, 80)
    fit = cold_start.calibrate(planted.users, planted.trained, planted.cold, planted.tuner)
    scaled = cold_start.calibrate(planted.users, np.float32(factor) * planted.trained, planted.cold, planted.tuner)
    assert scaled.length == pytest.approx(factor * fit.length, rel=1e-5)
    assert (scaled.share_before, scaled.share_after) == pytest.approx((fit.share_before, fit.share_after), abs=1e-3)


def test_nothing_is_calibrated_where_validation_has_no_new_cold_song():
    planted = Planted(0.0, 0)
    assert cold_start.calibrate(planted.users, planted.trained, planted.cold, planted.tuner) is None


def test_a_length_is_shortened_where_lists_surely_lose_by_it_and_stays_where_they_do_not():
    planted = Planted(0.0, 0)
    known = planted.users, planted.trained, planted.cold, planted.tuner
    assert cold_start.shorten(*known, 0.01) is None
    fit = cold_start.shorten(*known, 100.0)
    assert planted.share(100.0) == pytest.approx(fit.wanted_share, abs=0.01)
    assert planted.share(fit.length) == pytest.approx(fit.share_after, abs=0.01)
    assert fit.share_after < 0.3 < 0.9 < fit.wanted_share


@pytest.mark.parametrize("n_met", [0, 1])
def test_a_rehearsed_length_stays_where_validation_cannot_speak_for_cold_songs(n_met):
    # A validation part that was drawn from train meets next to none of the songs that are heard later, and so loses by
    # every place that they take.
    planted = Planted(0.0, 0)
    met, n_songs = planted.validation, N_TRAINED + N_COLD
    user, song = np.append(met.user, np.arange(n_met)), np.append(met.song, N_TRAINED + np.arange(n_met))
    user, song = np.append(user, np.arange(N_USERS)), np.append(song, 100 + np.arange(N_USERS))
    validation = Interactions.of(user, song, N_USERS, n_songs, relevance=np.ones(len(user)))
    dataset = dataset_of([{0}] * N_USERS, n_songs, N_TRAINED, validation=validation)
    songs = np.concatenate([planted.trained, 100 * planted.cold])
    vectors, _, fit = cold_start.placed(dataset, songs, ragged([[]] * len(songs)), (planted.users, songs))
    assert fit is None
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 100, rtol=1e-5)


@pytest.mark.parametrize(
    ("n_others", "n_cold_met", "speaks"),
    [
        (1_600, 0, False), (1_600, 19, True), (1_600, 14, False), (10, 1, True),
        (1_600, 20, True), (99, 1, True), (100, 1, False), (0, 1, True), (0, 0, False),
    ],
)  # fmt: skip
def test_validation_speaks_for_cold_songs_that_it_meets_often_or_meets_many_of(n_others, n_cold_met, speaks):
    # Many are a twentieth of 400 cold songs; often is in a hundredth of all pairs.
    song = np.append(np.arange(n_others), 1_600 + np.arange(n_cold_met))
    assert meets_cold_songs(Interactions.of(np.zeros(len(song), int), song, 1, 2_000), 1_600) == speaks


def test_validation_speaks_for_cold_songs_of_which_it_meets_a_twentieth_however_seldom():
    user, song = np.divmod(np.arange(2 * 1_600), 1_600)
    for n_cold_met, speaks in ((19, False), (20, True)):
        user_, song_ = np.append(user, np.zeros(n_cold_met, int)), np.append(song, 1_600 + np.arange(n_cold_met))
        assert meets_cold_songs(Interactions.of(user_, song_, 2, 2_000), 1_600) == speaks


def test_a_length_is_judged_where_all_of_validation_meets_cold_songs_though_no_drawn_user_does(monkeypatch):
    monkeypatch.setattr(tuning, "TUNING_USERS", 100)
    planted = Planted(0.0, 0)
    n_songs, users = N_TRAINED + N_COLD, np.arange(N_USERS)
    dataset = dataset_of([{0}] * N_USERS, n_songs, N_TRAINED, validation=planted.validation)
    others = np.setdiff1d(users, Tuner.of(dataset).users)
    user, song = np.append(planted.validation.user, others), np.append(planted.validation.song, N_TRAINED + others)
    met = Interactions.of(user, song, N_USERS, n_songs, relevance=np.ones(len(user)))
    songs = np.concatenate([planted.trained, 100 * planted.cold])
    vectors, _, fit = cold_start.placed(
        replace(dataset, validation=met), songs, ragged([[]] * n_songs), (planted.users, songs)
    )
    assert meets_cold_songs(met, N_TRAINED) and len(others) == 100
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), fit.length, rtol=1e-5)
    assert fit.length < 10


def test_without_cold_songs_there_is_nothing_to_place():
    trained = unit_rows(np.random.default_rng(0), 5, 4)
    vectors, known = cold_start.directions(np.empty((0, 4), np.float32), trained, ragged([[0]] * 5))
    assert (vectors.shape, known.shape) == ((0, 4), (0,))
