"""Linear models against products of whole matrices, and the songs that they leave out."""

import itertools
import tracemalloc

import numpy as np
import pytest

from ms_assets.retrieval import exact, linear_models
from ms_assets.retrieval.linear_models import (
    EASE,
    EASE_GRID,
    FILTER_GRID,
    SESSION_GRID,
    TRANSITIONS_GRID,
    GraphFilter,
    SessionKNN,
    Transitions,
    followed,
)
from ms_assets.retrieval.recommender import recommendations
from ms_assets_tests.retrieval.histories import dataset_of, songs_of

N_USERS, N_SONGS, N_GRAPH_SONGS = 50, 44, 40
EVERYBODY = np.arange(N_USERS)
HOUR = 3_600


@pytest.fixture(scope="module")
def rows():
    """Events: user, song and second, each user's over some days; the last user has none."""
    rng = np.random.default_rng(0)
    user = rng.integers(N_USERS - 1, size=1_500)
    song = (N_GRAPH_SONGS * rng.random(1_500) ** 2).astype(int)
    return np.stack([user, song, rng.integers(3 * 24 * HOUR, size=1_500)], axis=1).tolist()


@pytest.fixture
def dataset(rows, table):
    heard = [{} for _ in range(N_USERS)]
    for user, song, second in rows:
        n, last = heard[user].get(song, (0, -1))
        heard[user][song] = n + 1, max(last, second)
    return dataset_of(heard, N_SONGS, N_GRAPH_SONGS, train=table("user_id song_id timestamp", *map(tuple, rows)))


@pytest.fixture(scope="module")
def counts(rows):
    found = np.zeros((N_USERS, N_GRAPH_SONGS))
    for user, song, _ in rows:
        found[user, song] += 1
    return found


def assert_ranks_by(model, wanted, ends=True, rtol=1e-4):
    """The lists are those of the wanted scores [n_users, n_graph_songs]; with `ends`, up to the last one above 0."""
    found, scores = model.rank(EVERYBODY, N_SONGS)
    assert found.shape == scores.shape == (N_USERS, N_SONGS)
    best = -np.sort(-wanted, axis=1)
    np.testing.assert_allclose(
        scores[:, :N_GRAPH_SONGS], np.maximum(best, 0) if ends else best, rtol=rtol, atol=rtol * wanted.max()
    )
    for row, songs in enumerate(found):
        listed = songs[songs >= 0]
        assert len(set(listed.tolist())) == len(listed) == ((scores[row] > 0).sum() if ends else N_GRAPH_SONGS)
        np.testing.assert_allclose(wanted[row, listed], scores[row, : len(listed)], rtol=rtol, atol=rtol * wanted.max())


@pytest.mark.parametrize("half_life_hours", [None, 48.0, 0.5])
def test_a_session_scores_by_events_that_fade_and_by_all_neighbours_of_which_the_candidate_alone_is_normalised(
    dataset, rows, counts, half_life_hours
):
    last, recent = np.zeros(N_USERS), np.zeros_like(counts)
    for user, _, second in rows:
        last[user] = max(last[user], second)
    for user, song, second in rows:
        recent[user, song] += 0.5 ** ((last[user] - second) / HOUR / half_life_hours) if half_life_hours else 1
    wanted = recent @ (counts.T @ counts) / np.linalg.norm(counts, axis=0)
    assert_ranks_by(SessionKNN(half_life_hours).fit(dataset), wanted)


@pytest.mark.parametrize("half_life_hours", [None, 0.5])
def test_transitions_score_by_what_followed_the_users_recent_songs_within_sessions(
    dataset, rows, counts, half_life_hours
):
    last, recent = np.zeros(N_USERS), np.zeros_like(counts)
    for user, _, second in rows:
        last[user] = max(last[user], second)
    followed = np.zeros((N_GRAPH_SONGS, N_GRAPH_SONGS))
    for user in range(N_USERS):
        mine = sorted((second, song) for owner, song, second in rows if owner == user)
        for (before, song), (second, following) in itertools.pairwise(mine):
            if 0 < second - before <= 1_800:
                followed[song, following] += 1
        for second, song in mine:
            recent[user, song] += 0.5 ** ((last[user] - second) / HOUR / half_life_hours) if half_life_hours else 1
    assert followed.sum() > 100
    followed += np.eye(N_GRAPH_SONGS)
    wanted = recent @ (followed / followed.sum(axis=1, keepdims=True))
    assert_ranks_by(Transitions(half_life_hours).fit(dataset), wanted)


def test_transitions_have_the_same_bits_in_whatever_order_threads_leave_rows_and_users_are_read(dataset, monkeypatch):
    models = []
    for order, rows in (("song_id, following", 10**6), ("n, following DESC", 10**6), ("following, song_id DESC", 40)):
        monkeypatch.setattr(linear_models, "ROWS", rows)
        monkeypatch.setattr(linear_models, "followed", lambda train, order=order: followed(train).order(order))
        models.append(Transitions(0.5).fit(dataset))
    for model in models[1:]:
        assert {name: array.tobytes() for name, array in model.learned.items()} == {
            name: array.tobytes() for name, array in models[0].learned.items()
        }
        assert model.rank(EVERYBODY, 30)[1].tobytes() == models[0].rank(EVERYBODY, 30)[1].tobytes()


def test_events_of_one_second_or_of_unknown_time_follow_nothing(table):
    """Song 2 follows 1, an hour lies before 3, songs 3 and 0 are of one second, and when 4 was heard nobody knows."""
    rows = [(0, 1, 10), (0, 2, 60), (0, 3, 3_700), (0, 0, 3_700), (0, 4, None), (1, 1, 5)]
    heard = [{song: (1, -1 if second is None else second) for user, song, second in rows if user == owner}
             for owner in range(2)]  # fmt: skip
    known = dataset_of(heard, 5, train=table("user_id song_id timestamp", *rows))
    found, scores = Transitions(None).fit(known).rank(np.arange(2), 5)
    lists = [{song: score for song, score in zip(*row, strict=True) if song >= 0}
             for row in zip(found.tolist(), scores.tolist(), strict=True)]  # fmt: skip
    assert lists == [{2: 1.5, 0: 1, 3: 1, 4: 1, 1: 0.5}, {1: 0.5, 2: 0.5}]


@pytest.mark.parametrize("low_pass", [0.0, 0.3])
@pytest.mark.parametrize("power", [0.5, 0.2])
def test_a_graph_filter_sends_songs_through_the_normalised_graph_and_its_strongest_singular_vectors(
    dataset, counts, power, low_pass
):
    ones = (counts > 0).astype(float)
    of_songs = ones.sum(axis=0) ** power
    matrix = ones / np.sqrt(ones.sum(axis=1).clip(1))[:, None] / of_songs
    strongest = np.linalg.svd(matrix)[2][:39].T
    wanted = ones @ (matrix.T @ matrix + low_pass * strongest / of_songs[:, None] @ strongest.T * of_songs)
    assert_ranks_by(GraphFilter(power, low_pass).fit(dataset), wanted)


@pytest.mark.parametrize("regularization", [5.0, 100.0])
def test_ease_regresses_every_song_on_all_others(dataset, counts, regularization):
    ones = (counts > 0).astype(float)
    wanted = np.zeros_like(ones)
    for song in range(N_GRAPH_SONGS):
        others = np.delete(ones, song, axis=1)
        system = others.T @ others + regularization * np.eye(N_GRAPH_SONGS - 1)
        wanted[:, song] = others @ np.linalg.solve(system, others.T @ ones[:, song])
    assert_ranks_by(EASE(regularization).fit(dataset), wanted, ends=False)


def test_ease_learns_from_a_bounded_number_of_users_who_have_heard_something(dataset, counts, monkeypatch):
    monkeypatch.setattr(linear_models, "MOST_USERS", 20)
    model = EASE(5.0).fit(dataset)
    users = model.learned["users"]
    assert len(set(users.tolist())) == 20 and N_USERS - 1 not in users
    ones = (counts > 0).astype(float)
    inverse = np.linalg.inv(ones[users].T @ ones[users] + 5 * np.eye(N_GRAPH_SONGS))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    assert_ranks_by(model, ones @ weights, ends=False)


def test_ease_adds_up_parts_of_its_users_as_they_come(monkeypatch):
    n_users, n_songs = 300, 3_000
    rng = np.random.default_rng(0)
    known = dataset_of([set(rng.integers(n_songs, size=20).tolist()) for _ in range(n_users)], n_songs)
    whole = EASE().fit(known)
    monkeypatch.setattr(exact, "AT_ONCE", n_songs)  # a user at a time
    tracemalloc.start()
    try:
        in_parts = EASE().fit(known)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(in_parts.learned["explained"], whole.learned["explained"], rtol=1e-4)
    assert peak < n_users * n_songs * 4 / 2


MODELS = {
    "session": SessionKNN(3.0),
    "transitions": Transitions(),
    "filter": GraphFilter(factors=5),
    "linear filter": GraphFilter(low_pass=0.0),
    "ease": EASE(),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_same_lists_come_some_users_at_a_time(dataset, model, monkeypatch):
    whole = songs_of(recommendations(MODELS[model].fit(dataset), 10))
    monkeypatch.setattr(exact, "AT_ONCE", 3 * N_GRAPH_SONGS)
    assert songs_of(recommendations(MODELS[model].fit(dataset), 10)) == whole
    assert {user for _, user in whole} == set(range(N_USERS if model == "ease" else N_USERS - 1))


@pytest.mark.parametrize("model", ["session", "linear filter"])  # singular vectors are 0 but for rounding
def test_a_list_ends_where_nothing_leads_to_a_song(model, table):
    rows = [(user, song, 60) for user in range(6) for song in range(3)] + [(6, 3, 60), (7, 3, 60), (7, 4, 60)]
    heard = [{song: (1, 60) for user, song, _ in rows if user == owner} for owner in range(8)]
    known = dataset_of(heard, 6, 5, train=table("user_id song_id timestamp", *rows))
    found, scores = MODELS[model].fit(known).rank(np.arange(8), 6)
    assert [set(songs.tolist()) for songs in found] == [{-1, 0, 1, 2}] * 6 + [{-1, 3, 4}] * 2
    assert (scores[found < 0] == 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_settings_can_be_tried_on_drawn_users_of_whom_none_has_heard_anything(dataset, model):
    _, scores = MODELS[model].fit(dataset.of_users(EVERYBODY[-1:])).rank(EVERYBODY, 5)
    assert (scores == 0).all()


@pytest.mark.parametrize(
    ("method", "grid"),
    [(SessionKNN, SESSION_GRID), (Transitions, TRANSITIONS_GRID), (GraphFilter, FILTER_GRID), (EASE, EASE_GRID)],
)
def test_the_first_setting_of_a_grid_is_the_published_form(method, grid):
    assert all(getattr(method(), name) == value for name, value in grid[0].items())
