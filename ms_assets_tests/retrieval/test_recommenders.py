"""Every recommender against brute force."""

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

from ms_assets.retrieval import baselines, memory, recommender
from ms_assets.retrieval.baselines import SVD, ContentBased, Popular, Random
from ms_assets.retrieval.recommender import recommendations
from ms_assets.training import svd
from ms_assets_tests.retrieval.histories import dataset_of, random_histories, songs_of
from ms_assets_tests.training.graphs import unit_rows

N_USERS, N_SONGS, N_GRAPH_SONGS = 90, 160, 130
ROUNDING = 1e-6
EVERYBODY = np.arange(N_USERS)


@pytest.fixture(scope="module")
def heard():
    return random_histories(np.random.default_rng(2), N_USERS, N_GRAPH_SONGS)


@pytest.fixture(scope="module")
def audio():
    return unit_rows(np.random.default_rng(3), N_SONGS)


def with_audio(audio):
    return {"audio": (audio, audio.any(axis=1))}


@pytest.fixture(scope="module")
def dataset(heard, audio):
    return dataset_of(heard, N_SONGS, N_GRAPH_SONGS, **with_audio(audio))


def random_songs(n_songs, seed=1):
    return Random(seed).fit(dataset_of([{0}], n_songs)).rank


def matrix_of(heard, n_songs):
    return np.array([[float(song in songs) for song in range(n_songs)] for songs in heard])


def assert_best(found, scores, wanted, n):
    """The n best songs by the wanted scores [n_users, n_songs], whatever the order of equals."""
    assert all(len(set(row)) == n for row in found.tolist())
    best = -np.sort(-wanted, axis=1)[:, :n]
    np.testing.assert_allclose(np.take_along_axis(wanted, found, axis=1), best, atol=2e-5)
    np.testing.assert_allclose(scores, best, atol=2e-5)


def test_popular_songs_have_the_most_events_and_equals_come_by_id():
    dataset = dataset_of([{0: (2, 0), 2: (7, 0), 3: (3, 0)}, {0: (1, 0), 5: (9, 0)}], 6)
    songs, scores = Popular().fit(dataset).rank(np.array([1, 1, 0]), 5)
    assert songs.tolist() == [[5, 2, 0, 3, 1]] * 3
    assert scores.tolist() == [[9, 7, 3, 3, 0]] * 3


def test_random_songs_are_distinct_and_come_from_the_whole_catalogue():
    songs, scores = random_songs(50)(np.arange(400), 10)
    assert all(len(set(row)) == 10 for row in songs.tolist())
    assert set(songs.ravel().tolist()) == set(range(50))
    assert bool((np.diff(scores, axis=1) < 0).all())


def test_random_songs_are_equally_likely_at_every_rank():
    songs, _ = random_songs(20)(np.arange(4_000), 8)
    for rank in range(8):
        expected = 4_000 / 20
        counts = np.bincount(songs[:, rank], minlength=20)
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 44  # 19 degrees of freedom: exceeded by chance in 1 of 1,000


def test_random_songs_are_the_same_for_the_same_seed_and_user():
    user = np.array([5, 1, 77])
    one, again, other = (random_songs(1_000, seed)(user, 30)[0] for seed in (1, 1, 2))
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()
    assert one[0].tolist() != one[1].tolist()
    assert random_songs(1_000)(user[::-1], 30)[0].tolist() == one[::-1].tolist()


def test_random_songs_of_a_user_do_not_depend_on_how_many_are_asked_for():
    few, many = (random_songs(1_000)(np.array([5, 1]), n)[0] for n in (10, 200))
    assert few.tolist() == many[:, :10].tolist()


def test_content_is_the_inner_product_with_the_mean_of_what_was_heard(dataset, heard, audio):
    found, scores = ContentBased().fit(dataset).rank(EVERYBODY, 40)
    means = [audio[sorted(songs)].mean(axis=0) if songs else np.zeros(128) for songs in heard]
    assert_best(found, scores, np.array(means) @ audio.T, 40)


def test_content_knows_cold_songs():
    audio = np.eye(4, 128, dtype=np.float32)
    audio[3] = audio[0]
    found, _ = ContentBased().fit(dataset_of([{0}], 4, **with_audio(audio))).rank(np.array([0]), 2)
    assert sorted(found[0].tolist()) == [0, 3]


def test_content_neither_recommends_songs_without_audio_nor_learns_of_them():
    audio = np.zeros((5, 128), np.float32)
    audio[0, 0], audio[2, :2], audio[3, 0] = 1, (-0.6, 0.8), -1
    found, scores = ContentBased().fit(dataset_of([{0, 1}], 5, **with_audio(audio))).rank(np.array([0]), 5)
    assert found.tolist() == [[0, 2, 3, -1, -1]]
    np.testing.assert_allclose(scores[0, :3], [0.5, -0.3, -0.5])


def test_collaborative_filtering_is_the_reconstruction_of_a_truncated_svd(dataset, heard):
    found, scores = SVD().fit(dataset).rank(EVERYBODY, 30)
    matrix = matrix_of(heard, N_GRAPH_SONGS)
    svd = TruncatedSVD(64, random_state=0)
    assert_best(found, scores, svd.fit_transform(matrix) @ svd.components_, 30)


def test_collaborative_filtering_with_few_users_equals_the_exact_decomposition():
    heard = [{0, 1, 2}, {0, 1}, {3, 4}, {3, 4, 5}, {0, 5}]
    found, scores = SVD().fit(dataset_of(heard, 6)).rank(np.arange(5), 6)
    left, singular, right = np.linalg.svd(matrix_of(heard, 6))
    assert_best(found, scores, left[:, :4] * singular[:4] @ right[:4], 6)


@pytest.mark.parametrize("power", [0.3, 0.5])
def test_a_degree_normalised_svd_reconstructs_the_matrix_of_ones_divided_and_multiplied_by_degrees(
    dataset, heard, power
):
    found, scores = SVD(40, power).fit(dataset).rank(EVERYBODY, 30)
    matrix = matrix_of(heard, N_GRAPH_SONGS)
    scale = np.outer(matrix.sum(axis=1).clip(1), matrix.sum(axis=0).clip(1)) ** power
    svd = TruncatedSVD(40, random_state=0)
    assert_best(found, scores, svd.fit_transform(matrix / scale) @ svd.components_ * scale, 30)


def test_an_svd_of_logarithms_reconstructs_those_of_one_more_than_the_numbers_of_events():
    heard = [{0: (1, 5), 1: (9, 5), 2: (3, 5)}, {0: (4, 5), 1: (1, 5)}, {3: (2, 5), 4: (7, 5)}, {3: (1, 5), 0: (30, 5)}]
    found, scores = SVD(3, logarithms=True).fit(dataset_of(heard, 5)).rank(np.arange(4), 5)
    matrix = np.array([[np.log1p(songs.get(song, (0,))[0]) for song in range(5)] for songs in heard])
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    assert_best(found, scores, left[:, :3] * singular[:3] @ right[:3], 5)


def test_logarithms_of_counts_are_tried_where_counts_differ(dataset):
    assert not any(setting["logarithms"] for setting in baselines.svd_grid(dataset))
    differing = dataset_of([{0: (1, 5), 1: (2, 5)}], 2)
    assert baselines.svd_grid(differing) == baselines.SVD_GRID


def test_large_worlds_try_no_more_factors_than_the_default(dataset, monkeypatch):
    assert {setting["factors"] for setting in baselines.svd_grid(dataset)} == {32, 64, 128, 256}
    monkeypatch.setattr(memory, "VECTORS", 130 * (N_USERS + N_GRAPH_SONGS))
    assert {setting["factors"] for setting in baselines.svd_grid(dataset)} == {32, 64, 128}
    monkeypatch.setattr(memory, "VECTORS", 1)
    assert {setting["factors"] for setting in baselines.svd_grid(dataset)} == {32, 64}
    assert baselines.svd_grid(dataset)[0] == {"factors": 64, "power": 0.0, "logarithms": False}


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # no variance to explain
@pytest.mark.parametrize(("n_users", "n_songs"), [(1, 5), (5, 1), (2, 2)])
def test_collaborative_filtering_works_for_the_smallest_worlds(n_users, n_songs):
    model = SVD().fit(dataset_of([set(range(n_songs))] * n_users, n_songs))
    found, _ = model.rank(np.arange(n_users), n_songs)
    assert [sorted(row) for row in found.tolist()] == [list(range(n_songs))] * n_users


def test_collaborative_filtering_knows_no_cold_songs_and_leaves_their_places_empty(dataset):
    found, _ = SVD().fit(dataset).rank(EVERYBODY[:3], N_SONGS)
    assert found.shape == (3, N_SONGS)
    assert [sorted(row) for row in found[:, :N_GRAPH_SONGS].tolist()] == [list(range(N_GRAPH_SONGS))] * 3
    assert (found[:, N_GRAPH_SONGS:] == -1).all()


@pytest.mark.parametrize("method", [Popular, Random, SVD, ContentBased])
def test_no_recommender_discovers_what_was_heard(method, dataset, heard):
    lists = songs_of(recommendations(method().fit(dataset)))
    n_known = N_GRAPH_SONGS if method is SVD else N_SONGS
    for user in range(N_USERS):
        assert len(lists["all", user]) == 100
        found = lists.get(("discovery", user), [])
        assert not heard[user] & set(found)
        assert len(found) == min(100, n_known - len(heard[user]))


def ranked(table):
    """The lists by view and user: songs, and their scores, by rank."""
    columns = [table[name].to_numpy(zero_copy_only=False) for name in ("view", "user_id", "rank", "song_id", "score")]
    lists = {}
    for view, user, _, song, score in sorted(zip(*columns, strict=True), key=lambda row: row[2]):
        songs, scores = lists.setdefault((view, user), ([], []))
        songs.append(song)
        scores.append(score)
    return {key: (np.array(songs), np.array(scores)) for key, (songs, scores) in lists.items()}


@pytest.mark.parametrize("method", [Popular, Random, SVD, ContentBased])
def test_a_users_songs_do_not_depend_on_who_is_served_with_them(method, audio, monkeypatch):
    rng = np.random.default_rng(4)  # histories of no structure, so that hardly two songs score alike
    heard = [
        {int(song): (int(rng.integers(1, 10_000)), 0) for song in rng.permutation(N_GRAPH_SONGS)[: rng.integers(5, 60)]}
        for _ in range(N_USERS)
    ]
    model = method().fit(dataset_of(heard, N_SONGS, N_GRAPH_SONGS, **with_audio(audio)))
    wanted = ranked(recommendations(model))
    monkeypatch.setattr(recommender, "USERS_AT_ONCE", 5)
    found = ranked(recommendations(model))
    assert found.keys() == wanted.keys()
    n_told_apart = 0
    for key, (songs, scores) in wanted.items():
        np.testing.assert_allclose(found[key][1], scores, atol=ROUNDING)
        # Products of another shape round otherwise: songs closer than that may change places, beyond the last too.
        apart = -np.diff(scores, prepend=np.inf, append=scores[-1]) > 2 * ROUNDING
        alone = apart[:-1] & apart[1:]
        assert found[key][0][alone].tolist() == songs[alone].tolist(), key
        n_told_apart += alone.sum()
    assert n_told_apart > 0.5 * sum(len(songs) for songs, _ in wanted.values())


def test_an_svd_is_estimated_with_the_numbers_that_it_computes_with():
    assert (memory.OVERSAMPLED, memory.SQUARED) == (svd.OVERSAMPLING, svd.ROWS_AT_ONCE)


def test_only_a_step_that_recommends_is_estimated_with_lists_of_all_users():
    n_users = 1_000_000
    of_lists = memory.estimate(n_users, 1, 0)["ranking"] - memory.LEAN
    assert of_lists == n_users * 2 * 100 * (8 + 4 + 4 + 4)  # songs as int64 and as int32, scores twice
    without = memory.of_vectors(64, of_users=0, of_songs=0)
    assert memory.estimate(n_users, 1, 0, needs=without)["ranking"] < 2 * memory.LIBRARY
