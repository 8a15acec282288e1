"""MLflow stores that do not answer, and what people delete in them: one sentence says what to do next."""

import re
import socket
import time

import mlflow
import pytest

from ms_assets import tracking
from ms_assets.__main__ import main
from ms_assets.defs.platform.resources import MLflow
from ms_assets.evaluation import champion
from ms_assets.registry import ChampionError, Registry
from ms_assets.tracking import StoreError
from ms_assets_tests import planted
from ms_assets_tests.planted import model


def store_at(uri, folder="file:///nowhere"):
    return MLflow(tracking_uri=uri, artifact_location=str(folder))


@pytest.fixture
def unused_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_server_that_is_down_is_told_at_once_by_the_variable_without_its_password(scheme, unused_port):
    said = rf"^MLFLOW_TRACKING_URI: found {re.escape(scheme)}://127.0.0.1:{unused_port}/x, .* start its server"
    with pytest.raises(StoreError, match=said) as raised:
        store_at(f"{scheme}://ann:secret@127.0.0.1:{unused_port}/x").registry("50m")
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_server_that_never_answers_is_told_after_seconds(monkeypatch):
    monkeypatch.setattr(tracking, "AT_ONCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"MLFLOW_TRACKING_URI: found http://127\.0\.0\.1:"):
            store_at(f"http://127.0.0.1:{silent.getsockname()[1]}").registry("50m")
    assert time.monotonic() - began < 60  # where MLflow's own tries take four minutes


def test_a_database_that_is_none_is_told_by_its_file(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(StoreError, match=f"found sqlite:///{tmp_path}/mlflow.db, .* restore its database"):
        store_at(f"sqlite:///{tmp_path}/mlflow.db").registry("50m")


def test_a_command_ends_with_that_sentence(monkeypatch, unused_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(SystemExit, match=r"^MLFLOW_TRACKING_URI: found http://127\.0\.0\.1:"):
        main(["champion", "50m"])


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A store with a training, whose model is champion."""
    folder = tmp_path_factory.mktemp("used")
    store = store_at(f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri())
    registry = store.registry("50m")
    with mlflow.start_run() as run:
        pass
    number = planted.register(registry, model(0.5)).number
    made = registry.version(number)
    version = type(made)(**vars(made) | {"run_id": run.info.run_id})
    registry.promote(version, {})
    return store, version


@pytest.fixture
def client(used):
    return mlflow.MlflowClient(used[0].tracking_uri)


def test_after_the_run_is_deleted_it_is_a_run_that_the_store_does_not_have(used, client):
    store, version = used
    assert store.known_run(version.run_id) == version.run_id
    client.delete_run(version.run_id)
    assert store.known_run(version.run_id) is None
    store.registry("50m").log_metrics(version, {"ndcg": 0.5})
    client.restore_run(version.run_id)


def test_after_the_experiment_is_deleted_the_champion_serves_and_logging_says_how_to_restore_it(used, client):
    store, version = used
    experiment = client.get_experiment_by_name("ms_assets").experiment_id
    client.delete_experiment(experiment)
    registry = store.registry("50m")
    assert champion.history(registry)["status"].to_list() == ["champion"]
    assert champion.fault(registry, int(planted.UID[0])) is None
    champion.by_hand(registry, version.number)
    said = f"MLFLOW_TRACKING_URI={store.tracking_uri} mlflow experiments restore --experiment-id {experiment}$"
    with pytest.raises(StoreError, match=said):
        store.known_run(version.run_id)
    client.restore_experiment(experiment)
    client.restore_run(version.run_id)
    assert store.known_run(version.run_id) == version.run_id


def test_after_the_registered_model_is_deleted_there_is_no_version(used, client):
    store, _ = used
    registry = Registry(store.registry("50m").name + "-other", store.tracking_uri)
    planted.register(registry, model(0.6))
    registry.promote(registry.version(1), {})
    client.delete_registered_model(registry.name)
    assert registry.champion() is None and registry.former() is None and registry.versions() == []
    with pytest.raises(ChampionError, match="none yet, materialise reranking/served_model first"):
        champion.by_hand(registry, 1)
