"""Room 5: the Faiss index, and every recommender's hundred best songs for every user."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets import pictures
from ms_assets.io_managers import IndexOfOrigin, Relation
from ms_assets.registry import CONTENT
from ms_assets.resources import MLflow
from ms_assets.retrieval import blend, cold_start, declarations, implicit_models, inputs, recommenders, served
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval.declarations import HEARD, PLACED, VALIDATED
from ms_assets.retrieval.recommendations import VIEWS, Audience, Recommender, recommend
from ms_assets.retrieval.tuning import TUNING_K, Setting, Tuner
from ms_assets.scales import config_schema, room, settings_of
from ms_assets.schemas import each
from ms_assets.settings import IndexSettings
from ms_assets.vectors import Ragged, embeddings, fixed_size_list

asset = room("retrieval")
SEED = 0
Recommended = dg.MaterializeResult[pa.Table]

SPLITS = {name: dg.AssetIn(["splits", name]) for name in ("users", "songs", "train")}
TUNED = {**SPLITS, "ground_truth": dg.AssetIn(["splits", "ground_truth"])}
GRAPH = {"bipartite_graph": dg.AssetIn(["graph", "bipartite_graph"])}
EMBEDDINGS = {name: dg.AssetIn(["training", name]) for name in ("user_embeddings", "song_embeddings")}


@asset(
    kinds={"numpy"},
    code_version="1",
    ins={**TUNED, **EMBEDDINGS},
    metadata=declarations.COLD_SONGS,
)
def cold_songs(
    users: Relation,
    songs: Relation,
    train: Relation,
    ground_truth: Relation,
    user_embeddings: Relation,
    song_embeddings: Relation,
) -> dg.MaterializeResult[pa.Table]:
    """One row per song without a train event: where it lies among the trained ones, neither buried nor flooding.

    New songs have no listeners to learn from: their audio, artists and albums say where they belong.
    """
    audience, user_vectors = inputs.audience(users, songs, train), embeddings(user_embeddings, "user_id")
    n_trained, encoded = audience.n_graph_songs, embeddings(song_embeddings, "song_id")
    artists = Ragged.from_column(songs.order("song_id").to_arrow_table(), "artist_ids")
    unit, known = cold_start.directions(encoded[n_trained:], encoded[:n_trained], artists)
    fit = cold_start.calibrate(user_vectors, encoded[:n_trained], unit, inputs.tuner(ground_truth, audience))
    table = {
        "song_id": pa.array(range(n_trained, len(encoded)), pa.int32()),
        "item_id": audience.item_id[n_trained:],
        "known_artist": known,
        "embedding": fixed_size_list(np.float32(fit.length if fit else 1) * unit),
    }
    return dg.MaterializeResult(
        value=pa.table(table),
        metadata={
            "n_of_known_artists": int(known.sum()),
            **(asdict(fit) if fit else {"length": 1.0, "not_calibrated": "no song of validation is new and cold"}),
        },
    )


@asset(
    kinds={"faiss"},
    code_version="2",
    io_manager_key="faiss_files",
    config_schema=config_schema(IndexSettings),
    ins={
        "songs": SPLITS["songs"],
        "lightgcn": dg.AssetIn(["training", "lightgcn"]),
        **EMBEDDINGS,
    },
)
def song_index(
    context: dg.AssetExecutionContext,
    songs: Relation,
    lightgcn: Any,
    user_embeddings: Relation,
    song_embeddings: Relation,
    cold_songs: Relation,
) -> dg.MaterializeResult[IndexOfOrigin]:
    """A Faiss index over the embeddings of all songs, cold ones as calibrated; its ids are Yambda's song ids.

    What finds the nearest of millions of songs in milliseconds; how many it misses against an exact search is checked.
    """
    settings = settings_of(context, IndexSettings)
    vectors = cold_start.indexed_vectors(song_embeddings, cold_songs)
    user_vectors = embeddings(user_embeddings, "user_id")
    item_id = songs.order("song_id").to_arrow_table()["item_id"].to_numpy()
    kind = indexing.choose(len(vectors), vectors.shape[1], len(user_vectors), settings.queries == "single")
    built = indexing.build(vectors, item_id, user_vectors, kind)
    return dg.MaterializeResult(
        value=IndexOfOrigin(built.index, indexing.origin(lightgcn, item_id, user_vectors, vectors)),
        metadata={
            "kind": kind,
            "effort": built.effort,
            "recall_at_100": built.recall,
            "n_songs": len(item_id),
            "n_cold_songs": len(cold_songs),
            "build_seconds": round(built.build_seconds, 3),
            "queries_per_second": round(built.queries_per_second, 1),
            "times_exact_search": round(built.queries_per_second / built.exact_queries_per_second, 1),
        },
    )


def _recommended(audience: Audience, make: Callable[[], Recommender], **metadata: Any) -> Recommended:
    started = time.monotonic()
    recommender = make()
    fitted = time.monotonic()
    table = recommend(audience, recommender)
    seconds = {"fit_seconds": fitted - started, "recommend_seconds": time.monotonic() - fitted}
    n_cold = int((table["song_id"].to_numpy() >= audience.n_graph_songs).sum())
    metadata["cold_share_of_top_100"] = round(n_cold / max(len(table), 1), 4)
    return dg.MaterializeResult(
        value=table, metadata={**metadata, **{name: round(s, 3) for name, s in seconds.items()}}
    )


def _tuned(
    audience: Audience,
    ground_truth: Relation,
    grid: Sequence[Setting],
    make: Callable[..., Recommender],
    trial: Callable[[Tuner], Callable[..., Recommender]] | None = None,
    views: Sequence[str] = VIEWS,
) -> Recommended:
    """Choose a setting on validation, by recommenders made for the tuner's users where these are made apart."""
    started = time.monotonic()
    tuner = inputs.tuner(ground_truth, audience)
    tuned = tuner.choose(grid, trial(tuner) if trial else make, views)
    trials = pl.DataFrame(
        [{**setting, **{f"ndcg_{view}": n for view, n in ndcg.items()}} for setting, ndcg in tuned.trials]
    )
    return _recommended(
        audience,
        partial(make, **tuned.setting),
        **tuned.setting,
        chosen_by=f"NDCG@{TUNING_K} of {len(tuner.users)} validation users in {' and '.join(views)}"
        if tuned.trials
        else "default, for nobody validates",
        tuning=dg.MetadataValue.md(pictures.table_to_markdown(trials)),
        tuning_seconds=round(time.monotonic() - started, 3),
    )


def method(*sources: str) -> dict[str, Any]:
    """What the assets of all recommenders have in common; sources: the columns that scores are made of."""
    return {"code_version": "2", "metadata": declarations.recommendations(*sources)}


def _unless_stale(song_index: IndexOfOrigin, expected: dict[str, str]) -> Any:
    """The Faiss index, unless it was built from something else than expected."""
    if stale := indexing.differences(song_index.origin, expected):
        raise ValueError(f"retrieval/song_index is of other data: {'; '.join(stale)}. Materialise it anew")
    return song_index.index


def _from_index(song_index: IndexOfOrigin, audience: Audience, user_vectors: NDArray[np.float32]) -> Recommender:
    expected = {
        "id_map": indexing.fingerprint(audience.item_id),
        "user_embeddings": indexing.fingerprint(user_vectors),
    }
    index = _unless_stale(song_index, expected)
    return recommenders.from_index(index, user_vectors, audience.item_id, indexing.on_gpu(index))


@asset(kinds={"faiss"}, ins={**SPLITS, "user_embeddings": EMBEDDINGS["user_embeddings"]}, **method(*PLACED))
def lightgcn(
    users: Relation, songs: Relation, train: Relation, song_index: IndexOfOrigin, user_embeddings: Relation
) -> Recommended:
    """LightGCN: the songs whose embeddings lie nearest to the user's, found in the index.

    A hundred songs for every user; the lists that the baselines are compared with.
    """
    audience, vectors = inputs.audience(users, songs, train), embeddings(user_embeddings, "user_id")
    return _recommended(audience, partial(_from_index, song_index, audience, vectors))


@asset(kinds={"faiss"}, ins={**TUNED, **EMBEDDINGS}, **method(*PLACED, *HEARD, *VALIDATED))
def lightgcn_replay(
    users: Relation,
    songs: Relation,
    train: Relation,
    ground_truth: Relation,
    song_index: IndexOfOrigin,
    user_embeddings: Relation,
    song_embeddings: Relation,
) -> Recommended:
    """LightGCN with the user's own songs raised by how often they were played, as much as serves view `all` best.

    For who also wants to hear what they know already, which is most of listening.
    """
    audience, user_vectors = inputs.audience(users, songs, train), embeddings(user_embeddings, "user_id")
    trained = embeddings(song_embeddings.filter("NOT cold"), "song_id")
    found = _from_index(song_index, audience, user_vectors)
    make = partial(blend.lightgcn_replay, found, user_vectors, trained, audience.history)
    return _tuned(audience, ground_truth, blend.BLEND_GRID, make, views=["all"])


@asset(kinds={"numpy"}, ins=SPLITS, **method("splits/train.song_id"))
def popular(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: the songs with the most positive train events, the same for everybody."""
    audience = inputs.audience(users, songs, train)
    n_events = np.bincount(
        train.project("song_id").to_arrow_table()["song_id"].to_numpy(), minlength=len(audience.item_id)
    )
    return _recommended(audience, lambda: recommenders.popular(n_events))


@asset(kinds={"duckdb"}, ins=TUNED, **method(*each("splits/train", "song_id", "timestamp"), *VALIDATED))
def decayed_popularity(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: popularity of late, each train event counting half as much for every half-life of its age."""
    audience = inputs.audience(users, songs, train)
    days = [setting["half_life_days"] for setting in recommenders.HALF_LIVES]
    decayed = dict(zip(days, recommenders.decayed_events(train, days, len(audience.item_id)), strict=True))
    make = lambda half_life_days: recommenders.popular(decayed[half_life_days])  # noqa: E731
    return _tuned(audience, ground_truth, recommenders.HALF_LIVES, make)


@asset(kinds={"numpy"}, ins=SPLITS, **method())
def random(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: songs drawn at random from the catalogue, which shows what chance alone reaches."""
    audience = inputs.audience(users, songs, train)
    return _recommended(audience, lambda: recommenders.random(len(audience.item_id), SEED))


@asset(kinds={"numpy"}, ins=SPLITS, **method(*HEARD, "splits/train.timestamp"))
def replay(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: the user's own most played songs, the latest played of equals first; in `discovery` there are none."""
    audience = inputs.audience(users, songs, train)
    return _recommended(audience, lambda: recommenders.replay(audience.history))


def _of_drawn_users(
    audience: Audience, fit: Callable[..., Recommender]
) -> Callable[[Tuner], Callable[..., Recommender]]:
    """Trials of a model by a fit to the histories of the drawn users alone, which is as large as it gets."""
    return lambda tuner: partial(fit, audience.history.keep(np.isin(audience.history.songs.rows(), tuner.users)))


@asset(kinds={"implicit"}, ins=TUNED, **method(*HEARD, *VALIDATED))
def item_knn(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: songs that the listeners of the user's songs share, by `implicit`; lists end with the neighbours."""
    audience = inputs.audience(users, songs, train)
    fit = partial(implicit_models.item_knn, n_graph_songs=audience.n_graph_songs)
    make = partial(fit, audience.history)
    return _tuned(audience, ground_truth, implicit_models.ITEM_KNN_GRID, make, _of_drawn_users(audience, fit))


@asset(kinds={"implicit"}, ins=TUNED, **method(*HEARD, *VALIDATED))
def ials(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: weighted matrix factorisation by alternating least squares, 64 factors, by `implicit`."""
    audience = inputs.audience(users, songs, train)
    fit = partial(implicit_models.ials, n_graph_songs=audience.n_graph_songs, seed=SEED)
    make = partial(fit, audience.history)
    return _tuned(audience, ground_truth, implicit_models.IALS_GRID, make, _of_drawn_users(audience, fit))


@asset(kinds={"scikitlearn"}, ins=SPLITS, **method(*HEARD))
def collaborative_filtering(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: truncated SVD, 64 factors, of who has heard what."""
    audience = inputs.audience(users, songs, train)
    heard, n_graph_songs = audience.history.songs, audience.n_graph_songs
    return _recommended(audience, lambda: recommenders.collaborative_filtering(heard, n_graph_songs, SEED))


@asset(kinds={"faiss"}, ins={**SPLITS, **GRAPH}, **method(*HEARD, "raw/embeddings.normalized_embed"))
def content_based(users: Relation, songs: Relation, train: Relation, bipartite_graph: Any) -> Recommended:
    """Baseline: songs that sound like the mean of what the user has heard."""
    audience = inputs.audience(users, songs, train)
    graph_songs = bipartite_graph["song"]
    audio, has_audio = graph_songs.x.numpy(), graph_songs.has_audio.numpy()
    return _recommended(audience, lambda: recommenders.content_based(audience.history.songs, audio, has_audio))


@asset(
    kinds={"mlflow", "faiss"},
    code_version="1",
    ins={**SPLITS, "lightgcn": dg.AssetIn(["training", "lightgcn"]), **EMBEDDINGS},
    metadata=declarations.SERVED_MODEL,
)
def served_model(
    context: dg.AssetExecutionContext,
    users: Relation, songs: Relation, train: Relation, lightgcn: Any, user_embeddings: Relation,
    song_embeddings: Relation, cold_songs: Relation, song_index: IndexOfOrigin, decayed_popularity: Relation,
    mlflow: MLflow,
) -> dg.MaterializeResult[pa.Table]:  # fmt: skip
    """The training as a registered MLflow model that answers who asks for songs; whether it serves is decided later.

    What a service loads; `docs/operations.md` says how.
    """
    from ms_assets.retrieval import pyfunc_model

    registry, audience = mlflow.registry(context.partition_key), inputs.audience(users, songs, train)
    known = served.Knowledge(
        uid=audience.uid,
        item_id=audience.item_id,
        users=embeddings(user_embeddings, "user_id"),
        songs=cold_start.indexed_vectors(song_embeddings, cold_songs),
        heard=audience.history.songs,
    )
    index = _unless_stale(song_index, indexing.origin(lightgcn, known.item_id, known.users, known.songs))
    popular = decayed_popularity.filter("view = 'all' AND user_id = 0").order("rank").project("item_id, score")
    with TemporaryDirectory() as folder:
        served.write(Path(folder), known, popular.to_arrow_table(), index)
        run_id = mlflow.known_run(lightgcn.mlflow_run_id)
        candidate = pyfunc_model.candidate(Path(folder), int(known.uid[0]), lightgcn, run_id)
        version, is_new = registry.register(candidate)
    return dg.MaterializeResult(
        value=pa.table({"name": [registry.name], "version": [version.number], "content": [version.tags[CONTENT]]}),
        metadata={
            "registered": "now" if is_new else f"{version.registered:%Y-%m-%d %H:%M} UTC, with equal files",
            "registered_model": dg.MetadataValue.url(mlflow.version_url(registry, version.number)),
            "training_run": version.run_id or "not in this MLflow store",
        },
    )


assets = [
    cold_songs,
    song_index,
    lightgcn,
    lightgcn_replay,
    popular,
    decayed_popularity,
    random,
    replay,
    item_knn,
    ials,
    collaborative_filtering,
    content_based,
    served_model,
]
