"""Assets of room 5, retrieval: the Faiss index, every recommender's top 100 for every user, and the served model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import groupby
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.defs.platform import shown
from ms_assets.defs.platform.io_managers import IndexOfOrigin, TableIOManager
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import assets_of, config_schema, room, settings_of
from ms_assets.defs.platform.schemas import columns
from ms_assets.retrieval import baselines, cold_start, implicit_models, linear_models, own_lists
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval import queries as asking
from ms_assets.retrieval.baselines import SVD, ContentBased, DecayedPopular, Popular, Random, Replay
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.implicit_models import BPR, IALS, ItemKNN
from ms_assets.retrieval.index import SongIndex
from ms_assets.retrieval.lightgcn import BLEND_GRID, LightGCN, LightGCNReplay
from ms_assets.retrieval.linear_models import EASE, GraphFilter, SessionKNN, Transitions
from ms_assets.retrieval.memory import NEEDS, needs_of
from ms_assets.retrieval.recommender import VIEWS, Ranked, Recommender, everybodys, listed
from ms_assets.retrieval.tuning import TUNING_K, Setting, Tuner
from ms_assets.settings import IndexSettings
from ms_assets.streams import Relation, TableStream
from ms_assets.vectors import (
    Ragged,
    dimensions,
    embedding_columns,
    embeddings,
    fixed_size_list,
    is_refitted,
    unrefitted,
)

asset = room("retrieval")
Recommended = dg.MaterializeResult[TableStream]

SPLITS = assets_of("splits", "users", "songs", "train")
TUNED = SPLITS | assets_of("splits", "ground_truth")
LIGHTGCN = assets_of("training", "lightgcn")
USERS, SONGS = assets_of("training", "user_embeddings"), assets_of("training", "song_embeddings")


@asset(kinds={"numpy"}, code_version="3", ins=TUNED | USERS | SONGS, metadata=columns("retrieval/queries"))
def queries(
    users: Relation, songs: Relation, train: Relation, ground_truth: Relation,
    user_embeddings: Relation, song_embeddings: Relation,
) -> dg.MaterializeResult[pa.Table]:  # fmt: skip
    """One row per user: the vector that songs are searched by, the learned one drawn towards songs heard lately.

    How much, and how fast songs fade, is chosen on validation; where fading gains nothing, the learned vector stays.
    """
    needs, trained = needs_of("queries", dimensions(song_embeddings)), song_embeddings.filter("NOT cold")
    dataset = Dataset.of(users, songs, train, ground_truth, needs)
    found = asking.fit(dataset, unrefitted(user_embeddings, "user_id"), unrefitted(trained, "song_id"))
    asked, asked_before = found.queries, None
    if is_refitted(user_embeddings):
        vectors = embeddings(user_embeddings, "user_id"), embeddings(trained, "song_id")
        asked, asked_before = asking.of_users(dataset, *vectors, found.weights), found.queries
    table = {
        "user_id": pa.array(range(len(asked)), pa.int32()),
        "uid": dataset.user_ids,
        **embedding_columns(asked, asked_before),
    }
    return dg.MaterializeResult(
        value=pa.table(table),
        metadata={
            asking.WEIGHTS_FOUND: dg.MetadataValue.json(
                {str(half_life): weight for half_life, weight in found.weights.items()}
            ),
            "trials": shown.table(pl.DataFrame(found.trials)),
        },
    )


@asset(kinds={"numpy"}, code_version="8", ins=TUNED | SONGS, metadata=columns("retrieval/cold_songs"))
def cold_songs(
    users: Relation, songs: Relation, train: Relation, ground_truth: Relation, queries: Relation,
    song_embeddings: Relation,
) -> dg.MaterializeResult[pa.Table]:  # fmt: skip
    """One row per song without a train event: its vector among the trained songs, neither buried nor flooding lists.

    Cold songs have no listeners to learn from, so their vectors come from audio, artists and albums.
    """
    dataset = Dataset.of(users, songs, train, ground_truth, needs_of("cold_songs", dimensions(song_embeddings)))
    artists = Ragged.from_column(songs.order("song_id").to_arrow_table(), "artist_ids")
    vectors, known, fit = cold_start.placed(
        dataset,
        embeddings(song_embeddings, "song_id"),
        artists,
        judged=(unrefitted(queries, "user_id"), unrefitted(song_embeddings, "song_id")),
    )
    table = {
        "song_id": pa.array(range(dataset.n_graph_songs, dataset.n_songs), pa.int32()),
        "item_id": dataset.song_ids[dataset.n_graph_songs :],
        "known_artist": known,
        "embedding": fixed_size_list(vectors),
    }
    return dg.MaterializeResult(
        value=pa.table(table),
        metadata={
            "n_of_known_artists": int(known.sum()),
            **(asdict(fit) if fit else {"not_calibrated": "too few cold songs in validation: the training's length"}),
        },
    )


@asset(
    kinds={"faiss"},
    code_version="3",
    io_manager_key="faiss_files",
    config_schema=config_schema(IndexSettings),
    ins=assets_of("splits", "songs") | LIGHTGCN | SONGS,
)
def song_index(
    context: dg.AssetExecutionContext, songs: Relation, lightgcn: Any,
    queries: Relation, song_embeddings: Relation, cold_songs: Relation,
) -> dg.MaterializeResult[IndexOfOrigin]:  # fmt: skip
    """Faiss index over the embeddings of all songs, cold ones as calibrated; its ids are Yambda's song ids.

    It finds the nearest of millions of songs in milliseconds; a check compares its results with exact search.
    """
    settings = settings_of(context, IndexSettings)
    singly = settings.queries == "single"
    indexing.refuse_without_room(len(songs), len(queries), dimensions(song_embeddings), singly)
    vectors = cold_start.indexed_vectors(song_embeddings, cold_songs)
    user_vectors = embeddings(queries, "user_id")
    item_id = songs.order("song_id").to_arrow_table()["item_id"].to_numpy()
    gpu = indexing.gpu_of(lightgcn.settings.device)
    built = SongIndex.build(vectors, item_id, user_vectors, singly, gpu)
    assert built.measured is not None, "an index that was built was measured"
    return dg.MaterializeResult(
        value=IndexOfOrigin(built.index, indexing.origin(lightgcn, item_id, user_vectors, vectors)),
        metadata={
            "n_songs": len(item_id),
            "n_cold_songs": len(cold_songs),
            **{name: round(n, 3) if isinstance(n, float) else n for name, n in asdict(built.measured).items()},
        },
    )


def _recommended(
    dataset: Dataset, make: Callable[..., Recommender], settings: Mapping[str, Setting] | None = None, **metadata: Any
) -> Recommended:
    """Recommend by the recommender that is made with the settings of each view, by default with none."""
    lists, seconds = dict[str, Ranked](), {"fit_seconds": 0.0, "recommend_seconds": 0.0}
    settings = settings or {view: {} for view in VIEWS}
    for setting, views in groupby(settings, settings.__getitem__):
        started = time.monotonic()
        recommender = make(**setting)
        fitted = time.monotonic()
        found = everybodys(recommender)
        lists |= {view: (found[view][0].astype(np.int32), found[view][1].copy()) for view in views}
        seconds["fit_seconds"] += fitted - started
        seconds["recommend_seconds"] += time.monotonic() - fitted
        del recommender, found  # before the next one takes as much
    n_listed, n_cold = (
        sum(int(np.count_nonzero(songs >= least)) for songs, _ in lists.values())
        for least in (0, dataset.n_graph_songs)
    )
    metadata |= {name: round(s, 3) for name, s in seconds.items()}
    metadata["cold_share_of_top_100"] = round(n_cold / max(n_listed, 1), 4)
    return dg.MaterializeResult(value=TableStream(listed(dataset, lists)), metadata=metadata)


def _tuned(
    dataset: Dataset, grid: Sequence[Setting], make: Callable[..., Recommender],
    judged: Callable[..., Recommender] | None = None,
) -> Recommended:  # fmt: skip
    """Recommend in each view by the recommender whose setting is best on validation.

    Args:
        dataset: what recommenders are made from.
        grid: settings to try.
        make: makes a recommender from a dataset and a setting; that of a trial has the histories of some users alone.
        judged: makes the recommender of a trial from a setting, where that is not `make`.
    """
    started = time.monotonic()
    tuner = Tuner.of(dataset)
    tuned = tuner.choose(grid, judged or partial(make, dataset.of_users(tuner.sample)))
    is_fitted = judged is None and tuned.recommenders
    trials = pl.DataFrame(
        [{**setting, **{f"ndcg_{view}": n for view, n in ndcg.items()}} for setting, ndcg in tuned.trials]
    )
    return _recommended(
        dataset,
        tuned.made if is_fitted else partial(make, dataset),
        tuned.settings,
        **{f"{name}_{view}": value for view, setting in tuned.settings.items() for name, value in setting.items()},
        chosen_by=f"NDCG@{TUNING_K} of {len(tuner.users)} validation users in each view"
        if tuned.trials
        else "default, because there are no validation users",
        tuning=shown.table(trials),
        tuning_seconds=round(time.monotonic() - started, 3),
    )


def _fitted(dataset: Dataset, method: type[Recommender], grid: Sequence[Setting]) -> Recommended:
    """Recommend by the method, tuned and fitted."""

    def fit(dataset: Dataset, **setting: Any) -> Recommender:
        return method(**setting).fit(dataset)

    return _tuned(dataset, grid, fit)


def method(*sources: str) -> dict[str, Any]:
    """Arguments that the assets of all recommenders share; sources: the columns that scores are made of."""
    return {"code_version": "3", "metadata": columns("retrieval/recommendations", scores=",".join(sources))}


def _searchable(song_index: IndexOfOrigin, dataset: Dataset, user_vectors: NDArray[np.float32]) -> SongIndex:
    expected = {"id_map": indexing.fingerprint(dataset.song_ids), "queries": indexing.fingerprint(user_vectors)}
    indexing.refuse_stale(song_index.origin, expected)
    return SongIndex(song_index.index, gpu=indexing.gpu_of(song_index.origin.get("device", "cpu")))


@asset(kinds={"faiss"}, ins=SPLITS, **method("placed"))
def lightgcn(
    users: Relation, songs: Relation, train: Relation, song_index: IndexOfOrigin, queries: Relation
) -> Recommended:
    """LightGCN's top 100 for every user: the songs whose embeddings lie nearest to the user's query, by the index.

    The baselines are compared with these lists.
    """
    dataset, vectors = Dataset.of(users, songs, train, needs=NEEDS["lightgcn"]), embeddings(queries, "user_id")
    index = _searchable(song_index, dataset, vectors)
    return _recommended(dataset, lambda: LightGCN().of_embeddings(dataset, index, dataset.song_ids, users=vectors))


@asset(kinds={"faiss"}, ins=TUNED | SONGS, **method("placed", "heard", "validated"))
def lightgcn_replay(
    users: Relation, songs: Relation, train: Relation, ground_truth: Relation,
    song_index: IndexOfOrigin, queries: Relation, song_embeddings: Relation,
) -> Recommended:  # fmt: skip
    """LightGCN with the scores of the user's own songs raised by their plays, or lowered, by the weight best for `all`.

    It serves users who also want songs that they know already, which are most of what they listen to.
    """
    dataset = Dataset.of(users, songs, train, ground_truth, NEEDS["lightgcn_replay"])
    vectors, trained = embeddings(queries, "user_id"), embeddings(song_embeddings.filter("NOT cold"), "song_id")

    def blend(
        dataset: Dataset, index: SongIndex, ids: NDArray[np.int64], **learned: NDArray[np.float32]
    ) -> Callable[..., Recommender]:
        active = cache(partial(baselines.activation, dataset))
        return lambda replay_weight, decay: LightGCNReplay(replay_weight, decay).of_embeddings(
            dataset, index, ids, **learned, activation=active(decay)
        )

    index, asked = _searchable(song_index, dataset, vectors), dataset.of_users(Tuner.of(dataset).users)
    make, judged = (blend(data, index, dataset.song_ids, users=vectors, songs=trained) for data in (dataset, asked))
    # After a refit, validation says nothing of its vectors: the blend is tuned with those before.
    if is_refitted(queries):
        before = unrefitted(queries, "user_id"), unrefitted(song_embeddings.filter("NOT cold"), "song_id")
        ids = dataset.song_ids[: dataset.n_graph_songs]
        index = SongIndex.build(before[1], ids, queries=before[0], gpu=index.gpu)
        judged = blend(asked, index, ids, users=before[0], songs=before[1])
    return _tuned(dataset, BLEND_GRID, lambda _, **setting: make(**setting), judged)


@asset(kinds={"numpy"}, ins=SPLITS, **method("splits/train.song_id"))
def popular(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: the songs with the most positive train events, the same for all users."""
    dataset = Dataset.of(users, songs, train)
    return _recommended(dataset, lambda: Popular().fit(dataset))


@asset(kinds={"duckdb"}, ins=TUNED, **method("splits/train.song_id", "splits/train.timestamp", "validated"))
def decayed_popularity(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: recent popularity, where a train event's weight is halved for every half-life of its age."""
    return _fitted(Dataset.of(users, songs, train, ground_truth), DecayedPopular, baselines.HALF_LIVES)


@asset(kinds={"numpy"}, ins=SPLITS, **method())
def random(users: Relation, songs: Relation, train: Relation) -> Recommended:
    """Baseline: songs drawn at random from the catalogue, to show what chance alone achieves."""
    dataset = Dataset.of(users, songs, train)
    return _recommended(dataset, lambda: Random().fit(dataset))


@asset(kinds={"duckdb"}, ins=TUNED, **method("heard", "splits/train.timestamp", "validated"))
def replay(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: the user's own songs by how often and how lately they were played; `discovery` has none."""
    return _fitted(Dataset.of(users, songs, train, ground_truth, NEEDS["replay"]), Replay, baselines.DECAYS)


@asset(kinds={"implicit"}, ins=TUNED, **method("heard", "validated"))
def item_knn(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: item-based nearest neighbours of the user's songs, by `implicit`; lists end with the neighbours."""
    return _fitted(
        Dataset.of(users, songs, train, ground_truth, NEEDS["item_knn"]), ItemKNN, implicit_models.ITEM_KNN_GRID
    )


@asset(kinds={"torch"}, ins=TUNED, **method("heard", "splits/train.timestamp", "validated"))
def session_knn(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: item-based neighbours of the user's recent songs, as Yambda's authors have it, with all neighbours."""
    return _fitted(
        Dataset.of(users, songs, train, ground_truth, NEEDS["session_knn"]), SessionKNN, linear_models.SESSION_GRID
    )


@asset(kinds={"scipy"}, ins=TUNED, **method("heard", "splits/train.timestamp", "validated") | {"code_version": "4"})
def transitions(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: the songs that followed the user's recent songs within sessions of all users."""
    return _fitted(
        Dataset.of(users, songs, train, ground_truth, NEEDS["transitions"]), Transitions, linear_models.TRANSITIONS_GRID
    )


@asset(kinds={"implicit"}, ins=TUNED, **method("heard", "validated"))
def ials(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: weighted matrix factorisation by alternating least squares, 64 factors, by `implicit`."""
    return _fitted(Dataset.of(users, songs, train, ground_truth, NEEDS["ials"]), IALS, implicit_models.IALS_GRID)


@asset(kinds={"implicit"}, ins=TUNED, **method("heard", "validated"))
def bpr(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: matrix factorisation by Bayesian personalised ranking, 64 factors, by `implicit`."""
    return _fitted(Dataset.of(users, songs, train, ground_truth, NEEDS["bpr"]), BPR, implicit_models.BPR_GRID)


@asset(kinds={"torch"}, ins=TUNED, **method("heard", "validated") | {"code_version": "5"})
def collaborative_filtering(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: truncated SVD of the user × song matrix of ones, degree-normalised or not, or of log counts."""
    dataset = Dataset.of(users, songs, train, ground_truth, NEEDS["collaborative_filtering"])
    return _fitted(dataset, SVD, baselines.svd_grid(dataset))


@asset(kinds={"torch"}, ins=TUNED, **method("heard", "validated") | {"code_version": "4"})
def graph_filter(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: closed-form low-pass filter of the graph of users and songs (GF-CF)."""
    return _fitted(
        Dataset.of(users, songs, train, ground_truth, NEEDS["graph_filter"]), GraphFilter, linear_models.FILTER_GRID
    )


@asset(kinds={"scipy"}, ins=TUNED, **method("heard", "validated"))
def ease(users: Relation, songs: Relation, train: Relation, ground_truth: Relation) -> Recommended:
    """Baseline: ridge regression of every song on all others (EASE), learned from 6,000 users at most."""
    return _fitted(Dataset.of(users, songs, train, ground_truth, NEEDS["ease"]), EASE, linear_models.EASE_GRID)


@asset(
    kinds={"faiss"},
    ins=SPLITS | assets_of("graph", "bipartite_graph"),
    **method("heard", "raw/embeddings.normalized_embed"),
)
def content_based(users: Relation, songs: Relation, train: Relation, bipartite_graph: Any) -> Recommended:
    """Baseline: songs that sound like the mean of the songs that the user has heard."""
    in_graph = bipartite_graph["song"]
    audio = in_graph.x.numpy(), in_graph.has_audio.numpy()
    dataset = replace(Dataset.of(users, songs, train, needs=NEEDS["content_based"]), audio=audio)
    return _recommended(dataset, lambda: ContentBased().fit(dataset))


@asset(
    name="own_lists",
    kinds={"duckdb"},
    code_version="1",
    ins=SPLITS | assets_of("raw", "user_ids", "song_ids"),
    metadata=columns("retrieval/own_lists"),
)
def lists_of_others(
    context: dg.AssetExecutionContext, duckdb: DuckDB, io_manager: dg.ResourceParam[TableIOManager],
    users: Relation, songs: Relation, train: Relation, user_ids: Relation, song_ids: Relation,
) -> dg.MaterializeResult[Relation]:  # fmt: skip
    """Lists that other programs recommend, from `recommendations/<name>/<scale>.parquet` in the home, to be compared.

    One row per method, view, user and rank; each file is a method of the leaderboard. Empty where there is none.
    """
    files = own_lists.files_of(
        io_manager.lineage.given("recommendations", context.partition_key), context.partition_key
    )
    lists = own_lists.read(duckdb.connection, files, users, songs, train, user_ids, song_ids)
    return dg.MaterializeResult(value=lists, metadata={f"lists of {name}": str(file) for name, file in files.items()})
