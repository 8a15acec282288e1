"""Base class of all recommenders: fit to events, recommend songs, save and load without pickle."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.files import published, reading
from ms_assets.interactions import Interactions
from ms_assets.retrieval import exact
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.memory import SONGS_AT_ONCE, USERS_AT_ONCE
from ms_assets.splits.frames import Frame

TOP_K = 100
VIEWS = ("all", "discovery")
LISTS_AT_ONCE = 4_096
"""Number of users whose lists are a table at a time."""
FORMAT = 3
"""Version of saved recommenders."""

Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Song ids int64 [n_users, n], best first, −1 where a list has ended, and scores float32 [n_users, n]."""
Rank = Callable[[NDArray[np.int64], int], Ranked]
"""Function that ranks n songs for users int64 [n_users]; songs that a user has heard are among them."""


class NotFittedError(ValueError):
    """A recommender is used before it is fitted."""


class Recommender(ABC):
    """Method that learns from events and ranks songs for users; its settings are arguments of the constructor."""

    candidates: ClassVar[tuple[str, str]] = ("n_songs", "n_songs - n_heard")
    """Numbers of songs that can be recommended to a user, heard songs included and excluded: SQL over the numbers of
    all songs (n_songs), of songs with a train event (n_known), of songs with audio (n_audible), and of those that the
    user has heard (n_heard, n_audible_heard)."""
    dataset: Dataset | None = None
    """Users and songs that the recommender knows; None before `fit`."""
    learned: dict[str, NDArray[Any]]
    """Arrays that `fit` has learned, by name; `save` stores these alone."""

    def fit(self, train: Dataset | Frame, validation: Frame | None = None, songs: Frame | None = None) -> Self:
        """Learn from events, and return the recommender itself.

        Args:
            train: events with the columns user and song, and where known time, type and played_ratio: a frame of
                polars or pandas, or the path of a Parquet file; or a `Dataset`.
            validation: later events of the same users, by which some methods choose when to stop.
            songs: features of songs: song, and where known audio, artists and albums.

        Raises:
            ValueError: names the frame, the column, what was found and what was expected.
        """
        self.dataset = train if isinstance(train, Dataset) else Dataset.of_frames(train, validation, songs)
        self.learned = self._learn(self.dataset)
        self._prepare(self.dataset)
        return self

    @abstractmethod
    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        """Learn arrays, by name, from which `rank` and `similar` compute."""

    def _prepare(self, dataset: Dataset) -> None:  # noqa: B027  (most methods need nothing)
        """Prepare what `rank` needs beside the learned arrays; called after `fit` and after `load`."""

    @abstractmethod
    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the n best songs of users by dense id, songs that they have heard included."""

    def recommend(self, users: Sequence[Any] | None = None, k: int = 10, exclude_heard: bool = True) -> pl.DataFrame:
        """Recommend k songs to each user: user, rank (from 1), song, score; fewer where no more are known.

        Args:
            users: ids as in the events; all users by default.
            k: length of the lists.
            exclude_heard: leave out songs with which the user has a positive train event.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: k is below 1, or a user is unknown.
        """
        dataset = self._fitted(k)
        user = np.arange(len(dataset.user_ids)) if users is None else places(dataset.user_ids, users, "user")
        songs, scores = ranked(self.rank, user, dataset.heard, dataset.n_songs, k)
        return _frame(
            "user", dataset.user_ids[user], "song", dataset, songs[int(exclude_heard)], scores[int(exclude_heard)]
        )

    def similar(self, songs: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """List the k songs most like each song: song, rank (from 1), similar, score.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: k is below 1, or a song is unknown.
            NotImplementedError: the method has no similarity of songs.
        """
        dataset = self._fitted(k)
        song = places(dataset.song_ids, songs, "song")
        found, scores = self._similar(song, min(k + 1, dataset.n_songs))
        first = np.argsort((found == song[:, None]) | (found < 0), axis=1, kind="stable")[:, : min(k, found.shape[1])]
        found, scores = np.take_along_axis(found, first, axis=1), np.take_along_axis(scores, first, axis=1)
        found = np.where(found == song[:, None], -1, found)
        return _frame("song", dataset.song_ids[song], "similar", dataset, found, scores)

    def _similar(self, song: NDArray[np.int64], n: int) -> Ranked:
        raise NotImplementedError(
            f"{type(self).__name__} has no similarity of songs; ask ItemKNN, SVD, IALS, BPR, ContentBased or LightGCN"
        )

    def save(self, path: str | Path) -> None:
        """Write settings, ids and learned arrays into one NumPy file (npz), whole or not at all.

        Raises:
            NotFittedError: `fit` was not called.
        """
        dataset = self._fitted()
        about = {"class": type(self).__name__, "format": FORMAT, "settings": self._settings()}
        arrays: dict[str, Any] = {
            "about": np.array(json.dumps(about)),
            "n_graph_songs": np.array(dataset.n_graph_songs),
            "user_ids": dataset.user_ids,
            "song_ids": dataset.song_ids,
            "heard": dataset.heard.keys,
            **{f"heard.{name}": array for name, array in dataset.heard.values.items()},
            **{f"learned.{name}": array for name, array in self.learned.items()},
        }
        with published(Path(path)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recommender from a file that `save` wrote.

        Raises:
            ValueError: the file is of another class or format.
            DamagedFileError: the file cannot be read.
        """
        with reading(Path(path), "save the model again"), np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
            about = json.loads(str(arrays["about"]))
        if (about["class"], about["format"]) != (cls.__name__, FORMAT):
            raise ValueError(
                f"{path}: found a {about['class']} of format {about['format']}, expected a {cls.__name__} of format "
                f"{FORMAT}; load it with its own class and version, or fit and save it again"
            )
        model = cls(**about["settings"])
        named = {
            kind: {n.removeprefix(f"{kind}."): a for n, a in arrays.items() if n.startswith(f"{kind}.")}
            for kind in ("heard", "learned")
        }
        user_ids, song_ids = arrays["user_ids"], arrays["song_ids"]
        heard = Interactions(arrays["heard"], len(user_ids), len(song_ids), named["heard"])
        model.dataset = Dataset(user_ids, song_ids, int(arrays["n_graph_songs"]), heard)
        model.learned = named["learned"]
        model._prepare(model.dataset)
        return model

    def _settings(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # methods are dataclasses of their settings

    def _fitted(self, k: int = 1) -> Dataset:
        if self.dataset is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit(train) first")
        if k < 1:
            raise ValueError(f"k: found {k}, expected at least 1")
        return self.dataset


def places(ids: NDArray[Any], wanted: Sequence[Any] | NDArray[Any], kind: str) -> NDArray[np.int64]:
    """Dense ids of original ids.

    Raises:
        ValueError: an id is unknown; names the number of unknown ids and an example.
    """
    asked, order = np.array(list(wanted)), np.argsort(ids, kind="stable")
    if len(asked) and asked.dtype.kind != ids.dtype.kind and "U" in (asked.dtype.kind, ids.dtype.kind):
        raise ValueError(f"{kind}s: found ids such as {asked[0]}, expected ids such as {ids[0]}, of another type")
    found = order[np.searchsorted(ids, asked, sorter=order).clip(max=len(ids) - 1)]
    unknown = ids[found] != asked
    if unknown.any():
        raise ValueError(
            f"{kind}s: found {int(unknown.sum())} unknown of {len(asked)}, such as {asked[unknown][0]}; "
            "expected ids of the events that the model was fitted to"
        )
    return found


def _frame(
    key: str, ids: NDArray[Any], value: str, dataset: Dataset, songs: NDArray[np.int64], scores: NDArray[np.float32]
) -> pl.DataFrame:
    row, place = np.nonzero(songs >= 0)
    columns = {key: ids[row], "rank": place + 1, value: dataset.song_ids[songs[row, place]]}
    return pl.DataFrame({**columns, "score": scores[row, place]})


def ranked(rank: Rank, users: NDArray[np.int64], heard: Interactions, n_songs: int, k: int) -> Ranked:
    """Rank k songs for users [n] in both views: song ids int64, scores float32 [views, n, k].

    `all` takes the best songs; `discovery` the best that the user has not heard, so as many more candidates are
    ranked as the user has heard. Ids are −1 where no songs are left.
    """
    songs = np.full((len(VIEWS), len(users), k), -1, np.int64)
    scores = np.zeros((len(VIEWS), len(users), k), np.float32)
    n_heard = heard.counts[users]
    # Users with histories of similar length together, so that few candidates are ranked in vain.
    order = np.argsort(n_heard, kind="stable")
    for rows in _blocks(order, k + n_heard[order]):
        candidates, values = rank(users[rows], min(k + int(n_heard[rows].max()), n_songs))
        known = _is_heard(heard, users[rows], candidates, n_songs)
        for view, excluded in enumerate((np.zeros_like(known), known)):
            chosen = np.argsort(excluded | (candidates < 0), axis=1, kind="stable")[:, :k]
            width = chosen.shape[1]
            kept = ~np.take_along_axis(excluded, chosen, axis=1)
            songs[view, rows, :width] = np.where(kept, np.take_along_axis(candidates, chosen, axis=1), -1)
            scores[view, rows, :width] = np.take_along_axis(values, chosen, axis=1)
    return songs, scores


def _blocks(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into blocks of users whose candidates, as many for all as the last of them needs, fit into memory.

    lengths: number of candidates that each row needs, ascending.
    """
    while len(rows):
        some = lengths[:USERS_AT_ONCE]
        n = max(int(np.count_nonzero(np.arange(1, len(some) + 1) * some <= SONGS_AT_ONCE)), 1)
        yield rows[:n]
        rows, lengths = rows[n:], lengths[n:]


def _is_heard(
    heard: Interactions, users: NDArray[np.int64], candidates: NDArray[np.int64], n_songs: int
) -> NDArray[np.bool_]:
    songs, row = heard.take(users)
    keys = row * n_songs + songs
    return np.isin(np.arange(len(users))[:, None] * n_songs + candidates, keys) & (candidates >= 0)


def everybodys(recommender: Recommender, k: int = TOP_K) -> dict[str, Ranked]:
    """Rank k songs for every user: songs and scores [n_users, k] by view."""
    dataset = recommender._fitted(k)
    users = np.arange(len(dataset.user_ids))
    songs, scores = ranked(recommender.rank, users, dataset.heard, dataset.n_songs, k)
    return {view: (songs[n], scores[n]) for n, view in enumerate(VIEWS)}


def listed(dataset: Dataset, lists: Mapping[str, Ranked]) -> Iterator[pa.Table]:
    """Tables of the lists of all users by view, some users at a time.

    Columns: view, user_id, uid, rank, song_id, item_id, score.
    """
    for view, (songs, scores) in lists.items():
        for first in range(0, max(len(songs), 1), LISTS_AT_ONCE):
            some = slice(first, first + LISTS_AT_ONCE)
            user, place = np.nonzero(songs[some] >= 0)
            song = songs[some][user, place]
            yield pa.table(
                {
                    "view": pa.array(np.full(len(user), view, object), pa.string()),
                    "user_id": (first + user).astype(np.int32),
                    "uid": dataset.user_ids[first + user],
                    "rank": (place + 1).astype(np.int32),
                    "song_id": song.astype(np.int32),
                    "item_id": dataset.song_ids[song],
                    "score": scores[some][user, place],
                }
            )


def recommendations(recommender: Recommender, k: int = TOP_K) -> pa.Table:
    """Rank k songs for every user in both views: the columns of `listed`."""
    return pa.concat_tables(listed(recommender._fitted(k), everybodys(recommender, k)))


def nearest(users: NDArray[np.float32], songs: NDArray[np.float32]) -> Rank:
    """Function that ranks songs by inner product, by exact search; float32 [n_users, d] and [n_songs, d]."""

    def rank(user: NDArray[np.int64], n: int) -> Ranked:
        return padded(*exact.search(users[user], songs, min(n, len(songs))), n)

    return rank


def padded(scores: NDArray[np.float32], songs: NDArray[np.int64], n: int) -> Ranked:
    """Lists that are n songs long, −1 where they have ended."""
    missing = ((0, 0), (0, n - songs.shape[1]))
    return np.pad(songs, missing, constant_values=-1), np.pad(scores, missing)


class VectorRecommender(Recommender):
    """Recommender that learns vectors of users and songs, whose inner products are scores."""

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank songs by inner product with the user, by exact search."""
        return nearest(self.learned["users"], self.learned["songs"])(user, n)

    def _similar(self, song: NDArray[np.int64], n: int) -> Ranked:
        vectors, place = self.learned["songs"], np.full(self._fitted().n_songs, -1)
        lengths = np.linalg.norm(vectors, axis=1)
        known = np.flatnonzero(lengths)
        place[known] = np.arange(len(known))
        directions = vectors[known] / lengths[known, None]
        found, scores = nearest(directions, directions)(place[song], n)
        return np.where(place[song, None] < 0, -1, np.append(known, -1)[found]), scores
