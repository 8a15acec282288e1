"""Import of own logs: events with ids of any kind become the source tables of the scale `own`, out of core.

The tables are those that Yambda publishes, so that everything after reads one kind of data. Users, songs, artists and
albums get dense ids, in the order of their own ones; tables beside say which is which (`schema.IDS`).
"""

import glob
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ms_assets.events import EVENT_TYPES, listed
from ms_assets.files import published, sha256, state
from ms_assets.raw import logs
from ms_assets.raw.arrival import PART_BITS
from ms_assets.raw.logs import Connection, Log, literal, quoted
from ms_assets.raw.own import OWN, REPORT, REQUEST, STATE, Import
from ms_assets.raw.schema import IDS, TABLES, UNIT, SourceError
from ms_assets.raw.staging import LEFT_OUT, RULES, stage_content, stage_events
from ms_assets.streams import ROW_GROUP, Relation

Source = str | Path

EVENT_COLUMNS = ("user", "song", "time", "type", "organic", "ratio", "played", "duration", "rating")
"""Things that columns of events hold, the needed ones first."""
NEEDED = EVENT_COLUMNS[:3]
PLAYED = (("ratio",), ("played", "duration"), ("rating",))
"""Kinds of columns that tell how much of a song was played, or liked; one of them is read."""
CONTENTS = {"audio": "audio", "artists": "artist", "albums": "album"}
"""Things that tables tell of songs, by the option that names such a table."""
HIGHEST_SHARE = 2
"""Highest ratio in a column of shares, since players report a little over 1; higher ones are percents."""
STAGED = "staged"
NO_RATIO = "NULL::DOUBLE"


def import_events(
    events: Source | Sequence[Source],
    folder: Source,
    *,
    columns: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    deduplicate: bool = False,
    audio: Source | None = None,
    artists: Source | None = None,
    albums: Source | None = None,
    connection: Connection | None = None,
) -> dict[str, Any]:
    """Import logs as the source of the scale `own`; a former import stays if this one fails.

    Args:
        events: files, folders, patterns or addresses of CSV, JSON Lines and Parquet.
        folder: folder to write, which is replaced as a whole: `source/own` in the home.
        columns: names of columns by what they hold: user, song, time, type, ratio, played, duration, rating, organic;
            the others are guessed.
        types: event types by the names that the logs have for them; "" leaves events out.
        deduplicate: keep one of several events of the same user, song, time and type, the one that was played furthest.
        audio: table of vectors by song (columns song, audio), of one length.
        artists, albums: tables of pairs (song, and artist or album: an id, or a list in JSON and Parquet).
        connection: DuckDB connection, whose limits hold; by default one without limits.

    Returns:
        The report, which is also `report.json` in the folder: sources, columns, rows read, dropped and by which rule.

    Raises:
        SourceError: names the file, the column, the first bad row, what was found and what was expected.
    """
    con = connection or duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")  # that of times without one
    sources = [_lasting(source) for source in ([events] if isinstance(events, Source) else events)]
    about_songs = zip(CONTENTS, (audio, artists, albums), strict=True)
    contents = {option: _lasting(source) for option, source in about_songs if source is not None}
    request = {
        "events": sources, "columns": dict(columns or {}), "types": dict(types or {}), "deduplicate": deduplicate,
        **contents,
    }  # fmt: skip
    state_before = state_of_logs(request)  # before they are read, because they may grow meanwhile
    with published(Path(folder)) as unfinished:
        (unfinished / STAGED).mkdir(parents=True)
        report = _write_events(con, logs.open_all(con, sources), columns or {}, types or {}, deduplicate, unfinished)
        report["songs_known_by"] = {
            CONTENTS[option]: _write_content(con, CONTENTS[option], logs.open_all(con, [source]), unfinished)
            for option, source in contents.items()
        }
        shutil.rmtree(unfinished / STAGED)
        files = sorted(file for file in unfinished.rglob("*") if file.is_file())
        report["files"] = {str(file.relative_to(unfinished)): sha256(file) for file in files}
        report |= {REQUEST: request, STATE: state_before}
        (unfinished / REPORT).write_text(json.dumps(report, indent=1))
    return report


def import_again(folder: Path, connection: Connection) -> dict[str, Any]:
    """Import what the import in a folder was made from, as it is now; arguments and errors as in `import_events`."""
    request = Import.read(folder).report[REQUEST]
    return import_events(request.pop("events"), folder, connection=connection, **request)


def state_of_logs(request: Mapping[str, Any]) -> str:
    """Hash of the state of the files of this machine that an import read, or would read now.

    Raises:
        SourceError: a source names no file.
    """
    sources = [source for source in (*request["events"], *map(request.get, CONTENTS)) if source]
    local = [source for source in sources if not logs.is_remote(source)]
    return state(Path(file) for source in local for file in logs.local_files(source))


def _lasting(source: Source) -> str:
    """Source by a name that holds in every working directory."""
    if logs.is_remote(str(source)):
        return str(source)
    path, here = Path(source).expanduser(), str(Path.cwd())
    return str(Path(here if path.exists() else glob.escape(here)) / path)


def _write_events(
    con: Connection, found: list[Log], named: Mapping[str, str], types: Mapping[str, str], deduplicate: bool,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write the events, and the ids of users and songs; returns the report."""
    if wrong := [f"{name}={kind}" for name, kind in types.items() if kind not in (*EVENT_TYPES, LEFT_OUT)]:
        raise SourceError(f"--map {wrong[0]}: expected {listed(EVENT_TYPES)}, or nothing to leave such events out")
    chosen = _chosen(found, named)
    files, now = [log.file for log in found], int(time.time() * 1e6)
    staged = stage_events(con, found, chosen, _of_events(chosen[0], types), now, folder / STAGED / "events")
    dropped = {rule: n for rule in RULES if (n := staged.n_dropped[rule])}
    if not staged.n_kept:
        said = ", ".join(f"{n:,} for {name}" for name, n in dropped.items()) or "there are no rows"
        raise SourceError(f"{', '.join(files[:3])}: all events were dropped ({said}); nothing is left to import")
    numbers = {}
    for what, codes in staged.codes.items():
        ordered = _number(con, codes.ids(), what, folder)["code"].to_numpy()
        numbers[what] = np.empty(len(ordered), np.uint32)
        numbers[what][ordered] = np.arange(len(ordered), dtype=np.uint32)
    kind = next(kind for kind in (*PLAYED, ()) if set(kind) <= chosen[0].keys())
    percent, highest = _percent(staged.ratios, kind)
    target = folder / TABLES["multi_event"].file(OWN)
    target.parent.mkdir(parents=True)
    ordered = _in_order(con, staged.numbered(numbers), percent, deduplicate)
    # The lowest level takes two thirds of the time of the usual one, for a file that is a tenth larger.
    con.execute(
        f"COPY ordered TO {literal(str(target))} "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP})"
    )
    written = con.read_parquet(str(target))
    if n_repeated := staged.n_kept - len(written):
        dropped["repeated"] = n_repeated
    return {
        "sources": staged.n_read,
        "columns": chosen[0],
        "highest_ratio": highest,
        "n_read": sum(staged.n_read.values()),
        "n_dropped": dropped,
        **_described(con, written, len(numbers["song"])),
    }


def _chosen(found: list[Log], named: Mapping[str, str]) -> list[dict[str, str]]:
    """Columns by what they hold, for each file; of those that tell how much was played, one kind."""
    if other := named.keys() - set(EVENT_COLUMNS):
        raise SourceError(f"columns: found {', '.join(sorted(other))}, expected {', '.join(EVENT_COLUMNS)}")
    given = [kind for kind in PLAYED if named.keys() & set(kind)]
    if len(given) > 1:
        options = ", ".join(f"--{what}" for what in EVENT_COLUMNS if what in named and what not in NEEDED)
        raise SourceError(f"{options}: expected one of --ratio, --played with --duration, and --rating")
    chosen = []
    for log in found:
        columns = {what: logs.column(log, what, named.get(what), what in NEEDED) for what in EVENT_COLUMNS}
        whole_kinds = [kind for kind in given or PLAYED if all(columns[what] for what in kind)]
        if given and not whole_kinds:
            lacking = next(what for what in given[0] if columns[what] is None)
            raise SourceError(
                f"{log.file}: found columns {', '.join(log.types)}; name the one of the {lacking} by --{lacking}"
            )
        used = {what for kind in PLAYED for what in kind} - {what for kind in whole_kinds[:1] for what in kind}
        chosen.append({what: name for what, name in columns.items() if name and what not in used})
        if chosen[-1].keys() != chosen[0].keys():
            raise SourceError(
                f"{log.file}: found columns of {', '.join(chosen[-1])}, expected {', '.join(chosen[0])} as in "
                f"{found[0].file}; import logs of one kind at a time, or give their columns one name"
            )
    return chosen


def _of_events(columns: Mapping[str, str], types: Mapping[str, str]) -> dict[str, str]:
    """SQL for the staged columns of events, from the values of the columns that are read."""
    read = {what: quoted(what) for what in columns}
    if "type" in read and types:
        cases = " ".join(f"WHEN {literal(name)} THEN {literal(kind)}" for name, kind in types.items())
        read["type"] = f"CASE {read['type']} {cases} ELSE {read['type']} END"
    if "played" in read:
        read["ratio"] = f"({read.pop('played')}) / nullif({read.pop('duration')}, 0)"
    if "rating" in read:
        read["ratio"] = read.pop("rating")
    return {"type": "'listen'", "ratio": NO_RATIO, "organic": "NULL::UTINYINT", **read}


def _place(files: Sequence[str], position: int) -> str:
    part, row = divmod(position, 1 << PART_BITS)
    return logs.place_of(files[part], row)


def _number(con: Connection, ids: pa.Table, what: str, folder: Path) -> pa.Table:
    """Number distinct ids (`id`, text) in their order, and write which is which; returns them in this order.

    Whole numbers, alone or after a text that all ids begin with, are in numeric order, whatever that text is.
    """
    number, name = (column.name for column in IDS[what].columns)
    parted = con.from_arrow(ids).project("*, rtrim(id, '0123456789') AS head, substr(id, length(head) + 1) AS digits")
    is_number = "bool_and(TRY_CAST({0} AS BIGINT)::VARCHAR IS NOT DISTINCT FROM {0})"
    [(are_numbers, are_counted)] = parted.aggregate(
        f"{is_number.format('id')}, min(head) = max(head) AND {is_number.format('digits')}"
    ).fetchall()
    order = "id::BIGINT" if are_numbers else "digits::BIGINT" if are_counted else "id"
    ordered = parted.order(order).project("* EXCLUDE (head, digits)").to_arrow_table()
    original = "id::BIGINT" if are_numbers else "id"
    numbered = f'(row_number() OVER () - 1)::UINTEGER AS {number}, {original} AS "{name}"'
    con.from_arrow(ordered).project(numbered).write_parquet(str(folder / IDS[what].path), compression="zstd")
    return ordered


def _numbers(con: Connection, what: str, folder: Path) -> Relation:
    """Pairs of a number and the id (text) that it stands for, by the names of the number's column and `what`."""
    number, name = (column.name for column in IDS[what].columns)
    return con.read_parquet(str(folder / IDS[what].path)).project(f'{number}, "{name}"::VARCHAR AS {quoted(what)}')


def _percent(ratios: Sequence[float], kind: Sequence[str]) -> tuple[str, float | None]:
    """SQL for the percent that was played of a listen, and the highest ratio; `ratios` has it, and the lowest."""
    if not kind:
        return "CASE type WHEN 'listen' THEN 100 END", None
    low, high = min(ratios, default=None), max(ratios, default=None)
    if kind == ("rating",):
        # A rating's place between the lowest and the highest one.
        share = f"(ratio - {low}) / {high - low}" if low is not None and high is not None and high > low else "1"
        share = f"CASE WHEN ratio IS NOT NULL THEN {share} END"
        return f"CASE type WHEN 'listen' THEN round(100 * ({share}), 6) END", high
    factor = 1 if kind == ("ratio",) and (high or 0) > HIGHEST_SHARE else 100
    # `least` takes a null for the greater one.
    return f"CASE WHEN type = 'listen' AND ratio IS NOT NULL THEN least(round(ratio * {factor}, 6), 100) END", high


def _in_order(con: Connection, events: pa.RecordBatchReader, percent: str, deduplicate: bool) -> Relation:
    """Events as published, by user and time; the order of those at one time does not depend on that of the logs."""
    names = ", ".join(map(literal, EVENT_TYPES))  # which are numbers while they are sorted and written
    equal = "PARTITION BY uid, item_id, time, type ORDER BY ratio DESC NULLS LAST, organic"
    first = f"QUALIFY row_number() OVER ({equal}) = 1"
    # Type, percent (in millionths) and flag in the bits of one number: longer keys are sorted much slower.
    tie = (
        "enum_code(type) * (1::UBIGINT << 29) + coalesce(percent * 1e6, 100000001)::UINTEGER * 4 + coalesce(organic, 2)"
    )
    return con.sql(f"""
        SELECT uid, (time // 1000000)::UINTEGER AS timestamp, item_id, organic AS is_organic,
            percent AS played_ratio_pct, NULL::USMALLINT AS track_length_seconds, type AS event_type
        FROM (SELECT *, ({tie})::UINTEGER AS tie FROM (
            SELECT uid, time, item_id, type::ENUM({names}) AS type, ({percent})::DOUBLE AS percent, organic
            FROM events {first if deduplicate else ""}
        )) ORDER BY uid, time, item_id, tie
    """)


def _described(con: Connection, events: Relation, n_songs: int) -> dict[str, Any]:
    """Sizes of the imported events, from which the scale's settings follow."""
    types = events.aggregate("event_type, count(*)").order("event_type").fetchall()
    per_user = events.aggregate("uid, count(*) AS n")  # noqa: F841  (named in the query below)
    names = ("n_events", "n_users", "events_per_user_median", "events_per_user_p99", "events_per_user_max")
    [counts] = con.sql(
        "SELECT sum(n)::BIGINT, count(*), quantile_disc(n, .5), quantile_disc(n, .99), max(n) FROM per_user"
    ).fetchall()
    [(first, last)] = events.aggregate("min(timestamp), max(timestamp)").fetchall()
    return {
        **dict(zip(names, counts, strict=True)),
        "n_songs": n_songs,
        "first_second": first,
        "last_second": last,
        "n_by_type": dict(types),
    }


def _write_content(con: Connection, what: str, found: list[Log], folder: Path) -> int:
    """Write what is known of songs, for those that events name; returns their number."""
    files, [option] = [log.file for log in found], [option for option, held in CONTENTS.items() if held == what]
    columns = [
        {held: name for held in ("song", what) if (name := logs.column(log, held, None, required=True))}
        for log in found
    ]
    rows = stage_content(con, found, columns, folder / STAGED / what)  # noqa: F841  (named in the query)
    songs = _numbers(con, "song", folder)  # noqa: F841  (named in the queries)
    known = con.sql(f'SELECT * FROM rows JOIN songs USING (song) WHERE "{what}" IS NOT NULL')
    if what == "audio":
        _refuse_odd_vectors(known, files)
        table = TABLES["embeddings"]
        written = known.project(
            f"item_id, audio AS embed, ({UNIT.replace('embed', 'audio')})::FLOAT[] AS normalized_embed"
        )
    else:
        pairs = known.project(f"item_id, unnest({what}) AS id")
        _number(con, pairs.project("id").distinct().filter("id IS NOT NULL").to_arrow_table(), what, folder)
        owners = _numbers(con, what, folder)  # noqa: F841  (named in the query)
        table = TABLES[f"{what}_item_mapping"]
        written = con.sql(f'SELECT DISTINCT {what}_id, item_id FROM pairs JOIN owners ON id = "{what}"')
    target = folder / table.file(OWN)
    written.order("item_id" if what == "audio" else f"item_id, {what}_id").write_parquet(
        str(target), compression="zstd"
    )
    [(n_songs,)] = con.read_parquet(str(target)).aggregate("count(DISTINCT item_id)").fetchall()
    if not n_songs:
        raise SourceError(f"{files[0]}: no row names a song of the events (--{option}); expected the ids of the events")
    return n_songs


def _refuse_odd_vectors(known: Relation, files: Sequence[str]) -> None:
    """Refuse vectors of several lengths or with missing numbers, and songs with several vectors."""
    [(length,)] = known.aggregate("arg_min(len(audio), position)").fetchall()
    odd = known.filter(f"len(audio) <> {length or 0} OR list_count(audio) <> len(audio)")
    for position, found, n_known in (
        odd.project("position, len(audio), list_count(audio)").order("1").limit(1).fetchall()
    ):
        raise SourceError(
            f"{_place(files, position)}: column audio has {found} numbers, {found - n_known} of them null; expected "
            f"{length} numbers, as the first vector has"
        )
    twice = known.aggregate("song, count(*) AS n, max(position) AS position").filter("n > 1").order("position").limit(1)
    for song, n, position in twice.fetchall():
        raise SourceError(f"{_place(files, position)}: song {song} has {n} vectors; expected one")
