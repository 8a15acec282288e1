"""Entry point for Dagster: everything in `ms_assets/defs`, bound to the environment of this process."""

import gc
import warnings
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import dagster as dg

from ms_assets.defs.automation import retraining_schedules
from ms_assets.defs.platform import alerts, checks, io_managers
from ms_assets.defs.platform.executor import Elsewhere, executor_by_scale
from ms_assets.defs.platform.messages import Alerts, Target
from ms_assets.defs.platform.resources import DuckDB, Environment, MLflow, StudyStorage, YambdaSource
from ms_assets.defs.platform.schemas import SCHEMA


@cache
def found() -> dg.Definitions:
    """Load all that `ms_assets/defs` defines; a function, for a second `Definitions` at module level is an error.

    As `dg.load_from_defs_folder` does, without its catalogue of Dagster's own components, which takes long.
    """
    tree = dg.ComponentTree.from_module(import_module("ms_assets.defs"), project_root=Path(__file__).parents[1])
    with warnings.catch_warnings(action="ignore", category=dg.PreviewWarning):
        return dg.Definitions.merge(tree.build_defs(tree.defs_module_path), dg.Definitions(component_tree=tree))


def elsewhere(environment: Environment) -> Elsewhere | None:
    """Maker of the executor on the environment's cluster; None where steps run on this machine."""
    if not environment.on_cluster:
        return None
    from ms_assets.defs.platform import cluster

    settings = environment.of_steps
    if environment.executor == "ray":
        return lambda init, steps, needs: cluster.on_ray(environment.ray_address, needs, settings)
    return partial(cluster.on_kubernetes, settings=settings)


def define(environment: Environment) -> dg.Definitions:
    """Build all definitions, with the resources, schedules and executor of one environment."""
    duckdb = DuckDB(temp_directory=str(environment.home / "tmp"), memory=environment.memory)
    # By its variable, for the UI shows what resources are configured with, and the address has a password.
    database = dg.EnvVar("MS_ASSETS_DATABASE") if environment.database else ""
    stored = {
        "base_dir": str(environment.data), "bucket": environment.bucket,
        "locks_database": database if environment.on_cluster else "",
    }  # fmt: skip
    tables = io_managers.TableIOManager(**stored, duckdb=duckdb)
    yambda = YambdaSource(
        location=environment.source,
        revision=environment.revision,
        layout=environment.layout,
        source_home=str(environment.home / "source"),
        bucket=environment.bucket,
    )
    told = environment.alerts and Target.of(environment.alerts)
    bound = dg.Definitions(
        asset_checks=[
            checks.of_rows(spec)
            for asset in found().assets or ()
            if isinstance(asset, dg.AssetsDefinition)
            for spec in asset.specs
            if SCHEMA in spec.metadata
        ],
        schedules=retraining_schedules(environment.retrain_cron, environment.retrain_timezone),
        sensors=alerts.sensors() if told else [],
        executor=executor_by_scale(
            environment.home, environment.locks, lambda: duckdb.bytes, elsewhere(environment), tables.lineage
        ),
        resources={
            "duckdb": duckdb,
            "io_manager": tables,
            "linked_tables": io_managers.LinkedTableIOManager(**stored, duckdb=duckdb, yambda=yambda),
            "graph_files": io_managers.GraphIOManager(**stored),
            "model_files": io_managers.ModelIOManager(**stored),
            "faiss_files": io_managers.FaissIOManager(**stored),
            "folders": io_managers.FolderIOManager(**stored),
            "json_files": io_managers.JsonIOManager(**stored),
            "study_storage": StudyStorage(
                folder=str(environment.home / "studies"),
                database=database,
            ),
            "mlflow": MLflow(
                tracking_uri=environment.tracking_uri,
                artifact_location=environment.models,
            ),
            # By its variable too, for it may hold a password, or be a secret as a whole.
            **({"alerts": Alerts(target=dg.EnvVar("MS_ASSETS_ALERTS"), ui=environment.ui)} if told else {}),
            "yambda": yambda,
        },
    )
    return dg.Definitions.merge(found(), bound)


# Dagster passes the parameter itself when it copies a sensor of several jobs, and warns its user of it.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition", dg.BetaWarning)
# What is imported by now stays: no collection has to look through it, and least of all the last one, at exit.
gc.freeze()
defs = define(Environment.read())
