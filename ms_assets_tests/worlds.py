"""Tiny Yambdas from plain Python rows, in the hub's layout, and random ones full of hard cases."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

DAY, GAP = 86_400, 1_800
EVENT_TYPES = ("listen", "like", "dislike", "unlike", "undislike")
CODES = {"listen": 1, "like": 2, "dislike": 3, "unlike": 4, "undislike": 5}
"""Event types as edges have them."""


class Event(NamedTuple):
    """One row of multi_event, in the order of its columns."""

    uid: int | None
    timestamp: int | None
    item_id: int | None
    is_organic: int | None = 1
    played_ratio_pct: float | None = None
    track_length_seconds: int | None = None
    event_type: str | None = "listen"


def listen(uid: int, timestamp: int, item_id: int | None, percent: float | None = 100) -> Event:
    return Event(uid, timestamp, item_id, 1, percent, 180, "listen")


def reaction(event_type: str, uid: int, timestamp: int, item_id: int | None) -> Event:
    return Event(uid, timestamp, item_id, event_type=event_type)


@dataclass(frozen=True)
class World:
    """What Yambda would hold: events in file order, songs with audio, (owner, song) pairs."""

    events: list[Event]
    audio: list[int]
    artists: list[tuple[int, int]] = field(default_factory=list)
    albums: list[tuple[int, int]] = field(default_factory=list)
    float_percents: bool = False

    def write(self, folder: Path, scale: str = "50m", layout: str = "flat") -> None:
        """Write the four files that every scale needs."""
        events = self.multi_event() if layout == "flat" else sequential(self.multi_event())
        write_table(folder, f"{layout}/{scale}/multi_event.parquet", events)
        write_table(folder, "embeddings.parquet", embeddings(self.audio))
        for owner, pairs in (("artist", self.artists), ("album", self.albums)):
            columns = {f"{owner}_id": [o for o, _ in pairs], "item_id": [song for _, song in pairs]}
            mapping = pa.table({name: pa.array(ids, pa.uint32()) for name, ids in columns.items()})
            write_table(folder, f"{owner}_item_mapping.parquet", mapping)

    def multi_event(self) -> pa.Table:
        """The events with the published types; percents arrive as floats where the world says so."""
        percent = pa.float64() if self.float_percents else pa.uint16()
        types = [pa.uint32(), pa.uint32(), pa.uint32(), pa.uint8(), percent, pa.uint16(), pa.string()]
        columns = list(zip(*self.events, strict=True)) or [()] * len(types)
        arrays = [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]
        return pa.table(arrays, names=list(Event._fields))


def frame_of(world: World, users: list[int], songs: list[int]) -> pl.DataFrame:
    """Events of these users and songs, by the names that the library has for columns."""
    events = pl.DataFrame(world.multi_event()).filter(pl.col("uid").is_in(users), pl.col("item_id").is_in(songs))
    ratio = pl.col("played_ratio_pct") / 100
    return events.select("is_organic", user="uid", song="item_id", time="timestamp", type="event_type",
                         played_ratio=ratio)  # fmt: skip


def sequential(events: pa.Table) -> pa.Table:
    """The other published layout: a row per uid, in the order of their first events, all other columns as lists."""
    lists = {}
    for row in events.to_pylist():
        for name, value in row.items():
            lists.setdefault(row["uid"], {name: [] for name in row})[name].append(value)
    rows = [{**columns, "uid": uid} for uid, columns in lists.items()]
    types = {field.name: field.type if field.name == "uid" else pa.list_(field.type) for field in events.schema}
    return pa.Table.from_pylist(rows, pa.schema(types))


def write_table(folder: Path, file: str, table: pa.Table) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def unit_vector(item_id: int) -> list[float]:
    """A song's normalised audio: one dimension of 128, which tells songs apart."""
    return [float(dimension == item_id % 128) for dimension in range(128)]


def embeddings(item_ids: list[int]) -> pa.Table:
    units = [unit_vector(item_id) for item_id in item_ids]
    vectors = pa.list_(pa.float32())
    return pa.table(
        {
            "item_id": pa.array(item_ids, pa.uint32()),
            "embed": pa.array([[2 * x for x in unit] for unit in units], vectors),
            "normalized_embed": pa.array(units, vectors),
        }
    )


@dataclass(frozen=True)
class Rules:
    """The settings of a run; ratios as the decimals that a person writes."""

    min_events: int = 1
    max_events: int = 1_000
    protocol: str = "per_user"
    train_ratio: str = "0.8"
    validation_ratio: str = "0.1"
    test_start: int = 26_000_000 - DAY
    require_audio: bool = True

    def config(self) -> dict[str, dict]:
        """The same as run config of the ops that take it."""
        return {
            "splits__songs": {"require_audio": self.require_audio},
            "splits__users": {"min_events": self.min_events, "max_events": self.max_events},
            "split_events": {
                "protocol": self.protocol,
                "train_ratio": float(self.train_ratio),
                "validation_ratio": float(self.validation_ratio),
                "test_start": self.test_start,
            },
        }


def published_order(event: Event) -> tuple:
    """By user, then time, unknown ones last; what the definitions promise holds for any other order, too."""
    return event.uid is None, event.uid, event.timestamp is None, event.timestamp


RATIOS = (("0.7", "0.2"), ("0.5", "0.25"), ("0.57", "0.29"), ("0.9", "0"), ("0.333", "0.333"))


def random_case(seed: int, n_users: int = 40) -> tuple[World, Rules]:
    """A world and rules for it, the same for the same seed; odd seeds split by time, every fourth takes any song.

    Every third world is in the published order, every third has its users mixed up.
    """
    rng = random.Random(seed)
    rules = Rules(
        min_events=rng.randint(1, 5),
        max_events=rng.randint(14, 24),
        protocol=("per_user", "global_temporal")[seed % 2],
        train_ratio=RATIOS[seed // 2 % len(RATIOS)][0],
        validation_ratio=RATIOS[seed // 2 % len(RATIOS)][1],
        test_start=rng.choice([Rules.test_start, 200_000]),
        require_audio=seed % 4 < 3,
    )
    songs = [0, 2**32 - 1, *rng.sample(range(1, 5_000), 78)]
    audio = [song for song in songs if rng.random() < 0.7] + [9_000]
    events = []
    n_ids = 7 * n_users // 4
    for uid in sorted(rng.sample(range(n_ids), n_users)):
        low, high = rules.min_events, rules.max_events
        n = rng.choice([1, max(low - 1, 1), low, low + 1, 10, high, high + 1])
        events += _history(rng, rules, uid, n, songs)
    # Somebody has events in every part, so that no world is refused for an empty one.
    events += [listen(n_ids + 20, time, audio[0], 80) for time in _times(rules)][: rules.max_events]
    events += [Event(None, rng.choice([*_times(rules), None]), song) for song in rng.sample(songs, 5)]
    return World(
        (sorted(events, key=published_order), rng.sample(events, len(events)), events)[seed % 3],
        rng.sample(audio, len(audio)),
        _owners(rng, songs, 7),
        _owners(rng, songs, 12),
        float_percents=rng.random() < 0.3,
    ), rules


def _history(rng: random.Random, rules: Rules, uid: int, n: int, songs: list[int]) -> list[Event]:
    grumpy = rng.random() < 0.2
    weights = (0, 0, 5, 3, 0) if grumpy else (12, 3, 3, 2, 2)
    history = []
    for _ in range(n):
        kind = rng.choices(EVENT_TYPES, weights)[0] if rng.random() < 0.97 else None
        song = songs[min(int(rng.expovariate(0.06)), len(songs) - 1)] if rng.random() < 0.94 else None
        heard = kind == "listen"
        percent = rng.choice([0, 33, 50, 51, 99, 100, None]) if heard else None
        length = rng.choice([90, 200, None]) if heard else None
        time = rng.choice(_times(rules)) if rng.random() < 0.95 else None
        history.append(Event(uid, time, song, rng.choice([0, 1, None]), percent, length, kind))
    return history if rng.random() < 0.3 else sorted(history, key=published_order)


def _times(rules: Rules) -> list[int]:
    if rules.protocol == "per_user":
        return [0, 5, 5, 5, 10, 15, 20, 20, 25, 30]
    test, validation = rules.test_start, rules.test_start - GAP - DAY
    edges = (validation - GAP, validation, test - GAP, test)
    return [0, 100, 1_000, *(time + step for time in edges for step in (-1, 0)), test + 40]


def _owners(rng: random.Random, songs: list[int], n: int) -> list[tuple[int, int]]:
    """Pairs of owner and song: none, one or several for each song, and some for songs nobody met."""
    ids = rng.sample(range(100), n)
    pairs = [(owner, song) for song in [*songs, 9_001] for owner in rng.sample(ids, rng.choice([0, 1, 1, 2, 3]))]
    return rng.sample(pairs, len(pairs))
