"""From the tables of earlier rooms to the arrays that recommenders are made of."""

import duckdb

from ms_assets.retrieval.recommendations import Audience, History
from ms_assets.retrieval.tuning import Tuner

Relation = duckdb.DuckDBPyRelation


def audience(users: Relation, songs: Relation, train: Relation) -> Audience:
    """Who is recommended to; the tables of splits."""
    user_table, song_table = (
        table.order(key).to_arrow_table() for table, key in ((users, "user_id"), (songs, "song_id"))
    )
    return Audience(
        uid=user_table["uid"].to_numpy(),
        item_id=song_table["item_id"].to_numpy(),
        n_graph_songs=int(song_table["in_graph"].to_numpy().sum()),
        history=_history(train, user_table.num_rows),
    )


def _history(train: Relation, n_users: int) -> History:
    pairs = train.aggregate(
        "user_id, song_id, count(*) AS n_events, coalesce(max(timestamp), -1) AS last", "user_id, song_id"
    )
    return History.of(pairs.order("user_id, song_id").to_arrow_table(), n_users)


def tuner(ground_truth: Relation, audience: Audience) -> Tuner:
    """What settings are chosen by: the validation part of splits/ground_truth."""
    rows = ground_truth.filter("split = 'validation'").to_arrow_table()
    user, song, relevance = (rows[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
    return Tuner.of(user, song, relevance, audience.history.songs, len(audience.item_id))
