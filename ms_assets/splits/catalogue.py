"""Which users and songs take part, and the dense ids that every later table speaks in."""

import duckdb

Relation = duckdb.DuckDBPyRelation
Connection = duckdb.DuckDBPyConnection


def candidate_songs(
    con: Connection, multi_event: Relation, embeddings: Relation, artists: Relation, albums: Relation
) -> Relation:
    """Every song with audio that any row of multi_event names: item_id, artist_ids, album_ids.

    Artists and albums get dense indices, 0-based by Yambda's id, among those that have a candidate song; a
    song's list is ascending, and empty when nothing is known.
    """
    songs = con.sql("""
        SELECT DISTINCT item_id::BIGINT AS item_id FROM multi_event
        WHERE item_id IN (SELECT item_id FROM embeddings)
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


def songs(con: Connection, parted_events: Relation, candidate_songs: Relation) -> Relation:
    """The catalogue with dense ids: graph songs first, then cold ones, each by item_id.

    A graph song has a positive event in the train part; n_train_plays counts its listens there.
    """
    return con.sql("""
        WITH trained AS (
            SELECT item_id, bool_or(positive) AS in_graph,
                count(*) FILTER (event_type = 'listen') AS n_train_plays
            FROM parted_events WHERE part = 'train' GROUP BY item_id
        )
        SELECT (row_number() OVER (ORDER BY coalesce(in_graph, false) DESC, item_id) - 1)::INTEGER AS song_id,
            item_id, artist_ids, album_ids,
            coalesce(in_graph, false) AS in_graph, coalesce(n_train_plays, 0) AS n_train_plays
        FROM candidate_songs LEFT JOIN trained USING (item_id)
        ORDER BY song_id
    """)
