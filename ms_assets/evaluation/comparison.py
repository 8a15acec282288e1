"""Two models side by side: both recommend to the same users of today, and the difference has a paired interval.

Judged by NDCG@10 in `discovery`, which training stops on, and which is what a trained model is for: in `all` the songs
that a user plays anyhow beat most models. Compared are users whom both models know, by songs that both know; what
either model has trained on for a user is neither candidate nor target, so that a champion of another division of the
events gains nothing by having seen today's test part. Both search exactly, so that indices make no difference.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.evaluation.certainty import Resamples, intervals, ratios
from ms_assets.ranking import Floats, Judgements
from ms_assets.retrieval.recommendations import VIEWS, ranked
from ms_assets.retrieval.recommenders import nearest
from ms_assets.retrieval.served import Knowledge
from ms_assets.vectors import Ragged

Relation = duckdb.DuckDBPyRelation

VIEW, K = "discovery", 10
JUDGED_BY = f"NDCG@{K} in {VIEW}"
USERS_COMPARED = 10_000
"""Users are drawn beyond that: exact search among millions of songs for millions of users would take days."""


@dataclass(frozen=True)
class Today:
    """The test part by Yambda's ids, so that models of any id map can be judged by it."""

    targets: pl.DataFrame
    """uid, item_id, relevance: what was worth finding, and not heard in train."""
    heard: pl.DataFrame
    """uid, item_id: what the users with targets have positive train events with."""

    @classmethod
    def of(cls, users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> "Today":
        """From the tables of splits; of more than USERS_COMPARED users so many are drawn."""
        heard = train.project("user_id, song_id").distinct().set_alias("heard")
        test = ground_truth.filter("split = 'test' AND adjusted_relevance > 0").set_alias("test")
        fresh = test.join(heard, "user_id, song_id", how="anti").project("user_id, song_id, adjusted_relevance")
        tested = fresh.project("user_id").distinct()
        drawn = tested.order("hash(user_id), user_id").limit(USERS_COMPARED).set_alias("drawn")
        targets, known = (
            pairs.join(drawn, "user_id", how="semi").set_alias("pairs")
            .join(users.project("user_id, uid"), "user_id").set_alias("pairs")
            .join(songs.project("song_id, item_id"), "song_id")
            for pairs in (fresh.set_alias("fresh"), heard)
        )  # fmt: skip
        return cls(
            targets.project("uid, item_id, adjusted_relevance AS relevance").pl(), known.project("uid, item_id").pl()
        )


@dataclass(frozen=True)
class Comparison:
    """Two models side by side: means of NDCG, and the difference with its paired interval."""

    challenger_mean: float
    champion_mean: float
    difference: float
    """Challenger minus champion."""
    ci_low: float
    ci_high: float
    n_users: int
    n_users_dropped: int
    """Users with a target today whom one of the models does not know, or none of whose targets is left."""
    n_songs: int
    n_songs_dropped: int
    """Songs that one model alone knows."""
    users_known: float
    """Share of today's users with a target whom both models know."""
    targets_known: float
    """Share of these users' targets that are songs which both models know."""


def compare(challenger: Knowledge, champion: Knowledge, today: Today) -> Comparison:
    """Recommend by both models to the users, of the songs, that both know; NaN where nobody is left."""
    uid = today.targets["uid"].unique().to_numpy()
    users = np.intersect1d(np.intersect1d(uid, challenger.uid), champion.uid)
    songs = np.intersect1d(challenger.item_id, champion.item_id)
    asked = today.targets.filter(pl.col("uid").is_in(users))
    known = asked.filter(pl.col("item_id").is_in(songs))
    pairs = [_keys(today.heard, users, songs), *(_trained(model, users, songs) for model in (challenger, champion))]
    trained = np.unique(np.concatenate(pairs))
    keys = _keys(known, users, songs)
    left = ~np.isin(keys, trained)
    keys, relevance = keys[left], known["relevance"].to_numpy()[left]
    truth = Judgements.of(keys // len(songs), keys % len(songs), relevance, len(users), len(songs))
    heard = Ragged.from_pairs(trained // len(songs), trained % len(songs), len(users))
    ndcg = np.stack([_ndcg(model, users, songs, heard, truth) for model in (challenger, champion)], axis=1)
    ndcg = ndcg[truth.counts > 0]
    sums = Resamples.of(len(ndcg)).sums(np.column_stack([ndcg, ndcg[:, 0] - ndcg[:, 1]]))
    n_users = np.full(3, len(ndcg))
    means, lows, highs = intervals(ratios(sums, n_users), n_users)
    return Comparison(
        challenger_mean=float(means[0]),
        champion_mean=float(means[1]),
        difference=float(means[2]),
        ci_low=float(lows[2]),
        ci_high=float(highs[2]),
        n_users=len(ndcg),
        n_users_dropped=len(uid) - len(ndcg),
        n_songs=len(songs),
        n_songs_dropped=len(challenger.item_id) + len(champion.item_id) - 2 * len(songs),
        users_known=len(users) / len(uid) if len(uid) else 1.0,
        targets_known=len(known) / len(asked) if len(asked) else 1.0,
    )


def _rows(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted id stands; −1 where it does not."""
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)] if len(ids) else wanted
    return np.where(ids[found] == wanted, found, -1) if len(ids) else np.full(len(wanted), -1)


def _keys(pairs: pl.DataFrame, users: NDArray[np.int64], songs: NDArray[np.int64]) -> NDArray[np.int64]:
    """user · n_songs + song of the pairs of these users and songs, numbered from 0."""
    user, song = _rows(users, pairs["uid"].to_numpy()), _rows(songs, pairs["item_id"].to_numpy())
    both = (user >= 0) & (song >= 0)
    return user[both] * len(songs) + song[both]


def _trained(model: Knowledge, users: NDArray[np.int64], songs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same for what a model has trained on."""
    values, user = model.heard.take(_rows(model.uid, users))
    song = _rows(songs, model.item_id)[values]
    return user[song >= 0] * len(songs) + song[song >= 0]


def _ndcg(
    model: Knowledge, users: NDArray[np.int64], songs: NDArray[np.int64], heard: Ragged, truth: Judgements
) -> Floats:
    find = nearest(model.users[_rows(model.uid, users)], model.songs[_rows(model.item_id, songs)])
    found, _ = ranked(np.arange(len(users)), heard, len(songs), find, K)
    return ranking.ndcg(truth.gains(found[VIEWS.index(VIEW)]), ranking.dcg(truth.ideal(K)))
