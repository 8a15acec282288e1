"""Baselines without a library of recommenders: popularity, replay, random, SVD and audio."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval.dataset import ONE, Dataset, total
from ms_assets.retrieval.memory import FACTORS, most_factors
from ms_assets.retrieval.recommender import Ranked, Recommender, VectorRecommender, nearest

DAY = 86_400
MINUTE = 60
SVD_GRID = [
    {"factors": factors, "power": power, "logarithms": False}
    for factors, power in ((FACTORS, 0.0), (128, 0.0), (32, 0.3), (FACTORS, 0.3), (128, 0.4), (256, 0.4), (256, 0.5))
] + [{"factors": factors, "power": 0.0, "logarithms": True} for factors in (FACTORS, 128)]
DECAYS = [{"decay": decay} for decay in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)]
HALF_LIVES = [{"half_life_days": days} for days in (7, 1, 2, 4, 14, 30, 60, 120)]


@dataclass
class Popular(Recommender):
    """Popularity: the songs with the most positive train events, the same for all users."""

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        weight = self._weight(dataset)
        return {"weight": weight, "best": np.argsort(-weight, kind="stable")}

    def _weight(self, dataset: Dataset) -> NDArray[Any]:
        return dataset.heard.of_songs(dataset.heard.values["n_events"])

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the n songs with the largest weight."""
        best, shape = self.learned["best"][:n], (len(user), n)
        weight = self.learned["weight"]
        return np.broadcast_to(best, shape), np.broadcast_to(weight[best].astype(np.float32), shape)


@dataclass
class DecayedPopular(Popular):
    """Decayed popularity: a train event's weight is halved for every half-life of its age.

    Ages are counted back from the last event of all; an event without a time counts as the oldest.
    """

    half_life_days: float = 7

    def _weight(self, dataset: Dataset) -> NDArray[Any]:
        assert dataset.train is not None, "a dataset to learn from has its events"
        first, last = dataset.train.aggregate("coalesce(min(timestamp), 0), coalesce(max(timestamp), 0)").fetchall()[0]
        age = f"{last} - coalesce(timestamp, {first})::BIGINT"
        decayed = total(f"pow(2, ({age}) / {-DAY * self.half_life_days})")
        rows = dataset.train.aggregate(f"song_id, {decayed} AS weight", "song_id").fetchnumpy()
        weight = np.zeros(dataset.n_songs)
        weight[rows["song_id"]] = rows["weight"] / ONE
        return weight


@dataclass
class Random(Recommender):
    """Random songs of the catalogue, all equally likely, drawn for each user from a seed of the user's own."""

    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        return {"n_songs": np.array(dataset.n_songs)}

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Draw n songs at random; scores fall from 1."""
        drawn = [_distinct(int(self.learned["n_songs"]), n, [self.seed, u]) for u in user]
        falling = 1 / np.arange(1, n + 1, dtype=np.float32)
        return np.stack(drawn), np.broadcast_to(falling, (len(user), n))


def _distinct(n_songs: int, n: int, seed: list[int]) -> NDArray[np.int64]:
    """Draw n distinct songs; a larger n continues the same sequence."""
    size = n
    while True:
        draws = np.random.default_rng(seed).integers(n_songs, size=size)
        _, first = np.unique(draws, return_index=True)
        if len(first) >= n:
            return draws[np.sort(first)[:n]]
        size *= 2


@dataclass
class Replay(Recommender):
    """Replay: the user's own songs by Σ (age in minutes + 1)^−decay over their events; the latest first among equals.

    It is the base-level activation of ACT-R, by which people listen again (Reiter-Haas et al., arXiv 2108.02138). Ages
    are counted back from the user's last event. A decay of 0 counts the events.
    """

    candidates = ("n_heard", "0")
    decay: float = 0.0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        heard, active = dataset.heard, activation(dataset, self.decay)
        songs, ordered = np.empty(len(heard), np.int64), np.empty(len(heard), np.float32)
        for pairs, order in best_first(dataset, active):
            songs[pairs], ordered[pairs] = heard.keys[order] % heard.n_songs, active[order]
        return {"songs": songs, "activation": ordered, "offsets": heard.offsets}

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the user's own songs; a list ends with the last of them."""
        songs, activation, offsets = (self.learned[name] for name in ("songs", "activation", "offsets"))
        place = offsets[user][:, None] + np.arange(n)
        missing = place >= offsets[user + 1][:, None]
        place[missing] = 0
        return np.where(missing, -1, songs[place]), np.where(missing, np.float32(0), activation[place])


def activation(dataset: Dataset, decay: float) -> NDArray[Any]:
    """Activation of each pair in `heard`, Σ (age in minutes + 1)^−decay over its events; 0 counts the events."""
    if not decay:
        return dataset.heard.values["n_events"]
    return dataset.aged(f"pow(age / {MINUTE} + 1, {-decay})")


def best_first(dataset: Dataset, weight: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Order the pairs in `heard` by user, then weight, then time of the last event, both falling.

    Yields for some users at a time the positions of their pairs, and these positions in order, int64 [n].
    """
    heard = dataset.heard
    for pairs, user, song in heard.blocks():
        yield pairs, pairs.start + np.lexsort((song, -heard.values["last"][pairs], -weight[pairs], user))


@dataclass
class SVD(VectorRecommender):
    """Truncated SVD of the user × song matrix of positives; scores are its reconstruction.

    The matrix has a 1 for each pair, or the logarithm of 1 + its number of events. With a power above 0, entries are
    divided by that power of their user's number of songs and of their song's number of users before, and the
    reconstruction is multiplied by it after.

    >>> import polars as pl
    >>> events = pl.DataFrame({"user": ["ann", "ann", "bob", "bob", "cem"], "song": ["a", "b", "a", "b", "a"]})
    >>> SVD(factors=1).fit(events).recommend(["cem"])["song"].to_list()
    ['b']
    """

    candidates = ("n_known", "n_known - n_heard")
    factors: int = FACTORS
    power: float = 0.0
    logarithms: bool = False
    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        matrix = positives(dataset, self.power, self.power)
        if self.logarithms:
            matrix.data *= np.log1p(dataset.heard.values["n_events"], dtype=np.float32)
        users, songs = singular_vectors(matrix, self.factors, self.seed)
        of_users, of_songs = (count**self.power for count in degrees(dataset))
        return {"users": _scaled(users, of_users), "songs": _scaled(songs, of_songs)}


def _scaled(vectors: NDArray[np.float32], lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vectors times lengths, multiplied as float64 and rounded as they are written, float32 [n, d]."""
    return np.multiply(vectors, lengths[:, None], out=np.empty(vectors.shape, np.float32), casting="same_kind")


def singular_vectors(matrix: Any, factors: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Strongest singular vectors of a sparse matrix [n, m]: U Σ [n, rank] and V [m, rank].

    The rank is the number of factors, or what leaves one vector out if the matrix has no more.
    """
    from ms_assets.training.devices import CPU
    from ms_assets.training.svd import truncated_svd

    rank = max(min(factors, *(size - 1 for size in matrix.shape)), 1)
    users, values, songs = (part.numpy() for part in truncated_svd(matrix, rank, seed, CPU))
    songs /= np.maximum(values, np.finfo(np.float32).tiny)
    return users, songs


def svd_grid(dataset: Dataset) -> list[dict[str, float]]:
    """Settings of an SVD worth trying: those of SVD_GRID whose vectors are few enough, and counts if they differ."""
    most = most_factors(dataset.heard.n_users, dataset.n_graph_songs)
    counts = dataset.heard.values["n_events"]
    differ = np.any(counts != counts[:1])
    return [setting for setting in SVD_GRID if setting["factors"] <= most and (differ or not setting["logarithms"])]


def degrees(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number of songs that each user has heard, and of users who have heard each graph song, 1 in place of 0."""
    listeners = dataset.heard.of_songs()[: dataset.n_graph_songs]
    return np.maximum(dataset.heard.counts, 1.0), np.maximum(listeners, 1.0)


def positives(dataset: Dataset, user_power: float = 0.0, song_power: float = 0.0) -> Any:
    """Matrix with a one for every positive pair, divided by these powers of the degrees.

    SciPy's sparse matrix, float32 [n_users, n_graph_songs].
    """
    heard, (of_users, of_songs) = dataset.heard, degrees(dataset)
    scale = np.empty(len(heard), np.float32)
    for pairs, user, song in heard.blocks():
        scale[pairs] = of_users[user] ** -user_power * of_songs[song] ** -song_power
    return dataset.matrix(scale)


@dataclass
class ContentBased(VectorRecommender):
    """Content-based: songs that sound like the mean of the user's songs, by inner product of unit audio vectors.

    Songs without audio are neither candidates nor part of the mean.
    """

    candidates = ("n_audible", "n_audible - n_audible_heard")

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        if dataset.audio is None:
            raise ValueError("ContentBased: found no song with audio, expected songs with a column audio")
        audio, has_audio = dataset.audio
        counts = dataset.heard.counts
        share = np.repeat((1 / np.maximum(counts, 1)).astype(np.float32), counts)
        mean = np.ascontiguousarray(dataset.heard.csr(share) @ audio, np.float32)
        return {"users": mean, "songs": audio, "audible": np.flatnonzero(has_audio)}

    def _prepare(self, dataset: Dataset) -> None:
        songs, audible = self.learned["songs"], self.learned["audible"]
        self._audible = songs if len(audible) == len(songs) else songs[audible]

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank songs with audio."""
        found, scores = nearest(self.learned["users"], self._audible)(user, n)
        return np.append(self.learned["audible"], -1)[found], scores  # −1 stays −1
