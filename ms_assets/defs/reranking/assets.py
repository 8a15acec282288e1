"""Assets of room 6, reranking: candidates of all recommenders with their features, the ranker, and its lists."""

from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa

from ms_assets import pictures
from ms_assets.defs.platform import schemas, shown
from ms_assets.defs.platform.io_managers import IndexOfOrigin, TableIOManager
from ms_assets.defs.platform.resources import DuckDB, MLflow
from ms_assets.defs.platform.scales import assets_of, room
from ms_assets.files import temporary_folder
from ms_assets.raw.own import with_own_ids
from ms_assets.registry import CONTENT
from ms_assets.reranking import explained, passes, served
from ms_assets.reranking import features as featuring
from ms_assets.reranking.candidates import Lists
from ms_assets.reranking.phases import SOURCES, Stored
from ms_assets.reranking.ranker import JUDGED_AT, Material, Ranker, learn
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval import served as retrieval
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.queries import WEIGHTS_FOUND
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation, TableStream

asset = room("reranking")

FROM_LISTS = assets_of("retrieval", *SOURCES, optional=True)
VECTORS = assets_of("training", "song_embeddings") | assets_of("retrieval", "queries", "cold_songs")
KNOWN = assets_of("splits", "users", "songs", "train", "negatives") | assets_of("graph", "bipartite_graph") | VECTORS
TRAINED = {"trained": dg.AssetIn(["training", "lightgcn"])}
SERVED = TRAINED | assets_of("retrieval", "song_index", "decayed_popularity")
NAMES = ("artist_item_mapping", "user_ids", "song_ids", "artist_ids")
NOBODY = "nobody validates, so that there is nothing to learn from: no ranker, and no list"


def columns(table: str) -> dict[str, Any]:
    """Declared columns of a table of the room."""
    return schemas.columns(table, sources=",".join(SOURCES))


def _with_features() -> dict[str, Any]:
    """Columns of `reranking/features`: the declared ones, then the features by the table of them."""
    declared = columns("reranking/features")
    events = [f"splits/train.{name}" for name in ("user_id", "song_id", "timestamp", "event_type", "played_ratio")]
    told = {name: feature.sentence for name, feature in featuring.FEATURES.items()}
    described = {name: ("FLOAT", text, *events) for name, text in told.items()}
    for name, text in featuring.of_sources(SOURCES).items():
        source, _, what = name.rpartition("_")
        listed = [f"retrieval/{source}.{what}"] if source in SOURCES else [f"retrieval/{each}.rank" for each in SOURCES]
        described[name] = ("FLOAT", text, *listed)
    more = schemas.as_metadata(described)
    columns_of = [*declared[schemas.SCHEMA].columns, *more[schemas.SCHEMA].columns]
    lineage = declared[schemas.LINEAGE].deps_by_column | more[schemas.LINEAGE].deps_by_column
    return {schemas.SCHEMA: dg.TableSchema(columns_of), schemas.LINEAGE: dg.TableColumnLineage(dict(lineage))}


def stored(bipartite_graph: Any, tables: dict[str, Any]) -> Stored:
    """Tables of the phases from the inputs of a step, by name."""
    lists = {name: tables.pop(name) for name in SOURCES}
    return Stored(audio=bipartite_graph["song"].x.numpy(), lists=lists, **tables)


def missing(lists: Lists) -> str:
    """Names of the sources without a table."""
    return ", ".join(name for name, table in lists.items() if table is None) or "none"


@asset(
    kinds={"duckdb", "numpy"},
    code_version="2",
    ins=KNOWN | FROM_LISTS | assets_of("splits", "ground_truth"),
    metadata=_with_features(),
)
def features(
    duckdb: DuckDB, bipartite_graph: Any, ground_truth: Relation, **tables: Any
) -> dg.MaterializeResult[TableStream]:
    """One row per view, drawn user and candidate: its relevance in validation, and all that was known of it before.

    Candidates are the songs that any recommender lists. The ranker learns from them how much each feature says.
    """
    given, users = stored(bipartite_graph, tables), passes.learners(ground_truth)
    phase = given.before_validation(duckdb.connection)
    rows = passes.material(phase.known, phase.lists, given.train, ground_truth, users)
    return dg.MaterializeResult(
        value=TableStream(rows),
        metadata={
            "n_users": len(users),
            "missing_sources": missing(phase.lists),
            **({} if len(users) else {"absent": NOBODY}),
        },
    )


@asset(kinds={"duckdb"}, code_version="2", metadata=columns("reranking/pool"))
def pool(features: Relation) -> dg.MaterializeResult[pl.DataFrame]:
    """One row per view and source: how many of the songs that users took to in validation are among its candidates.

    A ranker cannot recommend what no source lists.
    """
    found = explained.pool(features)
    return dg.MaterializeResult(value=found, metadata={"pool": shown.table(found)})


@asset(kinds={"lightgbm", "matplotlib"}, code_version="2", io_manager_key="folders")
def ranker(features: Relation) -> dg.MaterializeResult[dict[str, bytes]]:
    """Ranker of each view, LightGBM's LambdaRank: it learns from the validation part to weigh all features together.

    `reranking/ranked` are its lists. Its NDCG is that of users whom the model that scores them did not learn from.
    """
    materials = passes.read(features)
    learned = {view: found for view, material in materials.items() if (found := learn(material))}
    made = Ranker(
        {view: found.models for view, found in learned.items()},
        materials[VIEWS[0]].names,
        {view: found.start for view, found in learned.items()},
        [view for view in learned if not materials[view].meets_cold],
    )
    told: dict[str, Any] = {} if learned else {"absent": NOBODY}
    for view, found in learned.items():
        told[f"begins_with_{view}"] = found.start
        told[f"leaves_{view}"] = found.leaves
        told[f"trees_{view}"] = found.n_trees
        told[f"cold_songs_{view}"] = "kept in LightGCN's places" if view in made.unmet_cold else "ranked"
        told[f"held_out_{view}"] = shown.table(_held_out(made, view, materials[view]))
    drawn = {title: pictures.png(figure) for title, figure in explained.charts(made, materials).items()}
    return dg.MaterializeResult(value=made.to_files(), metadata={**told, **shown.images(drawn)})


def _held_out(ranker: Ranker, view: str, material: Material) -> pl.DataFrame:
    found = {"ranked": material.ndcg(ranker.held_out(view, material)), **material.by_source()}
    means = [(name, *map(float, pl.DataFrame(values).fill_nan(None).mean().row(0))) for name, values in found.items()]
    return pl.DataFrame(means, ["method", *(f"ndcg_{k}" for k in JUDGED_AT)], orient="row").sort(
        f"ndcg_{JUDGED_AT[0]}", descending=True
    )


@asset(
    kinds={"lightgbm"},
    code_version="2",
    ins=KNOWN | FROM_LISTS | assets_of("splits", "validation"),
    metadata=columns("reranking/ranked"),
)
def ranked(
    ranker: dict[str, bytes], bipartite_graph: Any, validation: Relation, **tables: Any
) -> dg.MaterializeResult[TableStream]:
    """Top 100 of the second stage for every user: all recommenders' candidates in the order of the learned ranker.

    A method of the leaderboard as the recommenders are; no row where nobody validates.
    """
    given, model = stored(bipartite_graph, tables), Ranker.of_files(ranker)
    phase = given.before_test(validation)
    uid = given.users.order("user_id").to_arrow_table()["uid"].to_numpy()
    item_id = given.songs.order("song_id").to_arrow_table()["item_id"].to_numpy()
    rows = passes.ranked(phase.known, phase.lists, given.train, model, uid, item_id)
    return dg.MaterializeResult(
        value=TableStream(rows),
        metadata={
            "missing_sources": missing(phase.lists),
            "history": "train and validation" if given.is_refitted else "train",
            **({} if model.models else {"absent": NOBODY}),
        },
    )


@asset(
    kinds={"mlflow", "faiss", "lightgbm"},
    code_version="3",
    ins=KNOWN | FROM_LISTS | SERVED | assets_of("splits", "validation") | assets_of("raw", *NAMES),
    metadata=columns("reranking/served_model"),
)
def served_model(
    context: dg.AssetExecutionContext,
    ranker: dict[str, bytes], bipartite_graph: Any, validation: Relation, trained: Any, song_index: IndexOfOrigin,
    mlflow: MLflow, io_manager: dg.ResourceParam[TableIOManager], **tables: Any,
) -> dg.MaterializeResult[pa.Table]:  # fmt: skip
    """Registered MLflow model that recommends songs on request, in one stage or two; `champion` decides its use.

    Services load it as `docs/operations.md` describes.
    """
    from ms_assets.reranking import pyfunc_model

    pairs, user_ids, song_ids, artist_ids = (tables.pop(name) for name in NAMES)
    popular = with_own_ids(tables["decayed_popularity"].filter("view = 'all' AND user_id = 0"), song_ids).order("rank")
    [made, *_] = io_manager.lineage.history(dg.AssetKey(["retrieval", "queries"]), context.partition_key)
    weights = {int(half_life): weight for half_life, weight in made.metadata[WEIGHTS_FOUND].items()}
    registry, given = mlflow.registry(context.partition_key), stored(bipartite_graph, tables)
    phase, dataset = given.before_test(validation), Dataset.of(given.users, given.songs, given.train)
    vectors = phase.known.embeddings
    uid = with_own_ids(given.users, user_ids).order("user_id").to_arrow_table()["uid"].to_numpy()
    item_id = with_own_ids(given.songs, song_ids).order("song_id").to_arrow_table()["item_id"].to_numpy()
    data = retrieval.ModelData(uid, item_id, *vectors, heard=dataset.heard)
    indexing.refuse_stale(song_index.origin, indexing.origin(trained, dataset.song_ids, *vectors))
    artists = retrieval.artists_of(given.songs, with_own_ids(pairs, artist_ids))
    with temporary_folder() as folder:
        listed = popular.project("item_id, score").to_arrow_table()
        retrieval.write(folder, data, listed, song_index.index, dataset.song_ids, artists, weights)
        served.write(folder, phase.known, phase.lists, Ranker.of_files(ranker))
        run_id = mlflow.known_run(trained.mlflow_run_id)
        candidate = pyfunc_model.candidate(folder, uid[0], trained, run_id)
        version, is_new = registry.register(candidate)
    return dg.MaterializeResult(
        value=pa.table({"name": [registry.name], "version": [version.number], "content": [version.tags[CONTENT]]}),
        metadata={
            "registered": "now" if is_new else f"{version.registered:%Y-%m-%d %H:%M} UTC, with equal files",
            "registered_model": dg.MetadataValue.url(mlflow.version_url(registry, version.number)),
            "training_run": version.run_id or "not in this MLflow store",
        },
    )


@asset(kinds={"lightgbm", "matplotlib"}, code_version="1", metadata=columns("reranking/ablation"))
def ablation(features: Relation, ranker: dict[str, bytes]) -> dg.MaterializeResult[pl.DataFrame]:
    """One row per view, source and K: what rankers lose that learn without the source, with its paired interval.

    It learns a ranker for each source, so it is made on request and no part of a job.
    """
    model = Ranker.of_files(ranker)
    materials = passes.read(features)
    parts = [explained.ablation(view, materials[view], model) for view in model.models]
    found = pl.concat([explained.ABLATION.to_frame(), *parts])
    picture = shown.image(pictures.png(explained.ablation_chart(found)), "what each source adds")
    return dg.MaterializeResult(value=found, metadata={"ablation": shown.table(found), "picture": picture})
