"""The front door: names every asset, check, job, schedule, sensor and resource; computes nothing."""

import dagster as dg

from ms_assets import automation, common_checks
from ms_assets.evaluation import assets as evaluation_assets
from ms_assets.evaluation import checks as evaluation_checks
from ms_assets.graph import assets as graph_assets
from ms_assets.graph import checks as graph_checks
from ms_assets.io_managers import (
    FaissIOManager,
    FolderIOManager,
    GraphIOManager,
    JsonIOManager,
    LinkedTableIOManager,
    ModelIOManager,
    TableIOManager,
)
from ms_assets.raw import assets as raw_assets
from ms_assets.raw import checks as raw_checks
from ms_assets.raw.resources import YambdaSource
from ms_assets.resources import DuckDB, Environment, MLflow
from ms_assets.retrieval import assets as retrieval_assets
from ms_assets.retrieval import checks as retrieval_checks
from ms_assets.splits import assets as splits_assets
from ms_assets.splits import checks as splits_checks
from ms_assets.training import assets as training_assets
from ms_assets.training import checks as training_checks
from ms_assets.training.resources import StudyStorage

ASSETS = [
    *raw_assets.assets,
    *splits_assets.assets,
    *graph_assets.assets,
    *training_assets.assets,
    *retrieval_assets.assets,
    *evaluation_assets.assets,
]
CHECKS = [
    *(common_checks.checks_of(spec) for asset in ASSETS for spec in asset.specs),
    *raw_checks.checks,
    *splits_checks.checks,
    *graph_checks.checks,
    *training_checks.checks,
    *retrieval_checks.checks,
    *evaluation_checks.checks,
]


def define(environment: Environment) -> dg.Definitions:
    """Everything Dagster knows of, with resources for one environment."""
    duckdb = DuckDB(temp_directory=str(environment.home / "tmp"), memory=environment.memory)
    data = str(environment.data)
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=automation.jobs,
        schedules=automation.retraining_schedules(environment.retrain_cron, environment.retrain_timezone),
        sensors=[automation.hub_revision],
        executor=automation.executor_by_scale(environment.home),
        resources={
            "duckdb": duckdb,
            "io_manager": TableIOManager(base_dir=data, duckdb=duckdb),
            "linked_tables": LinkedTableIOManager(base_dir=data, duckdb=duckdb),
            "graph_files": GraphIOManager(base_dir=data),
            "model_files": ModelIOManager(base_dir=data),
            "faiss_files": FaissIOManager(base_dir=data),
            "folders": FolderIOManager(base_dir=data),
            "json_files": JsonIOManager(base_dir=data),
            "study_storage": StudyStorage(folder=str(environment.home / "studies")),
            "mlflow": MLflow(
                tracking_uri=environment.tracking_uri,
                artifact_location=(environment.home / "mlflow" / "artifacts").as_uri(),
            ),
            "yambda": YambdaSource(
                location=environment.source,
                revision=environment.revision,
                layout=environment.layout,
                source_home=str(environment.home / "source"),
            ),
        },
    )


defs = define(Environment.read())
