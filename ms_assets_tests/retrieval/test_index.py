"""The index: exact while small, inverted lists with a recall beyond, item ids throughout."""

import faiss
import numpy as np
import pytest

from ms_assets.retrieval.index import RECALL_AT, TARGET_RECALL, build, recall_at
from ms_assets.retrieval.recommenders import from_index
from ms_assets_tests.training.graphs import unit_rows

N_SONGS, DIMENSIONS = 5_000, 16


def clustered(rng, n):
    centres = unit_rows(np.random.default_rng(0), 40, DIMENSIONS)
    vectors = centres[rng.integers(40, size=n)] + 0.25 * unit_rows(rng, n, DIMENSIONS)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Songs, their item ids (large, in no order), and users."""
    rng = np.random.default_rng(1)
    item_id = rng.permutation(2**32 - 1 - 3 * np.arange(N_SONGS))
    return clustered(rng, N_SONGS), item_id, clustered(rng, 300)


@pytest.fixture(scope="module")
def lists(world):
    return build(*world, exact_up_to=1_000)


def nearest(world, k):
    """Item ids by exact search, the plain way."""
    songs, item_id, users = world
    return item_id[np.argsort(-(users @ songs.T), axis=1)[:, :k]]


def test_a_small_catalogue_is_searched_exactly(world):
    songs, item_id, users = world
    built = build(*world)
    assert (built.kind, built.recall, built.index.ntotal) == ("Flat", 1.0, N_SONGS)
    scores, found = built.index.search(users, 10)
    np.testing.assert_allclose(scores, -np.sort(-(users @ songs.T), axis=1)[:, :10], atol=1e-5)
    assert recall_at(built.index, users, nearest(world, 10)) == 1.0
    assert set(found.ravel().tolist()) <= set(item_id.tolist())


def test_the_limit_of_exact_search_is_inclusive(world):
    assert build(*world, exact_up_to=N_SONGS).kind == "Flat"
    assert build(*world, exact_up_to=N_SONGS - 1).kind.startswith("IVF71,Flat nprobe=")  # √5000 ≈ 71


def test_inverted_lists_find_what_exact_search_finds(world, lists):
    exact = nearest(world, RECALL_AT)
    _, found = lists.index.search(world[2], RECALL_AT)
    hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True))
    assert lists.index.ntotal == N_SONGS
    assert lists.recall >= TARGET_RECALL == 0.98
    assert hits / exact.size == pytest.approx(lists.recall)
    assert 1 < lists.index.nprobe < 71


def test_an_index_keeps_its_probes_and_its_ids_in_its_file(lists, world, tmp_path):
    file = str(tmp_path / "index.faiss")
    faiss.write_index(lists.index, file)
    read = faiss.read_index(file)
    assert read.nprobe == lists.index.nprobe
    for ours, theirs in zip(lists.index.search(world[2], 20), read.search(world[2], 20), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_building_again_gives_the_same_index(lists, world):
    again = build(*world, exact_up_to=1_000)
    assert (again.kind, again.recall) == (lists.kind, lists.recall)
    np.testing.assert_array_equal(again.index.search(world[2], 20)[1], lists.index.search(world[2], 20)[1])


def test_recall_is_the_share_of_exact_results_found(world):
    index = build(*world).index
    exact = nearest(world, 4)
    half = np.where(np.arange(4) < 2, exact, -5)
    assert recall_at(index, world[2], half) == 0.5


@pytest.mark.parametrize("exact_up_to", [1_000, N_SONGS])
def test_lightgcn_recommends_song_ids_not_item_ids(world, exact_up_to):
    songs, item_id, users = world
    index = build(*world, exact_up_to=exact_up_to).index
    chosen = np.array([7, 3, 200])
    found, scores = from_index(index, users, item_id)(chosen, 50)
    wanted = np.argsort(-(users[chosen] @ songs.T), axis=1)[:, :50]
    assert np.mean([len(np.intersect1d(a, b)) / 50 for a, b in zip(found, wanted, strict=True)]) > 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(users[chosen] @ songs.T, found, axis=1), atol=1e-5)


def test_where_the_probed_lists_hold_too_few_songs_the_rest_is_no_song(world):
    _, item_id, users = world
    index = faiss.clone_index(build(*world, exact_up_to=1_000).index)
    index.nprobe = 1
    found, _ = from_index(index, users, item_id)(np.arange(300), 1_000)
    assert (found == -1).any()
    for row in found:
        shown = row[row >= 0]
        assert len(set(shown.tolist())) == len(shown) > 0
