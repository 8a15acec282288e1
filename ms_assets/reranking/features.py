"""Features of candidates: one table of names, sentences and functions, over facts from the past of a phase alone."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.machine import IN_FLIGHT
from ms_assets.reranking.candidates import Pool
from ms_assets.reranking.past import LEAST, MEASURES, USERS_AT_ONCE, Measured, Measures, Past, gather, unmet
from ms_assets.retrieval.memory import LIBRARY
from ms_assets.vectors import Ragged, unit

AT_ONCE = 1 << 16
"""Number of pairs whose vectors are multiplied at a time."""
Values = NDArray[np.float64] | NDArray[np.float32]


MEASURED = 350
"""Bytes of some users' measures, of songs, artists and albums, for each of their events (fitted)."""
CANDIDATES, DESCRIBED = 1_000, 1_100
"""Number of candidates of a user in a view, about that of all recommenders; bytes of one with its features (fitted)."""


def estimate(n_users: int, n_songs: int, n_events: int, n_dimensions: int) -> dict[str, int]:
    """Estimate the bytes of what a phase knows by purpose, beside the graph that it is given.

    n_events: number of train events; n_dimensions: dimensions of LightGCN's embeddings.
    """
    vector, block = 4 * n_dimensions, min(n_users, USERS_AT_ONCE)
    return {
        "measures of songs": 8 * (len(MEASURES) + 1) * n_songs,
        # Tables of them are read, and put together; later songs' directions, in two steps.
        "embeddings": vector * (n_users + 3 * n_songs),
        "artists and albums": 2 * 24 * n_songs,
        "some users' features": block * (MEASURED * n_events // max(n_users, 1) + DESCRIBED * CANDIDATES),
        "tables in flight and library": IN_FLIGHT + LIBRARY,
    }


@dataclass(frozen=True)
class Knowledge:
    """All that a phase knows: its past, the songs' artists and albums, and vectors that were learned from that past."""

    past: Measured
    artists: Ragged
    albums: Ragged
    of_songs: Measures
    """Measures of every song over all users, `Past.of_songs`."""
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]]
    """LightGCN's embeddings of users [n_users, d] and songs [n_songs, d]."""
    audio: NDArray[np.float32]
    """Unit audio vectors [n_songs, d], zeros where unknown."""

    @classmethod
    def of(
        cls, past: Past, artists: Ragged, albums: Ragged,
        embeddings: tuple[NDArray[np.float32], NDArray[np.float32]], audio: NDArray[np.float32],
    ) -> Self:  # fmt: skip
        """Measure the past's songs."""
        return cls(past, artists, albums, past.of_songs(), embeddings, audio)

    @cached_property
    def of_late(self) -> NDArray[np.int64]:
        """Songs in the order of their recent popularity."""
        return np.argsort(-self.of_songs["late_week"], kind="stable")

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """LightGCN's embeddings of songs at length 1, [n_songs, d]."""
        return unit(self.embeddings[1])

    def histories(self, first: int, last: int) -> "Histories":
        """Histories of a range of users."""
        return Histories(self, first, self.past.pairs(first, last))


@dataclass(frozen=True)
class Histories:
    """Measures of the events of a range of users, who are numbered from 0."""

    known: Knowledge
    first: int
    pairs: Interactions
    """Measures of the users' pairs with songs."""

    @cached_property
    def by_artist(self) -> "Tagged":
        """Measures by user and artist."""
        return Tagged.of(self.pairs, self.known.artists)

    @cached_property
    def by_album(self) -> "Tagged":
        """Measures by user and album."""
        return Tagged.of(self.pairs, self.known.albums)

    def recent(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Direction of the vectors [n_songs, d] of each user's songs, by their faded events, float32 [n_users, d]."""
        return unit(self.pairs.csr(self.pairs.values["faded_month"].astype(np.float32)) @ vectors)


@dataclass(frozen=True)
class Tagged:
    """Measures by user and tag, an artist or an album."""

    tags: Ragged
    n_tags: int
    keys: NDArray[np.int64]
    """Keys user · n_tags + tag, ascending."""
    measures: Measures
    """Measures [n_keys + 1], the last of a tag that was not met."""

    @classmethod
    def of(cls, pairs: Interactions, tags: Ragged) -> Self:
        """Gather the measures of pairs by the tags of their songs."""
        n_tags = int(tags.values.max(initial=-1)) + 1
        tag, place = tags.take(pairs.song)
        keys, row = np.unique(pairs.user[place] * n_tags + tag, return_inverse=True)
        measures = {name: unmet(name, len(keys) + 1) for name in pairs.values}
        for name, values in pairs.values.items():
            gather(name, values[place], row, measures[name])
        return cls(tags, n_tags, keys, measures)

    def at(self, candidates: Interactions) -> Measures:
        """Measures of the candidates' tags, the largest (of ages the least) where a song has several."""
        tag, candidate = self.tags.take(candidates.song)
        wanted = candidates.user[candidate] * self.n_tags + tag
        found = np.searchsorted(self.keys, wanted)
        found[np.append(self.keys, -1)[found] != wanted] = len(self.keys)
        best = {}
        for name, values in self.measures.items():
            best[name] = unmet(name, len(candidates))
            (np.minimum if name in LEAST else np.maximum).at(best[name], candidate, values[found])
        return best


@dataclass(frozen=True)
class Facts:
    """Measures behind each candidate of a range of users."""

    histories: Histories
    candidates: Interactions

    @property
    def known(self) -> Knowledge:
        """Knowledge of the phase."""
        return self.histories.known

    @cached_property
    def own(self) -> Measures:
        """Measures of the user's events with the candidate, [n_candidates]."""
        pairs = self.histories.pairs
        place = np.where(self.candidates.among(pairs), np.searchsorted(pairs.keys, self.candidates.keys), -1)
        return {name: np.append(values, unmet(name, 1))[place] for name, values in pairs.values.items()}

    @cached_property
    def artist(self) -> Measures:
        """Measures of the user's events with the candidate's artists."""
        return self.histories.by_artist.at(self.candidates)

    @cached_property
    def album(self) -> Measures:
        """Measures of the user's events with the candidate's albums."""
        return self.histories.by_album.at(self.candidates)

    @cached_property
    def song(self) -> Measures:
        """Measures of the candidate over all users, [n_candidates]."""
        return {name: values[self.candidates.song] for name, values in self.known.of_songs.items()}

    @cached_property
    def user(self) -> Measures:
        """Measures of the user over all songs, [n_candidates]."""
        measures, pairs = {}, self.histories.pairs
        for name, values in pairs.values.items():
            of_user = unmet(name, pairs.n_users)
            gather(name, values, pairs.user, of_user)
            measures[name] = of_user[self.candidates.user]
        return measures

    @cached_property
    def affinity(self) -> Values:
        """LightGCN's score of each candidate."""
        users, songs = self.known.embeddings
        first = self.histories.first
        return self._products(users[first : first + self.histories.pairs.n_users], songs)

    @cached_property
    def nearness(self) -> Values:
        """Cosine of LightGCN's embeddings of the candidate and of the user's recent songs."""
        songs = self.known.directions
        return self._products(self.histories.recent(songs), songs)

    @cached_property
    def sound(self) -> Values:
        """Cosine of the audio of the candidate and of the user's recent songs; 0 without audio."""
        return self._products(self.histories.recent(self.known.audio), self.known.audio)

    def _products(self, users: NDArray[np.float32], songs: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.empty(len(self.candidates), np.float32)
        for begin in range(0, len(found), AT_ONCE):
            some = slice(begin, begin + AT_ONCE)
            found[some] = np.einsum("nd,nd->n", users[self.candidates.user[some]], songs[self.candidates.song[some]])
        return found


@dataclass(frozen=True)
class Feature:
    """Number for each candidate by which the ranker may judge it; NaN where it is unknown."""

    sentence: str
    of: Callable[[Facts], Values]


def _measure(level: str, name: str) -> Callable[[Facts], Values]:
    return lambda facts: getattr(facts, level)[name]


def _share(level: str, part: str, whole: str) -> Callable[[Facts], Values]:
    def share(facts: Facts) -> Values:
        measures = getattr(facts, level)
        return measures[part] / np.where(measures[whole] > 0, measures[whole], np.nan)

    return share


def _of_level(level: str, thing: str) -> dict[str, Feature]:
    """Features of the user's events with the candidate itself, or with its artists or albums."""
    counted = {
        "n": "number of positive events",
        "likes": "number of likes",
        "dislikes": "number of dislikes",
        "skips": "number of skipped listens",
        "age": "Seconds between the user's last event with {} and the user's last event.",
        "faded_day": "positive events, halved for every day of age",
        "faded_month": "positive events, halved for every 30 days of age",
        "activation": "sum of (age in minutes + 1)^-1/2 over the positive events",
    }
    return {
        f"{level}_{name}": Feature(
            text.format(thing) if "{}" in text else f"The user's {text} with {thing}.", _measure(level, name)
        )
        for name, text in counted.items()
    } | {
        f"{level}_skip_rate": Feature(
            f"Share of the user's listens to {thing} that were skipped.", _share(level, "skips", "plays")
        ),
        f"{level}_ratio": Feature(
            f"Mean played ratio of the user's listens to {thing}.", _share(level, "ratio", "rated")
        ),
    }


FEATURES: dict[str, Feature] = {
    **_of_level("own", "the song"),
    **_of_level("artist", "the song's artist"),
    **_of_level("album", "the song's album"),
    "own_organic": Feature(
        "Share of the user's events with the song that were organic.", _share("own", "organic", "n")
    ),
    "artist_songs": Feature("Number of songs of the artist that the user has met.", _measure("artist", "met")),
    "album_songs": Feature("Number of songs of the album that the user has met.", _measure("album", "met")),
    "song_n": Feature("Positive events with the song over all users.", _measure("song", "n")),
    "song_listeners": Feature("Users with a positive event with the song.", _measure("song", "met")),
    "song_late_day": Feature(
        "Positive events with the song, halved for every day of age.", _measure("song", "late_day")
    ),
    "song_late_week": Feature("Positive events with the song, halved every 7 days.", _measure("song", "late_week")),
    "song_late_month": Feature("Positive events with the song, halved every 30 days.", _measure("song", "late_month")),
    "song_trend": Feature("Share of the song's events that is of late.", _share("song", "late_week", "n")),
    "song_replays": Feature("Positive events with the song for each of its listeners.", _share("song", "n", "met")),
    "song_skip_rate": Feature("Share of all listens to the song that were skipped.", _share("song", "skips", "plays")),
    "song_like_rate": Feature("Likes of the song for each listener.", _share("song", "likes", "met")),
    "song_dislike_rate": Feature("Dislikes of the song for each listener.", _share("song", "dislikes", "met")),
    "song_organic": Feature("Share of the song's events that were organic.", _share("song", "organic", "n")),
    "song_ratio": Feature("Mean played ratio of the song.", _share("song", "ratio", "rated")),
    "song_age": Feature("Seconds since the song's first event.", _measure("song", "begun")),
    "user_n": Feature("Positive events of the user.", _measure("user", "n")),
    "user_songs": Feature("Songs that the user has met.", _measure("user", "met")),
    "user_replays": Feature("Positive events of the user for each song met.", _share("user", "n", "met")),
    "user_organic": Feature("Share of the user's events that were organic.", _share("user", "organic", "n")),
    "user_skip_rate": Feature("Share of the user's listens that were skipped.", _share("user", "skips", "plays")),
    "user_like_rate": Feature("Likes of the user for each positive event.", _share("user", "likes", "n")),
    "user_idle": Feature("Seconds between the user's last event and the last of all.", _measure("user", "idle")),
    "lightgcn_affinity": Feature("LightGCN's score, listed or not.", lambda facts: facts.affinity),
    "lightgcn_nearness": Feature(
        "Cosine of LightGCN's embeddings of the song and of the user's recent songs.", lambda facts: facts.nearness
    ),
    "sound": Feature("Cosine of the audio of the song and of the user's recent songs.", lambda facts: facts.sound),
}
"""Features by name, those of the sources' lists excepted."""


def of_sources(sources: Collection[str]) -> dict[str, str]:
    """Names and sentences of the features that the lists of sources are."""
    told = {"n_sources": "Number of recommenders that list the song."}
    for source in sources:
        told[f"{source}_rank"] = f"Rank in the list of {source}; null where it does not list the song."
        told[f"{source}_score"] = f"Score by {source}; null where it does not list the song."
    return told


def table(facts: Facts, pool: Pool, features: dict[str, Feature] = FEATURES) -> dict[str, NDArray[np.float32]]:
    """Features of the candidates of a pool, float32 [n_candidates] by name."""
    found = {name: feature.of(facts) for name, feature in features.items()} | {"n_sources": pool.n_sources}
    for source in pool.ranks:
        found |= {f"{source}_rank": pool.ranks[source], f"{source}_score": pool.scores[source]}
    return {name: finite(values) for name, values in found.items()}


def finite(values: Values) -> NDArray[np.float32]:
    """Values as they are stored: infinite ones, ages of what never was, are unknown."""
    return np.where(np.isfinite(values), values, np.nan).astype(np.float32)
