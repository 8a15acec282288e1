"""The arithmetic of Yambda's authors, whose published figures nothing else can be compared with.

Targets are events: a song played twice is two targets, in the ideal list too. NDCG is the mean DCG over the mean
ideal DCG, recall a user's hits over their targets, coverage the songs recommended over the songs in train.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.evaluation.truth import Pairs

Relation = duckdb.DuckDBPyRelation

VIEWS = {
    "official_listen_plus": "event_type = 'listen' AND played_ratio >= 0.5",
    "official_like": "event_type = 'like'",
}
"""What counts as a target, by view; here half a track is enough, where our own listen+ wants more than half."""
SCHEMA = pl.Schema(
    {
        "method": pl.String,
        "view": pl.String,
        "k": pl.Int32,
        "uid": pl.Int64,
        "dcg": pl.Float64,
        "ideal_dcg": pl.Float64,
        "recall": pl.Float64,
    }
)


@dataclass(frozen=True)
class EventTargets:
    """The targets of some users, numbered from 0."""

    pairs: Pairs
    n_targets: NDArray[np.int64]
    """Target events of each user, repeated songs counted again."""

    @classmethod
    def of(cls, events: pl.DataFrame, n_users: int, n_songs: int) -> "EventTargets":
        """From a row (user_id, song_id) for every target event."""
        user, song = events["user_id"].to_numpy(), events["song_id"].to_numpy()
        return cls(Pairs.of(user, song, n_users, n_songs), np.bincount(user, minlength=n_users))


def target_events(test: Relation, train: Relation, view: str) -> Relation:
    """A row (user_id, song_id) for every target of users with a train part."""
    trained = train.project("user_id").distinct().set_alias("trained")
    events = test.filter(VIEWS[view]).project("user_id, song_id").set_alias("events")
    return events.join(trained, "user_id", how="semi")


def user_metrics(recommended: NDArray[np.int64], targets: EventTargets, uid: NDArray[np.int64], k: int) -> pl.DataFrame:
    """A row per user with a target: uid, dcg, ideal_dcg, recall of the first k of lists int64 [n_users, any k]."""
    users = np.flatnonzero(targets.n_targets)
    n_targets = targets.n_targets[users]
    hits = (targets.pairs.places(recommended[:, :k]) < len(targets.pairs.keys))[users].astype(np.float64)
    ideal = np.append(0, np.cumsum(1 / np.log2(np.arange(k) + 2)))
    return pl.DataFrame(
        {
            "uid": uid[users],
            "dcg": ranking.dcg(hits),
            "ideal_dcg": ideal[np.minimum(n_targets, k)],
            "recall": hits.sum(axis=1) / n_targets,
        }
    )
