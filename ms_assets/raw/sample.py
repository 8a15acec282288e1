"""A small Yambda of the project's own: planted taste, in the hub's layout, the same files for the same seed.

Songs lie around scenes in a latent space, and their audio is a noisy image of it; users love a few scenes, and
mostly replay what they have played. So collaborative, content and replay signals are all there to be found.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from ms_assets.raw.schema import AUDIO_DIMENSIONS, EVENT_TYPES, TABLES
from ms_assets.settings import PUBLISHED_LAST_TIMESTAMP

DAY = 86_400


@dataclass(frozen=True)
class SampleShape:
    """How much is generated, and how people behave in it."""

    n_users: int = 1_000
    n_songs: int = 20_000
    n_listens: int = 290_000
    n_scenes: int = 80
    scenes_per_user: int = 4
    seed: int = 7
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
    """Share of songs met once and not loved that are disliked unheard."""
    regret: float = 0.15
    """Probability that a like or dislike is taken back later."""
    null_ratio: float = 0.01
    """Share of listens whose played ratio is unknown."""
    null_item: float = 0.0002
    """Share of rows that name no song."""
    silent: float = 0.18
    """Share of songs without an audio embedding."""


@dataclass(frozen=True)
class Catalogue:
    """The songs, by internal number 0…n−1."""

    item_id: NDArray[np.uint32]
    scene: NDArray[np.int64]
    artist: NDArray[np.int64]
    release: NDArray[np.int64]
    popularity: NDArray[np.float64]
    latent: NDArray[np.float64]


@dataclass(frozen=True)
class Events:
    """Parallel columns, one entry per event; `song` is an internal number, `user` a row of the user ids."""

    user: NDArray[np.int64]
    time: NDArray[np.int64]
    song: NDArray[np.int64]
    kind: NDArray[np.int64]
    percent: NDArray[np.int64]
    organic: NDArray[np.bool_]

    def take(self, order: NDArray[np.integer]) -> "Events":
        """The events at these positions."""
        return Events(*(getattr(self, name)[order] for name in self.__dataclass_fields__))


def generate(folder: Path, shape: SampleShape) -> None:
    """Write the nine files under `folder`, which appears only when all of them are whole."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(shape.seed)
    catalogue = _catalogue(rng, shape)
    events = _events(rng, shape, catalogue)
    uid = np.sort(rng.choice(10 * shape.n_users, shape.n_users, replace=False)).astype(np.uint32)
    _write_interactions(unfinished, rng, shape, catalogue, uid, events)
    _write_catalogue(unfinished, rng, shape, catalogue)
    try:
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.is_dir():  # otherwise another process finished the same files first
            raise


def _catalogue(rng: Generator, shape: SampleShape) -> Catalogue:
    n, n_artists, width = shape.n_songs, max(shape.n_songs // 8, 1), 16
    centres = rng.normal(size=(shape.n_scenes, width))
    artist_scene = rng.integers(shape.n_scenes, size=n_artists)
    artist_latent = centres[artist_scene] + 0.5 * rng.normal(size=(n_artists, width))
    artist_fame = rng.lognormal(sigma=0.4, size=n_artists)
    artist = rng.choice(n_artists, n, p=artist_fame / artist_fame.sum())
    # One song in ten comes out during the recorded time; the others were there before.
    release = np.where(rng.random(n) < 0.1, rng.integers(1, PUBLISHED_LAST_TIMESTAMP, size=n), 0)
    return Catalogue(
        item_id=np.sort(rng.choice(20 * n, n, replace=False)).astype(np.uint32),
        scene=artist_scene[artist],
        artist=artist,
        release=release,
        popularity=rng.lognormal(sigma=0.6, size=n) * artist_fame[artist],
        latent=artist_latent[artist] + 0.35 * rng.normal(size=(n, width)),
    )


def _events(rng: Generator, shape: SampleShape, songs: Catalogue) -> Events:
    user, time = _listening_times(rng, shape)
    song, loved, fresh = _first_choices(rng, shape, songs, user, time)
    origin = _replay_origins(rng, shape.replay, user)
    song, loved = song[origin], loved[origin]
    replayed = origin != np.arange(len(user))
    full = rng.random(len(user)) < np.where(loved, 0.75, 0.2)
    percent = np.where(full, 100, rng.integers(0, np.where(loved, 100, 50)))
    organic = rng.random(len(user)) < np.where(replayed, 0.7, np.where(fresh, 0.15, 0.4))
    once = np.bincount(origin, minlength=len(user)) == 1
    snubbed = once & ~loved & (rng.random(len(user)) < shape.snub)
    kind = np.where(snubbed, EVENT_TYPES.index("dislike"), EVENT_TYPES.index("listen"))
    listens = Events(user, time, song, kind, percent, organic)
    first = ~replayed & ~snubbed
    everything = _with_feedback(rng, shape, listens, first & loved, first & ~loved)
    # The sort is stable: at equal times the listen stays before the like that follows it.
    return everything.take(np.lexsort((everything.time, everything.user)))


def _listening_times(rng: Generator, shape: SampleShape) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    activity = rng.lognormal(sigma=0.9, size=shape.n_users)
    n_listens = np.maximum(np.rint(shape.n_listens * activity / activity.sum()), 1).astype(np.int64)
    user = np.repeat(np.arange(shape.n_users), n_listens)
    # About twelve listens a session: a session is a number, its start a draw that its listens share.
    n_sessions = np.maximum(n_listens // 12, 1)
    session = (rng.random(len(user)) * n_sessions[user]).astype(np.int64) + (np.cumsum(n_sessions) - n_sessions)[user]
    start = rng.integers(0, PUBLISHED_LAST_TIMESTAMP - DAY // 12, size=n_sessions.sum())
    time = (start[session] + rng.integers(0, DAY // 12, size=len(user))) // 5 * 5
    time[np.argmax(time)] = PUBLISHED_LAST_TIMESTAMP
    order = np.lexsort((time, user))
    return user[order], time[order]


def _first_choices(
    rng: Generator, shape: SampleShape, songs: Catalogue, user: NDArray[np.int64], time: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """What each listen would play if it were new: (song, of a loved scene, a recent release)."""
    n = len(user)
    loved_scenes = np.argsort(rng.random((shape.n_users, shape.n_scenes)), axis=1)[:, : shape.scenes_per_user]
    shares = np.cumsum(rng.dirichlet(np.full(shape.scenes_per_user, 1.5), shape.n_users), axis=1)
    which = (rng.random(n)[:, None] > shares[user]).sum(axis=1).clip(max=shape.scenes_per_user - 1)

    # Songs in the order of scenes and artists: either is a stretch of the cumulated popularity.
    there = np.flatnonzero(songs.release == 0)
    there = there[np.lexsort((songs.artist[there], songs.scene[there]))]
    cumulated = np.concatenate([[0], np.cumsum(songs.popularity[there])])

    def draw(first: NDArray[np.int64], beyond: NDArray[np.int64]) -> NDArray[np.int64]:
        low, high = cumulated[first], cumulated[beyond]
        drawn = np.searchsorted(cumulated, low + rng.random(low.shape) * (high - low), side="right") - 1
        return there[drawn.clip(0, len(there) - 1)]

    scene_starts = np.searchsorted(songs.scene[there], np.arange(shape.n_scenes + 1))
    favourite_scene = loved_scenes[:, np.arange(shape.favourites) % shape.scenes_per_user]
    favourites = songs.artist[draw(scene_starts[favourite_scene], scene_starts[favourite_scene + 1])]
    artist = favourites[user, rng.integers(shape.favourites, size=n)]
    places = np.argsort(songs.artist[there], kind="stable")
    by_artist = songs.artist[there][places]
    first_song = places[np.searchsorted(by_artist, artist)]
    n_songs = np.searchsorted(by_artist, artist, side="right") - np.searchsorted(by_artist, artist)
    scene = loved_scenes[user, which]
    loyal, stray = rng.random(n) < shape.loyalty, rng.random(n) < shape.stray
    first = np.where(stray, 0, np.where(loyal, first_song, scene_starts[scene]))
    beyond = np.where(stray, len(there), np.where(loyal, first_song + n_songs, scene_starts[scene + 1]))
    song = draw(first, beyond)

    new = np.flatnonzero(songs.release > 0)
    new = new[np.argsort(songs.release[new], kind="stable")]
    latest = np.searchsorted(songs.release[new], time, side="right") - 1 - rng.geometric(0.1, size=n)
    fresh = (rng.random(n) < shape.fresh) & (latest >= 0)
    song[fresh] = new[latest[fresh]]
    return song, (songs.scene[song][:, None] == loved_scenes[user]).any(axis=1), fresh


def _replay_origins(rng: Generator, replay: float, user: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each listen the position of the listen that chose its song: itself, or an earlier one of the user."""
    position = np.arange(len(user))
    first = np.searchsorted(user, user)
    earlier = first + (rng.random(len(user)) * (position - first)).astype(np.int64)
    origin = np.where((rng.random(len(user)) < replay) & (position > first), earlier, position)
    while (further := origin[origin]).tolist() != origin.tolist():
        origin = further
    return origin


def _with_feedback(
    rng: Generator, shape: SampleShape, listens: Events, loved: NDArray[np.bool_], unloved: NDArray[np.bool_]
) -> Events:
    kinds = {kind: code for code, kind in enumerate(EVENT_TYPES)}
    likes = np.flatnonzero(loved & (rng.random(len(loved)) < shape.like))
    dislikes = np.flatnonzero(unloved & (rng.random(len(loved)) < shape.dislike))
    parts = [listens]
    for kind, regret, given in (("like", "unlike", likes), ("dislike", "undislike", dislikes)):
        feedback = _feedback(listens.take(given), kinds[kind], listens.time[given])
        back = feedback.take(np.flatnonzero(rng.random(len(given)) < shape.regret))
        later = back.time + rng.random(len(back.time)) * (PUBLISHED_LAST_TIMESTAMP - back.time)
        parts += [feedback, _feedback(back, kinds[regret], later.astype(np.int64) // 5 * 5)]
    return Events(*(np.concatenate([getattr(p, name) for p in parts]) for name in Events.__dataclass_fields__))


def _feedback(on: Events, kind: int, time: NDArray[np.int64]) -> Events:
    return Events(on.user, time, on.song, np.full(len(time), kind), on.percent, on.organic)


def _write_interactions(
    folder: Path,
    rng: Generator,
    shape: SampleShape,
    songs: Catalogue,
    uid: NDArray[np.uint32],
    events: Events,
) -> None:
    n, heard = len(events.user), events.kind == 0
    unknown = ~heard | (rng.random(n) < shape.null_ratio)
    length = 90 + 5 * (songs.item_id[events.song] % 60)
    columns = {
        "uid": pa.array(uid[events.user]),
        "timestamp": pa.array(events.time.astype(np.uint32)),
        "item_id": pa.array(songs.item_id[events.song], mask=rng.random(n) < shape.null_item),
        "is_organic": pa.array(events.organic.astype(np.uint8)),
        "played_ratio_pct": pa.array(events.percent.astype(np.uint16), mask=unknown),
        "track_length_seconds": pa.array(length.astype(np.uint16), mask=~heard),
        "event_type": pa.DictionaryArray.from_arrays(pa.array(events.kind.astype(np.int8)), list(EVENT_TYPES)),
    }
    table = pa.table(columns)
    _write(folder, "multi_event", table)
    for code, kind in enumerate(EVENT_TYPES):
        name = f"{kind}s"
        published = [column.name for column in TABLES[name].columns]
        _write(folder, name, table.filter(pa.array(events.kind == code)).select(published))


def _write_catalogue(folder: Path, rng: Generator, shape: SampleShape, songs: Catalogue) -> None:
    n = shape.n_songs
    audible = np.flatnonzero(rng.random(n) >= shape.silent)
    image = rng.normal(size=(songs.latent.shape[1], AUDIO_DIMENSIONS)) / 4
    audio = songs.latent[audible] @ image + 0.4 * rng.normal(size=(len(audible), AUDIO_DIMENSIONS))
    unit = audio / np.linalg.norm(audio, axis=1, keepdims=True)
    _write(
        folder,
        "embeddings",
        pa.table(
            {
                "item_id": songs.item_id[audible],
                "embed": _lists(audio),
                "normalized_embed": _lists(unit),
            }
        ),
    )
    # One song in twenty has no known artist, one in ten has a guest; most are on an album of about ten songs.
    known, guest = rng.random(n) >= 0.05, rng.random(n) < 0.1
    guests = np.stack([rng.integers(songs.artist.max() + 1, size=n), np.arange(n)], axis=1)[guest & known]
    artists = np.concatenate([np.stack([songs.artist, np.arange(n)], axis=1)[known], guests])
    _write(folder, "artist_item_mapping", _mapping("artist_id", artists, songs))
    album = songs.artist * 16 + rng.integers(2, size=n)
    compiled = rng.random(n) < 0.05
    albums = np.concatenate(
        [
            np.stack([album, np.arange(n)], axis=1)[rng.random(n) >= 0.08],
            np.stack([rng.integers(50, size=n) * 16 + 9, np.arange(n)], axis=1)[compiled],
        ]
    )
    _write(folder, "album_item_mapping", _mapping("album_id", albums, songs))


def _mapping(name: str, pairs: NDArray[np.int64], songs: Catalogue) -> pa.Table:
    owner, song = np.unique(pairs, axis=0).T
    return pa.table({name: (3 * owner + 1).astype(np.uint32), "item_id": songs.item_id[song]})


def _lists(vectors: NDArray[np.float64]) -> pa.ListArray:
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.astype(np.float32).ravel()))


def _write(folder: Path, name: str, table: pa.Table) -> None:
    path = folder / TABLES[name].file("sample")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=100_000)
