"""Random ground truth, histories and lists, and every metric of them by a loop over users."""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl

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
