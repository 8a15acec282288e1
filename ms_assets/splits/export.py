"""Export of the splits for other libraries of recommenders, with the data's own ids."""

from collections.abc import Mapping
from pathlib import Path

import duckdb

from ms_assets.events import EVENT_TYPES, IS_POSITIVE, sql_case
from ms_assets.files import published
from ms_assets.raw.own import with_own_ids
from ms_assets.streams import Relation

LINES = {name: kind.relevance for name, kind in EVENT_TYPES.items()}
WEIGHT = sql_case({name: f"{start} + {slope} * coalesce(played_ratio, 0)" for name, (start, slope) in LINES.items()})
"""Relevance of an event."""
FORMS = {
    "rectools": ("{part}.parquet", "user_id, item_id, weight, make_timestamp(seconds * 1000000) AS datetime"),
    "lenskit": ("{part}.parquet", "user_id, item_id, weight AS rating, seconds AS timestamp"),
    "recbole": (
        "{name}.{part}.inter",
        'user_id AS "user_id:token", item_id AS "item_id:token", weight AS "rating:float", '
        'seconds AS "timestamp:float"',
    ),
}
"""Name of the files of each library, and their columns in SQL."""


def export(
    con: duckdb.DuckDBPyConnection, folder: Path, form: str, name: str, parts: Mapping[str, Relation], users: Relation,
    songs: Relation, user_ids: Relation, song_ids: Relation,
) -> dict[Path, int]:  # fmt: skip
    """Write the positive events of each part in the form of a library; each file is there whole or not at all.

    Args:
        con: connection of the relations.
        folder: folder for the files.
        form: name of the library, one of FORMS.
        name: name of the data set, which RecBole has in its files' names.
        parts: splits/train, validation and test by name.
        users, songs: splits/users and splits/songs.
        user_ids, song_ids: own ids of imported data; where they are empty, ids are those of the tables.

    Returns:
        Number of events by file.
    """
    file, columns = FORMS[form]
    users, songs = with_own_ids(users, user_ids), with_own_ids(songs, song_ids)
    written = {}
    for part, events in parts.items():
        kept = events.filter(IS_POSITIVE).project(f"user_id, song_id, timestamp AS seconds, {WEIGHT} AS weight")
        rows = con.sql("""
            SELECT user_id, item_id, seconds, weight FROM (
                SELECT uid AS user_id, item_id, seconds, weight, kept.user_id AS position
                FROM kept JOIN users USING (user_id) JOIN songs USING (song_id)
            ) ORDER BY position, seconds
        """).project(columns)
        # RecBole calls the validation part so.
        path = folder / file.format(name=name, part="valid" if form == "recbole" and part == "validation" else part)
        with published(path) as unfinished:
            if form == "recbole":
                rows.write_csv(str(unfinished), sep="\t")
            else:
                rows.write_parquet(str(unfinished), compression="zstd")
        written[path] = len(kept)
    return written
