"""Official metrics: the arithmetic of Yambda's authors, needed to compare with their published figures.

Targets are events: a song played twice is two targets, in the ideal list too. NDCG is the mean DCG over the mean
ideal DCG, recall a user's hits over their targets, coverage the songs recommended over the songs in train.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.evaluation.metrics import KEYS
from ms_assets.interactions import Interactions
from ms_assets.streams import Relation

VIEWS = {
    "official_listen_plus": "event_type = 'listen' AND played_ratio >= 0.5",
    "official_like": "event_type = 'like'",
}
"""Targets by view, as SQL over splits/test; here half a track is enough, while our own listen+ needs more than half."""
SCHEMA = pl.Schema({**KEYS, "uid": pl.Int64, **dict.fromkeys(("dcg", "ideal_dcg", "recall"), pl.Float64)})


def targets(test: Relation, train: Relation, view: str) -> Relation:
    """Targets of users with a train part: user_id, song_id and n_events, the number of target events."""
    trained = train.project("user_id").distinct().set_alias("trained")
    counted = test.filter(VIEWS[view]).aggregate("user_id, song_id, count(*) AS n_events").set_alias("counted")
    return counted.join(trained, "user_id", how="semi")


def user_metrics(recommended: NDArray[np.int64], targets: Interactions, uid: NDArray[np.int64], k: int) -> pl.DataFrame:
    """Metrics of the first k recommendations, one row per user with a target: uid, dcg, ideal_dcg, recall.

    Args:
        recommended: song ids int64 [n_users, k or more].
        targets: pairs with a value `n_events`, the number of target events.
        uid: Yambda's id of each user.
        k: number of recommendations that count.
    """
    n_events = np.bincount(targets.user, targets.values["n_events"], minlength=targets.n_users).astype(np.int64)
    users = np.flatnonzero(n_events)
    n_targets = n_events[users]
    hits = (targets.places(recommended[:, :k]) < len(targets))[users].astype(np.float64)
    ideal = np.append(0, np.cumsum(1 / np.log2(np.arange(k) + 2)))
    return pl.DataFrame(
        {
            "uid": uid[users],
            "dcg": ranking.dcg(hits),
            "ideal_dcg": ideal[np.minimum(n_targets, k)],
            "recall": hits.sum(axis=1) / n_targets,
        }
    )
