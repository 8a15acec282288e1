"""Assets of room 4, training: LightGCN, its user and song embeddings, the hyper-parameter study, the ablation."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa

from ms_assets import pictures
from ms_assets.defs.platform import lineage, shown
from ms_assets.defs.platform.io_managers import ModelIOManager, TableIOManager
from ms_assets.defs.platform.resources import DuckDB, MLflow, StudyStorage
from ms_assets.defs.platform.scales import (
    FRESHNESS,
    SCALES,
    assets_of,
    config_schema,
    import_of,
    outputs,
    room,
    scale_settings,
    settings_of,
)
from ms_assets.defs.platform.schemas import columns
from ms_assets.machine import described
from ms_assets.raw.own import own_ids
from ms_assets.settings import AblationSettings, StudySettings, TrainingSettings
from ms_assets.streams import Relation
from ms_assets.vectors import embedding_columns

asset = room("training")
STUDY = dg.AssetKey(["training", "hyperparameter_study"])
GRAPH, REFIT = assets_of("graph", "bipartite_graph"), assets_of("splits", "train", "validation")
OWN_IDS = assets_of("raw", "user_ids", "song_ids", optional=True)
FORMER = "former training"
"""Origin of a training that began with another one, and of everything made from it."""
TRAINED_ON = GRAPH | assets_of("splits", "negatives", "ground_truth")


@asset(
    kinds={"pytorch", "mlflow"},
    pool="gpu",
    code_version="16",
    io_manager_key="model_files",
    config_schema=config_schema(TrainingSettings),
    ins=TRAINED_ON | REFIT | OWN_IDS,
)
def lightgcn(
    context: dg.AssetExecutionContext, bipartite_graph: Any, mlflow: MLflow,
    model_files: dg.ResourceParam[ModelIOManager], io_manager: dg.ResourceParam[TableIOManager],
    user_ids: Relation | None, song_ids: Relation | None, **splits: Relation,
) -> dg.MaterializeResult:  # fmt: skip
    """LightGCN model of the best epoch by validation NDCG, with its settings and its MLflow run.

    LightGCN learns a vector for every user and song, such that users lie near the songs that they listen to. Curves and
    pictures are in the metadata and in MLflow; an interrupted training resumes from its last checkpoint. With
    `warm_start` it begins with the stored training, whose version is an origin of this one then.
    """
    from ms_assets.training import diagnostics, figures, inputs, memory, race, ranks, refit, trainer, warm
    from ms_assets.training.checkpoints import Checkpoint

    data = inputs.training_data(bipartite_graph, splits["negatives"], splits["ground_truth"])
    settings, device = inputs.fitted(_training_settings(context, io_manager), data.graph)
    estimated = described(memory.estimate_on(str(device), memory.Sizes.of(data.graph), settings))
    inputs_now = model_files.inputs_of(context.assets_def.get_asset_spec(context.asset_key), context.partition_key)
    versions = {key: made.version for key, made in inputs_now.items()}
    file = partial(model_files.checkpoint, context.asset_key, context.partition_key)
    user, song = (
        own_ids(bipartite_graph["user"].uid.numpy(), user_ids),
        own_ids(bipartite_graph["song"].item_id.numpy(), song_ids),
    )
    nodes = warm.nodes(bipartite_graph, user, song, inputs.last_train_events(splits["train"], data.graph.n_users))
    former, former_version = None, ""
    if settings.warm_start:
        before, former_version = _former_training(context, model_files)
        former = warm.Former.of(before, nodes, settings)
    checkpoint = Checkpoint.open(file("fit"), data, settings, former_version)
    with mlflow.run(context, checkpoint.notes.get("mlflow_run_id")) as run:
        checkpoint.notes["mlflow_run_id"] = run.run_id
        run.log_settings({**settings.model_dump(), "device": str(device), "former_training": former_version})
        given = {"data": data, "settings": settings, "checkpoint": checkpoint, "former": former}
        trained = ranks.run(
            settings.ranks, race.train, device, given,
            on_epoch=lambda epoch: run.log_metrics(asdict(epoch), step=epoch.number),
        )  # fmt: skip
        if settings.refit:
            parts = (splits[name] for name in ("negatives", "train", "validation"))
            data = refit.refit_data(io_manager.duckdb.connection, bipartite_graph, *parts)
            again = Checkpoint.open(file("refit"), data, settings, former_version)
            begun_with = race.begun_with(former, trained.race)
            given = {"data": data, "fitted": trained, "checkpoint": again, "former": begun_with}
            trained = ranks.run(settings.ranks, trainer.refit, device, given)
            again.finish()
        checkpoint.finish()
        diagnosis = diagnostics.diagnose(trained.network(data.graph), data.graph.features)
        numbers, drawn = diagnosis.numbers, figures.of_training(trained, diagnosis)
        run.log_metrics(numbers | {f"race {name}": ndcg for name, ndcg in trained.race.items()})
        for name, image in drawn.items():
            run.log_picture(image, f"{name.replace(' ', '_')}.png")
    return dg.MaterializeResult(
        value=replace(trained, inputs=versions, mlflow_run_id=run.run_id, nodes=nodes),
        metadata={
            **({lineage.MADE_TOGETHER: {FORMER: former_version}} if former else {}),
            "best_epoch": trained.best.number,
            "best_validation_ndcg": round(trained.best.validation_ndcg, 4),
            "epochs": len(trained.history),
            "training_seconds": round(trained.history[-1].seconds, 1),
            "device": str(device),
            "race": shown.table(pl.DataFrame({"compared": list(trained.race), "ndcg": list(trained.race.values())})),
            "estimated_memory": estimated,
            "mlflow_run": dg.MetadataValue.url(run.url),
            **{name: round(number, 4) for name, number in numbers.items()},
            **shown.images(drawn),
        },
    )


def _former_training(context: dg.AssetExecutionContext, models: ModelIOManager) -> tuple[Any, str]:
    """Stored training of the scale, which passed its checks, and its version."""
    key, scale = context.asset_key, context.partition_key
    if not (stored := models.lineage.inputs([key], scale)):
        raise ValueError(
            f"warm_start: {key.to_user_string()} of {scale} has no former training; train without warm_start first"
        )
    [made] = stored.values()
    return models.stored(key, scale), made.version


def _training_settings(context: dg.AssetExecutionContext, tables: TableIOManager) -> TrainingSettings:
    """Settings of the run; with `use_study` those of the study's best trial, unless the run config sets them."""
    settings = settings_of(context, TrainingSettings)
    if not settings.use_study:
        return settings
    study = tables.stored(STUDY, context.partition_key)
    best = study.filter("is_best").project("parameters").fetchall() if study else []
    if not best:
        raise ValueError(
            f"use_study: {STUDY.to_user_string()} of {context.partition_key} has no complete trial; materialise it "
            "first, or with more trials"
        )
    return settings_of(context, TrainingSettings, found=json.loads(best[0][0]))


@dg.multi_asset(
    name="embeddings",
    can_subset=True,
    group_name="training",
    partitions_def=SCALES,
    ins=assets_of("training", "lightgcn") | GRAPH | REFIT,
    outs=outputs(
        "training",
        {
            "user_embeddings": "One row per user: what LightGCN learned of their taste; songs to recommend lie near.",
            "song_embeddings": "One row per song, in the space of the users; new ones by how they sound and who plays.",
        },
        words={},
        is_required=False,
        kinds={"pytorch"},
        freshness_policy=FRESHNESS,
        code_version="3",
    ),
)
def embeddings(
    context: dg.AssetExecutionContext, lightgcn: Any, bipartite_graph: Any, train: Relation, validation: Relation,
    duckdb: DuckDB,
) -> Iterator[dg.Output[pa.Table]]:  # fmt: skip
    """Compute user and song embeddings by one propagation of the trained parameters over the graph."""
    from ms_assets.training import memory, refit
    from ms_assets.training.data import GraphTensors

    graph, users_before, songs_before = GraphTensors.of(bipartite_graph), None, None
    memory.refuse_without_room_to_embed(memory.Sizes.of(graph), lightgcn.settings, bool(lightgcn.unrefitted))
    if lightgcn.unrefitted:
        users_before, songs_before = lightgcn.validated.embeddings(graph)
        both = refit.graph_of_train_and_validation(duckdb.connection, bipartite_graph, train, validation)
        graph = GraphTensors.of(both)
    users, songs = (vectors.numpy() for vectors in lightgcn.embeddings(graph))
    uid, of_songs = bipartite_graph["user"].uid.numpy(), bipartite_graph["song"]
    about_songs = {"item_id": of_songs.item_id.numpy(), "cold": (~of_songs.in_graph).numpy()}
    tables = {
        "user_embeddings": ("user_id", {"uid": uid}, users, users_before),
        "song_embeddings": ("song_id", about_songs, songs, songs_before),
    }
    for name in context.op_execution_context.selected_output_names:
        key, about, vectors, before = tables[name]
        columns = {
            key: pa.array(range(len(vectors)), pa.int32()),
            **about,
            **embedding_columns(vectors, None if before is None else before.numpy()),
        }
        yield dg.Output(pa.table(columns), output_name=name, metadata={"dimensions": vectors.shape[1]})


@asset(
    kinds={"optuna", "mlflow"},
    pool="gpu",
    code_version="1",
    config_schema=config_schema(StudySettings),
    ins=TRAINED_ON,
    metadata=columns("training/hyperparameter_study"),
)
def hyperparameter_study(
    context: dg.AssetExecutionContext, bipartite_graph: Any, negatives: Relation, ground_truth: Relation,
    mlflow: MLflow, study_storage: StudyStorage,
) -> dg.MaterializeResult:  # fmt: skip
    """One row per trial of an Optuna study of the training's settings, which continues the trials of earlier runs.

    Only on request, for data other than Yambda: the setting `use_study` trains with the best trial's settings.
    """
    from ms_assets.training import experiments, inputs
    from ms_assets.training import study as studies
    from ms_assets.training.checkpoints import identity

    settings, scale = settings_of(context, StudySettings), context.partition_key
    fixed = {name: value for name, value in settings if name != "trials" and value is not None}
    base = scale_settings(TrainingSettings, scale, fixed, import_of(context))
    data = inputs.training_data(bipartite_graph, negatives, ground_truth)
    name = studies.name_of(scale, identity(data, base))
    study = studies.open_study(study_storage.url(scale), name, base)
    with mlflow.run(context, study.user_attrs.get("mlflow_run_id")) as run:
        study.set_user_attr("mlflow_run_id", run.run_id)
        studies.search(study, settings, base, experiments.within(run, data))
        table = studies.trials(study)
        drawn = {
            "history": pictures.png(studies.history_picture(table)),
            "importance": pictures.png(studies.importance_picture(studies.importances(study))),
        }
        for title, image in drawn.items():
            run.log_picture(image, f"{title}.png")
    [best] = table.filter("is_best").to_dicts() or [{"validation_ndcg": None, "parameters": "{}"}]
    return dg.MaterializeResult(
        value=table,
        metadata={
            **{state: int((table["state"] == state).sum()) for state in table["state"].unique().sort()},
            "best_validation_ndcg": best["validation_ndcg"],
            "best_parameters": dg.MetadataValue.json(json.loads(best["parameters"])),
            "storage": study_storage.url(scale),
            "study": name,
            "mlflow_run": dg.MetadataValue.url(run.url),
            **shown.images(drawn),
        },
    )


@asset(
    kinds={"pytorch", "mlflow"},
    pool="gpu",
    code_version="1",
    config_schema=config_schema(AblationSettings),
    ins=TRAINED_ON,
    metadata=columns("training/ablation"),
)
def ablation(
    context: dg.AssetExecutionContext, lightgcn: Any, bipartite_graph: Any, negatives: Relation,
    ground_truth: Relation, mlflow: MLflow,
) -> dg.MaterializeResult:  # fmt: skip
    """One row per variant and seed: the training of `training/lightgcn` again with one part of the model changed.

    Only on request: it measures what audio, metadata, edge weights and other parts are worth on this scale.
    """
    from ms_assets.training import ablation as ablations
    from ms_assets.training import experiments, inputs

    base = lightgcn.settings.model_copy(update={"refit": False, "warm_start": False, "ranks": 1})
    seeds = range(settings_of(context, AblationSettings).seeds)
    data = inputs.training_data(bipartite_graph, negatives, ground_truth)
    with mlflow.run(context) as run:
        table = ablations.table(base, seeds, experiments.within(run, data))
        summary = ablations.summary(table)
        image = pictures.png(ablations.picture(summary))
        run.log_picture(image, "ablation.png")
        run.log_metrics({f"ndcg {name}": ndcg for name, ndcg in summary["variant", "validation_ndcg"].iter_rows()})
    return dg.MaterializeResult(
        value=table,
        metadata={
            "ablation": shown.table(summary),
            "picture": shown.image(image, "ablation"),
            "mlflow_run": dg.MetadataValue.url(run.url),
        },
    )
