"""What must hold of the index and of every table of recommendations."""

from typing import Any

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.resources import DuckDB
from ms_assets.retrieval.index import RECALL_AT, RECALL_QUERIES, TARGET_RECALL, recall_at
from ms_assets.retrieval.recommendations import TOP_K
from ms_assets.retrieval.recommenders import METHODS
from ms_assets.vectors import vector_column


@dg.asset_check(
    asset=["retrieval", "song_index"],
    additional_ins={name: dg.AssetIn(["training", name]) for name in ("user_embeddings", "song_embeddings")},
    blocking=True,
)
def index_finds_the_nearest_songs(
    song_index: Any, user_embeddings: Relation, song_embeddings: Relation
) -> dg.AssetCheckResult:
    """The stored index holds every song, and finds the songs that exact search finds."""
    import faiss

    songs = song_embeddings.order("song_id").to_arrow_table()
    item_id = songs["item_id"].to_numpy()
    queries = vector_column(user_embeddings.limit(RECALL_QUERIES).to_arrow_table(), "embedding")
    k = min(RECALL_AT, len(item_id))
    _, rows = faiss.knn(queries, vector_column(songs, "embedding"), k, metric=faiss.METRIC_INNER_PRODUCT)
    recall = recall_at(song_index, queries, item_id[rows])
    return dg.AssetCheckResult(
        passed=bool(song_index.ntotal == len(item_id) and recall >= TARGET_RECALL - 0.02),
        metadata={"n_indexed": song_index.ntotal, "n_songs": len(item_id), "recall_at_100": recall},
    )


def _recommendations_check(method: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        name="recommendations_are_complete",
        asset=["retrieval", method],
        additional_ins={
            "users": dg.AssetIn(["splits", "users"]),
            "songs": dg.AssetIn(["splits", "songs"]),
            "train": dg.AssetIn(["splits", "train"]),
        },
        blocking=True,
    )
    def recommendations_are_complete(
        duckdb: DuckDB, users: Relation, songs: Relation, train: Relation, recommended: Relation
    ) -> dg.AssetCheckResult:
        """Every user has distinct songs ranked from 1 without gaps, a hundred where so many are left, none heard in
        `discovery`. Cold songs need not be listed: collaborative filtering knows none."""
        con, n_songs, n_graph_songs = duckdb.connection, len(songs), len(songs.filter("in_graph"))
        lists = con.sql(f"""
            WITH heard AS (SELECT user_id, count(DISTINCT song_id) AS n_heard FROM train GROUP BY user_id),
            wanted AS (
                SELECT 'all' AS view, user_id, {n_graph_songs} AS n_left FROM users
                UNION ALL
                SELECT 'discovery', user_id, {n_graph_songs} - coalesce(n_heard, 0)
                FROM users LEFT JOIN heard USING (user_id)
            ),
            listed AS (
                SELECT view, user_id, count(*) AS n, count(DISTINCT song_id) AS n_distinct,
                    count(DISTINCT rank) AS n_ranks, min(rank) AS first, max(rank) AS last
                FROM recommended GROUP BY view, user_id
            )
            SELECT coalesce(n, 0) < least({TOP_K}, n_left) AS short,
                n > 0 AND NOT (n = n_distinct AND n = n_ranks AND first = 1 AND last = n) AS broken
            FROM wanted LEFT JOIN listed USING (view, user_id)
        """)
        heard_again = con.sql("""
            SELECT 1 FROM recommended SEMI JOIN train USING (user_id, song_id) WHERE view = 'discovery'
        """)
        found = {
            "n_short_lists": len(lists.filter("short")),
            "n_broken_lists": len(lists.filter("broken")),
            "n_unknown_users": len(con.sql("SELECT 1 FROM recommended ANTI JOIN users USING (user_id)")),
            "n_unknown_songs": len(recommended.filter(f"song_id NOT BETWEEN 0 AND {n_songs - 1}")),
            "n_heard_in_discovery": len(heard_again),
        }
        return dg.AssetCheckResult(passed=not any(found.values()), metadata={"n_users": len(users), **found})

    return recommendations_are_complete


checks = [index_finds_the_nearest_songs, *(_recommendations_check(method) for method in METHODS)]
