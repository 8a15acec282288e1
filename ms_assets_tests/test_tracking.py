"""MLflow runs of trainings: the data that they read, and what the machine did meanwhile."""

import threading
import time

import dagster as dg
import mlflow
import polars as pl
import pytest

from ms_assets.defs.platform.lineage import Lineage, Made
from ms_assets.defs.platform.scales import SCALES
from ms_assets_tests.shelf import COLUMNS

DATA = {"splits/train": "a" * 64, "graph/edges": "0123456789abcdef" * 4}
OTHERS = {"training/teacher": "c" * 64, "splits/test": "d" * 64}
ROW = pl.DataFrame({"song_id": [1], "score": [0.5]}, {"song_id": pl.Int32, "score": pl.Float64})


@pytest.fixture
def train(shelf, store):
    """A training that reads some artefacts: it does something in its MLflow run, whose id is returned."""
    records = Lineage(shelf.folder / "data")
    for key, version in (DATA | OTHERS).items():
        file = shelf.folder / "data" / key / "50m.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"rows")
        made = Made.of(file, {}, "50m", {}, name=file.name, version=version, run_id="made it")
        records.note(dg.AssetKey.from_user_string(key), "50m", made)

    def run(body, run_id=None):
        ids = []
        read = [dg.AssetKey.from_user_string(key) for key in (*DATA, "training/teacher")]

        @dg.asset(key=["training", "model"], partitions_def=SCALES, deps=read, metadata=COLUMNS)
        def model(context: dg.AssetExecutionContext):
            with store.run(context, run_id) as opened:
                ids.append(opened.run_id)
                body(opened)
            return ROW

        done = dg.materialize([model], resources=shelf.managers, partition_key="50m", raise_on_error=False)
        return done.success, mlflow.MlflowClient(store.tracking_uri).get_run(*ids)

    return run


def system(run):
    return {name for name in run.data.metrics if name.startswith("system/")}


def monitors():
    return [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def test_a_run_names_the_data_that_it_reads_once_with_version_and_file_and_no_model(train, shelf):
    _, begun = train(lambda opened: None)
    _, run = train(lambda opened: None, begun.info.run_id)  # as after a kill
    assert run.info.run_id == begun.info.run_id
    assert len(run.inputs.dataset_inputs) == len(DATA)
    found = {given.dataset.name: given for given in run.inputs.dataset_inputs}
    assert found.keys() == {f"{key} 50m" for key in DATA}
    for key, version in DATA.items():
        given = found[f"{key} 50m"]
        assert given.dataset.digest == version[:36]
        assert {tag.key: tag.value for tag in given.tags} == {"data_version": version}
        assert mlflow.data.get_source(given.dataset).load() == str(shelf.folder / "data" / key / "50m.parquet")


def test_a_run_measures_the_machine_and_leaves_no_thread_behind_even_when_it_fails(train, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")

    def body(opened):
        with opened.child("trial"):
            assert len(monitors()) == 1
        time.sleep(0.3)
        raise RuntimeError("diverged")

    succeeded, run = train(body)
    assert (succeeded, run.info.status, monitors()) == (False, "FAILED", [])
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= system(run)


def test_mlflows_own_setting_switches_the_measuring_off(train, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    _, run = train(lambda opened: monitors() and pytest.fail("a thread measures"))
    assert system(run) == set()
