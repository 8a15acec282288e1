"""Every metric of every user against a loop written from the metrics' descriptions, in both views."""

import numpy as np
import pytest

from ms_assets.evaluation import metrics
from ms_assets_tests.evaluation.judged import World, random_world


@pytest.mark.parametrize("view", ["all", "discovery"])
@pytest.mark.parametrize("seed", range(15))
def test_every_metric_equals_a_loop_over_users(seed, view):
    world = random_world(seed)
    for k in {1, len(world.lists[view][0]) // 2 + 1, len(world.lists[view][0])}:
        found, wanted = world.found(view, k).to_dicts(), world.wanted(view, k)
        assert len(found) == len(wanted) > 5
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_ground_truth_changes_nothing(seed):
    world = random_world(seed)
    found = world.found("all")
    world.rows = world.rows[::-1]
    assert world.found("all").equals(found)


def test_there_is_a_column_for_each_metric_described():
    assert random_world(0).found("all").columns == ["uid", *metrics.METRICS]


def by_hand(**row):
    """User 0 heard song 1, and met songs 1 and 3 in the test part, and song 2 in the validation part."""
    rest = {"base_relevance": 0.7, "adjusted_relevance": 0.7, "listen_plus": 1, "likes": 0, "dislikes": 0}
    met = [("test", 1), ("test", 3), ("validation", 2)]
    rows = [{"split": split, "user_id": 0, "song_id": song, "n_events": 1, **rest, **row} for split, song in met]
    lists = {"all": [[1, 2], [0, 1]], "discovery": [[2, 3], [0, 1]]}
    return World(rows, [{1}, set()], lists, [2, 4, 0, 1, 1], [[0], [1], [1, 2], [], [3]])


def test_by_hand_in_the_view_all():
    [row] = by_hand().found("all").to_dicts()
    assert row["uid"] == 2
    assert row["recall"] == 1 / 2
    assert row["novelty"] == 1 / 2
    assert row["hit_like_or_listen"] == 1
    # Song 1 beats songs 0, 2, 4; song 3 ties with songs 0 and 4 and loses to song 2.
    assert row["auc"] == (3 + 2 / 2) / 6
    assert row["hit_like"] is row["ndcg_like"] is row["dislike_fpr"] is None
    assert (row["precision"], row["mrr"], row["hit"]) == (1 / 2, 1, 1)
    # Song 2, which nobody has played and whose artist song 1 has too, stands beside the only song heard.
    assert (row["replay_share"], row["cold_share"], row["artist_diversity"]) == (1 / 2, 1 / 2, 1 / 2)
    assert row["popularity_lift"] == (4 + 0) / 2 / 4 - 1


def test_by_hand_in_the_view_discovery():
    [row] = by_hand().found("discovery").to_dicts()
    assert row["recall"] == 1
    assert row["novelty"] == 1
    # Candidates are songs 0, 2, 3, 4: song 3 beats songs 0 and 4, and loses to song 2.
    assert row["auc"] == 2 / 3


def test_dislikes_count_against_the_disliked_songs_alone():
    [row] = by_hand(base_relevance=0.0, adjusted_relevance=0.0, listen_plus=0, dislikes=1).found("all").to_dicts()
    assert row["dislike_fpr"] == 1 / 2
    assert row["ndcg"] is row["recall"] is row["auc"] is row["hit_like_or_listen"] is None


def test_heard_songs_are_no_targets_of_discovery():
    world = by_hand()
    assert world.truth("all").test.n_positive("base_relevance").tolist() == [2, 0]
    fresh = world.truth("discovery")
    assert fresh.test.n_positive("base_relevance").tolist() == [1, 0]
    assert fresh.n_candidates.tolist() == [4, 5]
    assert fresh.tested.tolist() == [0]


def test_users_with_nothing_left_to_discover_stay_with_nulls():
    world = by_hand()
    world.heard[0] = {1, 3}
    [row] = world.found("discovery").to_dicts()
    assert row["ndcg"] is row["recall"] is row["auc"] is None
    assert row["novelty"] == 1 / 2  # the list shows song 3 all the same


def test_without_test_events_there_are_no_rows():
    world = by_hand()
    world.rows = [row for row in world.rows if row["split"] == "validation"]
    assert world.found("all").is_empty()


def test_a_pair_that_the_ground_truth_has_twice_is_refused():
    world = by_hand()
    world.rows += world.rows[:1]
    with pytest.raises(ValueError, match="given twice"):
        world.found("all")


def test_a_song_by_several_artists_is_new_when_none_of_them_stands_above():
    world = by_hand()
    world.artists = [[0, 1], [1, 2], [3], [2, 3], []]
    lists = metrics.Lists(np.array([[0, 1, 2, 3], [4, 3, 2, -1]]), world.truth("all"), world.songs)
    assert lists.new_artists.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
    ]
