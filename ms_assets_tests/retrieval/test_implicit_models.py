"""ItemKNN, iALS and BPR by `implicit`: against the formulas, and on two tastes whose right answer is obvious."""

import warnings

import numpy as np
import pytest

from ms_assets.retrieval import implicit_models
from ms_assets.retrieval.implicit_models import BPR, IALS, ItemKNN
from ms_assets_tests.retrieval.histories import dataset_of

N_USERS, N_SONGS = 40, 30
ALL = np.arange(N_USERS)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    return rng.integers(1, 6, (N_USERS, N_SONGS)) * (rng.random((N_USERS, N_SONGS)) < 0.2)


def dataset(counts):
    heard = [{song: (int(row[song]), 0) for song in np.flatnonzero(row)} for row in counts]
    return dataset_of(heard, counts.shape[1])


@pytest.fixture(scope="module")
def tastes():
    """Even users heard even songs, odd users odd ones; each left out a few of their own."""
    rng = np.random.default_rng(1)
    same = (np.arange(N_USERS)[:, None] + np.arange(N_SONGS)) % 2 == 0
    return same, (same & (rng.random(same.shape) < 0.7)).astype(int)


def bm25(counts):
    """Robertson and Zaragoza, 2009, with songs for documents and users for terms; float [n_users, n_songs]."""
    idf = np.log(N_SONGS) - np.log1p((counts > 0).sum(axis=1))
    length = counts.sum(axis=0) / counts.sum(axis=0).mean()
    return counts * 2.2 / (1.2 * (0.25 + 0.75 * length) + counts) * idf[:, None]


@pytest.mark.parametrize("similarity", ["cosine", "bm25"])
def test_neighbours_score_by_the_sum_of_similarity_times_events(counts, similarity):
    weights = bm25(counts) if similarity == "bm25" else counts / np.linalg.norm(counts, axis=0)
    scores = counts @ (weights.T @ weights)
    found, values = ItemKNN(similarity, neighbours=N_SONGS).fit(dataset(counts)).rank(ALL, 10)
    np.testing.assert_allclose(values, -np.sort(-scores, axis=1)[:, :10], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1), values, rtol=1e-5)


def test_a_list_ends_where_no_neighbour_is_left():
    model = ItemKNN("cosine", neighbours=4).fit(dataset_of([{0, 1}, {1}, {2}, {}], 4))
    lists, scores = model.rank(np.arange(4), 4)
    assert [sorted(row) for row in lists.tolist()] == [[-1, -1, 0, 1], [-1, -1, 0, 1], [-1, -1, -1, 2], [-1] * 4]
    assert (scores[lists < 0] == 0).all()


def test_similarities_come_from_a_users_most_played_songs(monkeypatch):
    heard = dataset_of([{0: (9, 0), 1: (8, 0), 2: (1, 0)}, {1: (1, 0), 2: (1, 0)}, {2: (1, 0)}], 3)

    def neighbours():
        songs, _ = ItemKNN("cosine", neighbours=3).fit(heard).rank(np.array([2]), 3)
        return sorted(songs[0].tolist())

    assert neighbours() == [0, 1, 2]
    monkeypatch.setattr(implicit_models, "SONGS_PER_USER", 2)
    assert neighbours() == [-1, 1, 2]


def exact_als(counts, rank, alpha, regularization, iterations=30):
    """Alternating least squares by solving every row's normal equations."""
    weights, wanted = np.where(counts > 0, alpha * counts, 1.0), (counts > 0).astype(float)
    rng = np.random.default_rng(0)
    users, songs = (rng.normal(scale=0.1, size=(n, rank)) for n in counts.shape)
    for _ in range(iterations):
        for rows, others, w, p in ((users, songs, weights, wanted), (songs, users, weights.T, wanted.T)):
            for i in range(len(rows)):
                system = others.T @ (w[i][:, None] * others) + regularization * np.eye(rank)
                rows[i] = np.linalg.solve(system, others.T @ (w[i] * p[i]))
    return users, songs


def test_ials_scores_as_least_squares_solved_row_by_row(counts, monkeypatch):
    monkeypatch.setattr(implicit_models, "ITERATIONS", 60)
    users, songs = exact_als(counts, 64, alpha=5.0, regularization=3.0)
    expected = users @ songs.T
    found, values = IALS(alpha=5.0, regularization=3.0).fit(dataset(counts)).rank(ALL, N_SONGS)
    scores = np.zeros_like(expected)
    np.put_along_axis(scores, found, values, axis=1)
    np.testing.assert_allclose(scores, expected, atol=0.02)


def slow_bpr(same, factors=8, rate=0.05, regularization=0.01, n_steps=20_000):
    """Stochastic gradient ascent on the log-likelihood that a heard song scores above an unheard one."""
    rng = np.random.default_rng(0)
    users, songs = (rng.normal(scale=0.1, size=(n, factors)) for n in same.shape)
    heard = np.argwhere(same)
    for user, song in heard[rng.integers(len(heard), size=n_steps)]:
        other = rng.choice(np.flatnonzero(~same[user]))
        step = 1 / (1 + np.exp(users[user] @ (songs[song] - songs[other])))
        users[user] += rate * (step * (songs[song] - songs[other]) - regularization * users[user])
        songs[song] += rate * (step * users[user] - regularization * songs[song])
        songs[other] -= rate * (step * users[user] + regularization * songs[other])
    return users @ songs.T


def share_in_order(scores, heard):
    """Share of the pairs of a heard and an unheard song of a user, of which the heard one scores higher."""
    pairs = [row[own][:, None] > row[~own] for row, own in zip(scores, heard, strict=True) if own.any()]
    return np.mean(np.concatenate([pair.ravel() for pair in pairs]))


def test_bpr_puts_heard_songs_above_others_as_well_as_gradient_steps_one_by_one(counts):
    found, values = BPR(factors=8).fit(dataset(counts)).rank(ALL, N_SONGS)
    scores = np.zeros((N_USERS, N_SONGS))
    np.put_along_axis(scores, found, values, axis=1)
    assert share_in_order(scores, counts > 0) > share_in_order(slow_bpr(counts > 0), counts > 0) - 0.03 > 0.8


def test_bpr_takes_a_bounded_number_of_steps_but_meets_every_pair_some_times():
    assert [implicit_models.epochs(n_pairs) for n_pairs in (0, 40_000, 200_000, 1_000_000, 100_000_000)] == [
        200, 200, 150, 30, 10
    ]  # fmt: skip


MODELS = {
    "item_knn bm25": ItemKNN("bm25", 10),
    "item_knn cosine": ItemKNN("cosine", 10),
    "ials": IALS(alpha=10.0, regularization=1.0),
    "bpr": BPR(),
}


@pytest.mark.parametrize("model", MODELS)
def test_two_tastes_are_told_apart(tastes, model):
    same, counts = tastes
    found, _ = MODELS[model].fit(dataset(counts)).rank(ALL, 10)
    assert np.take_along_axis(same, found, axis=1).mean() > 0.95


@pytest.mark.parametrize("model", MODELS)
def test_the_same_histories_give_the_same_lists_and_no_warning(counts, model):
    with warnings.catch_warnings(action="error"):
        one, again = (MODELS[model].fit(dataset(counts)).rank(ALL, 20) for _ in range(2))
    for ours, theirs in zip(one, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")  # no mean length
@pytest.mark.parametrize("model", MODELS)
def test_settings_can_be_tried_on_drawn_users_of_whom_none_has_heard_anything(counts, model):
    some = dataset(np.where(np.arange(N_USERS)[:, None] == 3, 0, counts)).of_users(np.array([3]))
    _, scores = MODELS[model].fit(some).rank(np.array([3]), 5)
    assert (scores == 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_who_has_heard_nothing_is_no_trouble(counts, model):
    fewer = counts.copy()
    fewer[3] = 0
    found, scores = MODELS[model].fit(dataset(fewer)).rank(np.array([3, 4]), 5)
    assert np.isfinite(scores).all()
    assert len(set(found[1].tolist())) == 5
