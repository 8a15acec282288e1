"""Tables of `splits` for a fraction of a scale: users, songs and events with the scale's degrees, a block at a time."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from ms_assets.raw.sample import _curve
from ms_assets.settings import UserSettings
from ms_assets.streams import TableWriter
from ms_assets.training.memory import Sizes
from ms_assets.vectors import fixed_size_list
from ms_assets_tests.benchmarks.shapes import ACTIVITY, POPULARITY, through

USERS_AT_ONCE, SONGS_AT_ONCE = 512, 1 << 16
EVENTS_OF_A_PAIR = 2.4
LATER = 0.2
"""Pairs of validation, and of test, for each edge; half of them are edges. Pairs and events are those of 50m."""
DISLIKED = 0.013
"""Explicit negatives for each edge."""
DAYS = {"train": (0, 270), "validation": (270, 299), "test": (299, 300)}
"""First and last day of each part, which is divided at one time for everybody."""
SESSIONS, SESSION = 120, 3_600
"""Number of sessions in which a user's events of a part lie, about 20 of train, and their seconds."""
WRITTEN = (*DAYS, "negatives", "ground_truth")

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Users and songs, int64 [n] each, sorted by both."""


def sizes_of(whole: Sizes, fraction: float) -> Sizes:
    """Sizes of a fraction of a graph, whose nodes have as many edges as those of the whole."""
    parts = {name: max(round(fraction * n), 1) for name, n in asdict(whole).items()}
    return Sizes(**parts | {"audio_dimensions": whole.audio_dimensions})


def write(folder: Path, sizes: Sizes) -> None:
    """Write users, songs, audio, each part's events, explicit negatives and ground truth as Parquet files.

    A user has up to ten times as many edges as another, as the filter of users lets by, and songs are drawn by Yambda's
    popularity; every graph song has an edge.
    """
    rng = np.random.default_rng(0)
    draws = _Draws.of(rng, sizes)
    plays = np.zeros(sizes.n_songs, np.int64)
    with ExitStack() as stack:
        written = {name: stack.enter_context(TableWriter(folder / f"{name}.parquet")) for name in WRITTEN}
        for first in range(0, sizes.n_users, USERS_AT_ONCE):
            edges = draws.edges(first, min(first + USERS_AT_ONCE, sizes.n_users))
            events = _events(rng, edges, "train")
            plays += np.bincount(events["song_id"].to_numpy(), minlength=sizes.n_songs)
            written["train"].append(events)
            written["negatives"].append(_negatives(draws.others(edges, DISLIKED)))
            for split in ("validation", "test"):
                pairs = draws.later(edges)
                written[split].append(_events(rng, pairs, split))
                written["ground_truth"].append(_truth(rng, split, pairs))
        for table in written.values():
            table.finish()
    users = {"user_id": np.arange(sizes.n_users, dtype=np.int32), "uid": 7 * np.arange(sizes.n_users)}
    pq.write_table(pa.table(users), folder / "users.parquet")
    pq.write_table(_songs(rng, sizes, plays), folder / "songs.parquet")
    with TableWriter(folder / "embeddings.parquet") as audio:
        audio.fill(_audio(rng, sizes))


@dataclass(frozen=True)
class _Draws:
    """Draws of songs for users."""

    rng: Generator
    sizes: Sizes
    cumulative: NDArray[np.float64]
    """Shares of graph songs in what is heard, added up."""
    n_edges: NDArray[np.int64]
    """Number of edges that each user should have."""

    @classmethod
    def of(cls, rng: Generator, sizes: Sizes) -> Self:
        popularity = _curve(through(POPULARITY), rng.standard_normal(sizes.n_graph_songs))
        for _ in range(20):  # of few users no song can have more
            popularity = np.minimum(popularity, popularity.sum() * sizes.n_users / (2 * sizes.n_edges))
        cumulative = np.cumsum(popularity)
        limits, activity = UserSettings(), np.empty(0)
        while len(activity) < sizes.n_users:
            drawn = _curve(through(ACTIVITY), rng.standard_normal(4 * sizes.n_users))
            activity = np.append(activity, drawn[(drawn >= limits.min_events) & (drawn <= limits.max_events)])
        activity = activity[: sizes.n_users]
        return cls(rng, sizes, cumulative / cumulative[-1], (activity * sizes.n_edges / activity.sum()).astype(int))

    def edges(self, first: int, end: int) -> Pairs:
        """Edges of the users from first to end."""
        wanted, n_songs = self.n_edges[first:end], self.sizes.n_graph_songs
        own = np.arange(*(n_songs * user // self.sizes.n_users for user in (first, end)))
        drawn = np.repeat(np.arange(len(wanted)), 2 * wanted) * n_songs + self._songs(2 * int(wanted.sum()))
        kept = self.rng.integers(len(wanted), size=len(own)) * n_songs + own  # every song once
        keys = np.unique(np.concatenate([kept, drawn]))
        # Of each user as many as they should have, those that must be kept first.
        user, order = keys // n_songs, self.rng.random(len(keys)) - np.isin(keys, kept)
        ranked = np.lexsort((order, user))
        n_keys = np.bincount(user, minlength=len(wanted))
        place = np.arange(len(keys)) - np.repeat(np.cumsum(n_keys) - n_keys, n_keys)
        keys = np.sort(keys[ranked[place < np.repeat(wanted, n_keys)]])
        return first + keys // n_songs, keys % n_songs

    def later(self, edges: Pairs) -> Pairs:
        """Pairs of the same users, half of which are edges."""
        both = zip(_some(self.rng, edges, LATER / 2), self.others(edges, LATER / 2), strict=True)
        return _sorted(*(np.concatenate(ids) for ids in both), self.sizes.n_graph_songs)

    def others(self, edges: Pairs, share: float) -> Pairs:
        """Pairs of the same users with songs drawn anew, a share of the edges."""
        users, _ = _some(self.rng, edges, share)
        return _sorted(users, self._songs(len(users)), self.sizes.n_graph_songs)

    def _songs(self, n: int) -> NDArray[np.int64]:
        return np.searchsorted(self.cumulative, self.rng.random(n))


def _some(rng: Generator, pairs: Pairs, share: float) -> Pairs:
    kept = rng.random(len(pairs[0])) < share
    return pairs[0][kept], pairs[1][kept]


def _sorted(users: NDArray[np.int64], songs: NDArray[np.int64], n_songs: int) -> Pairs:
    keys = np.unique(users * n_songs + songs)
    return keys // n_songs, keys % n_songs


def _events(rng: Generator, pairs: Pairs, part: str) -> pa.Table:
    n_events = rng.geometric(1 / EVENTS_OF_A_PAIR, len(pairs[0]))
    users, songs = (np.repeat(ids.astype(np.int32), n_events) for ids in pairs)
    begin, end = (86_400 * day for day in DAYS[part])
    times = begin + rng.integers(SESSIONS, size=len(users)) * ((end - begin) // SESSIONS)
    kind = np.repeat(rng.random(len(n_events)) < 0.05, n_events).astype(np.int8)
    return pa.table(
        {
            "user_id": users,
            "song_id": songs,
            "timestamp": times + 5 * rng.integers(SESSION // 5, size=len(users)),
            "event_type": pa.DictionaryArray.from_arrays(kind, pa.array(["listen", "like"])),
            "played_ratio": pa.array(rng.integers(0, 101, len(users)) / 100, mask=kind == 1),
            "is_organic": rng.integers(0, 2, len(users)).astype(np.uint8),
        }
    )


def _negatives(pairs: Pairs) -> pa.Table:
    users, songs = (ids.astype(np.int32) for ids in pairs)
    n = len(users)
    return pa.table({"user_id": users, "song_id": songs, "event_type": ["dislike"] * n, "in_graph": np.ones(n, bool)})


def _truth(rng: Generator, split: str, pairs: Pairs) -> pa.Table:
    users, songs = (ids.astype(np.int32) for ids in pairs)
    relevance, once = 0.7 * rng.random(len(users)), np.ones(len(users), np.int64)
    return pa.table(
        {
            "split": pa.DictionaryArray.from_arrays(np.zeros(len(users), np.int8), pa.array([split])),
            "user_id": users,
            "song_id": songs,
            "base_relevance": relevance,
            "adjusted_relevance": relevance,
            "listen_plus": (relevance > 0.35).astype(np.int64),
            "likes": 0 * once,
            "dislikes": 0 * once,
            "n_events": once,
            "n_train_plays": 0 * once,
        }
    )


def _songs(rng: Generator, sizes: Sizes, plays: NDArray[np.int64]) -> pa.Table:
    offsets, owners = np.arange(sizes.n_songs + 1, dtype=np.int32), {"artist": 3, "album": 1.5}
    of_owner = {
        f"{owner}_ids": pa.ListArray.from_arrays(
            offsets, rng.integers(max(int(sizes.n_owners / parts), 1), size=sizes.n_songs, dtype=np.int32)
        )
        for owner, parts in owners.items()
    }
    ids = np.arange(sizes.n_songs, dtype=np.int32)
    flags = {"in_graph": ids < sizes.n_graph_songs, "n_train_plays": plays}
    return pa.table({"song_id": ids, "item_id": 3 * ids.astype(np.int64), **of_owner, **flags})


def _audio(rng: Generator, sizes: Sizes) -> Iterator[pa.Table]:
    for first in range(0, sizes.n_songs, SONGS_AT_ONCE):
        ids = np.arange(first, min(first + SONGS_AT_ONCE, sizes.n_songs))
        vectors = rng.standard_normal((len(ids), sizes.audio_dimensions), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield pa.table({"item_id": 3 * ids, "normalized_embed": fixed_size_list(vectors).cast(pa.list_(pa.float32()))})
