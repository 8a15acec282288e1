"""Assets of room 2, splits: users and songs with dense ids, events in three parts, ground truth, explicit negatives."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.defs.platform.io_managers import Relation, TableIOManager
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import OWNERS, SCALES, config_schema, room, settings_of
from ms_assets.defs.platform.schemas import columns, each
from ms_assets.events import EVENT_TYPES, NEGATIVES, POSITIVES, listed
from ms_assets.settings import SongSettings, SplitSettings, UserSettings
from ms_assets.splits import catalogue, parts, protocols, relevance
from ms_assets.splits.id_map import IdMap
from ms_assets.streams import TableStream, in_user_ranges

asset = room("splits")

USER_ID = ("INTEGER", "dense user id, 0-based by uid")
SONG_ID = ("INTEGER", "dense song id, 0-based: graph songs first, then cold ones")
ARTIST_IDS = ("INTEGER[]", "dense indices of its artists, ascending; empty when unknown")
ALBUM_IDS = ("INTEGER[]", "dense indices of its albums, ascending; empty when unknown")
ITEM_ID = ("BIGINT", "Yambda's song id")
DIVIDED = each("raw/multi_event", "uid", "timestamp", "event_type")
"""Source columns that decide the part of an event, and if it is positive."""
USER_OF_EVENT = (*USER_ID, "splits/users.user_id", "raw/multi_event.uid")
EVENT_OF_SONG = ("splits/users.uid", "raw/multi_event.item_id", *DIVIDED)
SONG_OF_EVENT = (*SONG_ID, "splits/candidate_songs.item_id", *EVENT_OF_SONG)
EVENT_COLUMNS = columns(
    user_id=USER_OF_EVENT,
    song_id=SONG_OF_EVENT,
    timestamp=("BIGINT", "seconds since the first event", "raw/multi_event.timestamp"),
    event_type=("VARCHAR", listed(EVENT_TYPES), "raw/multi_event.event_type"),
    played_ratio=("DOUBLE", "share of the track played, 0–1; null where unknown", "raw/multi_event.played_ratio_pct"),
    is_organic=("UTINYINT", "1: the user's own choice; 0: driven by a recommendation", "raw/multi_event.is_organic"),
)


@dg.multi_asset(
    # Run config is given under the name of the op.
    name="splits__songs",
    group_name="splits",
    partitions_def=SCALES,
    config_schema=config_schema(SongSettings),
    ins={name: dg.AssetIn(["raw", name]) for name in ("multi_event", "embeddings")}
    | {
        "artists": dg.AssetIn(["raw", "artist_item_mapping"]),
        "albums": dg.AssetIn(["raw", "album_item_mapping"]),
    },
    outs={
        "candidate_songs": dg.AssetOut(
            key=["splits", "candidate_songs"],
            description="One row per song that may be recommended: named by any event of the scale, and with audio "
            "unless that is not required.",
            metadata=columns(
                item_id=(*ITEM_ID, "raw/multi_event.item_id", "raw/embeddings.item_id"),
                artist_ids=(*ARTIST_IDS, *each("raw/artist_item_mapping", "artist_id", "item_id")),
                album_ids=(*ALBUM_IDS, *each("raw/album_item_mapping", "album_id", "item_id")),
                n_events=("BIGINT", "events of the scale that name it, whoever's", "raw/multi_event.item_id"),
            ),
            kinds={"duckdb"},
            owners=OWNERS,
            code_version="3",
        )
    },
)
def candidate_songs(
    context: dg.AssetExecutionContext,
    duckdb: DuckDB,
    multi_event: Relation,
    embeddings: Relation,
    artists: Relation,
    albums: Relation,
) -> dg.Output[Relation]:
    """Catalogue before songs have dense ids."""
    settings = settings_of(context, SongSettings)
    songs = catalogue.candidate_songs(
        duckdb.connection, multi_event, embeddings, artists, albums, settings.require_audio
    )
    return dg.Output(songs, metadata=settings.model_dump())


ACTIVE = (*each("raw/multi_event", "uid", "item_id"), "splits/candidate_songs.item_id")


@asset(
    kinds={"duckdb"},
    code_version="1",
    config_schema=config_schema(UserSettings),
    ins={"multi_event": dg.AssetIn(["raw", "multi_event"])},
    metadata=columns(
        user_id=(*USER_ID, *ACTIVE),
        uid=("BIGINT", "Yambda's user id", *ACTIVE),
        n_events=("BIGINT", "kept events: those that name a candidate song", *ACTIVE),
    ),
)
def users(
    context: dg.AssetExecutionContext, duckdb: DuckDB, multi_event: Relation, candidate_songs: Relation
) -> dg.MaterializeResult[pa.Table]:
    """One row per active user: neither too few events to learn from nor too many for one person.

    Users get dense ids from 0, `user_id`, which every later table uses.
    """
    settings = settings_of(context, UserSettings)
    active = catalogue.active_users(
        multi_event, IdMap(_item_ids(candidate_songs)), settings.min_events, settings.max_events, duckdb.rows
    )
    if not len(active):
        raise ValueError(
            f"splits/users: no user has between {settings.min_events} (min_events) and "
            f"{settings.max_events} (max_events) events of raw/multi_event, one of them with a candidate song"
        )
    return dg.MaterializeResult(value=active, metadata=settings.model_dump())


def _item_ids(candidate_songs: Relation) -> NDArray[np.int64]:
    return candidate_songs.project("item_id").order("item_id").to_arrow_table()["item_id"].to_numpy()


OUTPUTS = ("songs", "train", "validation", "test", "negatives")


@dg.multi_asset(
    name="split_events",
    can_subset=True,
    group_name="splits",
    partitions_def=SCALES,
    config_schema=config_schema(SplitSettings),
    ins={"multi_event": dg.AssetIn(["raw", "multi_event"])}
    | {name: dg.AssetIn(["splits", name]) for name in ("users", "candidate_songs")},
    outs={
        name: dg.AssetOut(
            key=["splits", name],
            description=description,
            metadata=schema,
            is_required=False,
            kinds={"duckdb"},
            owners=OWNERS,
            code_version="1",
        )
        for name, description, schema in (
            (
                "songs",
                "One row per song that may be recommended, with its dense id: graph songs first, cold ones after.",
                columns(
                    song_id=SONG_OF_EVENT,
                    item_id=(*ITEM_ID, "splits/candidate_songs.item_id"),
                    artist_ids=(*ARTIST_IDS, "splits/candidate_songs.artist_ids"),
                    album_ids=(*ALBUM_IDS, "splits/candidate_songs.album_ids"),
                    in_graph=(
                        "BOOLEAN",
                        "has a positive event in the train part; otherwise the song is cold",
                        *EVENT_OF_SONG,
                    ),
                    n_train_plays=("BIGINT", "listens in the train part", *EVENT_OF_SONG),
                ),
            ),
            (
                "train",
                f"Positive events ({listed(POSITIVES)}) of the train part: what recommenders learn from.",
                EVENT_COLUMNS,
            ),
            (
                "validation",
                "Events of every type in the validation part: for choosing settings, and when training stops.",
                EVENT_COLUMNS,
            ),
            ("test", "Events of every type in the test part: what came last, for judging alone.", EVENT_COLUMNS),
            (
                "negatives",
                f"Explicit negatives ({listed(NEGATIVES)}) of the train part; LightGCN ranks them lower.",
                columns(
                    user_id=USER_OF_EVENT,
                    song_id=SONG_OF_EVENT,
                    event_type=("VARCHAR", listed(NEGATIVES), "raw/multi_event.event_type"),
                    in_graph=("BOOLEAN", "false: a cold song, known by its audio and metadata alone", *EVENT_OF_SONG),
                ),
            ),
        )
    },
)
def split_events(
    context: dg.AssetExecutionContext,
    duckdb: DuckDB,
    io_manager: dg.ResourceParam[TableIOManager],
    multi_event: Relation,
    users: Relation,
    candidate_songs: Relation,
) -> Iterator[dg.Output]:
    """Divide every kept event by one protocol, and give songs their ids: those with a train event first.

    Two passes, because the songs with a train event, and so all ids, are known only once all events are divided.
    """
    settings, scale = settings_of(context, SplitSettings), context.partition_key
    uids = users.order("user_id").to_arrow_table()["uid"].to_numpy()
    item_ids = _item_ids(candidate_songs)
    divide = partial(protocols.parted_events, multi_event, uids, IdMap(item_ids), settings, duckdb.rows)
    tally = parts.tally(divide(), len(item_ids))
    if empty := [name for name in ("train", "test") if not tally.n_rows[name]]:
        raise ValueError(f"split_events: {settings} leaves no event in {' and '.join(empty)}; found {tally.n_rows}")
    keys = {name: dg.AssetKey(["splits", name]) for name in OUTPUTS}
    with io_manager.drafts(keys, scale) as drafts:
        drafts["songs"].append(catalogue.songs(duckdb.connection, candidate_songs, item_ids, tally).to_arrow_table())
        for rows in parts.tables(divide(parts.EVENT_COLUMNS), tally):
            for name, table in rows.items():
                drafts[name].append(table)
        selected = context.op_execution_context.selected_output_names
        for name in set(OUTPUTS) - set(selected):
            drafts[name].finish()
            _refuse_another_division(drafts[name].path, keys[name], scale, io_manager)
        for name in selected:
            yield dg.Output(drafts[name], output_name=name, metadata=settings.model_dump())


def _refuse_another_division(draft: Path, key: dg.AssetKey, scale: str, io_manager: TableIOManager) -> None:
    """Refuse parts of two divisions, which would share events and disagree on song ids: all change, or none."""
    stored = io_manager.stored(key, scale)
    if stored is not None and parts.fingerprint(stored) != parts.fingerprint(io_manager.read(draft)):
        raise ValueError(
            f"split_events: {key.to_user_string()} of {scale} was divided by other settings or from other events; "
            f"materialise {', '.join(f'splits/{output}' for output in OUTPUTS)} together"
        )


def _held_out(*names: str) -> list[str]:
    return [*each("splits/validation", *names), *each("splits/test", *names)]


PLAYED = _held_out("event_type", "played_ratio")
PLAYS_BEFORE = each("splits/train", "user_id", "song_id", "event_type")


@asset(
    kinds={"duckdb"},
    code_version="1",
    metadata=columns(
        split=("VARCHAR", "validation or test"),
        user_id=(*USER_ID, *_held_out("user_id")),
        song_id=(*SONG_ID, *_held_out("song_id")),
        base_relevance=("DOUBLE", f"sum over events: {relevance.IN_WORDS}", *PLAYED),
        adjusted_relevance=(
            "DOUBLE",
            "base, up to 5 % more for songs replayed in train, at most 1",
            *PLAYED,
            *PLAYS_BEFORE,
        ),
        listen_plus=("BIGINT", "listens of more than half the track", *PLAYED),
        likes=("BIGINT", "likes", *_held_out("event_type")),
        dislikes=("BIGINT", "dislikes", *_held_out("event_type")),
        n_events=("BIGINT", "events of any type", *_held_out("user_id", "song_id")),
        n_train_plays=("BIGINT", "the user's listens of the song in train", *PLAYS_BEFORE),
    ),
)
def ground_truth(duckdb: DuckDB, train: Relation, validation: Relation, test: Relation) -> TableStream:
    """One row per held-out split, user and song with an event there: the song's relevance to the user.

    Lists are measured by it: validation to choose settings, test for the leaderboard.
    """
    query = partial(relevance.ground_truth, duckdb.connection)
    return in_user_ranges(query, train, validation, test, rows=duckdb.rows)
