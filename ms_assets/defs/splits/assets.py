"""Assets of room 2, splits: users and songs with dense ids, events in three parts, ground truth, explicit negatives."""

from collections.abc import Iterator, Sequence
from functools import partial

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.defs.platform import lineage
from ms_assets.defs.platform.io_managers import TableIOManager
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALES, assets_of, config_schema, outputs, room, settings_of
from ms_assets.defs.platform.schemas import columns
from ms_assets.events import EVENT_TYPES, NEGATIVES, POSITIVES, listed
from ms_assets.settings import SongSettings, SplitSettings, UserSettings
from ms_assets.splits import catalogue, parts, protocols, relevance
from ms_assets.splits.id_map import IdMap
from ms_assets.streams import Relation, TableStream, in_user_ranges

asset = room("splits")

WORDS = {"event_types": listed(EVENT_TYPES), "negatives": listed(NEGATIVES), "relevance": relevance.IN_WORDS}
"""Source columns that decide the part of an event, and if it is positive."""


@dg.multi_asset(
    # Run config is given under the name of the op.
    name="splits__songs",
    group_name="splits",
    partitions_def=SCALES,
    config_schema=config_schema(SongSettings),
    ins=assets_of("raw", "multi_event", "embeddings")
    | {"artists": dg.AssetIn(["raw", "artist_item_mapping"]), "albums": dg.AssetIn(["raw", "album_item_mapping"])},
    outs=outputs(
        "splits",
        {
            "candidate_songs": "One row per song that may be recommended: named by any event of the scale, and with "
            "audio unless that is not required."
        },
        WORDS,
        kinds={"duckdb"},
        code_version="3",
    ),
)
def candidate_songs(
    context: dg.AssetExecutionContext, duckdb: DuckDB,
    multi_event: Relation, embeddings: Relation, artists: Relation, albums: Relation,
) -> dg.Output[Relation]:  # fmt: skip
    """Catalogue before songs have dense ids."""
    settings = settings_of(context, SongSettings)
    songs = catalogue.candidate_songs(
        duckdb.connection, multi_event, embeddings, artists, albums, settings.require_audio
    )
    return dg.Output(songs, metadata=settings.model_dump())


@asset(
    kinds={"duckdb"},
    code_version="1",
    config_schema=config_schema(UserSettings),
    ins=assets_of("raw", "multi_event"),
    metadata=columns("splits/users"),
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
            f"{settings.max_events} (max_events) events of raw/multi_event, one of them with a candidate song; "
            "lower min_events, or raise max_events"
        )
    return dg.MaterializeResult(value=active, metadata=settings.model_dump())


def _item_ids(candidate_songs: Relation) -> NDArray[np.int64]:
    return candidate_songs.project("item_id").order("item_id").to_arrow_table()["item_id"].to_numpy()


OUTPUTS = {
    "songs": "One row per song that may be recommended, with its dense id: graph songs first, cold ones after.",
    "train": f"Positive events ({listed(POSITIVES)}) of the train part: what recommenders learn from.",
    "validation": "Events of every type in the validation part: for choosing settings, and when training stops.",
    "test": "Events of every type in the test part: what came last, for judging alone.",
    "negatives": f"Explicit negatives ({listed(NEGATIVES)}) of the train part; LightGCN ranks them lower.",
}
DIVISION_VERSION = "1"


@dg.multi_asset(
    name="split_events",
    can_subset=True,
    group_name="splits",
    partitions_def=SCALES,
    config_schema=config_schema(SplitSettings),
    ins=assets_of("raw", "multi_event") | assets_of("splits", "users", "candidate_songs"),
    outs=outputs("splits", OUTPUTS, WORDS, is_required=False, kinds={"duckdb"}, code_version=DIVISION_VERSION),
)
def split_events(
    context: dg.AssetExecutionContext, duckdb: DuckDB, io_manager: dg.ResourceParam[TableIOManager],
    multi_event: Relation, users: Relation, candidate_songs: Relation,
) -> Iterator[dg.Output]:  # fmt: skip
    """Divide every kept event by one protocol, and give songs their ids: those with a train event first.

    Two passes, because the songs with a train event, and so all ids, are known only once all events are divided.
    """
    settings, scale = settings_of(context, SplitSettings), context.partition_key
    keys = {name: dg.AssetKey(["splits", name]) for name in OUTPUTS}
    selected = context.op_execution_context.selected_output_names
    inputs = io_manager.inputs_of(context.assets_def.get_asset_spec(keys["train"]), scale)
    versions = {key: made.version for key, made in inputs.items()}
    division = lineage.identity(settings.model_dump(), versions, DIVISION_VERSION)
    _refuse_another_division(division, [keys[name] for name in OUTPUTS if name not in selected], scale, io_manager)
    uids = users.order("user_id").to_arrow_table()["uid"].to_numpy()
    item_ids = _item_ids(candidate_songs)
    divide = partial(protocols.parted_events, multi_event, uids, IdMap(item_ids), settings, duckdb.rows)
    tally = parts.tally(divide(), len(item_ids))
    if empty := [name for name in ("train", "test") if not tally.n_rows[name]]:
        raise ValueError(
            f"split_events: {settings} leaves no event in {' and '.join(empty)}; found {tally.n_rows}; "
            "change the ratios or test_start"
        )
    with io_manager.drafts(keys, scale) as drafts:
        drafts["songs"].append(catalogue.songs(duckdb.connection, candidate_songs, item_ids, tally).to_arrow_table())
        for rows in parts.tables(divide(parts.EVENT_COLUMNS), tally):
            for name, table in rows.items():
                drafts[name].append(table)
        for name in OUTPUTS:
            if name in selected:
                metadata = {**settings.model_dump(), lineage.MADE_TOGETHER: {"split_events": division}}
                yield dg.Output(drafts[name], output_name=name, metadata=metadata)


def _refuse_another_division(
    division: str, others: Sequence[dg.AssetKey], scale: str, io_manager: TableIOManager
) -> None:
    """Refuse parts of two divisions, which would share events and disagree on song ids: all change, or none."""
    for key in others:
        stored = io_manager.lineage.history(key, scale)
        if stored and stored[0].origins["split_events"] != division:
            raise ValueError(
                f"split_events: {key.to_user_string()} of {scale} was divided by other settings or from other events; "
                f"materialise {', '.join(f'splits/{output}' for output in OUTPUTS)} together"
            )


@asset(kinds={"duckdb"}, code_version="1", metadata=columns("splits/ground_truth", **WORDS))
def ground_truth(duckdb: DuckDB, train: Relation, validation: Relation, test: Relation) -> TableStream:
    """One row per held-out split, user and song with an event there: the song's relevance to the user.

    Lists are measured by it: validation to choose settings, test for the leaderboard.
    """
    query = partial(relevance.ground_truth, duckdb.connection)
    return in_user_ranges(query, train, validation, test, rows=duckdb.rows)
