"""Selection of users and songs, and the dense ids that every later table uses."""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.splits.id_map import UNKNOWN, IdMap
from ms_assets.splits.parts import Tally
from ms_assets.streams import Relation, starts, whole_users

Connection = duckdb.DuckDBPyConnection

NO_ITEM = 2**32
"""Stand-in for a missing item_id, larger than any other."""


def candidate_songs(
    con: Connection,
    multi_event: Relation,
    embeddings: Relation,
    artists: Relation,
    albums: Relation,
    require_audio: bool,
) -> Relation:
    """Songs that any row of multi_event names, with audio if that is required.

    Columns: item_id, artist_ids, album_ids, n_events.

    Artists and albums get dense indices, 0-based by Yambda's id, among those that have a candidate song; a
    song's list is ascending, and empty when nothing is known.
    """
    # Grouped before the join, because events outnumber songs many times.
    songs = con.sql(f"""
        WITH named AS (SELECT item_id, count(*) AS n_events FROM multi_event GROUP BY item_id)
        SELECT item_id::BIGINT AS item_id, n_events
        FROM named {"SEMI JOIN embeddings USING (item_id)" if require_audio else "WHERE item_id IS NOT NULL"}
    """).materialize()
    return with_owners(con, songs, artists, albums)


def with_owners(con: Connection, songs: Relation, artists: Relation, albums: Relation) -> Relation:
    """Songs, by item_id, with the dense indices of their artists and albums as lists: artist_ids, album_ids.

    artists, albums: pairs (artist_id or album_id, item_id).
    """
    artist_lists = _dense_lists(con, songs, artists, "artist_id")  # noqa: F841  (named in the query below)
    album_lists = _dense_lists(con, songs, albums, "album_id")  # noqa: F841
    return con.sql("""
        SELECT item_id, coalesce(a.ids, []) AS artist_ids, coalesce(b.ids, []) AS album_ids, songs.* EXCLUDE (item_id)
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


def active_users(multi_event: Relation, candidates: IdMap, min_events: int, max_events: int, rows: int) -> pa.Table:
    """Users with min_events to max_events raw rows: user_id, uid, n_events.

    n_events counts the user's rows that name a candidate song; a user with none is left out. user_id is the
    0-based rank of uid.

    Args:
        multi_event: events sorted by uid.
        candidates: positions of candidate songs by item_id.
        min_events, max_events: bounds, both included.
        rows: approximate number of rows to hold at a time.
    """
    # A raw row counts even if it names no song.
    events = multi_event.filter("uid IS NOT NULL").project(f"uid, coalesce(item_id, {NO_ITEM}) AS item_id")
    uids, n_events = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for block in whole_users(events.to_arrow_reader(rows), "uid"):
        uid = block["uid"].to_numpy()
        start = starts(uid)
        n_raw = np.diff(start, append=len(uid))
        known = candidates.positions(block["item_id"].to_numpy()) != UNKNOWN
        n_kept = np.add.reduceat(known, start, dtype=np.int64)
        active = (n_raw >= min_events) & (n_raw <= max_events) & (n_kept > 0)
        uids.append(uid[start][active].astype(np.int64))
        n_events.append(n_kept[active])
    uid = np.concatenate(uids)
    return pa.table({"user_id": np.arange(len(uid), dtype=np.int32), "uid": uid, "n_events": np.concatenate(n_events)})


def songs(con: Connection, candidate_songs: Relation, item_ids: NDArray[np.int64], tally: Tally) -> Relation:
    """Catalogue with dense ids: graph songs first, then cold ones, each by item_id.

    Args:
        con: connection of the relation.
        candidate_songs: catalogue without dense ids.
        item_ids: ids of the candidate songs, ascending.
        tally: counts of train events by candidate song, in the same order.
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
