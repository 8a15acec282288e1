"""Queries against slow computations, and where validation chooses them or leaves the learned vectors."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ms_assets.defs.retrieval import assets
from ms_assets.interactions import Interactions
from ms_assets.retrieval import dataset as data
from ms_assets.retrieval import queries
from ms_assets.vectors import embedding_columns, vector_column
from ms_assets_tests.retrieval.histories import dataset_of
from ms_assets_tests.training.graphs import unit_rows

N_USERS, N_SONGS, DIMENSIONS = 120, 80, 16
DAY = 86_400


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(1)
    users = unit_rows(rng, N_USERS, DIMENSIONS)
    return users, (unit_rows(rng, N_SONGS, DIMENSIONS) * rng.uniform(0.5, 2, (N_SONGS, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    """Events: user, song and second; the last user has none."""
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(N_USERS - 1), 6)
    return np.stack([user, rng.integers(N_SONGS, size=len(user)), rng.integers(9 * DAY, size=len(user))], axis=1)


@pytest.fixture
def dataset(rows, table):
    heard = [{} for _ in range(N_USERS)]
    for user, song, second in rows.tolist():
        n, last = heard[user].get(song, (0, -1))
        heard[user][song] = n + 1, max(last, second)
    return dataset_of(heard, N_SONGS, N_SONGS, train=table("user_id song_id timestamp", *map(tuple, rows.tolist())))


def validated(dataset, wanted):
    """The dataset with some songs of each user in the validation part: [n_users, n]."""
    user = np.repeat(np.arange(N_USERS), wanted.shape[1])
    pairs = Interactions.of(user, wanted.ravel(), N_USERS, N_SONGS, relevance=np.ones(wanted.size))
    return replace(dataset, validation=pairs)


def nearest(found, songs, dataset, n):
    """The n songs with the highest scores that each user has not heard."""
    scores = found @ songs.T
    scores[dataset.heard.user, dataset.heard.song] = -np.inf
    return np.argsort(-scores, axis=1)[:, :n]


@pytest.mark.parametrize("half_life", [3_600, 2 * DAY])
def test_means_of_recent_songs_fade_with_the_age_of_each_event(dataset, rows, vectors, half_life):
    _, songs = vectors
    wanted = np.zeros((N_USERS, DIMENSIONS))
    for user, song, second in rows:
        age = rows[rows[:, 0] == user, 2].max() - second
        wanted[user] += 0.5 ** (age / half_life) * songs[song] / np.linalg.norm(songs[song])
    wanted[:-1] /= np.linalg.norm(wanted[:-1], axis=1, keepdims=True)
    np.testing.assert_allclose(queries.recent(dataset, songs, half_life), wanted, atol=1e-5)


def test_means_of_recent_songs_do_not_depend_on_how_many_users_are_read_at_once(dataset, vectors, monkeypatch):
    whole = queries.recent(dataset, vectors[1], DAY)
    monkeypatch.setattr(data, "ROWS", 100)
    assert np.array_equal(queries.recent(dataset, vectors[1], DAY), whole)


def test_a_query_is_the_learned_vector_and_weighted_means_at_length_1(dataset, vectors):
    users, songs = vectors
    wanted = users + 0.4 * queries.recent(dataset, songs, 60) + 0.1 * queries.recent(dataset, songs, DAY)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(queries.of_users(dataset, users, songs, {60: 0.4, DAY: 0.1}), wanted, atol=1e-6)
    assert queries.of_users(dataset, users, songs, {}) is users


def test_users_who_follow_their_latest_song_are_asked_for_by_it(dataset, vectors):
    users, songs = vectors
    followed = nearest(queries.of_users(dataset, users, songs, {60: 0.4}), songs, dataset, 5)
    found = queries.fit(validated(dataset, followed), users, songs)
    assert found.weights[60] == max(queries.WEIGHTS)
    assert np.array_equal(found.queries, queries.of_users(dataset, users, songs, found.weights))
    gains = [trial["gain"] for trial in found.trials if trial["half_life"] == 60]
    assert gains == sorted(gains) and gains[0] > 0


def test_queries_of_a_refit_are_chosen_by_the_vectors_that_have_not_seen_validation(
    dataset, rows, vectors, table, duckdb
):
    """The refit, which has seen validation, draws users to what they took to there, so that nothing gains any more."""
    before, songs = vectors
    after = queries.of_users(dataset, before, songs, {60: 0.4})
    followed = nearest(after, songs, dataset, 5)
    assert queries.fit(validated(dataset, followed), after, songs).weights == {}
    chosen = queries.fit(validated(dataset, followed), before, songs).weights
    wanted = [(user, song, "validation", 1.0) for user, row in enumerate(followed.tolist()) for song in row]

    def stored(key, learned, unrefitted):
        columns = {key: np.arange(len(learned)), "cold": np.zeros(len(learned), bool)}
        return duckdb.connection.from_arrow(pa.table({**columns, **embedding_columns(learned, unrefitted)}))

    found = assets.queries(
        table("user_id uid", *((user, 10 * user) for user in range(N_USERS))),
        table("song_id item_id in_graph", *((song, 100 + song, True) for song in range(N_SONGS))),
        table("user_id song_id timestamp", *map(tuple, rows.tolist())),
        table("user_id song_id split adjusted_relevance", *wanted),
        stored("user_id", after, before), stored("song_id", songs, songs),
    )  # fmt: skip
    assert found.metadata["weights"].data == {str(seconds): weight for seconds, weight in chosen.items()} != {}
    for column, learned in (("embedding", after), ("before_refit", before)):
        expected = queries.of_users(dataset, learned, songs, chosen)
        np.testing.assert_allclose(vector_column(found.value, column), expected, atol=1e-6)


def test_users_who_follow_their_learned_vector_keep_it(dataset, vectors):
    users, songs = vectors
    found = queries.fit(validated(dataset, nearest(users, songs, dataset, 5)), users, songs)
    assert found.queries is users and found.weights == {}
    assert len(found.trials) == len(queries.HALF_LIVES) * len(queries.WEIGHTS)


def test_a_trial_tells_its_mean_gain_and_the_standard_error_over_users(dataset, vectors, monkeypatch):
    users, songs = vectors
    reached = iter([np.array([0.5, 0.5, np.nan, 0.5]), *[np.array([0.4, 0.5, np.nan, 0.3])] * 12])
    monkeypatch.setattr("ms_assets.retrieval.tuning.Tuner.ndcg_of_users", lambda *_: next(reached))
    found = queries.fit(validated(dataset, nearest(users, songs, dataset, 5)), users, songs)
    assert found.weights == {}
    assert found.trials[0]["gain"] == pytest.approx(-0.1)
    assert found.trials[0]["error"] == pytest.approx(np.std([-0.1, 0, -0.2]) / np.sqrt(3))


def test_nobody_validated_leaves_the_learned_vectors(dataset, vectors):
    nobody = validated(dataset, np.zeros((N_USERS, 0), int))
    found = queries.fit(nobody, *vectors)
    assert (found.queries is vectors[0], found.weights, found.trials) == (True, {}, [])
