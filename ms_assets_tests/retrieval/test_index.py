"""The index: exact while small, inverted lists with a recall beyond, item ids throughout."""

from dataclasses import replace

import faiss
import numpy as np
import pytest
import torch

from ms_assets.interactions import Interactions
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.retrieval import exact
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval.index import (
    DEPTH,
    RECALL_AT,
    TARGET_RECALL,
    SongIndex,
    built,
    choose,
    fingerprint,
    gpu_of,
    recall_after,
    recall_at,
    searches_on_gpu,
)
from ms_assets.retrieval.lightgcn import LightGCN
from ms_assets.retrieval.recommender import ranked
from ms_assets_tests.training.graphs import unit_rows

N_SONGS, DIMENSIONS = 5_000, 16
NEARLY = 1e-3
"""Of songs whose scores differ by rounding alone, two ways to multiply may find the one or the other."""


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
    return build(*world, "ivf_flat")


def build(*vectors_ids_queries_and_kind):
    return SongIndex(*built(*vectors_ids_queries_and_kind))


def lightgcn(index, world):
    """Rank for the world's users by an index of songs under their item ids."""
    _, item_id, users = world
    return LightGCN().of_embeddings(None, index, item_id[: index.index.ntotal], users=users).rank


def nearest(world, k):
    """Item ids by exact search, the plain way."""
    songs, item_id, users = world
    return item_id[np.argsort(-(users @ songs.T), axis=1)[:, :k]]


def test_a_small_catalogue_is_searched_exactly(world):
    songs, item_id, users = world
    index = build(*world, "exact")
    assert (index.measured.recall_at_100, index.index.ntotal) == (1.0, N_SONGS)
    found, scores = index.search(users, 10)
    np.testing.assert_allclose(scores, -np.sort(-(users @ songs.T), axis=1)[:, :10], atol=1e-5)
    assert recall_at(index.index, users, nearest(world, 10)) == pytest.approx(1, abs=NEARLY)
    assert set(found.ravel().tolist()) <= set(item_id.tolist())


@pytest.mark.parametrize(
    ("n_songs", "n_queries", "singly", "kind"),
    [
        (100_000, 10**6, False, "exact"),
        (100_000, 10**6, True, "exact"),
        (934_057, 10_000, False, "ivf_flat"),
        (934_057, 1_600, False, "exact"),  # √934,057 + 640 ≈ 1,606 passes to build lists
        (934_057, 1_610, False, "ivf_flat"),
        (934_057, 10_000, True, "hnsw"),
        (9_390_623, 10**6, False, "ivf_sq8"),  # 4.8 GB at 128 dimensions
    ],
)
def test_the_kind_follows_from_the_catalogue_and_the_queries(n_songs, n_queries, singly, kind):
    assert choose(n_songs, 128, n_queries, singly) == kind


def test_exact_search_is_sorting_all_scores(world, monkeypatch):
    songs, _, users = world
    scores = -np.sort(-(users @ songs.T), axis=1)[:, :7]
    for at_once in (1 << 25, 20_000, 1):
        monkeypatch.setattr(exact, "AT_ONCE", at_once)
        found, rows = exact.search(users, songs, 7)
        np.testing.assert_allclose(found, scores, atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(users @ songs.T, rows, axis=1), scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["ivf_sq8", "hnsw"])
def test_every_kind_finds_what_exact_search_finds_under_item_ids(world, kind):
    index = build(*world, kind)
    assert index.index.ntotal == N_SONGS
    assert index.measured.recall_at_100 == pytest.approx(
        recall_at(index.index, world[2], nearest(world, RECALL_AT)), abs=NEARLY
    )
    assert index.measured.recall_at_100 >= TARGET_RECALL
    assert index.measured.effort > 1


def test_vectors_too_close_for_bytes_are_held_whole(world):
    songs, item_id, users = world
    close = (songs[:1] + 1e-3 * songs).astype(np.float32)
    close /= np.linalg.norm(close, axis=1, keepdims=True)
    with_outliers = np.concatenate([close[:-100], users[:100]])
    index = build(with_outliers, item_id, users, "ivf_sq8")
    assert index.measured.kind == "ivf_flat"
    assert index.measured.recall_at_100 >= TARGET_RECALL


def test_other_content_has_another_fingerprint(world):
    songs, item_id, _ = world
    assert fingerprint(songs, item_id) == fingerprint(songs.copy(), item_id.copy())
    assert len({fingerprint(songs), fingerprint(songs[::-1]), fingerprint(songs[:-1]), fingerprint(songs + 1e-6)}) == 4


def test_faiss_is_asked_to_search_on_a_gpu_only_for_what_it_can(world):
    assert searches_on_gpu(build(*world, "ivf_flat").index, 100)
    assert searches_on_gpu(build(*world, "exact").index, 2_048)
    assert not searches_on_gpu(build(*world, "exact").index, 2_049)
    assert not searches_on_gpu(build(*world, "hnsw").index, 100)
    wide = faiss.index_factory(4, "IVF1,Flat")
    wide.nprobe = 4_096
    assert not searches_on_gpu(wide, 100)


@pytest.mark.parametrize(
    ("device", "has_cuda", "n_of_faiss", "expected"),
    [
        ("auto", False, 2, None), ("auto", True, 2, 0), ("auto", True, 0, None), ("cpu", True, 2, None),
        ("cuda", True, 2, 0), ("cuda:1", True, 2, 1), ("cuda:1", True, 1, None), ("cuda:1", False, 0, None),
    ],
)  # fmt: skip
def test_faiss_takes_the_card_of_the_training_if_it_sees_it(monkeypatch, device, has_cuda, n_of_faiss, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: n_of_faiss)
    assert gpu_of(device) == expected


def test_lists_are_filled_and_searched_on_the_card_that_is_named(world, monkeypatch):
    taken = []

    def moved(resources, number, index):
        taken.append(number)
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", moved, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: index, raising=False)
    index = build(*world, "ivf_flat", 1)
    assert taken == [1]
    replace(index, gpu=1).search(world[2], 10)
    assert taken == [1, 1]
    index.search(world[2], 10)
    build(*world, "ivf_flat")
    assert taken == [1, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8"])
def test_an_index_built_on_a_gpu_is_one_of_the_cpu(world, kind):
    assert faiss.get_num_gpus() > 0
    index = build(*world, kind, 0)
    assert index.measured.recall_at_100 >= TARGET_RECALL
    found, _ = lightgcn(replace(index, gpu=0), world)(np.arange(300), 100)
    assert recall_at(index.index, world[2], world[1][found]) >= TARGET_RECALL


def test_inverted_lists_find_what_exact_search_finds(world, lists):
    wanted = nearest(world, RECALL_AT)
    _, found = lists.index.search(world[2], RECALL_AT)
    hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True))
    assert lists.index.ntotal == N_SONGS
    assert lists.measured.recall_at_100 >= TARGET_RECALL == 0.98
    assert hits / wanted.size == pytest.approx(lists.measured.recall_at_100, abs=NEARLY)
    assert 1 < lists.index.nprobe < 71


def test_an_index_keeps_its_probes_and_its_ids_in_its_file(lists, world, tmp_path):
    lists.save(tmp_path / "index.faiss")
    read = SongIndex.load(tmp_path / "index.faiss")
    assert read.index.nprobe == lists.index.nprobe
    for ours, theirs in zip(lists.search(world[2], 20), read.search(world[2], 20), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_building_again_gives_the_same_index(lists, world):
    again = build(*world, "ivf_flat")
    for attribute in ("effort", "recall_at_100"):
        assert getattr(again.measured, attribute) == getattr(lists.measured, attribute)
    np.testing.assert_array_equal(again.search(world[2], 20)[0], lists.search(world[2], 20)[0])


def test_recall_is_the_share_of_exact_results_found(world):
    index = build(*world, "exact").index
    half = np.where(np.arange(4) < 2, nearest(world, 4), -5)
    assert recall_at(index, world[2], half) == pytest.approx(0.5, abs=NEARLY)


@pytest.mark.parametrize("kind", ["exact", "ivf_flat", "ivf_sq8", "hnsw"])
def test_lightgcn_recommends_song_ids_not_item_ids(world, kind):
    songs, _, users = world
    chosen = np.array([7, 3, 200])
    found, scores = lightgcn(build(*world, kind), world)(chosen, 50)
    wanted = np.argsort(-(users[chosen] @ songs.T), axis=1)[:, :50]
    assert np.mean([len(np.intersect1d(a, b)) / 50 for a, b in zip(found, wanted, strict=True)]) > 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(users[chosen] @ songs.T, found, axis=1), atol=0.01)


def test_where_the_probed_lists_hold_too_few_songs_more_are_probed(world):
    index = SongIndex(faiss.clone_index(build(*world, "ivf_flat").index))
    index.index.nprobe = 1
    _, few = index.index.search(world[2], 1_000)
    assert (few == -1).any()
    found, _ = lightgcn(index, world)(np.arange(300), 1_000)
    assert all(len(set(row)) == 1_000 for row in found.tolist())
    assert found.min() >= 0
    everything, _ = lightgcn(index, world)(np.arange(3), N_SONGS)
    assert sorted(everything[0].tolist()) == list(range(N_SONGS))


@pytest.fixture(scope="module")
def uneven(world):
    """The world with songs of different lengths, as popular ones are longer."""
    songs, item_id, users = world
    lengths = np.exp(np.random.default_rng(3).normal(0, 0.5, len(songs))).astype(np.float32)
    return songs * lengths[:, None], item_id, users


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8", "hnsw"])
@pytest.mark.parametrize("n_heard", [50, 500, 1_500])
def test_who_has_heard_the_nearest_songs_is_recommended_the_next_ones_with_the_same_recall(uneven, kind, n_heard):
    songs, _, users = uneven
    nearest_songs = np.argsort(-(users @ songs.T), axis=1)[:, : n_heard + 100]
    heard = Interactions.of(np.repeat(np.arange(300), n_heard), nearest_songs[:, :n_heard].ravel(), 300, N_SONGS)
    found, _ = ranked(lightgcn(build(*uneven, kind), uneven), np.arange(300), heard, N_SONGS, 100)
    hits = [len(np.intersect1d(*pair)) / 100 for pair in zip(found[1], nearest_songs[:, n_heard:], strict=True)]
    assert np.mean(hits) >= TARGET_RECALL - NEARLY


def test_the_recall_deep_in_the_lists_is_measured(uneven):
    index = build(*uneven, "ivf_flat")
    assert index.measured.recall_after_500 == pytest.approx(
        recall_after(index.index, uneven[2], nearest(uneven, DEPTH)), abs=NEARLY
    )
    wrong = np.where(np.arange(DEPTH) < DEPTH - 50, nearest(uneven, DEPTH), -5)
    assert recall_after(index.index, uneven[2], wrong) == pytest.approx(0.5, abs=0.01)


def test_more_songs_are_found_for_a_query_whatever_others_come_with_it(uneven):
    index = build(*uneven, "ivf_flat")
    together = index.search(uneven[2][:20], 400)[0]
    alone = np.concatenate([index.search(query[None], 400)[0] for query in uneven[2][:20]])
    assert np.mean([len(np.intersect1d(*pair)) / 400 for pair in zip(together, alone, strict=True)]) > 1 - NEARLY


def test_what_the_index_does_not_find_never_becomes_a_song(world):
    songs, item_id, users = world
    index = build(songs[:50], item_id[:50], users, "exact")
    found, _ = lightgcn(index, world)(np.arange(2), 60)
    assert (found[:, 50:] == -1).all()
    assert sorted(found[0, :50].tolist()) == list(range(50))


def test_an_index_that_does_not_fit_is_refused_with_its_sizes(monkeypatch):
    monkeypatch.setattr(indexing, "free_memory", lambda: 1 << 30)
    indexing.refuse_without_room(1_000_000, 1_000, 64)
    with pytest.raises(NotEnoughMemoryError, match=r"song_index of 3,000,000 songs in 64 dimensions.*embedding_dim"):
        indexing.refuse_without_room(3_000_000, 1_000, 64)
    with pytest.raises(NotEnoughMemoryError, match="links 244 MiB"):  # 2 × 32 of 4 bytes a song
        indexing.refuse_without_room(1_000_000, 1_000, 64, singly=True)
