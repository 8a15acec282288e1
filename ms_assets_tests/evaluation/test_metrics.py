"""Every metric of every user against a loop written from the metrics' descriptions, in both views."""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
import pytest

from ms_assets.evaluation import metrics
from ms_assets.evaluation.metrics import Lists, Songs
from ms_assets.evaluation.tables import Users
from ms_assets.vectors import Ragged
from ms_assets_tests import slow_metrics

COUNTS = ("listen_plus", "likes", "dislikes", "n_events")
SCHEMA = {
    "split": pl.String,
    "user_id": pl.Int32,
    "song_id": pl.Int32,
    "base_relevance": pl.Float64,
    "adjusted_relevance": pl.Float64,
    **dict.fromkeys(COUNTS, pl.Int64),
}


@dataclass
class World:
    """Rows of the ground truth, what each user heard, the lists they were recommended by view, and the songs."""

    rows: list[dict]
    heard: list[set[int]]
    lists: dict[str, list[list[int]]]
    n_plays: list[int]
    artists: list[list[int]]

    @property
    def n_songs(self):
        return len(self.n_plays)

    @property
    def cold(self):
        return {song for song, n in enumerate(self.n_plays) if n == 0}

    @property
    def songs(self):
        offsets = np.cumsum([0, *map(len, self.artists)])
        artists = Ragged(np.array([artist for some in self.artists for artist in some], np.int64), offsets)
        return Songs.of(np.array(self.n_plays), np.array(self.n_plays) == 0, artists)

    @property
    def uid(self):
        return 7 * np.arange(len(self.heard)) + 2

    def truth(self, view, *relevances):
        heard = [(user, song) for user, songs in enumerate(self.heard) for song in songs]
        train = pl.DataFrame(heard, {"user_id": pl.Int32, "song_id": pl.Int32}, orient="row")
        with duckdb.connect() as con:
            ground_truth, train = (
                con.from_arrow(frame.to_arrow()) for frame in (pl.DataFrame(self.rows, SCHEMA), train)
            )
            truth = Users(0, self.uid).truth(ground_truth, train, self.songs, *relevances)
        return truth if view == "all" else truth.discovery()

    def found(self, view, k=None):
        matrix = np.array(self.lists[view], np.int64)
        return metrics.user_metrics(Lists(matrix, self.truth(view), self.songs), k or matrix.shape[1])

    def wanted(self, view, k=None):
        tested = sorted({row["user_id"] for row in self.rows if row["split"] == "test"})
        return [{"uid": int(self.uid[user]), **self._of_user(user, view, k)} for user in tested]

    def _of_user(self, user, view, k):
        shown, heard = self.lists[view][user][:k], self.heard[user]
        excluded = heard if view == "discovery" else set()
        rows = {
            row["song_id"]: row
            for row in self.rows
            if row["split"] == "test" and row["user_id"] == user and row["song_id"] not in excluded
        }

        def songs(worth):
            return {song for song, row in rows.items() if worth(row) > 0}

        def ndcg(column):
            return slow_metrics.ndcg(shown, {song: row[column] for song, row in rows.items()})

        relevant = songs(lambda row: row["base_relevance"])
        return {
            "ndcg": ndcg("adjusted_relevance"),
            "ndcg_base": ndcg("base_relevance"),
            "ndcg_listen_plus": ndcg("listen_plus"),
            "ndcg_like": ndcg("likes"),
            "recall": slow_metrics.recall(shown, relevant),
            "precision": slow_metrics.precision(shown, relevant),
            "mrr": slow_metrics.reciprocal_rank(shown, relevant),
            "hit": slow_metrics.hit(shown, relevant),
            "hit_like": slow_metrics.hit(shown, songs(lambda row: row["likes"])),
            "hit_like_or_listen": slow_metrics.hit(shown, songs(lambda row: row["likes"] + row["listen_plus"])),
            "auc": slow_metrics.auc(shown, relevant, set(range(self.n_songs)) - excluded),
            "dislike_fpr": slow_metrics.recall(shown, songs(lambda row: row["dislikes"])),
            "novelty": slow_metrics.novelty(shown, heard),
            "replay_share": slow_metrics.share(shown, heard),
            "popularity_lift": slow_metrics.popularity_lift(shown, heard, self.n_plays),
            "artist_diversity": slow_metrics.artist_diversity(shown, self.artists),
            "cold_share": slow_metrics.share(shown, self.cold),
        }


def random_world(seed):
    rng = np.random.default_rng(seed)
    n_users, n_songs = 25, int(rng.integers(8, 50))
    k = int(rng.integers(1, n_songs))
    heard = [set(rng.choice(n_songs, rng.integers(0, n_songs), replace=False).tolist()) for _ in range(n_users)]
    rows = []
    for user in range(n_users):
        for split in ("validation", "test"):
            met = rng.choice(n_songs, rng.choice([0, 1, 3, n_songs // 2]), replace=False).tolist()
            rows += [_row(rng, split, user, song) for song in met]
    lists = {"all": [_list(rng, n_songs, k, set()) for _ in range(n_users)]}
    lists["discovery"] = [_list(rng, n_songs, k, songs) for songs in heard]
    artists = [rng.choice(6, rng.choice([0, 1, 1, 3]), replace=False).tolist() for _ in range(n_songs)]
    return World(rows, heard, lists, rng.choice([0, 0, 1, 7, 500], n_songs).tolist(), artists)


def _row(rng, split, user, song):
    base = float(rng.choice([0, 0.35, 0.7, 1.4, 2.4]))
    counts = dict(zip(COUNTS, rng.integers(0, 3, len(COUNTS)).tolist(), strict=True))
    adjusted = min(base * float(rng.choice([1, 1.05])), 1)
    return {"split": split, "user_id": user, "song_id": song, "base_relevance": base,
            "adjusted_relevance": adjusted, **counts}  # fmt: skip


def _list(rng, n_songs, k, excluded):
    left = [song for song in rng.permutation(n_songs).tolist() if song not in excluded][:k]
    return left + [-1] * (k - len(left))


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
    assert world.songs.bring_new_artists(np.array([[0, 1, 2, 3], [4, 3, 2, -1]])).tolist() == [
        [True, False, True, False],
        [False, True, False, False],
    ]
