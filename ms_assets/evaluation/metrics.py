"""Every metric of one list of recommendations, per user."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.ranking import Judgements

RELEVANCES = {
    "ndcg": "adjusted_relevance",
    "ndcg_base": "base_relevance",
    "ndcg_listen_plus": "listen_plus",
    "ndcg_like": "likes",
}
METRICS = {
    "ndcg": "NDCG on adjusted relevance",
    "ndcg_base": "NDCG on base relevance",
    "ndcg_listen_plus": "NDCG on the number of listens beyond half the track",
    "ndcg_like": "NDCG on the number of likes",
    "recall": "share of the relevant songs (base relevance above 0) that were recommended",
    "hit_like": "1 if any liked song was recommended",
    "hit_like_or_listen": "1 if any liked or listen+ song was recommended",
    "auc": "chance that a relevant song ranks above another candidate, unranked ones tied for last",
    "dislike_fpr": "share of the disliked songs that were recommended",
    "novelty": "share of the recommendations that the user has no positive train event with",
}
HIGHER_IS_BETTER = {name: name != "dislike_fpr" for name in METRICS}


@dataclass(frozen=True)
class Truth:
    """What the test part says of every user, and what they had heard before."""

    uid: NDArray[np.int64]
    judgements: dict[str, Judgements]
    """By column of the ground truth, and `like_or_listen`."""
    heard: Judgements
    tested: NDArray[np.int64]
    """User ids with any event in the test part, ascending."""

    def without_heard(self) -> "Truth":
        """The truth of the view `discovery`: songs heard in train are no targets."""
        fresh = {name: judged.without(self.heard) for name, judged in self.judgements.items()}
        return Truth(self.uid, fresh, self.heard, self.tested)


def truth_of(ground_truth: pl.DataFrame, uid: NDArray[np.int64], heard: Judgements) -> Truth:
    """Read the test rows of splits/ground_truth; heard: the users' positive train events."""
    test = ground_truth.filter(pl.col("split") == "test").with_columns(
        like_or_listen=pl.col("likes") + pl.col("listen_plus")
    )
    user, song = test["user_id"].to_numpy(), test["song_id"].to_numpy()
    judged = {
        name: Judgements.of(user, song, test[name].to_numpy(), heard.n_users, heard.n_songs)
        for name in (*RELEVANCES.values(), "dislikes", "like_or_listen")
    }
    return Truth(uid, judged, heard, np.unique(user))


def recommendation_matrix(recommended: pl.DataFrame, n_users: int, k: int) -> NDArray[np.int64]:
    """Song ids int64 [n_users, k] by user and rank, −1 where there is none, from rows user_id, rank, song_id."""
    songs = np.full((n_users, k), -1, np.int64)
    shown = recommended.filter(pl.col("rank") <= k)
    songs[shown["user_id"].to_numpy(), shown["rank"].to_numpy() - 1] = shown["song_id"].to_numpy()
    return songs


def user_metrics(recommended: NDArray[np.int64], truth: Truth, view: str) -> pl.DataFrame:
    """One row per tested user: uid and the metrics of recommendations int64 [n_users, k]; null where undefined.

    In the view `discovery` the truth must be without heard songs, which are no candidates either.
    """
    judged, k = truth.judgements, recommended.shape[1]
    relevant = judged["base_relevance"]
    n_songs = np.full(truth.heard.n_users, truth.heard.n_songs)
    n_candidates = n_songs - truth.heard.counts if view == "discovery" else n_songs
    columns = {
        name: ranking.ndcg(judged[column].gains(recommended), judged[column].ideal(k))
        for name, column in RELEVANCES.items()
    }
    hits = relevant.gains(recommended)
    columns |= {
        "recall": ranking.recall(hits, relevant.counts),
        "hit_like": ranking.hit(judged["likes"].gains(recommended), judged["likes"].counts),
        "hit_like_or_listen": ranking.hit(judged["like_or_listen"].gains(recommended), judged["like_or_listen"].counts),
        "auc": ranking.auc(hits, relevant.counts, recommended, n_candidates),
        "dislike_fpr": ranking.recall(judged["dislikes"].gains(recommended), judged["dislikes"].counts),
        "novelty": ranking.novelty(truth.heard.gains(recommended), recommended),
    }
    tested = {name: values[truth.tested] for name, values in columns.items()}
    return pl.DataFrame({"uid": truth.uid[truth.tested], **tested}).with_columns(
        pl.col(name).fill_nan(None) for name in METRICS
    )


def coverage(recommended: NDArray[np.int64], n_graph_songs: int) -> float:
    """Distinct songs recommended over the songs of the graph (Yambda's authors divide by the songs in train)."""
    return len(np.unique(recommended[recommended >= 0])) / n_graph_songs
