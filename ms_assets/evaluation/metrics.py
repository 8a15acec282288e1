"""Metrics of recommendation lists, one value per user."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.evaluation.truth import Truth
from ms_assets.interactions import Flags, Floats, Integers
from ms_assets.vectors import Ragged

KEYS = {"method": pl.String, "view": pl.String, "k": pl.Int32}
"""Key columns of every table of metrics, with their types."""
NDCGS = {
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
    "precision": "share of the k places that hold a relevant song",
    "mrr": "1 / rank of the first relevant song, 0 where none was recommended",
    "hit": "1 if any relevant song was recommended",
    "hit_like": "1 if any liked song was recommended",
    "hit_like_or_listen": "1 if any liked or listen+ song was recommended",
    "auc": "chance that a relevant song ranks above another candidate, unranked ones tied for last",
    "dislike_fpr": "share of the disliked songs that were recommended",
    "novelty": "share of the recommendations that the user has no positive train event with",
    "replay_share": "share of the recommendations that the user has heard: 1 − novelty",
    "popularity_lift": "plays in train of the mean recommendation over those of the mean song heard, − 1",
    "artist_diversity": "share of the recommendations none of whose artists stands above them in the list",
    "cold_share": "share of the recommendations that are cold songs",
}
RANGES = {"popularity_lift": "-1 AND 1e300"}
"""Ranges, as SQL, of metrics that are not a share, a probability or a normalised gain."""


@dataclass(frozen=True)
class Songs:
    """Catalogue for metrics; a song without plays and artists at the end stands for an empty place of a list (−1)."""

    n_plays: Floats
    """Listens in the train part, float64 [n_songs + 1]."""
    cold: Flags
    """Flags of cold songs, bool [n_songs + 1]."""
    artists: Ragged
    """Dense artist ids of each song; the list at the end is empty."""

    @classmethod
    def of(cls, n_plays: Integers, cold: Flags, artists: Ragged) -> "Songs":
        """Build the catalogue from arrays [n_songs]."""
        empty = Ragged(artists.values, np.append(artists.offsets, artists.offsets[-1]))
        return cls(np.append(n_plays.astype(np.float64), 0.0), np.append(cold, False), empty)

    @cached_property
    def has_artist(self) -> Flags:
        """Flags of songs with a known artist, bool [n_songs + 1]."""
        return self.artists.lengths > 0

    def __len__(self) -> int:
        return len(self.cold) - 1


@dataclass(frozen=True)
class Lists:
    """Recommendations of one method in one view with their truth; look-ups for all metrics and k are computed once."""

    recommended: NDArray[np.int64]
    """Song ids [n_users, k], −1 where there is none."""
    truth: Truth
    songs: Songs

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Position of each recommendation among the test part's pairs, int64; the number of pairs if it is none."""
        return self.truth.test.places(self.recommended)

    @cached_property
    def heard(self) -> Flags:
        """Flags of recommendations with which the user has positive train events, bool [n_users, k]."""
        return self.truth.history.places(self.recommended) < len(self.truth.history)

    @cached_property
    def gains(self) -> dict[str, Floats]:
        """Values of each recommendation in the test part, 0 if it is not there, float64 [n_users, k] by name."""
        return {name: np.append(values, 0.0)[self.places] for name, values in self.truth.test.values.items()}

    @cached_property
    def new_artists(self) -> Flags:
        """Flags of songs with an artist, none of whose artists is above them in the list, bool [n_users, k]."""
        songs, artists = self.recommended.ravel(), self.songs.artists
        artist, place = artists.take(songs)
        keys = place // self.recommended.shape[1] * (artists.values.max(initial=0) + 1) + artist
        fresh = self.songs.has_artist[songs]
        fresh[np.delete(place, np.unique(keys, return_index=True)[1])] = False
        return fresh.reshape(self.recommended.shape)


def user_metrics(lists: Lists, k: int) -> pl.DataFrame:
    """Metrics of the first k recommendations, one row per tested user: uid and METRICS; null where undefined."""
    truth, test, songs = lists.truth, lists.truth.test, lists.songs
    gains = {name: values[:, :k] for name, values in lists.gains.items()}
    recommended, shown = lists.recommended[:, :k], lists.recommended[:, :k] >= 0
    hits, n_targets, n_shown = gains["base_relevance"], test.n_positive("base_relevance"), shown.sum(axis=1)
    novelty = ranking.novelty(lists.heard[:, :k], recommended)
    plays = ranking.ratio(songs.n_plays[recommended].sum(axis=1), n_shown)
    n_known = songs.has_artist[recommended].sum(axis=1)
    columns = {
        **{name: ranking.ndcg(gains[worth], test.ideal_dcg(worth, k)) for name, worth in NDCGS.items()},
        "recall": ranking.recall(hits, n_targets),
        "precision": ranking.precision(hits, n_targets),
        "mrr": ranking.reciprocal_rank(hits, n_targets),
        "hit": ranking.hit(hits, n_targets),
        "hit_like": ranking.hit(gains["likes"], test.n_positive("likes")),
        "hit_like_or_listen": ranking.hit(gains["like_or_listen"], test.n_positive("like_or_listen")),
        "auc": ranking.auc(hits, n_targets, recommended, truth.n_candidates),
        "dislike_fpr": ranking.recall(gains["dislikes"], test.n_positive("dislikes")),
        "novelty": novelty,
        "replay_share": 1 - novelty,
        "popularity_lift": ranking.ratio(plays, truth.usual_plays) - 1,
        "artist_diversity": ranking.ratio(lists.new_artists[:, :k].sum(axis=1), n_known),
        "cold_share": ranking.ratio(songs.cold[recommended].sum(axis=1), n_shown),
    }
    frame = pl.DataFrame({"uid": truth.uid, **{name: columns[name] for name in METRICS}})
    return frame[truth.tested].with_columns(pl.col(*METRICS).fill_nan(None))


def recall_by_length(lists: Lists) -> Floats:
    """Recall of the first 1, 2, … recommendations, float64 [n, k], of the n users with targets."""
    n_targets = lists.truth.test.n_positive("base_relevance")
    found = np.cumsum(lists.gains["base_relevance"] > 0, axis=1)
    return found[n_targets > 0] / n_targets[n_targets > 0, None]
