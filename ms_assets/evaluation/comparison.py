"""Comparison of two models: both recommend to the same users of the test part, and their NDCG is compared in pairs.

The metric is NDCG@10 in `discovery`, which also stops training, and which is the purpose of a trained model: in `all`
the songs that a user plays anyway beat most models. Users and songs are those that both models know. Songs that either
model has trained on for a user are neither candidates nor targets, so that a champion trained on another split gains
nothing by having seen this test part. Each model recommends as it would serve: by the order of its second stage, if it
has one; else by exact search, so that indices make no difference.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets import ranking
from ms_assets.certainty import of_means
from ms_assets.interactions import Floats, Interactions
from ms_assets.reranking.past import ranges
from ms_assets.reranking.served import SecondStage
from ms_assets.retrieval.recommender import VIEWS, Rank, Ranked, nearest, ranked
from ms_assets.retrieval.served import ModelData
from ms_assets.streams import Relation

Ids = NDArray[np.int64]

VIEW, K = "discovery", 10
JUDGED_BY = f"NDCG@{K} in {VIEW}"
USERS_COMPARED = 10_000
"""Maximum number of users, drawn if there are more: exact search of millions of songs for millions would take days."""


@dataclass(frozen=True)
class Holdout:
    """Test part by Yambda's ids, so that models with any id map can be compared on it."""

    targets: pl.DataFrame
    """Relevant songs that the user had not heard in train: uid, item_id, relevance."""
    heard: pl.DataFrame
    """Positive train events of the users with targets: uid, item_id."""

    @classmethod
    def of(cls, users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> "Holdout":
        """Build the holdout from tables of the room splits; draws USERS_COMPARED users if there are more."""
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
    """Result of a comparison: both models' mean NDCG, and the difference with its paired interval."""

    challenger_mean: float
    champion_mean: float
    difference: float
    """Mean of the challenger minus that of the champion."""
    ci_low: float
    ci_high: float
    n_users: int
    n_users_dropped: int
    """Number of users with a target whom one of the models does not know, or with no target left."""
    n_songs: int
    n_songs_dropped: int
    """Number of songs that only one model knows."""
    users_known: float
    """Share of the users with a target whom both models know."""
    targets_known: float
    """Share of these users' targets that both models know."""


Model = ModelData | SecondStage
"""Model as it would serve: in one stage, or in two."""


def compare(one: Model, other: Model, holdout: Holdout) -> Comparison:
    """Compare a challenger with a champion on the users and songs that both know; means are NaN if no user is left."""
    uid, models = holdout.targets["uid"].unique().to_numpy(), (one, other)
    challenger, champion = map(_data, models)
    users = np.intersect1d(np.intersect1d(uid, challenger.uid), champion.uid)
    songs = np.intersect1d(challenger.item_id, champion.item_id)
    asked = holdout.targets.filter(pl.col("uid").is_in(users))
    known = _interactions(asked, users, songs, "relevance")
    heard = _interactions(
        pl.concat([holdout.heard, *(_trained(_data(model), users) for model in models)]), users, songs
    )
    targets = known.without(heard)
    ndcg = np.column_stack([_ndcg(model, users, songs, heard, targets) for model in models])
    ndcg = ndcg[targets.n_positive("relevance") > 0]
    means, lows, highs = of_means(np.column_stack([ndcg, ndcg[:, 0] - ndcg[:, 1]]))
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


def _interactions(pairs: pl.DataFrame, users: Ids, songs: Ids, *values: str) -> Interactions:
    """Interactions from pairs (uid, item_id), for some users and songs, numbered in their order."""
    user = pl.DataFrame({"uid": users, "user": np.arange(len(users))})
    song = pl.DataFrame({"item_id": songs, "song": np.arange(len(songs))})
    rows = pairs.join(user, on="uid").join(song, on="item_id")
    columns = {name: rows[name].to_numpy() for name in ("user", "song", *values)}
    return Interactions.of(**columns, n_users=len(users), n_songs=len(songs))


def _trained(model: ModelData, users: Ids) -> pl.DataFrame:
    """Pairs (uid, item_id) that a model has trained on; it knows all the users."""
    song, user = model.heard.take(_rows(model.uid, users))
    return pl.DataFrame({"uid": users[user], "item_id": model.item_id[song]})


def _rows(ids: Ids, wanted: Ids) -> NDArray[np.int64]:
    """Positions of wanted ids among distinct ids; the wanted ones are ascending and all present."""
    return np.intersect1d(ids, wanted, assume_unique=True, return_indices=True)[1]


def _data(model: Model) -> ModelData:
    return model.data if isinstance(model, SecondStage) else model


def _ndcg(model: Model, users: Ids, songs: Ids, heard: Interactions, targets: Interactions) -> Floats:
    data = _data(model)
    user, song = _rows(data.uid, users), _rows(data.item_id, songs)
    if isinstance(model, SecondStage) and VIEW in model.ranker.models:
        find = _by_second_stage(model, user, song)
    else:
        find = nearest(data.users[user], data.songs[song])
    found, _ = ranked(find, np.arange(len(users)), heard, len(songs), K)
    return ranking.ndcg(targets.gains("relevance", found[VIEWS.index(VIEW)]), targets.ideal_dcg("relevance", K))


def _by_second_stage(model: SecondStage, user: Ids, song: Ids) -> Rank:
    """Function that ranks the candidates of a model's second stage, of these of its users and songs alone."""
    place = np.full(len(model.data.item_id), -1)
    place[song] = np.arange(len(song))
    lists: dict[int, Ids] = {}
    for first, last in ranges(len(model.data.uid)):
        wanted = np.flatnonzero((user >= first) & (user <= last))
        if len(wanted):
            order = model.order(VIEW, first, last)
            borders = np.searchsorted(order.user, np.arange(last - first + 2))
            for row in wanted:
                at = user[row] - first
                mine = place[order.song[borders[at] : borders[at + 1]]]
                lists[int(row)] = mine[mine >= 0]

    def rank(rows: Ids, n: int) -> Ranked:
        found = np.full((len(rows), n), -1, np.int64)
        for row, mine in zip(found, (lists[int(one)][:n] for one in rows), strict=True):
            row[: len(mine)] = mine
        return found, np.zeros(found.shape, np.float32)

    return rank
