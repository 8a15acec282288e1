"""Checks of the index, of cold songs, and of every table of recommendations."""

import inspect
from functools import partial
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.defs.platform.checks import asset_check
from ms_assets.defs.platform.io_managers import IndexOfOrigin
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import assets_of
from ms_assets.retrieval import exact
from ms_assets.retrieval.cold_start import indexed_vectors
from ms_assets.retrieval.dataset import ROWS, Dataset
from ms_assets.retrieval.index import RECALL_AT, RECALL_QUERIES, TARGET_RECALL, differences, origin, recall_at
from ms_assets.retrieval.memory import of_vectors
from ms_assets.retrieval.methods import METHODS, RANKED
from ms_assets.retrieval.recommender import TOP_K, nearest
from ms_assets.retrieval.tuning import TUNING_USERS, Tuner
from ms_assets.streams import Relation
from ms_assets.vectors import dimensions, embeddings, vector_column

LEAST_KEPT, LEAST_TRAINED = 0.8, 0.01
"""Least share of the trained vectors' NDCG that LightGCN's lists keep, and least share of trained songs in them."""
ERRORS = 3
"""Number of standard errors that a loss of NDCG exceeds if it is not due to chance."""


@asset_check(
    asset=["retrieval", "song_index"],
    additional_ins=assets_of("splits", "songs")
    | assets_of("training", "lightgcn", "song_embeddings")
    | assets_of("retrieval", "queries", "cold_songs"),
    blocking=True,
)
def index_finds_the_nearest_songs(
    song_index: IndexOfOrigin, songs: Relation, lightgcn: Any,
    queries: Relation, song_embeddings: Relation, cold_songs: Relation,
) -> dg.AssetCheckResult:  # fmt: skip
    """Index belongs to this training, split and id map, holds every song, and finds what exact search finds."""
    item_id = songs.order("song_id").to_arrow_table()["item_id"].to_numpy()
    users = embeddings(queries, "user_id")
    vectors = indexed_vectors(song_embeddings, cold_songs)
    index, expected = song_index.index, origin(lightgcn, item_id, users, vectors)
    if len(vectors) != len(item_id):
        found = [f"{len(item_id)} songs in splits/songs, {len(vectors)} with embeddings"]
        return dg.AssetCheckResult(passed=False, description=found[0])
    other = differences(song_index.origin, expected)
    _, rows = exact.search(users[:RECALL_QUERIES], vectors, min(RECALL_AT, len(item_id)))
    recall = recall_at(index, users[:RECALL_QUERIES], item_id[rows])
    return dg.AssetCheckResult(
        passed=bool(not other and index.ntotal == len(item_id) and recall >= TARGET_RECALL - 0.02),
        description=f"the index was built from different data: {'; '.join(other)}" if other else None,
        metadata={"n_indexed": index.ntotal, "n_songs": len(item_id), "recall_at_100": recall, **song_index.origin},
    )


@asset_check(asset=["retrieval", "cold_songs"], additional_ins=assets_of("splits", "songs"), blocking=True)
def cold_songs_are_all_placed(cold_songs: Relation, songs: Relation) -> dg.AssetCheckResult:
    """Cold songs, those without a train event, all have a vector: finite, and of one length."""
    expected = songs.filter("NOT in_graph").project("song_id").order("song_id").fetchall()
    found = cold_songs.project("song_id").fetchall()
    lengths = np.linalg.norm(vector_column(cold_songs.to_arrow_table(), "embedding"), axis=1)
    is_one_length = bool(np.isfinite(lengths).all() and (not len(lengths) or np.ptp(lengths) <= 1e-3 * lengths.max()))
    return dg.AssetCheckResult(
        passed=found == expected and is_one_length,
        metadata={
            "n_cold_songs": len(expected),
            "n_placed": len(found),
            "n_not_finite": int((~np.isfinite(lengths)).sum()),
        },
    )


@asset_check(
    asset=["retrieval", "lightgcn"],
    additional_ins=assets_of("splits", "users", "songs", "train", "ground_truth")
    | assets_of("training", "user_embeddings", "song_embeddings"),
    blocking=True,
)
def lists_keep_what_training_learned(
    users: Relation, songs: Relation, train: Relation, ground_truth: Relation,
    user_embeddings: Relation, song_embeddings: Relation, recommended: Relation,
) -> dg.AssetCheckResult:  # fmt: skip
    """Trained songs in the lists of `discovery` have four fifths of the validation NDCG of those nearest to the users.

    Cold songs, songs heard lately, and an index lie between the trained vectors and the lists. The vectors are searched
    exactly, for some users, and as many songs are taken as a list has trained ones. Cold songs may push these down, as
    validation may know none of them, but not out: a hundredth of the lists is trained songs. A loss within three
    standard errors may be due to chance.
    """
    # Users are drawn before the dataset is read: everybody's histories may be more than a step of checks can hold.
    validated = ground_truth.filter("split = 'validation' AND adjusted_relevance > 0").project("user_id").distinct()
    drawn = validated.order("hash(user_id), user_id").limit(TUNING_USERS).set_alias("drawn")
    heard, wanted = (table.set_alias("given").join(drawn, "user_id", how="semi") for table in (train, ground_truth))
    tuner = Tuner.of(Dataset.of(users, songs, heard, wanted, of_vectors(dimensions(song_embeddings), 1, 1)))
    vectors = embeddings(user_embeddings, "user_id"), embeddings(song_embeddings.filter("NOT cold"), "song_id")
    nearest_songs, listed = tuner.lists(nearest(*vectors), "discovery", TOP_K), _lists_of(recommended, tuner.users)
    is_trained = (listed >= 0) & (listed < len(vectors[1]))  # cold songs have the largest ids
    is_within = np.arange(TOP_K) < is_trained.sum(axis=1, keepdims=True)
    kept = np.take_along_axis(listed, np.argsort(~is_trained, axis=1, kind="stable"), axis=1)
    before, after = (
        tuner.ndcg_of_lists(np.where(is_within, lists, -1), "discovery") for lists in (nearest_songs, kept)
    )
    has_targets = ~np.isnan(before)
    if not has_targets.any():
        return dg.AssetCheckResult(passed=True, metadata={"n_users": 0})
    before, after = before[has_targets], after[has_targets]
    error = (before - after).std() / np.sqrt(len(before))
    share = is_trained[has_targets].sum() / max((listed[has_targets] >= 0).sum(), 1)
    lost = before.mean() - after.mean() > max((1 - LEAST_KEPT) * before.mean(), ERRORS * error)
    return dg.AssetCheckResult(
        passed=bool(share >= LEAST_TRAINED and not lost),
        metadata={
            "ndcg_of_trained_vectors": float(before.mean()),
            "ndcg_of_lists": float(after.mean()),
            "standard_error": float(error),
            "share_of_trained_songs": float(share),
            "n_users": len(before),
        },
    )


def _lists_of(recommended: Relation, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lists of some users in `discovery`, int64 [n_users, TOP_K], −1 where they have ended; users: ascending ids."""
    lists = np.full((len(users), TOP_K), -1, np.int64)
    for table in recommended.filter("view = 'discovery'").project("user_id, rank, song_id").to_arrow_reader(ROWS):
        user, rank, song = (column.to_numpy() for column in table.columns)
        kept = np.isin(user, users)
        lists[np.searchsorted(users, user[kept]), rank[kept] - 1] = song[kept]
    return lists


PROBLEMS = {
    "unknown view": """
        SELECT view, user_id, rank FROM recommended WHERE (view IN ('all', 'discovery')) IS NOT TRUE
    """,
    "unknown user": "SELECT view, user_id, rank FROM recommended ANTI JOIN users USING (user_id, uid)",
    "unknown song": "SELECT view, user_id, rank FROM recommended ANTI JOIN songs USING (song_id, item_id)",
    "a song that the list has already": """
        SELECT view, user_id, max(rank) FROM recommended GROUP BY view, user_id, song_id HAVING count(*) > 1
    """,
    "a score that is no number": "SELECT view, user_id, rank FROM recommended WHERE isfinite(score) IS NOT TRUE",
    "a rank left out or given twice": """
        SELECT view, user_id, rank FROM recommended
        QUALIFY rank IS DISTINCT FROM row_number() OVER (PARTITION BY view, user_id ORDER BY rank)
    """,
    "a heard song in discovery": """
        SELECT view, user_id, rank FROM recommended SEMI JOIN train USING (user_id, song_id) WHERE view = 'discovery'
    """,
    "the end of a list that should go on": """
        SELECT view, user_id, coalesce(n, 0) + 1 FROM (
            SELECT user_id, 'all' AS view, {all} AS n_candidates FROM audience
            UNION ALL
            SELECT user_id, 'discovery', {discovery} FROM audience
        ) LEFT JOIN (
            SELECT view, user_id, count(*) AS n FROM recommended GROUP BY view, user_id
        ) USING (view, user_id) WHERE coalesce(n, 0) < least({top_k}, n_candidates)
    """,
}
"""Problems of a table of recommendations, each with a query for the view, user and rank where it occurs."""


def _recommendations_check(room: str, method: str, candidates: tuple[str, str]) -> dg.AssetChecksDefinition:
    splits = assets_of("splits", "users", "songs", "train")
    check = partial(
        asset_check, name="recommendations_are_complete", asset=[room, method], blocking=True,
        description=inspect.getdoc(_complete),
    )  # fmt: skip
    if "n_audible" not in candidates[0]:

        @check(additional_ins=splits)
        def complete(
            duckdb: DuckDB, users: Relation, songs: Relation, train: Relation, recommended: Relation
        ) -> dg.AssetCheckResult:
            return _complete(duckdb, method, candidates, users, songs, train, recommended, np.empty(0))

        return complete

    @check(additional_ins=splits | assets_of("graph", "bipartite_graph"))
    def complete_where_audible(
        duckdb: DuckDB, users: Relation, songs: Relation, train: Relation, bipartite_graph: Any, recommended: Relation
    ) -> dg.AssetCheckResult:
        audible = bipartite_graph["song"].has_audio.numpy().nonzero()[0]
        return _complete(duckdb, method, candidates, users, songs, train, recommended, audible)

    return complete_where_audible


def _complete(
    duckdb: DuckDB, method: str, candidates: tuple[str, str],
    users: Relation, songs: Relation, train: Relation, recommended: Relation,
    audible: NDArray[Any],
) -> dg.AssetCheckResult:  # fmt: skip
    """Recommendations are complete: known users, distinct known songs ranked from 1 without gaps, finite scores.

    Lists have a hundred songs, or as many as the method has for the user; none is heard in `discovery`.
    """
    con, (in_all, in_discovery) = duckdb.connection, candidates
    n_songs, n_known = len(songs), len(songs.filter("in_graph"))
    with_audio = con.from_arrow(pa.table({"audible": audible}))  # noqa: F841  (named below)
    audience = con.sql(  # noqa: F841  (named in PROBLEMS)
        f"""
        SELECT user_id, {n_songs} AS n_songs, {n_known} AS n_known, {len(audible)} AS n_audible,
            count(DISTINCT song_id) AS n_heard, count(DISTINCT audible) AS n_audible_heard
        FROM users LEFT JOIN train USING (user_id) LEFT JOIN with_audio ON song_id = audible GROUP BY user_id
    """
    )
    found, counts = [], {}
    for problem, query in PROBLEMS.items():
        rows = con.sql(query.format(all=in_all, discovery=in_discovery, top_k=TOP_K))
        counts[problem] = len(rows)
        found += [
            f"{method}: {problem}, user_id {user} in {view} at rank {rank} ({counts[problem]} such rows)"
            for view, user, rank in rows.order("2, 1, 3").limit(1).fetchall()
        ]
    return dg.AssetCheckResult(
        passed=not found, description="; ".join(found) or None, metadata={"n_users": len(users), **counts}
    )


RANKED_CANDIDATES = tuple(
    f"CASE WHEN '{view}' IN (SELECT view FROM recommended) THEN {n_songs} ELSE 0 END"
    for view, n_songs in (("all", "n_songs"), ("discovery", "n_songs - n_heard"))
)
"""Numbers of songs that the second stage can recommend, as `Recommender.candidates` has them: none without a ranker."""
of_recommendations = [
    *(_recommendations_check("retrieval", name, method.candidates) for name, method in METHODS.items()),
    _recommendations_check("reranking", RANKED, (RANKED_CANDIDATES[0], RANKED_CANDIDATES[1])),
]
