"""Generator of a synthetic Yambda with planted taste, in the hub's layout; equal seeds give equal files.

Songs lie around scenes in a latent space, and their audio is a noisy image of it; users love a few scenes, and
mostly replay songs that they have played. So collaborative, content and replay signals can all be found.
Users are drawn in blocks, each from a random stream of its own, so that only a few blocks are in memory and any
number of threads gives the same files.
"""

import logging
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from ms_assets.events import EVENT_TYPES
from ms_assets.raw.schema import AUDIO_DIMENSIONS, TABLES
from ms_assets.settings import PUBLISHED_LAST_TIMESTAMP

DAY = 86_400
RECENT = 3 * DAY
"""Seconds for which a release counts as fresh."""
USERS_PER_BLOCK = 125
SONGS_PER_BLOCK = 50_000
KINDS = list(EVENT_TYPES)
"""Event types in the order of their codes in the generated events."""
EVENTS = ("user", "time", "song", "kind", "percent", "organic")
"""Columns of the generated events; songs have internal numbers, users are rows of the block's user ids."""

logger = logging.getLogger(__name__)

Curve = tuple[tuple[float, float], ...]
"""Points of a quantity's logarithm over a standard normal score; two points make it lognormal, clipped at both."""


@dataclass(frozen=True)
class SampleShape:
    """Size of the sample, and behaviour of its users."""

    n_users: int = 1_000
    n_songs: int = 20_000
    n_listens: int = 290_000
    n_scenes: int = 80
    scenes_per_user: int = 4
    seed: int = 7
    activity: Curve = ((-4.0, -3.6), (4.0, 3.6))
    """Distribution of the number of listens per user, up to a factor."""
    popularity: Curve = ((-4.0, -2.88), (4.0, 2.88))
    """Distribution of a song's probability among songs of its scene or artist, up to a factor."""
    favourites: int = 6
    """Artists that a user returns to."""
    loyalty: float = 0.4
    """Probability that a new song is by one of them."""
    replay: float = 0.5
    """Probability that a listen repeats an earlier one."""
    stray: float = 0.2
    """Probability that a new song comes from the charts instead of the user's scenes or artists."""
    fresh: float = 0.06
    """Probability that a new song is a recent release."""
    like: float = 0.06
    dislike: float = 0.08
    snub: float = 0.1
    """Share of songs outside the loved scenes, met once, that are disliked unheard."""
    unlike: float = 0.15
    """Probability that a like is taken back later."""
    undislike: float = 0.15
    null_ratio: float = 0.01
    """Share of listens whose played ratio is unknown."""
    null_item: float = 0.0002
    """Share of rows that name no song."""
    silent: float = 0.18
    """Share of songs without an audio embedding."""


@dataclass(frozen=True)
class Catalogue:
    """Songs by internal number: first those available from the start, by scene and artist, then releases by time."""

    item_id: NDArray[np.uint32]
    scene: NDArray[np.int64]
    artist: NDArray[np.int64]
    release: NDArray[np.int64]
    latent: NDArray[np.float32]
    cumulated_popularity: NDArray[np.float64]
    scene_start: NDArray[np.int64]
    """First song of each scene among those available from the start; one entry more than scenes."""
    artist_start: NDArray[np.int64]

    def draw(self, rng: Generator, first: NDArray[np.int64], beyond: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw one song from each range of songs, by popularity."""
        low, high = self.cumulated_popularity[first], self.cumulated_popularity[beyond]
        drawn = np.searchsorted(self.cumulated_popularity, low + rng.random(low.shape) * (high - low), side="right")
        return (drawn - 1).clip(0, len(self.item_id) - 1)


def generate(folder: Path, shape: SampleShape, scale: str = "sample", threads: int = os.cpu_count() or 1) -> None:
    """Write the nine files into `folder`, which appears only once all of them are complete."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for_songs, for_files, for_users = SeedSequence(shape.seed).spawn(3)
    songs = _catalogue(default_rng(for_songs), shape)
    paths = {name: unfinished / table.file(scale) for name, table in TABLES.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(threads) as pool:
        catalogue = pool.submit(_write_catalogue, paths, default_rng(for_files), shape, songs)
        _write(paths, _blocks(pool, threads, for_users, shape, songs))
        catalogue.result()
    try:
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.is_dir():  # otherwise another process finished the same files first
            raise


def _curve(curve: Curve, score: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(np.interp(score, *np.transpose(curve)))


def _catalogue(rng: Generator, shape: SampleShape) -> Catalogue:
    n, n_artists, width = shape.n_songs, max(shape.n_songs // 8, 1), 16
    centres = rng.normal(size=(shape.n_scenes, width))
    artist_scene = np.sort(rng.integers(shape.n_scenes, size=n_artists))
    artist_latent = centres[artist_scene] + 0.5 * rng.normal(size=(n_artists, width))
    fame = 0.4 * rng.normal(size=n_artists)
    artist = rng.choice(n_artists, n, p=np.exp(fame) / np.exp(fame).sum())
    # One song in ten is released during the recorded time; the others are available from the start.
    release = np.where(rng.random(n) < 0.1, rng.integers(1, PUBLISHED_LAST_TIMESTAMP, size=n), 0)
    order = np.lexsort((artist, release))
    artist, release = artist[order], release[order]
    score = (0.6 * rng.normal(size=n) + fame[artist]) / math.hypot(0.6, 0.4)
    there = artist[release == 0]
    return Catalogue(
        item_id=rng.choice(20 * n, n, replace=False).astype(np.uint32),
        scene=artist_scene[artist],
        artist=artist,
        release=release,
        latent=(artist_latent[artist] + 0.35 * rng.normal(size=(n, width))).astype(np.float32),
        cumulated_popularity=np.concatenate([[0], np.cumsum(_curve(shape.popularity, score))]),
        scene_start=np.searchsorted(artist_scene[there], np.arange(shape.n_scenes + 1)),
        artist_start=np.searchsorted(there, np.arange(n_artists + 1)),
    )


def _blocks(
    pool: ThreadPoolExecutor, ahead: int, seeds: SeedSequence, shape: SampleShape, songs: Catalogue
) -> Iterator[dict[str, pa.Table]]:
    """Generate the interaction tables of each block of users, in order; at most `ahead` blocks wait to be written."""
    for_activity, *for_blocks = seeds.spawn(1 + -(-shape.n_users // USERS_PER_BLOCK))
    rng = default_rng(for_activity)
    activity = _curve(shape.activity, rng.normal(size=shape.n_users))
    n_listens = np.maximum(np.rint(shape.n_listens * activity / activity.sum()), 1).astype(np.int64)
    uid = np.sort(rng.choice(10 * shape.n_users, shape.n_users, replace=False)).astype(np.uint32)
    underway: deque[Future[dict[str, pa.Table]]] = deque()
    for start, seed in zip(range(0, shape.n_users, USERS_PER_BLOCK), for_blocks, strict=True):
        users = slice(start, start + USERS_PER_BLOCK)
        underway.append(pool.submit(_block, default_rng(seed), shape, songs, uid[users], n_listens[users]))
        if len(underway) > ahead:
            yield underway.popleft().result()
            logger.info("generated %d of %d users", start - (ahead - 1) * USERS_PER_BLOCK, shape.n_users)
    yield from (block.result() for block in underway)


def _block(
    rng: Generator, shape: SampleShape, songs: Catalogue, uid: NDArray[np.uint32], n_listens: NDArray[np.int64]
) -> dict[str, pa.Table]:
    events = _events(rng, shape, songs, n_listens)
    user, time, song, kind, percent, organic = (events[name].to_numpy() for name in EVENTS)
    n, heard = len(events), kind == KINDS.index("listen")
    unknown = ~heard | (rng.random(n) < shape.null_ratio)
    item_id = songs.item_id[song]
    columns = {
        "uid": pa.array(uid[user]),
        "timestamp": pa.array(time.astype(np.uint32)),
        "item_id": pa.array(item_id, mask=rng.random(n) < shape.null_item),
        "is_organic": pa.array(organic.astype(np.uint8)),
        "played_ratio_pct": pa.array(percent, mask=unknown),
        "track_length_seconds": pa.array((90 + 5 * (item_id % 60)).astype(np.uint16), mask=~heard),
        "event_type": pa.DictionaryArray.from_arrays(pa.array(kind), KINDS),
    }
    tables = {"multi_event": pa.table(columns)}
    for code, name in enumerate(KINDS):
        published = [column.name for column in TABLES[f"{name}s"].columns]
        tables[f"{name}s"] = tables["multi_event"].select(published).filter(pa.array(kind == code))
    return tables


def _events(rng: Generator, shape: SampleShape, songs: Catalogue, n_listens: NDArray[np.int64]) -> pl.DataFrame:
    """Events by user, a row of the block's user ids, then time, with the columns EVENTS."""
    user, time = _listening_times(rng, n_listens)
    origin = _replay_origins(rng, shape.replay, n_listens)
    new = origin == np.arange(len(user))
    choice = (np.cumsum(new) - 1)[origin]
    song, loved, fresh = (of[choice] for of in _choices(rng, shape, songs, len(n_listens), user[new], time[new]))
    full = rng.random(len(user)) < np.where(loved, 0.75, 0.2)
    percent = np.where(full, 100, rng.random(len(user)) * np.where(loved, 100, 50)).astype(np.uint16)
    organic = rng.random(len(user)) < np.where(new, np.where(fresh, 0.15, 0.4), 0.7)
    once = np.bincount(origin, minlength=len(user)) == 1
    snubbed = once & ~loved & (rng.random(len(user)) < shape.snub)
    kind = np.where(snubbed, KINDS.index("dislike"), KINDS.index("listen")).astype(np.int8)
    listens = pl.DataFrame(dict(zip(EVENTS, (user, time, song, kind, percent, organic), strict=True)))
    first = new & ~snubbed
    events = _with_feedback(rng, shape, listens, first & loved, first & ~loved)
    # The sort is stable: at equal times the listen stays before the like that follows it.
    return events.sort("user", "time", maintain_order=True)


def _listening_times(rng: Generator, n_listens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    user = np.repeat(np.arange(len(n_listens)), n_listens)
    # About twelve listens per session: a session is a number, and its listens share a random start.
    n_sessions = np.maximum(n_listens // 12, 1)
    session = (rng.random(len(user)) * n_sessions[user]).astype(np.int64) + (np.cumsum(n_sessions) - n_sessions)[user]
    start = rng.integers(0, PUBLISHED_LAST_TIMESTAMP - DAY // 12, size=n_sessions.sum())
    time = (start[session] + rng.integers(0, DAY // 12, size=len(user))) // 5 * 5
    time[np.argmax(time)] = PUBLISHED_LAST_TIMESTAMP
    return user, np.sort(_when(user, time)) - _when(user, 0)


def _when(user: NDArray[np.int64], time: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Sort key of user, then time, as one number."""
    return user * (PUBLISHED_LAST_TIMESTAMP + 1) + time


def _replay_origins(rng: Generator, replay: float, n_listens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position, for each listen, of the listen that chose its song: itself, or an earlier one of the user."""
    position = np.arange(n_listens.sum())
    first = np.repeat(np.cumsum(n_listens) - n_listens, n_listens)
    earlier = first + (rng.random(len(position)) * (position - first)).astype(np.int64)
    origin = np.where(rng.random(len(position)) < replay, earlier, position)
    while not np.array_equal(further := origin[origin], origin):
        origin = further
    return origin


def _choices(
    rng: Generator, shape: SampleShape, songs: Catalogue, n_users: int, user: NDArray[np.int64], time: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose the song of each listen to a new song: (song, of a loved scene, a recent release)."""
    n = len(user)
    loved_scenes = np.argsort(rng.random((n_users, shape.n_scenes)), axis=1)[:, : shape.scenes_per_user]
    # Each user's cumulated shares of scenes lie between the user's number and the next: one search finds both.
    shares = np.cumsum(rng.dirichlet(np.full(shape.scenes_per_user, 1.5), n_users), axis=1)
    shares[:, -1] = 1
    bounds = (np.arange(n_users)[:, None] + shares).ravel()
    scene = loved_scenes.ravel()[np.searchsorted(bounds, user + rng.random(n), side="right")]

    favourite_scene = loved_scenes[:, np.arange(shape.favourites) % shape.scenes_per_user]
    favourite = songs.draw(rng, songs.scene_start[favourite_scene], songs.scene_start[favourite_scene + 1])
    artist = songs.artist[favourite][user, rng.integers(shape.favourites, size=n)]
    loyal, stray = rng.random(n) < shape.loyalty, rng.random(n) < shape.stray
    first = np.where(loyal, songs.artist_start[artist], songs.scene_start[scene])
    beyond = np.where(loyal, songs.artist_start[artist + 1], songs.scene_start[scene + 1])
    first[stray], beyond[stray] = 0, songs.scene_start[-1]
    since, until = (np.searchsorted(songs.release, t, side="right") for t in ((time - RECENT).clip(min=0), time))
    fresh = (rng.random(n) < shape.fresh) & (since < until)
    song = songs.draw(rng, np.where(fresh, since, first), np.where(fresh, until, beyond))

    loved = np.zeros((n_users, shape.n_scenes), dtype=bool)
    np.put_along_axis(loved, loved_scenes, True, axis=1)
    return song, loved[user, songs.scene[song]], fresh


def _with_feedback(
    rng: Generator, shape: SampleShape, listens: pl.DataFrame, loved: NDArray[np.bool_], unloved: NDArray[np.bool_]
) -> pl.DataFrame:
    """Append to the listens the reactions to the first listens of loved and unloved songs."""
    parts = [listens]
    reactions = (("like", loved, shape.like, shape.unlike), ("dislike", unloved, shape.dislike, shape.undislike))
    for kind, first, given, regretted in reactions:
        feedback = listens.filter(first & (rng.random(len(first)) < given))
        back = feedback.filter(rng.random(len(feedback)) < regretted)
        time = back["time"].to_numpy()
        later = time + rng.random(len(time)) * (PUBLISHED_LAST_TIMESTAMP - time)
        parts += [
            feedback.with_columns(kind=pl.lit(KINDS.index(kind), pl.Int8)),
            back.with_columns(kind=pl.lit(KINDS.index(f"un{kind}"), pl.Int8), time=later.astype(int) // 5 * 5),
        ]
    return pl.concat(parts)


def _write_catalogue(paths: dict[str, Path], rng: Generator, shape: SampleShape, songs: Catalogue) -> None:
    n = shape.n_songs
    audible, known, guests, on_album, compiled = (rng.random(n) < p for p in (1 - shape.silent, 0.95, 0.1, 0.92, 0.05))
    _write(paths, _embeddings(rng, songs, np.flatnonzero(audible)))
    guest = rng.integers(songs.artist.max() + 1, size=n)
    artists = _mapping("artist_id", songs, (songs.artist, known), (guest, known & guests))
    # An artist has two albums; compilations have songs of everybody.
    album, compilation = songs.artist * 16 + rng.integers(2, size=n), rng.integers(50, size=n) * 16 + 9
    albums = _mapping("album_id", songs, (album, on_album), (compilation, compiled))
    _write(paths, [{"artist_item_mapping": artists, "album_item_mapping": albums}])


def _embeddings(rng: Generator, songs: Catalogue, audible: NDArray[np.int64]) -> Iterator[dict[str, pa.Table]]:
    image = rng.standard_normal((songs.latent.shape[1], AUDIO_DIMENSIONS), dtype=np.float32) / 4
    by_id = audible[np.argsort(songs.item_id[audible])]
    for start in range(0, len(by_id), SONGS_PER_BLOCK):
        block = by_id[start : start + SONGS_PER_BLOCK]
        noise = rng.standard_normal((len(block), AUDIO_DIMENSIONS), dtype=np.float32)
        audio = songs.latent[block] @ image + np.float32(0.4) * noise
        unit = audio / np.linalg.norm(audio, axis=1, keepdims=True)
        columns = {"item_id": songs.item_id[block], "embed": _lists(audio), "normalized_embed": _lists(unit)}
        yield {"embeddings": pa.table(columns)}


def _lists(vectors: NDArray[np.float32]) -> pa.ListArray:
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))


def _mapping(name: str, songs: Catalogue, *owners: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> pa.Table:
    """Table of distinct pairs of owner and song, sorted; owners: each song's owner, and the songs that have one."""
    n = len(songs.item_id)
    pairs = np.concatenate([owner[some] * n + np.flatnonzero(some) for owner, some in owners])
    owner, song = np.divmod(np.unique(pairs), n)
    return pa.table({name: (3 * owner + 1).astype(np.uint32), "item_id": songs.item_id[song]})


def _write(paths: dict[str, Path], pieces: Iterable[dict[str, pa.Table]]) -> None:
    """Write several files together, one row group of each per piece."""
    with ExitStack() as open_files:
        writers: dict[str, pq.ParquetWriter] = {}
        for piece in pieces:
            for name, rows in piece.items():
                if name not in writers:
                    writer = pq.ParquetWriter(paths[name], rows.schema, compression="zstd")
                    writers[name] = open_files.enter_context(writer)
                writers[name].write_table(rows)
