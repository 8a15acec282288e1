"""Lists that other programs recommend: one Parquet file for each method and scale, with the ids of the data.

A file has a row for each user, song and rank (from 1, without gaps), or score; a user's list is for both views: in
`discovery`, songs that the user has heard are left out of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb

from ms_assets.files import reading
from ms_assets.retrieval.methods import OURS
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.streams import Relation

NAMES = {
    "user": ("uid", "user", "user_id"),
    "song": ("item_id", "item", "song"),
    "rank": ("rank",),
    "score": ("score",),
}
"""Names of columns, best first, in a file of lists; song_id is not among them, for our tables have dense ids there."""
PROBLEMS = {
    "an unknown user": "user_id IS NULL",
    "an unknown song": "song_id IS NULL",
    "a score that is no number": "isfinite(score) IS NOT TRUE",
    "a song that the list has already": "row_number() OVER (PARTITION BY user_id, song_id ORDER BY rank) > 1",
    "a rank left out or given twice": "rank IS DISTINCT FROM row_number() OVER (PARTITION BY user_id ORDER BY rank)",
}
"""Problems of lists, each with the condition in SQL of a row that has it, in the order in which they are named."""


def files_of(folder: Path, scale: str) -> dict[str, Path]:
    """Files `<name>/<scale>.parquet` of a folder by name.

    Raises:
        ValueError: a name is that of one of our methods, or has other characters than letters, digits, _, . and -.
    """
    found = {file.parent.name: file for file in sorted(folder.glob(f"[!.]*/{scale}.parquet"))}
    for name, file in found.items():
        if name in OURS or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"{file}: found lists of {name!r}, expected a name of their own, of letters, digits, _, . and -; "
                "rename their folder"
            )
    return found


def read(
    con: duckdb.DuckDBPyConnection, files: Mapping[str, Path], users: Relation, songs: Relation, train: Relation,
    user_ids: Relation, song_ids: Relation,
) -> Relation:  # fmt: skip
    """Read the lists of all files: method, view, user_id, uid, rank, song_id, item_id, score.

    Args:
        con: connection of the relations.
        files: file by name of the method.
        users, songs: splits/users and splits/songs.
        train: splits/train; songs with an event there count as heard.
        user_ids, song_ids: own ids of imported data; where they are empty, ids are those of the tables.

    Raises:
        ValueError: names the file, the user and the rank of the first unknown id, repeated song, gap or bad score.
        DamagedFileError: a file cannot be read.
    """
    known_users = con.sql("""
        SELECT user_id, uid, coalesce("user"::VARCHAR, uid::VARCHAR) AS "user" FROM users LEFT JOIN user_ids USING (uid)
    """).materialize()
    known_songs = con.sql("""
        SELECT song_id, item_id, coalesce(song::VARCHAR, item_id::VARCHAR) AS song
        FROM songs LEFT JOIN song_ids USING (item_id)
    """).materialize()
    parts = [_verified(con, name, file, known_users, known_songs) for name, file in files.items()]
    every = con.sql(f"SELECT ''::VARCHAR AS method, {NOTHING} WHERE false")
    for part in parts:
        every = every.union(part)
    heard = train.project("user_id, song_id").distinct()  # noqa: F841  (named in the query)
    return con.sql(f"""
        SELECT method, view, user_id, uid, rank::INTEGER AS rank, song_id, item_id, score::FLOAT AS score FROM (
            SELECT *, 'all' AS view FROM every
            UNION ALL
            SELECT * REPLACE (row_number() OVER (PARTITION BY method, user_id ORDER BY rank) AS rank), 'discovery'
            FROM every ANTI JOIN heard USING (user_id, song_id)
        ) WHERE rank <= {TOP_K} ORDER BY method, view, user_id, rank
    """)


NOTHING = """
    NULL::INTEGER AS user_id, NULL::BIGINT AS uid, NULL::INTEGER AS song_id, NULL::BIGINT AS item_id,
    NULL::BIGINT AS rank, NULL::DOUBLE AS score
"""


def of_methods(lists: Relation) -> dict[str, Relation]:
    """Lists of all files, as `read` gives them, by method."""
    names = sorted(name for (name,) in lists.project("method").distinct().fetchall())
    return {name: lists.filter(f"method = '{name}'").project("* EXCLUDE (method)") for name in names}


def _verified(
    con: duckdb.DuckDBPyConnection, name: str, file: Path, known_users: Relation, known_songs: Relation
) -> Relation:
    """Rows of one file: method, user_id, uid, song_id, item_id, rank, score."""
    with reading(file, "write it again, as a Parquet file"):
        given = con.read_parquet(str(file))
    user, song, rank, score = (_column(given, what) for what in NAMES)
    if user is None or song is None or not (rank or score):
        raise ValueError(
            f"{file}: found columns {', '.join(given.columns)}, expected user, song, and rank or score "
            f"({', '.join('/'.join(names) for names in NAMES.values())})"
        )
    place, value = f'TRY_CAST("{rank}" AS BIGINT)', f'TRY_CAST("{score}" AS DOUBLE)'
    if rank is None:
        place = f'row_number() OVER (PARTITION BY "{user}" ORDER BY "{score}" DESC)'
    if score is None:
        value = f'1 / TRY_CAST("{rank}" AS DOUBLE)'
    rows = given.project(  # noqa: F841  (named in the query)
        f'"{user}"::VARCHAR AS "user", "{song}"::VARCHAR AS song, {place} AS rank, {value} AS score'
    )
    found = con.sql("""
        SELECT * FROM rows LEFT JOIN known_users USING ("user") LEFT JOIN known_songs USING (song)
    """).materialize()
    if not len(found):
        raise ValueError(f"{file}: found no rows, expected lists")
    for problem, condition in PROBLEMS.items():
        bad = found.project(f'"user", song, rank, {condition} AS is_bad').filter("is_bad")
        for whose, which, where, _ in bad.order('"user", rank NULLS FIRST').limit(1).fetchall():
            raise ValueError(
                f"{file}: {problem}, user {whose}, song {which} at rank {where} ({len(bad):,} such rows); expected "
                "users and songs of the splits, by the ids that `python -m ms_assets export` writes, and ranks from 1"
            )
    return found.project(f"'{name}' AS method, user_id, uid, song_id, item_id, rank, score")


def _column(given: Relation, what: str) -> str | None:
    return next((name for name in NAMES[what] if name in given.columns), None)
