"""Which users and songs take part, and the dense ids that every later table speaks in."""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.splits.parts import Tally

Relation = duckdb.DuckDBPyRelation
Connection = duckdb.DuckDBPyConnection


def candidate_songs(
    con: Connection, multi_event: Relation, embeddings: Relation, artists: Relation, albums: Relation
) -> Relation:
    """Every song with audio that any row of multi_event names: item_id, artist_ids, album_ids.

    Artists and albums get dense indices, 0-based by Yambda's id, among those that have a candidate song; a
    song's list is ascending, and empty when nothing is known.
    """
    # Distinct first: the events are many times as many as the songs.
    songs = con.sql("""
        WITH named AS (SELECT DISTINCT item_id FROM multi_event)
        SELECT item_id::BIGINT AS item_id FROM named SEMI JOIN embeddings USING (item_id)
    """).materialize()
    artist_lists = _dense_lists(con, songs, artists, "artist_id")  # noqa: F841  (named in the query below)
    album_lists = _dense_lists(con, songs, albums, "album_id")  # noqa: F841
    return con.sql("""
        SELECT item_id, coalesce(a.ids, []) AS artist_ids, coalesce(b.ids, []) AS album_ids
        FROM songs LEFT JOIN artist_lists a USING (item_id) LEFT JOIN album_lists b USING (item_id)
        ORDER BY item_id
    """)


def _dense_lists(con: Connection, songs: Relation, mapping: Relation, owner: str) -> Relation:
    return con.sql(f"""
        SELECT item_id, list(id ORDER BY id) AS ids
        FROM (
            SELECT DISTINCT item_id::BIGINT AS item_id, (dense_rank() OVER (ORDER BY {owner}) - 1)::INTEGER AS id
            FROM mapping SEMI JOIN songs USING (item_id)
            WHERE {owner} IS NOT NULL
        )
        GROUP BY item_id
    """)


def active_users(
    con: Connection, multi_event: Relation, candidate_songs: Relation, min_events: int, max_events: int
) -> Relation:
    """Users whose raw rows number within [min_events, max_events]: user_id, uid, n_events.

    n_events counts the user's rows that name a candidate song; a user with none is absent. user_id is the
    0-based rank of uid.
    """
    return con.sql(f"""
        SELECT (row_number() OVER (ORDER BY uid) - 1)::INTEGER AS user_id, uid::BIGINT AS uid, n_events
        FROM (
            SELECT uid, count(*) AS n_raw,
                count(*) FILTER (item_id IN (SELECT item_id FROM candidate_songs)) AS n_events
            FROM multi_event WHERE uid IS NOT NULL GROUP BY uid
        )
        WHERE n_raw BETWEEN {min_events:d} AND {max_events:d} AND n_events > 0
        ORDER BY user_id
    """)


def songs(con: Connection, candidate_songs: Relation, item_ids: NDArray[np.int64], tally: Tally) -> Relation:
    """The catalogue with dense ids: graph songs first, then cold ones, each by item_id.

    Args:
        con: the relation's connection.
        candidate_songs: the catalogue.
        item_ids: its ids, ascending.
        tally: what trained, in the same order.
    """
    tallied = pa.table(  # noqa: F841  (named in the query below)
        {
            "song_id": tally.song_ids,
            "item_id": item_ids,
            "in_graph": tally.in_graph,
            "n_train_plays": tally.n_train_plays,
        }
    )
    return con.sql("""
        SELECT song_id, item_id, artist_ids, album_ids, in_graph, n_train_plays
        FROM candidate_songs JOIN tallied USING (item_id)
        ORDER BY song_id
    """)
