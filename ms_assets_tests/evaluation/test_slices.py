"""Slices and exposure against slow computations, and by hand."""

import duckdb
import numpy as np
import pytest

from ms_assets.evaluation import exposure, memory, passes, slices
from ms_assets.evaluation.metrics import Lists, Songs
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.vectors import Ragged
from ms_assets_tests import slow_metrics
from ms_assets_tests.evaluation.judged import random_world


def songs(*n_plays):
    nobody = Ragged(np.empty(0, np.int64), np.zeros(len(n_plays) + 1, np.int64))
    return Songs.of(np.array(n_plays), np.array(n_plays) == 0, nobody)


@pytest.mark.parametrize("view", ["all", "discovery"])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_a_slice_are_those_of_its_targets_alone(seed, view):
    world, rng = random_world(seed), np.random.default_rng(seed)
    truth, k = world.truth(view), len(world.lists[view][0])
    flags = {("any", name): rng.random(len(truth.test)) < share for name, share in (("few", 0.2), ("many", 0.7))}
    found = slices.metrics_of(Lists(np.array(world.lists[view]), slices.cut(truth, flags), world.songs), k)
    assert found.shape == (len(truth.tested), 2, len(slices.METRICS))
    for part, inside in enumerate(flags.values()):
        kept = {tuple(pair) for pair in np.stack([truth.test.user, truth.test.song], axis=1)[inside].tolist()}
        for row, user in enumerate(truth.tested.tolist()):
            shown, excluded = world.lists[view][user], world.heard[user] if view == "discovery" else set()
            worth = {
                met["song_id"]: met["adjusted_relevance"]
                for met in world.rows
                if met["split"] == "test" and met["user_id"] == user and met["song_id"] not in excluded
                if (user, met["song_id"]) in kept
            }
            targets = {song for song, value in worth.items() if value > 0}
            wanted = (
                slow_metrics.ndcg(shown, worth),
                slow_metrics.recall(shown, targets),
                slow_metrics.hit(shown, targets),
            )
            np.testing.assert_allclose(found[row, part], np.array(wanted, float), atol=1e-12)


def test_the_head_is_the_fewest_songs_with_half_of_the_plays():
    assert slices.head(songs(1, 6, 3, 0, 2)).tolist() == [False, True, False, False, False]
    assert slices.head(songs(1, 5, 3, 0, 2)).tolist() == [False, True, True, False, False]
    assert slices.head(songs(0, 0)).tolist() == [False, False]


def test_quarters_of_history_length_share_the_users_and_keep_ties_together():
    found = slices.quarters(np.array([5, 1, 2, 7, 3, 4, 8, 6]), np.arange(8))
    assert next(iter(found)) == ("history length", "quarter 1: 1 to 2 events")
    assert [flags[[1, 1, 2, 4, 6]].tolist() for flags in found.values()] == [
        [True, True, True, False, False],
        [False, False, False, True, False],
        [False] * 5,
        [False, False, False, False, True],
    ]
    alike = slices.quarters(np.full(9, 4), np.arange(9))
    names = ("quarter 1: 4 to 4 events", *(f"quarter {n}: nobody" for n in (2, 3, 4)))
    assert tuple(name for _, name in alike) == names


def test_users_without_a_test_part_bound_no_quarter():
    found = slices.quarters(np.array([5, 100, 1, 2, 7, 0, 3, 4, 8, 6]), np.array([0, 2, 3, 4, 6, 7, 8, 9]))
    assert next(iter(found)) == ("history length", "quarter 1: 1 to 2 events")
    assert [*found][3] == ("history length", "quarter 4: 7 to 8 events")


@pytest.mark.parametrize("seed", range(5))
def test_gini_equals_the_mean_difference_of_all_pairs(seed):
    amounts = np.random.default_rng(seed).integers(0, 9, 30)
    assert exposure.gini(amounts) == pytest.approx(slow_metrics.gini(amounts.tolist()))


def test_gini_is_0_when_all_are_alike_and_nearly_1_when_one_has_everything():
    assert exposure.gini(np.array([3, 3, 3, 3])) == 0
    assert exposure.gini(np.array([0, 0, 0, 8])) == 1 - 1 / 4


def test_coverage_counts_each_song_once_and_never_exceeds_1():
    times = exposure.times_shown(np.array([[3, 1, -1], [1, 0, 3], [-1, -1, -1]]), 6)
    assert times.tolist() == [1, 2, 0, 2, 0, 0]
    head, cold = np.array([True, False, False, False, False, False]), np.array([False] * 3 + [True] * 3)
    found = exposure.exposure(times, head, cold)
    assert found["coverage"] == 3 / 6
    assert (found["head_share"], found["tail_share"], found["cold_share"]) == (1 / 5, 2 / 5, 2 / 5)
    assert exposure.exposure(np.ones(6, int), head, cold)["coverage"] == 1


def test_lists_without_any_song_cover_nothing_and_have_no_shares():
    found = exposure.exposure(np.zeros(3, int), np.ones(3, bool), np.zeros(3, bool))
    assert found == {"coverage": 0, "exposure_gini": None, "head_share": None, "tail_share": None, "cold_share": None}


@pytest.mark.parametrize(
    ("begin", "of_songs"),
    [  # 190, 10, 160, 140 and 190 bytes each
        (lambda users, songs, train, truth: next(passes.user_metrics({}, users, songs, train, truth, [10])), "91 MiB"),
        (
            lambda users, songs, train, truth: next(passes.official_user_metrics({}, users, songs, train, truth, [10])),
            "5 MiB",
        ),
        (lambda users, songs, train, truth: passes.slices({}, users, songs, train, truth, truth, [10]), "76 MiB"),
        (lambda users, songs, train, truth: passes.recall_curve({}, users, songs, train, truth, 10), "67 MiB"),
        (lambda users, songs, train, truth: passes.exposure({}, users, songs, train, False, [10]), "91 MiB"),
    ],
)
def test_a_pass_over_more_than_memory_holds_is_refused_before_it_reads(begin, of_songs, monkeypatch):
    monkeypatch.setattr(passes, "free_memory", lambda: 80 << 20)
    with duckdb.connect() as connection:
        tables = [connection.sql(f"SELECT 'test' AS split FROM range({n})") for n in (3, 500_000, 9, 4)]
        with pytest.raises(NotEnoughMemoryError, match=r"3 users among 500,000 songs needs .*min_events") as refusal:
            begin(*tables)
    assert f"songs {of_songs}" in str(refusal.value)


def test_a_pass_needs_memory_for_a_block_of_users_for_all_songs_and_for_a_resample_of_every_user():
    parts = memory.estimate("slices", 20_480, 1_000, n_events=1_000_000, n_tested=500_000, n_methods=4)
    assert parts == {
        "songs": 160_000,
        "histories of some users": 2_000_000,  # a tenth of the users is a block
        "test part of some users": 4_000_000,
        "lists of some users": 2_048 * 100 * 160,
        # 20,480 users; sums and numbers of users in 168 columns, of each method.
        "resamples and sums": 1_001 * 20_480 + 4 * 1_001 * 16 * 168,
        "tables in flight and library": (56 + 32) << 20,
    }
