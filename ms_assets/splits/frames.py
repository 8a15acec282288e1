"""Conversion of frames with numbers or strings for ids into the tables that all rooms compute with: the entry point.

Events have the columns `user` and `song`, and where known `time` (whole seconds or timestamps), `type` (a name of
`EVENT_TYPES`; by default listen) and `played_ratio` (0 to 1; without the column every listen counts as whole). Songs
have the column `song`, and where known `audio` (vectors of one length), `artists` and `albums` (an id or a list).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.events import EVENT_TYPES
from ms_assets.files import reading
from ms_assets.settings import SplitSettings, UserSettings, validated
from ms_assets.splits import catalogue, parts
from ms_assets.splits.id_map import IdMap
from ms_assets.splits.protocols import KINDS, NO_TYPE, PARTS, PartedEvents, parted_events
from ms_assets.splits.relevance import ground_truth
from ms_assets.streams import Relation, stored_table

if TYPE_CHECKING:
    import pandas as pd

Frame: TypeAlias = Union["pd.DataFrame", pl.DataFrame, pa.Table, str, Path]
"""Frame of polars or pandas, Arrow table, or path of a Parquet file."""

DAY = 86_400
ROWS = 1 << 20
"""Number of rows that `split` divides at a time."""
OPTIONAL = {
    "time": "NULL::BIGINT",
    "type": "'listen'",
    "played_ratio": "1.0",
    "audio": "NULL::FLOAT[]",
    "artists": "NULL::VARCHAR[]",
    "albums": "NULL::VARCHAR[]",
}
"""Default, in SQL, of each column that a frame may lack."""


class Split(NamedTuple):
    """Train, validation and test part, with the columns of the given events, in the order of users and time."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def split(events: Frame, *, min_events: int = 1, max_events: int | None = None, **settings: Any) -> Split:
    """Divide events into train, validation and test, as the asset `split_events` does.

    Args:
        events: frame, or path of a Parquet file.
        min_events: users with fewer events are left out.
        max_events: users with more events are left out; None for no limit.
        settings: fields of `SplitSettings`; by default `test_start` is a day before the last event.

    Raises:
        ValueError: names the column or the setting, what was found and what was expected.

    >>> import polars as pl
    >>> events = pl.DataFrame({"user": ["ann"] * 10, "song": list("abcabdabce")})
    >>> [len(part) for part in split(events)]
    [8, 1, 1]
    """
    con, given = duckdb.connect(), frame(events, "events")
    limits = validated(UserSettings, {"min_events": min_events, "max_events": max_events or max(len(given), 1)})
    rows = _events(con, given, "events")  # noqa: F841  (named in the query below)
    ranked = con.sql(f"""
        SELECT dense_rank() OVER (ORDER BY "user") - 1 AS uid, dense_rank() OVER (ORDER BY song) - 1 AS item_id,
            "time" AS timestamp, type AS event_type, row
        FROM rows
        QUALIFY count(*) OVER (PARTITION BY "user") BETWEEN {limits.min_events} AND {limits.max_events}
        ORDER BY uid, "time" NULLS LAST, row
    """).materialize()
    if not len(ranked):
        raise ValueError(
            f"events: no user has between {limits.min_events} (min_events) and {limits.max_events} events; "
            "lower min_events, or raise max_events"
        )
    [(last,)] = ranked.aggregate("coalesce(max(timestamp), 0)").fetchall()
    wanted = validated(SplitSettings, {"test_start": max(last - DAY, 0), **settings})
    uids, item_ids = (ranked.project(name).distinct().order(name).fetchnumpy()[name] for name in ("uid", "item_id"))
    blocks = parted_events(ranked, uids, IdMap(item_ids), wanted, ROWS, ("row",))
    divided = [(block.part, block.published["row"].to_numpy()) for block in blocks]
    part, row = (np.concatenate(arrays) for arrays in zip(*divided, strict=True))
    found = Split(*(given[row[part == number]] for number in range(len(PARTS))))
    if empty := [name for name in ("train", "test") if not len(getattr(found, name))]:
        raise ValueError(
            f"events: {wanted} leaves none in {' and '.join(empty)}; found {[*map(len, found)]} in the parts; "
            "change the ratios or test_start"
        )
    return found


@dataclass(frozen=True)
class Tables:
    """Tables of the rooms `raw` and `splits` made from frames, on one connection."""

    connection: duckdb.DuckDBPyConnection
    user_ids: NDArray[Any]
    """Original ids by user_id, [n_users]."""
    song_ids: NDArray[Any]
    """Original ids by song_id, [n_songs]."""
    users: Relation
    songs: Relation
    audio: Relation
    """Audio of each song, unit vectors or zeros, and has_audio, in the order of song_id."""
    train: Relation
    validation: Relation
    test: Relation
    negatives: Relation

    @cached_property
    def ground_truth(self) -> Relation:
        """Relevance of songs to users in the validation and test part."""
        return ground_truth(self.connection, self.train, self.validation, self.test)


def tables(
    train: Frame,
    validation: Frame | None = None,
    test: Frame | None = None,
    songs: Frame | None = None,
    lists: Mapping[str, pl.DataFrame] = MappingProxyType({}),
) -> Tables:
    """Turn frames of events that are already split, and of songs, into tables with dense ids.

    The catalogue holds every song of `train` and `songs`; validation and test events of other songs are left out.
    With `lists` (user, song) by method, it holds the songs of the lists and of all events too.

    Raises:
        ValueError: names the frame, the column, what was found and what was expected.
    """
    con = duckdb.connect()
    given = {name: part for name, part in zip(PARTS, (train, validation, test), strict=True) if part is not None}
    events = {name: _events(con, frame(part, name), name) for name, part in given.items()}
    no_songs = events["train"].project("song").limit(0).pl()
    features = _songs(con, frame(songs, "songs") if songs is not None else no_songs)
    shown = {name: con.from_arrow(table.select("user", "song").to_arrow()) for name, table in lists.items()}
    _refuse_several_types("song", {**shown, **events, "songs": features})
    _refuse_several_types("user", {**shown, **events})
    named = reduce(Relation.union, (table.project("song") for table in (features, *shown.values())))
    numbered = (table.project(f"*, {PARTS.index(name)}::UTINYINT AS part") for name, table in events.items())
    return _with_dense_ids(con, reduce(Relation.union, numbered), named, features, whole=bool(lists))


def _with_dense_ids(
    con: duckdb.DuckDBPyConnection, every: Relation, named: Relation, features: Relation, whole: bool
) -> Tables:
    """Tables of all events, of the songs that are named beside, and of songs' features.

    whole: every event names a song of the catalogue; otherwise train events alone do.
    """
    users = con.sql("""
        SELECT (row_number() OVER (ORDER BY "user") - 1)::INTEGER AS user_id, user_id::BIGINT AS uid, "user"
        FROM (SELECT DISTINCT "user" FROM every)
    """).materialize()
    catalog = con.sql(f"""
        SELECT row_number() OVER (ORDER BY song) - 1 AS item_id, song
        FROM (SELECT song FROM every WHERE part = 0 OR {whole} UNION SELECT song FROM named)
    """).materialize()
    rows = con.sql("""
        SELECT user_id, item_id, "time", type, played_ratio, part
        FROM every JOIN users USING ("user") JOIN catalog USING (song)
        ORDER BY user_id, "time" NULLS LAST, part, row
    """).to_arrow_table()
    block = _block(rows.combine_chunks())
    tally = parts.tally([block], len(catalog))
    [divided] = parts.tables([block], tally)
    known = con.sql("SELECT item_id, audio, artists, albums FROM catalog LEFT JOIN features USING (song)")
    candidates = catalogue.with_owners(
        con,
        known.project("item_id"),
        known.project("item_id, unnest(artists) AS artist_id"),
        known.project("item_id, unnest(albums) AS album_id"),
    )
    in_order = catalogue.songs(con, candidates, np.arange(len(catalog)), tally).materialize()
    return Tables(
        connection=con,
        user_ids=_ids(users, "user", "user_id"),
        song_ids=_ids(in_order.join(catalog, "item_id"), "song", "song_id"),
        users=users,
        songs=in_order,
        audio=_audio(con, in_order, known),
        **{name: con.from_arrow(divided[name]) for name in (*PARTS, "negatives")},
    )


def frame(given: Frame, name: str) -> pl.DataFrame:
    """Read a frame or the file of a path; name: the frame's name in errors.

    Raises:
        ValueError: the frame is of another kind, or there is no file.
        DamagedFileError: the file is no Parquet file.
    """
    if isinstance(given, str | Path):
        if not Path(given).exists():
            raise ValueError(f"{name}: {given} does not exist; expected a frame or the path of a Parquet file")
        with reading(Path(given), f"write {name} again, as a Parquet file"):
            return stored_table(duckdb.connect(), Path(given)).pl()
    try:
        return given if isinstance(given, pl.DataFrame) else pl.DataFrame(given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: found {type(given).__name__}, expected a frame of polars or pandas, or a Parquet file's path"
        ) from error


def _columns(frame: pl.DataFrame, name: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> str:
    """SQL for the columns that the library reads, with defaults for those that are missing."""
    if missing := [column for column in needed if column not in frame.columns]:
        raise ValueError(
            f"{name}: found columns {', '.join(frame.columns)}, expected {' and '.join(needed)}; "
            f"rename what stands for {' and '.join(missing)}"
        )
    if nulls := [column for column in needed if frame[column].null_count()]:
        raise ValueError(f"{name}: found rows without {nulls[0]}, expected an id in every row; drop them first")
    for column in needed:
        dtype = frame[column].dtype
        if not (dtype.is_integer() or dtype.is_float() or dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise ValueError(f"{name}: found ids of type {dtype} in column {column}, expected numbers or strings")
    shown = [f'"{c}"' if c in frame.columns else f'{OPTIONAL[c]} AS "{c}"' for c in optional]
    return ", ".join([*(f'"{c}"' for c in needed), *shown])


def _events(con: duckdb.DuckDBPyConnection, frame: pl.DataFrame, name: str) -> Relation:
    """Events with every column: user, song, time in seconds, type, played_ratio, and row, the position in the frame."""
    columns = _columns(frame, name, ("user", "song"), ("time", "type", "played_ratio"))
    if "time" in frame.columns and frame["time"].dtype.is_temporal():
        frame = frame.with_columns(pl.col("time").dt.epoch("s"))
    expected: dict[str, tuple[str, Callable[[pl.Series], bool]]] = {
        "time": ("whole seconds or timestamps", lambda c: c.dtype.is_integer()),
        "type": (f"names among {', '.join(EVENT_TYPES)}", lambda c: c.cast(pl.String).is_in(KINDS).all()),
        "played_ratio": ("numbers from 0 to 1", lambda c: c.dtype.is_numeric() and c.is_between(0, 1).all()),
    }
    for column, (words, is_right) in expected.items():
        if column in frame.columns and len(values := frame[column].drop_nulls()) and not is_right(values):
            raise ValueError(
                f"{name}: column {column} has values such as {values.head(3).to_list()} ({values.dtype}), "
                f"expected {words}"
            )
    rows = con.from_arrow(frame.with_row_index("row").to_arrow())
    return rows.project(f"{columns}, row::BIGINT AS row").project(
        """ "user", song, "time"::BIGINT AS "time", type::VARCHAR AS type, played_ratio::DOUBLE AS played_ratio, row"""
    )


def _songs(con: duckdb.DuckDBPyConnection, frame: pl.DataFrame) -> Relation:
    """Songs with every column: song, audio, and artists and albums as lists."""
    columns = _columns(frame, "songs", ("song",), ("audio", "artists", "albums"))
    if frame["song"].is_duplicated().any():
        twice = frame["song"].filter(frame["song"].is_duplicated())[0]
        raise ValueError(f"songs: found song {twice} in several rows, expected one row a song")
    if "audio" in frame.columns:
        lengths = frame["audio"].cast(pl.List(pl.Float32)).list.len().drop_nulls().unique()
        if len(lengths) > 1:
            raise ValueError(f"songs: found audio vectors of {lengths.to_list()} numbers, expected one length")
    lists = [pl.concat_list(c) for c in ("artists", "albums") if c in frame.columns and not frame[c].dtype.is_nested()]
    return con.from_arrow(frame.with_columns(lists).to_arrow()).project(columns)


def _refuse_several_types(column: str, tables: dict[str, Relation]) -> None:
    types = {name: str(table.project(f'"{column}"').types[0]) for name, table in tables.items()}
    if len({type_ == "VARCHAR" for type_ in types.values()}) > 1:
        found = ", ".join(f"{type_} in {name}" for name, type_ in types.items())
        raise ValueError(f"column {column}: found {found}, expected one type; cast the ids alike")


def _block(rows: pa.Table) -> PartedEvents:
    """Block with all events and their parts."""
    from pyarrow import compute

    kind = compute.index_in(rows["type"], pa.array(KINDS)).fill_null(NO_TYPE)
    published = {
        "timestamp": rows["time"],
        "played_ratio_pct": compute.multiply(rows["played_ratio"], 100.0),
        "is_organic": pa.nulls(len(rows), pa.uint8()),
    }
    return PartedEvents(
        user_id=rows["user_id"].to_numpy(),
        song=rows["item_id"].to_numpy().astype(np.int32),
        kind=kind.to_numpy().astype(np.uint8),
        part=rows["part"].to_numpy(),
        published=pa.table(published).combine_chunks(),
    )


def _ids(table: Relation, name: str, order: str) -> NDArray[Any]:
    ids = table.order(order).project(f'"{name}"').pl().to_series()
    return ids.to_numpy().astype(str) if ids.dtype == pl.String else ids.to_numpy()


def _audio(con: duckdb.DuckDBPyConnection, songs: Relation, known: Relation) -> Relation:
    """Unit vectors in the order of song_id, zeros where there is no audio."""
    [(width,)] = known.aggregate("coalesce(max(len(audio)), 1)").fetchall()
    return con.sql(f"""
        WITH vectors AS (
            SELECT item_id, audio::FLOAT[] AS audio, sqrt(list_inner_product(audio::FLOAT[], audio::FLOAT[])) AS norm
            FROM known
        )
        SELECT CASE WHEN norm > 0 THEN list_transform(audio, lambda x: (x / norm)::FLOAT)
                ELSE {[0.0] * width}::FLOAT[] END AS audio, coalesce(norm > 0, false) AS has_audio
        FROM songs JOIN vectors USING (item_id) ORDER BY song_id
    """)
