"""Logs of events in CSV, JSON Lines and Parquet: files, folders, patterns, and addresses of other machines."""

import csv
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ms_assets.files import visible
from ms_assets.raw.schema import SourceError

Connection = duckdb.DuckDBPyConnection

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Format of a file by the ending of its name."""
COMPRESSED = (".gz", ".zst")
DELIMITERS = (",", "\t", ";", "|")
GUESSES = {
    "user": ("user", "user_id", "userid", "uid", "listener", "listener_id", "account_id", "customer_id"),
    "song": ("song", "song_id", "songid", "item_id", "itemid", "item", "track_id", "trackid", "track"),
    "time": ("time", "timestamp", "ts", "datetime", "date", "played_at", "listened_at", "created_at", "event_time"),
    "type": ("type", "event_type", "event", "action"),
    "ratio": ("played_ratio", "ratio", "played_ratio_pct", "completion"),
    "played": ("played", "ms_played", "played_ms", "seconds_played", "played_seconds"),
    "duration": ("duration", "duration_ms", "track_length_seconds", "track_length"),
    "rating": ("rating", "stars"),
    "organic": ("organic", "is_organic"),
    "audio": ("audio", "embedding", "embed", "vector", "normalized_embed"),
    "artist": ("artist", "artist_id", "artists", "artistid"),
    "album": ("album", "album_id", "albums", "albumid"),
}
"""Names, best guess first, by which a column is found where nobody names it; letter case does not matter."""


@dataclass(frozen=True)
class Log:
    """One readable file: its columns with their types as DuckDB names them, in order."""

    file: str
    types: Mapping[str, str]
    reader: str
    """SQL table function that reads the file; values of CSV and JSON are text."""


def open_all(con: Connection, sources: Sequence[str | Path]) -> list[Log]:
    """Find the files that sources name, in the order of sources and of names: files, folders, patterns, addresses.

    Raises:
        SourceError: a source names no file, or a file cannot be read as its name promises.
    """
    if not sources:
        raise SourceError("events: found no source; expected a file, a folder, a pattern or an address such as s3://…")
    return [_opened(con, file) for source in map(str, sources) for file in _files(con, source)]


@contextmanager
def whole(file: str) -> Iterator[None]:
    """Turn errors of DuckDB and of file systems while a file is read into one that names the file."""
    try:
        yield
    except (duckdb.Error, OSError, EOFError) as error:
        first = str(error).partition("\nPossible fixes")[0].strip()
        raise SourceError(
            f"{file}: cannot be read to its end ({first}); expected a whole file: write or copy it again"
        ) from error


def place_of(file: str, row: int) -> str:
    """Name a row of a file, for errors."""
    return f"{file}: row {row} (from 0)"


def column(log: Log, what: str, name: str | None, required: bool = False) -> str | None:
    """Name of the column that holds what is asked for: the given one, or the best guess; None if there is none.

    Raises:
        SourceError: the given column, or a required one, is not there; names the columns that are.
    """
    found = ", ".join(log.types)
    if name is not None:
        if name not in log.types:
            raise SourceError(f"{log.file}: column {name} (--{what}) is missing; found columns {found}")
        return name
    spelt = {column.lower(): column for column in reversed([*log.types])}
    guessed = next((spelt[guess] for guess in GUESSES[what] if guess in spelt), None)
    if required and guessed is None:
        raise SourceError(
            f"{log.file}: found columns {found}; none is called {' or '.join(GUESSES[what][:4])}; "
            f"name the one that holds the {what} by --{what}"
        )
    return guessed


def is_remote(source: str) -> bool:
    """Tell an address of another machine from a path of this one."""
    return "://" in source


def local_files(source: str) -> list[str]:
    """Files of this machine that a source names, in the order of their names.

    Raises:
        SourceError: there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _readable(source, map(str, visible(path)))
    if path.is_file():
        return [str(path)]
    names = [name for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
    if not names:
        raise SourceError(
            f"{source}: no such file, and no file fits it as a pattern; name a file, a folder or a pattern"
        )
    return _readable(source, names)


def _files(con: Connection, source: str) -> list[str]:
    return _remote(con, source) if is_remote(source) else local_files(source)


def _remote(con: Connection, source: str) -> list[str]:
    """Files of an address, read by fsspec's file system of its protocol."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(source)
        if system.isdir(path):
            names = system.find(path)
        else:
            names = system.glob(path) if glob.has_magic(path) else [path] * system.exists(path)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(
            f"{source}: cannot be opened ({error}); install fsspec's package of the protocol, and check the address"
        ) from error
    if not names:
        raise SourceError(f"{source}: no such file; name a file, a folder or a pattern")
    if not con.filesystem_is_registered(system.protocol if isinstance(system.protocol, str) else system.protocol[0]):
        con.register_filesystem(system)
    addresses = [system.unstrip_protocol(name) for name in names]
    return addresses if len(names) == 1 and names[0] == path else _readable(source, addresses)


def _readable(source: str, names: Iterable[str]) -> list[str]:
    """Files among some whose name tells a format that can be read."""
    found = sorted(names)
    chosen = [name for name in found if _format(name)]
    if not chosen:
        others = f"{len(found)} others, such as {Path(found[0]).name}" if found else "nothing"
        raise SourceError(f"{source}: no file of events in this folder; found {others}, expected {', '.join(FORMATS)}")
    return chosen


def _format(file: str) -> str | None:
    path = Path(file)
    return FORMATS.get(Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix)


def _opened(con: Connection, file: str) -> Log:
    given, text = _format(file), _named(file)
    if given is None:
        raise SourceError(f"{file}: found a name with another ending, expected {', '.join(FORMATS)}")
    with whole(file):
        if given == "csv":
            return _opened_csv(con, file)
        if given == "json":
            names = con.sql(f"FROM read_json({text}, format = 'auto') LIMIT 0").columns
            types = dict.fromkeys(names, "VARCHAR")
            return Log(file, types, f"read_json({text}, format = 'auto', columns = {_as_text(types)})")
        relation = con.sql(f"FROM read_parquet({text}, hive_partitioning = false)")
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        return Log(file, types, f"read_parquet({text}, hive_partitioning = false)")


def _opened_csv(con: Connection, file: str) -> Log:
    """CSV file with a line of names; the delimiter is the one that this line has most often."""
    # DuckDB's own guess would take a file whose last line is cut off for one of a single column.
    line = "columns = {'line': 'VARCHAR'}, delim = '\\x1F', quote = '', escape = '', header = false"
    first = con.sql(f"FROM read_csv({_named(file)}, auto_detect = false, {line}) LIMIT 1").fetchall()
    head = str(first[0][0] or "").lstrip("\ufeff") if first else ""
    delimiter = max(DELIMITERS, key=head.count)
    names = next(csv.reader([head], delimiter=delimiter), [])
    if not head or len({name.lower() for name in names}) < len(names) or not all(names):
        raise SourceError(
            f"{file}: found {head[:80]!r} in the first line, expected the names of the columns, each once"
        )
    types = dict.fromkeys(names, "VARCHAR")
    options = f"auto_detect = false, header = true, delim = {literal(delimiter)}, quote = '\"', escape = '\"'"
    return Log(file, types, f"read_csv({_named(file)}, {options}, columns = {_as_text(types)})")


def _named(file: str) -> str:
    """SQL literal of a file's name, in which no character stands for others."""
    return literal(file if is_remote(file) else glob.escape(file))


def _as_text(types: Iterable[str]) -> str:
    return "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in types) + "}"


def literal(text: str) -> str:
    """SQL literal of a text."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """SQL identifier of a column's name."""
    return '"' + name.replace('"', '""') + '"'
