"""Room 4: LightGCN, from the graph to user and song embeddings."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import dagster as dg
import pyarrow as pa

from ms_assets import pictures
from ms_assets.io_managers import ModelIOManager, Relation, columns
from ms_assets.ranking import Judgements
from ms_assets.resources import ComputeDevice, DuckDB, MLflow
from ms_assets.scales import OWNERS, SCALES, config_schema, room, settings_of
from ms_assets.settings import TrainingSettings
from ms_assets.vectors import fixed_size_list

asset = room("training")


@asset(
    kinds={"pytorch", "mlflow"},
    code_version="3",
    io_manager_key="model_files",
    config_schema=config_schema(TrainingSettings),
    ins={
        "bipartite_graph": dg.AssetIn(["graph", "bipartite_graph"]),
        **{name: dg.AssetIn(["splits", name]) for name in ("negatives", "ground_truth", "train", "validation")},
    },
)
def lightgcn(
    context: dg.AssetExecutionContext,
    bipartite_graph: Any,
    negatives: Relation,
    ground_truth: Relation,
    train: Relation,
    validation: Relation,
    duckdb: DuckDB,
    device: ComputeDevice,
    mlflow: MLflow,
    model_files: dg.ResourceParam[ModelIOManager],
) -> dg.MaterializeResult:
    """The best checkpoint of a LightGCN training, by validation NDCG, with its settings and its MLflow run."""
    from ms_assets.training import curves, memory, refit, trainer
    from ms_assets.training.checkpoints import Checkpoint

    processor = device.resolve((asked := settings_of(context, TrainingSettings)).device)
    settings = memory.fitted(memory.Sizes.of(bipartite_graph), asked, device.free_bytes(processor), str(processor))
    explicit, wanted = _pairs(negatives), _validation(ground_truth, bipartite_graph)
    inputs = _input_versions(context)
    file = partial(model_files.checkpoint, context.asset_key, context.partition_key)
    checkpoint = Checkpoint.open(file("fit"), bipartite_graph, explicit, wanted, settings)
    with mlflow.run(context, checkpoint.notes.get("mlflow_run_id")) as run:
        checkpoint.notes["mlflow_run_id"] = run.run_id
        run.log_settings({**settings.model_dump(), "device": str(processor)})
        trained = trainer.train(
            bipartite_graph, explicit, wanted, settings, processor,
            on_epoch=lambda epoch: run.log_metrics(asdict(epoch), step=epoch.number),
            checkpoint=checkpoint,
        )  # fmt: skip
        if settings.refit:
            graph = refit.graph_of_train_and_validation(duckdb.connection, bipartite_graph, train, validation)
            explicit = _pairs(refit.explicit_negatives(negatives, validation))
            again = Checkpoint.open(file("refit"), graph, explicit, trainer.nothing_to_find(graph), settings)
            trained = trainer.refit(graph, explicit, trained, settings, processor, again)
        picture = curves.training_curves(trained.history, trained.best)
        run.log_picture(picture, "training_curves.png")
    return dg.MaterializeResult(
        value={
            "settings": settings.model_dump(),
            "state": trained.state,
            "best": asdict(trained.best),
            "history": [asdict(epoch) for epoch in trained.history],
            "diverged": trained.diverged,
            "inputs": inputs,
            "mlflow_run_id": run.run_id,
        },
        metadata={
            "best_epoch": trained.best.number,
            "best_validation_ndcg": round(trained.best.validation_ndcg, 4),
            "epochs": len(trained.history),
            "training_seconds": round(trained.history[-1].seconds, 1),
            "device": str(processor),
            "estimated_memory": memory.described(memory.estimate(memory.Sizes.of(bipartite_graph), settings)),
            "mlflow_run": dg.MetadataValue.url(run.url),
            "curves": dg.MetadataValue.md(pictures.to_markdown(picture, "loss and validation NDCG")),
        },
    )


def _pairs(negatives: Relation) -> Any:
    table = negatives.project("user_id, song_id").to_arrow_table()
    return table["user_id"].to_numpy(), table["song_id"].to_numpy()


def _validation(ground_truth: Relation, graph: Any) -> Judgements:
    rows = ground_truth.filter("split = 'validation'").to_arrow_table()
    return Judgements.of(
        rows["user_id"].to_numpy(),
        rows["song_id"].to_numpy(),
        rows["adjusted_relevance"].to_numpy(),
        graph["user"].num_nodes,
        graph["song"].num_nodes,
    )


def _input_versions(context: dg.AssetExecutionContext) -> dict[str, str]:
    """The run and time that made each input, by asset key."""
    versions = {}
    for key in context.assets_def.keys_by_input_name.values():
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[context.partition_key]), limit=1
        ).records
        if records:
            versions[key.to_user_string()] = f"{records[0].run_id}@{records[0].timestamp:.3f}"
    return versions


EMBEDDING = ("FLOAT[]", "unit vector; inner products of users and songs are scores")


@dg.multi_asset(
    name="embeddings",
    can_subset=True,
    group_name="training",
    partitions_def=SCALES,
    ins={
        "lightgcn": dg.AssetIn(["training", "lightgcn"]),
        "bipartite_graph": dg.AssetIn(["graph", "bipartite_graph"]),
        **{name: dg.AssetIn(["splits", name]) for name in ("train", "validation")},
    },
    outs={
        "user_embeddings": dg.AssetOut(
            key=["training", "user_embeddings"],
            description="One row per user: what LightGCN learned of their taste.",
            metadata=columns(
                user_id=("INTEGER", "dense user id"), uid=("BIGINT", "Yambda's user id"), embedding=EMBEDDING
            ),
            is_required=False,
            kinds={"pytorch"},
            owners=OWNERS,
            code_version="1",
        ),
        "song_embeddings": dg.AssetOut(
            key=["training", "song_embeddings"],
            description="One row per song, cold ones by the song encoder, in the space of the users.",
            metadata=columns(
                song_id=("INTEGER", "dense song id"),
                item_id=("BIGINT", "Yambda's song id"),
                cold=("BOOLEAN", "has no edge; encoded from audio, artists and albums"),
                embedding=EMBEDDING,
            ),
            is_required=False,
            kinds={"pytorch"},
            owners=OWNERS,
            code_version="1",
        ),
    },
)
def embeddings(
    context: dg.AssetExecutionContext,
    lightgcn: Any,
    bipartite_graph: Any,
    train: Relation,
    validation: Relation,
    duckdb: DuckDB,
) -> Iterator[dg.Output[pa.Table]]:
    """Propagate the checkpoint's parameters over the graph once, and read off users and songs."""
    from ms_assets.training import refit
    from ms_assets.training.lightgcn import LightGCN

    settings, graph = TrainingSettings(**lightgcn["settings"]), bipartite_graph
    if settings.refit:
        graph = refit.graph_of_train_and_validation(duckdb.connection, graph, train, validation)
    model = LightGCN(graph, settings)
    model.load_state_dict(lightgcn["state"])
    users, songs = (vectors.numpy() for vectors in model.eval().embed())
    graph_users, graph_songs = bipartite_graph["user"], bipartite_graph["song"]
    tables = {
        "user_embeddings": lambda: pa.table(
            {
                "user_id": pa.array(range(len(users)), pa.int32()),
                "uid": graph_users.uid.numpy(),
                "embedding": fixed_size_list(users),
            }
        ),
        "song_embeddings": lambda: pa.table(
            {
                "song_id": pa.array(range(len(songs)), pa.int32()),
                "item_id": graph_songs.item_id.numpy(),
                "cold": (~graph_songs.in_graph).numpy(),
                "embedding": fixed_size_list(songs),
            }
        ),
    }
    for name in context.op_execution_context.selected_output_names:
        yield dg.Output(tables[name](), output_name=name, metadata={"dimensions": users.shape[1]})


assets = [lightgcn, embeddings]
