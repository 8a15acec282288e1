"""Worlds of users with tastes, and lists of methods that know them: what the tests of chance level are about."""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from ms_assets.evaluation import passes
from ms_assets.retrieval.recommender import VIEWS

N_SONGS, N_TASTES, K = 600, 6, 10
PERSONAL = ("lightgcn", "ials", "item_knn", "transitions", "content_based")
METHODS = (*PERSONAL, "replay", "popular", "random")


@dataclass
class World:
    """Events of train and test, and lists of methods that know everything about users but for some noise."""

    train: pl.DataFrame
    test: pl.DataFrame
    lists: dict[str, pl.DataFrame]

    def tables(self):
        """Tables user_metrics, songs, train and ground_truth."""
        con = duckdb.connect()
        users, songs = self.train["user_id"].unique().sort(), np.arange(N_SONGS)
        plays = np.bincount(self.train["song_id"], minlength=N_SONGS)
        frames = {
            "users": pl.DataFrame({"user_id": users, "uid": users + 1_000}),
            "songs": pl.DataFrame({"song_id": songs, "in_graph": plays > 0, "n_train_plays": plays,
                                   "artist_ids": [[0]] * N_SONGS}),
            "train": self.train,
            "ground_truth": self.test.group_by("user_id", "song_id").len().select(
                pl.lit("test").alias("split"), "user_id", "song_id", pl.lit(0.7).alias("base_relevance"),
                pl.lit(0.7).alias("adjusted_relevance"), *(pl.lit(n).alias(c) for c, n in COUNTS.items()),
            ),
        }  # fmt: skip
        tables = {name: con.from_arrow(frame.to_arrow()) for name, frame in frames.items()}
        lists = {method: con.from_arrow(frame.to_arrow()) for method, frame in self.lists.items()}
        rows = pa.concat_tables(passes.user_metrics(lists, *tables.values(), [K]))
        return con.from_arrow(rows), tables["songs"], tables["train"], tables["ground_truth"]


COUNTS = {"listen_plus": 1, "likes": 0, "dislikes": 0}


def world(n_users=150, likes=None, repeats=True, seed=0, pause=60):
    """Users of some tastes, who play songs of their taste by its order of popularity, a pause of seconds apart.

    likes: probabilities instead of tastes.
    """
    rng = np.random.default_rng(seed)
    taste = np.arange(n_users) % N_TASTES
    if likes is None:
        likes = np.zeros((N_TASTES, N_SONGS))
        for number in range(N_TASTES):  # with songs of its own, and some that all tastes share
            likes[number, rng.permutation(np.arange(6, N_SONGS))[:60]] = 1 / np.arange(1, 61)
            likes[number, :6] = 0.5
        likes /= likes.sum(axis=1, keepdims=True)
    played = [rng.choice(N_SONGS, 40, p=likes[taste[user]], replace=repeats) for user in range(n_users)]
    time = np.tile(pause * np.arange(40), n_users)
    events = pl.DataFrame(
        {"user_id": np.repeat(np.arange(n_users), 40), "song_id": np.concatenate(played), "timestamp": time}
    )
    is_train = np.tile(np.arange(40) < 30, n_users)
    train, test = events.filter(is_train), events.filter(~is_train)
    heard = np.zeros((n_users, N_SONGS))
    np.add.at(heard, (train["user_id"], train["song_id"]), 1)
    scores = {
        **{method: likes[taste] + rng.random(heard.shape) * likes.mean() for method in PERSONAL},
        "replay": np.where(heard, heard, -np.inf),
        "popular": np.broadcast_to(heard.sum(axis=0), heard.shape),
        "random": rng.random(heard.shape),
    }
    return World(train, test, {method: lists(score, heard, method == "replay") for method, score in scores.items()})


def lists(scores, heard, only_heard):
    found = []
    for view in VIEWS:
        shown = np.where(heard, -np.inf, scores) if view == "discovery" else scores
        best = np.argsort(-shown, axis=1, kind="stable")[:, :K]
        user, place = np.nonzero(np.isfinite(np.take_along_axis(shown, best, axis=1)))
        columns = {"user_id": user, "rank": place + 1, "song_id": best[user, place]}
        found.append(pl.DataFrame(columns).select(pl.lit(view).alias("view"), pl.all()))
    return pl.concat(found)


def renumbered(frame):
    """Songs with new numbers, as those of another division."""
    new = np.random.default_rng(5).permutation(N_SONGS)
    return frame.with_columns(song_id=pl.Series(new[frame["song_id"]]))


def exchanged(frame):
    """Songs as they are, of other users."""
    return frame.with_columns(pl.col("song_id").shuffle(seed=3))
