"""Metrics by hand, against a slow loop over users, against scikit-learn and against ranx."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from ms_assets import ranking
from ms_assets.ranking import Judgements
from ms_assets_tests import slow_metrics


def lists(*rows):
    return np.array(rows, np.int64)


def judgements(*relevances, n_songs=10):
    """One {song: relevance} for each user."""
    rows = [(user, song, worth) for user, row in enumerate(relevances) for song, worth in row.items()]
    user, song, worth = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Judgements.of(np.array(user, int), np.array(song, int), np.array(worth), len(relevances), n_songs)


def test_dcg_divides_a_gain_by_the_logarithm_of_its_rank():
    # log2(1 + 1) = 1, log2(3 + 1) = 2, log2(7 + 1) = 3
    gains = np.array([[1, 0, 0, 0, 0, 0, 0], [3, 0, 4, 0, 0, 0, 6], [0, 1, 0, 0, 0, 0, 0]], float)
    assert ranking.dcg(gains).tolist() == pytest.approx([1, 3 + 4 / 2 + 6 / 3, 1 / math.log2(3)])


def test_ndcg_of_one_target_falls_with_its_rank():
    judged = judgements({5: 0.8}, {5: 0.8}, {5: 0.8}, {5: 0.8})
    recommended = lists(
        [5, 1, 2, 3, 4, 6, 7], [1, 2, 5, 3, 4, 6, 7], [1, 2, 3, 4, 6, 7, 5], [0, 1, 2, 3, 4, 6, 7]
    )  # fmt: skip
    found = ranking.ndcg(judged.gains(recommended), ranking.dcg(judged.ideal(7)))
    assert found.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 0])


def test_the_ideal_ranking_is_cut_at_k():
    judged = judgements({1: 0.2, 4: 1.0, 7: 0.5}, {})
    assert judged.ideal(2).tolist() == [[1.0, 0.5], [0, 0]]
    assert judged.ideal(4).tolist() == [[1.0, 0.5, 0.2, 0], [0, 0, 0, 0]]
    found = ranking.ndcg(judged.gains(lists([7], [7])), ranking.dcg(judged.ideal(1)))
    assert found[0] == pytest.approx(0.5 / 1.0)
    assert np.isnan(found[1])


def test_recall_counts_targets_beyond_k_too():
    judged = judgements({0: 1, 1: 1, 2: 1, 3: 1}, {9: 1}, {})
    found = ranking.recall(judged.gains(lists([0, 8, 3], [0, 1, 2], [0, 1, 2])), judged.counts)
    assert found[:2].tolist() == [2 / 4, 0]
    assert np.isnan(found[2])


def test_a_hit_is_one_or_nothing():
    judged = judgements({0: 1, 1: 1}, {9: 1}, {})
    found = ranking.hit(judged.gains(lists([0, 1], [0, 1], [0, 1])), judged.counts)
    assert found[:2].tolist() == [1, 0]
    assert np.isnan(found[2])


def test_precision_counts_empty_places_and_the_reciprocal_rank_the_first_hit():
    judged = judgements({0: 1, 1: 1}, {9: 1}, {}, {5: 1})
    recommended = lists([8, 1, 0, -1], [0, 1, 2, 3], [0, 1, 2, 3], [-1, -1, -1, -1])
    gains = judged.gains(recommended)
    for metric, wanted in ((ranking.precision, [2 / 4, 0, 0]), (ranking.reciprocal_rank, [1 / 2, 0, 0])):
        found = metric(gains, judged.counts)
        assert found[[0, 1, 3]].tolist() == wanted
        assert np.isnan(found[2])


def test_auc_counts_pairs_and_halves_of_pairs():
    # Two targets, four other candidates, eight pairs. Song 1, second, stands above all but one: 3. Song 2 is not
    # ranked: it ties with the two others that are not, for half a pair each.
    judged = judgements({1: 1, 2: 1}, n_songs=6)
    recommended = lists([0, 1, 3])
    found = ranking.auc(judged.gains(recommended), judged.counts, recommended, np.array([6]))
    assert found.tolist() == [(3 + 1) / 8]


def test_auc_needs_a_target_and_another_candidate():
    judged = judgements({}, {0: 1, 1: 1}, n_songs=2)
    recommended = lists([0, 1], [0, 1])
    found = ranking.auc(judged.gains(recommended), judged.counts, recommended, np.array([2, 2]))
    assert np.isnan(found).all()


def test_novelty_is_a_share_of_what_is_shown():
    heard = judgements({0: 1, 1: 1}, {0: 1}, {})
    recommended = lists([0, 5, 6, -1], [-1, -1, -1, -1], [1, 2, 3, 4])
    found = ranking.novelty(heard.gains(recommended), recommended)
    assert found[[0, 2]].tolist() == [2 / 3, 1]
    assert np.isnan(found[1])


def test_an_empty_rank_is_no_song():
    # −1 of user 1 would be song 9 of user 0 if ids were not looked at.
    judged = judgements({9: 1.0}, {9: 1.0, 0: 1.0})
    assert judged.gains(lists([-1, 9], [-1, 0])).tolist() == [[0, 1], [0, 1]]


def test_judgements_are_refused_when_a_pair_comes_twice():
    with pytest.raises(ValueError, match="given twice"):
        Judgements.of(np.array([0, 1, 0]), np.array([3, 3, 3]), np.ones(3), 2, 10)


@pytest.mark.parametrize(("user", "song"), [(2, 0), (-1, 0), (0, 10), (0, -1)])
def test_judgements_are_refused_when_an_id_is_out_of_range(user, song):
    with pytest.raises(ValueError, match="expected users below 2 and songs below 10"):
        Judgements.of(np.array([0, user]), np.array([1, song]), np.ones(2), 2, 10)


def test_pairs_without_relevance_are_no_targets():
    judged = judgements({1: 0.0, 2: 0.5}, {1: 0.0})
    assert judged.counts.tolist() == [1, 0]
    assert judged.gains(lists([1, 2], [1, 2])).tolist() == [[0, 0.5], [0, 0]]


def test_what_others_hold_is_left_out():
    left = judgements({1: 0.1, 2: 0.2}, {1: 0.3}).without(judgements({2: 9}, {2: 9, 5: 9}))
    assert left.gains(lists([1, 2], [1, 2])).tolist() == [[0.1, 0], [0.3, 0]]
    assert left.counts.tolist() == [1, 1]


def test_without_any_judgement_nothing_is_defined():
    judged, recommended = judgements({}, {}), lists([1, 2], [-1, -1])
    assert judged.gains(recommended).tolist() == [[0, 0], [0, 0]]
    assert np.isnan(ranking.ndcg(judged.gains(recommended), ranking.dcg(judged.ideal(2)))).all()
    assert np.isnan(ranking.recall(judged.gains(recommended), judged.counts)).all()


@dataclass
class Case:
    """Random lists, relevances and histories of a few users, as arrays and as plain Python."""

    recommended: np.ndarray
    relevance: list[dict[int, float]]
    heard: list[set[int]]
    n_songs: int

    @classmethod
    def random(cls, seed, full=False):
        rng = np.random.default_rng(seed)
        n_users, n_songs = int(rng.integers(1, 30)), int(rng.integers(5, 40))
        k = int(rng.integers(1, n_songs if full else n_songs + 4))
        recommended = np.full((n_users, k), -1, np.int64)
        for row in recommended:
            shown = k if full else int(rng.integers(0, min(k, n_songs) + 1))
            row[:shown] = rng.choice(n_songs, shown, replace=False)
        return cls(recommended, [cls._worth(rng, n_songs) for _ in range(n_users)],
                   [set(rng.choice(n_songs, rng.integers(0, n_songs), replace=False).tolist())
                    for _ in range(n_users)], n_songs)  # fmt: skip

    @staticmethod
    def _worth(rng, n_songs):
        songs = rng.choice(n_songs, rng.integers(0, n_songs + 1), replace=False).tolist()
        return {song: float(rng.choice([0, 0.25, 0.7, 1, rng.random()])) for song in songs}

    @property
    def targets(self):
        return [{song for song, worth in row.items() if worth > 0} for row in self.relevance]

    def fast(self):
        judged = judgements(*self.relevance, n_songs=self.n_songs)
        history = judgements(*(dict.fromkeys(songs, 1.0) for songs in self.heard), n_songs=self.n_songs)
        gains, n_candidates = judged.gains(self.recommended), np.full(len(self.heard), self.n_songs)
        return {
            "ndcg": ranking.ndcg(gains, ranking.dcg(judged.ideal(self.recommended.shape[1]))),
            "recall": ranking.recall(gains, judged.counts),
            "precision": ranking.precision(gains, judged.counts),
            "mrr": ranking.reciprocal_rank(gains, judged.counts),
            "hit": ranking.hit(gains, judged.counts),
            "auc": ranking.auc(gains, judged.counts, self.recommended, n_candidates),
            "novelty": ranking.novelty(history.gains(self.recommended), self.recommended),
        }

    def slow(self):
        everything = set(range(self.n_songs))
        rows = list(zip(self.recommended.tolist(), self.relevance, self.targets, self.heard, strict=True))
        found = {
            "ndcg": [slow_metrics.ndcg(shown, worth) for shown, worth, _, _ in rows],
            "recall": [slow_metrics.recall(shown, targets) for shown, _, targets, _ in rows],
            "precision": [slow_metrics.precision(shown, targets) for shown, _, targets, _ in rows],
            "mrr": [slow_metrics.reciprocal_rank(shown, targets) for shown, _, targets, _ in rows],
            "hit": [slow_metrics.hit(shown, targets) for shown, _, targets, _ in rows],
            "auc": [slow_metrics.auc(shown, targets, everything) for shown, _, targets, _ in rows],
            "novelty": [slow_metrics.novelty(shown, heard) for shown, _, _, heard in rows],
        }
        return {name: np.array(values, float) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(40))
def test_every_metric_equals_a_loop_over_users(seed):
    case = Case.random(seed)
    slow = case.slow()
    for name, values in case.fast().items():
        np.testing.assert_allclose(values, slow[name], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_users_changes_nothing(seed):
    case = Case.random(seed)
    order = np.random.default_rng(seed).permutation(len(case.heard))
    shuffled = Case(
        case.recommended[order], [case.relevance[u] for u in order], [case.heard[u] for u in order], case.n_songs
    )
    found = case.fast()
    for name, values in shuffled.fast().items():
        np.testing.assert_allclose(values, found[name][order], rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_judgements_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    keys = rng.choice(200, 60, replace=False)
    user, song, worth = keys // 20, keys % 20, rng.random(60)
    order = rng.permutation(60)
    one = Judgements.of(user, song, worth, 10, 20)
    other = Judgements.of(user[order], song[order], worth[order], 10, 20)
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.relevance, other.relevance)


def scores_of(recommended, n_songs):
    """k for the first song of a list, 1 for the last, 0 for all that are not in it."""
    scores = np.zeros((len(recommended), n_songs))
    for row, songs in zip(scores, recommended, strict=True):
        for place, song in enumerate(songs):
            if song >= 0:
                row[song] = len(songs) - place
    return scores


@pytest.mark.parametrize("seed", range(10))
def test_auc_equals_scikit_learn_with_unranked_songs_tied_for_last(seed):
    case = Case.random(seed)
    found, scores = case.fast()["auc"], scores_of(case.recommended, case.n_songs)
    for user, targets in enumerate(case.targets):
        if 0 < len(targets) < case.n_songs:
            truth = [song in targets for song in range(case.n_songs)]
            assert found[user] == pytest.approx(roc_auc_score(truth, scores[user]))


@pytest.mark.parametrize("seed", range(10))
def test_ndcg_of_full_lists_equals_scikit_learn(seed):
    case = Case.random(seed, full=True)
    found, scores = case.fast()["ndcg"], scores_of(case.recommended, case.n_songs)
    for user, targets in enumerate(case.targets):
        if targets:
            truth = [[case.relevance[user].get(song, 0) for song in range(case.n_songs)]]
            k = case.recommended.shape[1]
            assert found[user] == pytest.approx(ndcg_score(truth, scores[[user]], k=k, ignore_ties=True))


IN_RANX = {"ndcg": "ndcg", "recall": "recall", "precision": "precision", "mrr": "mrr", "hit": "hit_rate"}
RANX = """
import json, sys, ranx
for line in sys.stdin:
    wanted, shown, metrics = json.loads(line)
    qrels = ranx.Qrels(wanted)
    found = ranx.evaluate(qrels, ranx.Run(shown), metrics, return_mean=False)
    print(json.dumps([list(qrels.keys()), {name: values.tolist() for name, values in found.items()}]))
"""


def test_every_metric_that_ranx_has_equals_its():
    questions, cases = [], [Case.random(seed, full=True) for seed in range(10)]
    for case in cases:
        case.relevance = [{song: round(4 * worth) for song, worth in row.items()} for row in case.relevance]
        users, k = [user for user, targets in enumerate(case.targets) if targets], case.recommended.shape[1]
        wanted = {u: {str(s): w for s, w in case.relevance[u].items() if w > 0} for u in users}
        shown = {u: {str(s): float(k - place) for place, s in enumerate(case.recommended[u])} for u in users}
        questions.append(json.dumps([wanted, shown, [f"{name}@{k}" for name in IN_RANX.values()]]))
    # In a process that does not compile: that would take longer than all tests here together.
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    answers = subprocess.run(
        [sys.executable, "-c", RANX],
        input="\n".join(questions),
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    for case, answer in zip(cases, answers, strict=True):
        (users, theirs), found, k = json.loads(answer), case.fast(), case.recommended.shape[1]
        for ours, name in IN_RANX.items():
            values = theirs[f"{name}@{k}"]
            np.testing.assert_allclose(found[ours][[int(u) for u in users]], values, atol=1e-9, err_msg=ours)
