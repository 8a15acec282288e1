"""Room 5: the Faiss index, and every recommender's hundred best songs for every user."""

import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from ms_assets.io_managers import Relation, columns
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval import recommenders
from ms_assets.retrieval.recommendations import Audience, Recommender, recommend
from ms_assets.scales import room
from ms_assets.vectors import Ragged, vector_column

asset = room("retrieval")
SEED = 0

RECOMMENDATIONS = columns(
    view=("VARCHAR", "all, or discovery: songs with the user's positive train events left out"),
    user_id=("INTEGER", "dense user id"),
    uid=("BIGINT", "Yambda's user id"),
    rank=("INTEGER", "1 to 100 within view and user"),
    song_id=("INTEGER", "dense song id"),
    item_id=("BIGINT", "Yambda's song id"),
    score=("FLOAT", "what the method ranks by"),
)
SPLITS = {name: dg.AssetIn(["splits", name]) for name in ("users", "songs", "train")}
GRAPH = {"bipartite_graph": dg.AssetIn(["graph", "bipartite_graph"])}
EMBEDDINGS = {name: dg.AssetIn(["training", name]) for name in ("user_embeddings", "song_embeddings")}


@asset(kinds={"faiss"}, code_version="1", io_manager_key="faiss_files", ins=EMBEDDINGS)
def song_index(user_embeddings: Relation, song_embeddings: Relation) -> dg.MaterializeResult:
    """A Faiss index over the embeddings of all songs, cold ones included; its ids are Yambda's song ids."""
    songs = song_embeddings.order("song_id").to_arrow_table()
    started = time.monotonic()
    built = indexing.build(
        vector_column(songs, "embedding"),
        songs["item_id"].to_numpy(),
        vector_column(user_embeddings.order("user_id").to_arrow_table(), "embedding"),
    )
    return dg.MaterializeResult(
        value=built.index,
        metadata={
            "kind": built.kind,
            "recall_at_100": built.recall,
            "n_songs": songs.num_rows,
            "n_cold_songs": int(np.sum(songs["cold"].to_numpy())),
            "build_seconds": round(time.monotonic() - started, 3),
        },
    )


def _audience(users: Relation, songs: Relation, train: Relation) -> Audience:
    user_table, song_table = (
        table.order(key).to_arrow_table() for table, key in ((users, "user_id"), (songs, "song_id"))
    )
    heard = train.project("user_id, song_id").distinct().to_arrow_table()
    return Audience(
        uid=user_table["uid"].to_numpy(),
        item_id=song_table["item_id"].to_numpy(),
        heard=Ragged.from_pairs(heard["user_id"].to_numpy(), heard["song_id"].to_numpy(), user_table.num_rows),
    )


def _recommended(audience: Audience, make: Callable[[], Recommender]) -> dg.MaterializeResult[pa.Table]:
    started = time.monotonic()
    recommender = make()
    fitted = time.monotonic()
    table = recommend(audience, recommender)
    seconds = {"fit_seconds": fitted - started, "recommend_seconds": time.monotonic() - fitted}
    return dg.MaterializeResult(value=table, metadata={name: round(s, 3) for name, s in seconds.items()})


method = {"code_version": "1", "metadata": RECOMMENDATIONS}


@asset(
    kinds={"faiss"},
    ins={**SPLITS, "user_embeddings": EMBEDDINGS["user_embeddings"]},
    **method,
)
def lightgcn(
    users: Relation, songs: Relation, train: Relation, song_index: Any, user_embeddings: Relation
) -> dg.MaterializeResult[pa.Table]:
    """LightGCN: the songs whose embeddings lie nearest to the user's, found in the index."""
    audience = _audience(users, songs, train)
    vectors = vector_column(user_embeddings.order("user_id").to_arrow_table(), "embedding")
    return _recommended(audience, lambda: recommenders.from_index(song_index, vectors, audience.item_id))


@asset(kinds={"numpy"}, ins=SPLITS, **method)
def popular(users: Relation, songs: Relation, train: Relation) -> dg.MaterializeResult[pa.Table]:
    """Baseline: the songs with the most positive train events, the same for everybody."""
    audience = _audience(users, songs, train)
    n_events = np.bincount(
        train.project("song_id").to_arrow_table()["song_id"].to_numpy(), minlength=len(audience.item_id)
    )
    return _recommended(audience, lambda: recommenders.popular(n_events))


@asset(kinds={"numpy"}, ins=SPLITS, **method)
def random(users: Relation, songs: Relation, train: Relation) -> dg.MaterializeResult[pa.Table]:
    """Baseline: songs drawn at random from the catalogue, which shows what chance alone reaches."""
    audience = _audience(users, songs, train)
    return _recommended(audience, lambda: recommenders.random(len(audience.item_id), SEED))


@asset(kinds={"scikitlearn"}, ins=SPLITS, **method)
def collaborative_filtering(users: Relation, songs: Relation, train: Relation) -> dg.MaterializeResult[pa.Table]:
    """Baseline: truncated SVD, 64 factors, of who has heard what."""
    audience = _audience(users, songs, train)
    n_graph_songs = len(songs.filter("in_graph"))
    return _recommended(audience, lambda: recommenders.collaborative_filtering(audience.heard, n_graph_songs, SEED))


@asset(kinds={"faiss"}, ins={**SPLITS, **GRAPH}, **method)
def content_based(
    users: Relation, songs: Relation, train: Relation, bipartite_graph: Any
) -> dg.MaterializeResult[pa.Table]:
    """Baseline: songs that sound like the mean of what the user has heard."""
    audience = _audience(users, songs, train)
    audio = bipartite_graph["song"].x.numpy()
    return _recommended(audience, lambda: recommenders.content_based(audience.heard, audio))


assets = [song_index, lightgcn, popular, random, collaborative_filtering, content_based]
