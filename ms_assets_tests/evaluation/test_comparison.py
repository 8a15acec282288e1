"""Two models on the same users, against a plain loop over users."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ms_assets.evaluation import comparison
from ms_assets.evaluation.comparison import Holdout, compare
from ms_assets_tests import planted
from ms_assets_tests.planted import HEARD, ITEM_ID, UID, WANTED, model, part

ONE, OTHER = model(0.4, seed=1), model(0.9, seed=2)


def slow_ndcg(known, users, songs, trained, targets):
    """NDCG@10 of each user among these songs; trained: sets of (uid, item_id), targets: relevance by (uid, item_id)."""
    found = {}
    rows, columns = known.uid.tolist(), known.item_id.tolist()
    for uid in users:
        scores = known.songs @ known.users[rows.index(uid)]
        free = [item for item in songs if (uid, item) not in trained]
        best = sorted(free, key=lambda item: -scores[columns.index(item)])[:10]
        gains = [targets.get((uid, item), 0.0) for item in best]
        ideal = sorted((targets.get((uid, item), 0.0) for item in free), reverse=True)[:10]
        discounts = 1 / np.log2(np.arange(2, 12))
        if sum(ideal):
            found[uid] = np.dot(gains, discounts[: len(gains)]) / np.dot(ideal, discounts[: len(ideal)])
    return found


def slow_comparison(one, other, holdout):
    users = sorted(set(one.uid.tolist()) & set(other.uid.tolist()))
    songs = sorted(set(one.item_id.tolist()) & set(other.item_id.tolist()))
    trained = set(holdout.heard.rows())
    for known in (one, other):
        values, row = known.heard.take(np.arange(len(known.uid)))
        trained |= set(zip(known.uid[row].tolist(), known.item_id[values].tolist(), strict=True))
    targets = {(uid, item): worth for uid, item, worth in holdout.targets.rows()}
    return [slow_ndcg(known, users, songs, trained, targets) for known in (one, other)]


CASES = {
    "the same ids": (ONE, OTHER),
    "ids in another order": (part(ONE, np.s_[::-1], np.s_[::-1]), OTHER),
    "some users and songs": (part(ONE, np.s_[5:], np.s_[::2]), part(OTHER, np.s_[:50], np.s_[20:])),
}


@pytest.mark.parametrize("case", CASES)
def test_the_means_are_those_of_a_loop_over_users(case):
    one, other = CASES[case]
    found = compare(one, other, planted.holdout())
    mine, yours = slow_comparison(one, other, planted.holdout())
    assert found.n_users == len(mine) > 20
    assert found.challenger_mean == pytest.approx(np.mean(list(mine.values())), abs=1e-6)
    assert found.champion_mean == pytest.approx(np.mean(list(yours.values())), abs=1e-6)
    assert found.difference == pytest.approx(found.challenger_mean - found.champion_mean)
    assert found.ci_low < found.difference < found.ci_high


def test_the_interval_is_of_differences_user_by_user():
    one, other = slow_comparison(ONE, OTHER, planted.holdout())
    found = compare(ONE, OTHER, planted.holdout())
    differences = np.array([one[uid] - other[uid] for uid in one])
    standard_error = differences.std(ddof=1) / len(differences) ** 0.5
    assert found.ci_high - found.ci_low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_swapping_the_models_swaps_the_sign():
    one, other = compare(ONE, OTHER, planted.holdout()), compare(OTHER, ONE, planted.holdout())
    assert (other.difference, other.ci_low, other.ci_high) == pytest.approx(
        (-one.difference, -one.ci_high, -one.ci_low)
    )


def test_what_the_champion_has_trained_on_is_no_target_so_that_seeing_the_test_part_gains_nothing():
    cheat = replace(OTHER, heard=planted.heard(np.concatenate([HEARD, WANTED[:, :4]], axis=1)))
    found = compare(ONE, cheat, planted.holdout())
    rest = planted.holdout()
    later = Holdout(
        rest.targets.filter(pl.int_range(pl.len()).over("uid") >= 4),
        pl.concat([rest.heard, planted.pairs(WANTED[:, :4])]),
    )
    assert found == compare(ONE, OTHER, later)


def test_who_and_what_is_dropped_is_counted():
    found = compare(part(ONE, np.s_[:45]), part(OTHER, np.s_[10:], np.s_[:120]), planted.holdout())
    assert found.n_users + found.n_users_dropped == len(UID)
    assert found.users_known == 35 / 60
    assert (found.n_songs, found.n_songs_dropped) == (120, 80)
    assert found.targets_known == np.isin(WANTED[10:45], np.arange(120)).mean()


@pytest.mark.parametrize("n_users", [0, 1])
def test_with_fewer_than_two_users_there_is_no_interval(n_users):
    found = compare(ONE, part(OTHER, np.s_[:n_users]), planted.holdout())
    assert found.n_users == n_users
    assert np.isnan(found.ci_low) and np.isnan(found.ci_high)


def tables(table, uid, item_id):
    return {
        "users": table("user_id uid", *enumerate(uid)),
        "songs": table("song_id item_id", *enumerate(item_id)),
        "train": table("user_id song_id", (0, 1), (0, 1), (0, 2), (1, 0), (2, 2)),
        "ground_truth": table(
            "split user_id song_id adjusted_relevance",
            ("test", 0, 0, 0.5), ("test", 0, 1, 1.0), ("test", 1, 2, 0.0), ("test", 2, 0, 0.25),
            ("validation", 1, 1, 1.0),
        ),
    }  # fmt: skip


def test_the_holdout_is_what_users_newly_found_in_the_test_part_and_what_they_had_heard(table):
    found = Holdout.of(**tables(table, [10, 20, 30], [700, 800, 900]))
    assert sorted(found.targets.rows()) == [(10, 700, 0.5), (30, 700, 0.25)]
    assert sorted(found.heard.rows()) == [(10, 800), (10, 900), (30, 900)]


def test_of_too_many_users_some_are_drawn_with_all_that_is_theirs(table, monkeypatch):
    monkeypatch.setattr(comparison, "USERS_COMPARED", 1)
    found = Holdout.of(**tables(table, [10, 20, 30], [700, 800, 900]))
    [uid] = found.targets["uid"]
    assert set(found.heard["uid"]) == {uid}
    assert len(found.heard) == {10: 2, 30: 1}[uid]


def test_ids_are_yambdas_own():
    assert set(planted.holdout().targets["uid"]) == set(UID.tolist())
    assert set(planted.holdout().targets["item_id"]) <= set(ITEM_ID.tolist())
