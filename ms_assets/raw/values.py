"""Values of own logs in SQL: ids, times, types, ratios and vectors from the columns that hold them."""

import re

from ms_assets.raw.logs import Log, quoted
from ms_assets.raw.schema import NUMBER, SourceError

UNITS = (("1e17", "/ 1e3"), ("1e14", "* 1"), ("1e11", "* 1e3"))
"""Sizes from which numbers are nano-, micro- and milliseconds since 1970, and how they become microseconds; smaller
ones are seconds. Seconds since 1970 reach 1e11 in the year 5138."""
PLAIN_TIME = "____-__-_____:__:__"
"""Times in UTC as LIKE finds them: a date, any character, and hours, minutes and seconds."""
IDS = "ids: text or whole numbers"
EXPECTED = {
    "user": IDS,
    "song": IDS,
    "artist": f"{IDS}, or lists of them",
    "album": f"{IDS}, or lists of them",
    "time": "times: ISO 8601, dates, or seconds, milli-, micro- or nanoseconds since 1970",
    "type": "names of event types",
    "organic": "true or false, 1 or 0",
    "ratio": "numbers from 0, as shares or percents",
    "played": "numbers from 0",
    "duration": "numbers from 0",
    "rating": "numbers",
    "audio": "vectors of numbers",
}
"""Values of each kind of column, in words."""


def value(log: Log, what: str, name: str) -> str:
    """SQL for a column's values, null where one cannot be read.

    Ids and types are text, times microseconds since 1970, audio FLOAT[], artists and albums VARCHAR[], other values
    numbers.

    Raises:
        SourceError: the column's type holds no such values.
    """
    column, type_ = quoted(name), log.types[name]
    is_text = type_ == "VARCHAR" or type_.startswith("ENUM")
    found = None
    match what:
        case "user" | "song" | "type":
            found = _name(column, type_)
        case "artist" | "album":
            found = _names(column, type_, is_json=log.reader.startswith("read_json"))
        case "time":
            found = _time(column, type_)
        case "audio" if is_text:
            found = f"TRY_CAST({column} AS FLOAT[])"
        case "audio" if re.fullmatch(rf"({NUMBER})\[\d*\]", type_):
            found = f"{column}::FLOAT[]"
        case "organic" if is_text or type_ == "BOOLEAN" or _is_number(type_):
            found = f"TRY_CAST({column}::VARCHAR AS BOOLEAN)::UTINYINT"
        case "rating" if is_text or _is_number(type_):
            found = _finite(column)
        case "ratio" | "played" | "duration" if is_text or _is_number(type_):
            divisor = " / 1000" if "ms" in name.lower().split("_") else ""
            found = f"CASE WHEN {_finite(column)} >= 0 THEN {_finite(column)}{divisor} END"
    if found is None:
        raise SourceError(f"{log.file}: column {name} has type {type_}, expected {EXPECTED[what]}")
    return found


def is_given(log: Log, name: str, column: str) -> str:
    """SQL condition for a column's values to be there; `column` is what it is called where they are asked for."""
    return f"nullif(trim({column}), '') IS NOT NULL" if log.types[name] == "VARCHAR" else f"{column} IS NOT NULL"


def _is_number(type_: str) -> bool:
    return re.fullmatch(NUMBER, type_) is not None


def _name(column: str, type_: str) -> str | None:
    """Ids and names as text; whole numbers in a float type, as pandas makes them of columns with gaps, too."""
    if type_ in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN {column} = trunc({column}) AND abs({column}) < 1e15 THEN {column}::BIGINT::VARCHAR END"
    if type_ == "VARCHAR" or type_ == "UUID" or type_.startswith("ENUM") or _is_number(type_):
        return f"nullif({column}::VARCHAR, '')"
    return None


def _names(column: str, type_: str, is_json: bool) -> str | None:
    if type_.endswith("[]"):
        return f"{column}::VARCHAR[]"
    one = _name(column, type_)
    alone = None if one is None else f"CASE WHEN {one} IS NOT NULL THEN [{one}] END"
    # A list of JSON is read as its text.
    return f"CASE WHEN {column} LIKE '[%' THEN TRY_CAST({column} AS VARCHAR[]) ELSE {alone} END" if is_json else alone


def _time(column: str, type_: str) -> str | None:
    if type_.startswith("TIMESTAMP") or type_ == "DATE":
        return f"epoch_us({column})"
    number = f"TRY_CAST({column}::VARCHAR AS DOUBLE)" if type_ == "VARCHAR" else f"{column}::DOUBLE"
    units = " ".join(f"WHEN abs({number}) >= {size} THEN {number} {into}" for size, into in UNITS)
    counted = f"CASE WHEN abs({number}) < 1e19 THEN round(CASE {units} ELSE {number} * 1e6 END)::BIGINT END"
    if type_ == "VARCHAR":
        # The usual form first, which takes a fifth of the time of the others; a zone has no room in it.
        return (
            f"CASE WHEN {column} LIKE '{PLAIN_TIME}' THEN epoch_us(TRY_CAST({column} AS TIMESTAMP)) "
            f"ELSE coalesce({counted}, epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))) END"
        )
    return counted if _is_number(type_) else None


def _finite(column: str) -> str:
    number = f"TRY_CAST({column}::VARCHAR AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"
