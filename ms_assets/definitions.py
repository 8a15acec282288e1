"""The front door: names every asset, check, job, schedule and resource; computes nothing."""

import dagster as dg

from ms_assets.automation import executor_by_scale
from ms_assets.evaluation import assets as evaluation
from ms_assets.graph import assets as graph
from ms_assets.io_managers import (
    FaissIOManager,
    GraphIOManager,
    LinkedTableIOManager,
    TableIOManager,
    TorchIOManager,
)
from ms_assets.raw import assets as raw
from ms_assets.raw.resources import YambdaSource
from ms_assets.resources import ComputeDevice, DuckDB, Environment, MLflow
from ms_assets.retrieval import assets as retrieval
from ms_assets.splits import assets as splits
from ms_assets.training import assets as training


def define(environment: Environment) -> dg.Definitions:
    """Everything Dagster knows of, with resources for one environment."""
    duckdb = DuckDB(temp_directory=str(environment.home / "tmp"))
    data = str(environment.data)
    return dg.Definitions(
        assets=[*raw.assets, *splits.assets, *graph.assets, *training.assets, *retrieval.assets, *evaluation.assets],
        resources={
            "duckdb": duckdb,
            "io_manager": TableIOManager(base_dir=data, duckdb=duckdb),
            "linked_tables": LinkedTableIOManager(base_dir=data, duckdb=duckdb),
            "graph_files": GraphIOManager(base_dir=data),
            "checkpoint_files": TorchIOManager(base_dir=data),
            "faiss_files": FaissIOManager(base_dir=data),
            "device": ComputeDevice(),
            "mlflow": MLflow(
                tracking_uri=environment.tracking_uri,
                artifact_location=(environment.home / "mlflow" / "artifacts").as_uri(),
            ),
            "yambda": YambdaSource(
                location=environment.source,
                revision=environment.revision,
                sample_home=str(environment.home / "source" / "sample"),
            ),
        },
        executor=executor_by_scale,
    )


defs = define(Environment.read())
