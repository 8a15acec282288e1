"""What must hold of the index and of every table of recommendations."""

from typing import Any

import dagster as dg

from ms_assets.io_managers import Relation
from ms_assets.resources import DuckDB
from ms_assets.retrieval.assets import METHODS
from ms_assets.retrieval.index import RECALL_AT, RECALL_QUERIES, TARGET_RECALL, recall_at
from ms_assets.retrieval.recommendations import TOP_K
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
        """Every user has distinct songs ranked from 1 without gaps, as many as there are up to 100; in
        `discovery` none of them was heard."""
        con, n_songs = duckdb.connection, len(songs)
        lists = con.sql("""
            SELECT view, user_id, count(*) AS n, count(DISTINCT song_id) AS n_distinct, min(rank) AS first,
                max(rank) AS last
            FROM recommended GROUP BY view, user_id
        """)
        n_broken = len(lists.filter("NOT (n = n_distinct AND first = 1 AND last = n)"))
        n_short = len(lists.filter(f"n < {min(TOP_K, n_songs)} AND view = 'all'"))
        n_unknown = len(recommended.filter(f"song_id NOT BETWEEN 0 AND {n_songs - 1}"))
        heard = con.sql("""
            SELECT 1 FROM recommended SEMI JOIN train USING (user_id, song_id) WHERE view = 'discovery'
        """)
        found = {
            "n_users": len(users),
            "n_users_without": len(users) - len(lists.filter("view = 'all'")),
            "n_broken_lists": n_broken,
            "n_short_lists": n_short,
            "n_unknown_songs": n_unknown,
            "n_heard_in_discovery": len(heard),
        }
        return dg.AssetCheckResult(passed=not any(list(found.values())[1:]), metadata=found)

    return recommendations_are_complete


checks = [index_finds_the_nearest_songs, *(_recommendations_check(method) for method in METHODS)]
