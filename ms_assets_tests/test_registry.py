"""The registry in a real MLflow store: what is registered once, what a killed process leaves, who was champion."""

import json
from dataclasses import replace

import mlflow
import pytest

from ms_assets import registry as registries
from ms_assets.registry import ALIAS, DATA, ORDER, ChampionError, Registry
from ms_assets.reranking.pyfunc_model import BEYOND
from ms_assets_tests import planted
from ms_assets_tests.planted import model, register


@pytest.fixture
def registry(store) -> Registry:
    return planted.new_registry(store)


def numbers(registry):
    return [version.number for version in registry.versions()]


def promote(registry, *noises):
    """Register models of so much noise, each of which becomes champion."""
    for noise in noises:
        registry.promote(register(registry, model(noise)), {})


def test_equal_files_are_registered_once(registry):
    first, again, other = (register(registry, model(noise)) for noise in (0.5, 0.5, 0.6))
    assert first == again
    assert (first.number, other.number) == (1, 2)
    assert numbers(registry) == [1, 2]


def test_a_version_whose_files_were_damaged_is_registered_anew(registry):
    first = register(registry, model(0.5))
    with registry.files(first) as folder:
        (folder / DATA / "songs.parquet").write_bytes(b"PAR1")
    assert not registry.intact(first)
    second = register(registry, model(0.5))
    assert second.number == 2 and registry.intact(second)
    assert register(registry, model(0.5)) == second


def test_a_process_killed_while_files_are_written_leaves_no_version_and_the_next_run_makes_it(registry, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    for place in ("log_model_artifacts", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, place, die)
            with pytest.raises(Killed):
                register(registry, model(0.5))
        assert numbers(registry) == []
    assert register(registry, model(0.5)).number == 1


def test_a_process_killed_before_the_alias_moves_leaves_the_champion_and_the_history(registry, monkeypatch):
    for noise in (0.7, 0.6, 0.5):
        register(registry, model(noise))
    for number in (1, 2):
        registry.promote(registry.version(number), {})

    def die(*_):
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", die)
        registry.promote(registry.version(3), {})
    assert registry.champion().number == 2
    assert registry.former().number == 1
    registry.promote(registry.version(3), {})
    assert (registry.champion().number, registry.former().number) == (3, 2)


def test_who_was_champion_before_does_not_depend_on_the_clock(registry, monkeypatch):
    for noise, time in ((0.7, "2030-01-01"), (0.6, "2020-01-01"), (0.5, "2025-01-01")):
        monkeypatch.setattr(registries, "_now", lambda time=time: time)
        registry.promote(register(registry, model(noise)), {})
    assert registry.former().number == 2


def test_an_alias_set_by_hand_is_the_champion_and_the_last_promoted_one_comes_before_it(registry, store):
    promote(registry, 0.7, 0.6)
    by_hand = register(registry, model(0.5))
    mlflow.MlflowClient(store.tracking_uri).set_registered_model_alias(registry.name, ALIAS, str(by_hand.number))
    assert registry.champion() == by_hand
    assert registry.former().number == 2


def test_a_champion_promoted_again_comes_after_the_others(registry):
    promote(registry, 0.7, 0.6)
    registry.promote(registry.version(1), {})
    assert (registry.champion().number, registry.former().number) == (1, 2)
    assert registry.champion().tags[ORDER] == "3"


def test_an_unknown_version_is_named_with_those_there_are(registry):
    with pytest.raises(
        ChampionError, match="has no version 1; registered versions: none yet, materialise reranking/served_model"
    ):
        registry.version(1)
    register(registry, model(0.5))
    with pytest.raises(ChampionError, match="has no version 4; registered versions: 1"):
        registry.version(4)
    assert registry.champion() is None and registry.former() is None


def test_a_version_tells_its_training_inputs_metrics_signature_and_example(registry, store):
    with mlflow.start_run() as run:
        mlflow.log_param("epochs", 3)
    version = _of_run(registry, run.info.run_id)
    assert version.run_id == run.info.run_id
    assert json.loads(version.tags["inputs"]) == planted.TRAINING.inputs
    client = mlflow.MlflowClient(store.tracking_uri)
    logged = client.get_logged_model(version.model_id)
    assert logged.source_run_id == run.info.run_id
    assert {metric.key: metric.value for metric in logged.metrics} == {"best_validation_ndcg": 0.25}
    assert [output.model_id for output in client.get_run(run.info.run_id).outputs.model_outputs] == [version.model_id]
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    info = mlflow.models.get_model_info(f"models:/{registry.name}/1")
    assert info.signature.inputs.input_names() == ["uid", "k", "exclude_heard", "stage", *BEYOND]
    assert info.signature.inputs.required_input_names() == ["k"]
    assert info.signature.outputs.required_input_names() == ["answer", "item_ids", "scores"]
    assert info.signature.outputs.input_names() == ["uid", "answer", "item_ids", "scores", "because"]
    assert info.metadata == {"inputs": planted.TRAINING.inputs, "metrics": {"best_validation_ndcg": 0.25}}
    example = mlflow.pyfunc.load_model(f"models:/{registry.name}/1").input_example
    assert example.to_dict("list") == {
        "uid": [int(planted.UID[0]), -1], "k": [10, 10], "exclude_heard": [True, False],
        "stage": ["ranked", "retrieval"],
    }  # fmt: skip
    registry.log_metrics(version, {"test all ndcg at 10": 0.5})
    logged = client.get_logged_model(version.model_id)
    assert {metric.key for metric in logged.metrics} == {"best_validation_ndcg", "test all ndcg at 10"}


def _of_run(registry, run_id):
    registered = registry.register

    class Recording(Registry):
        def register(self, candidate):
            return registered(replace(candidate, run_id=run_id))

    return register(Recording(registry.name, registry.tracking_uri), model(0.5))


def test_the_files_are_parquet_faiss_and_readable_code(registry):
    with registry.files(register(registry, model(0.5))) as folder:
        data = {file.name for file in (folder / DATA).iterdir()}
        assert data == {"users.parquet", "songs.parquet", "popular.parquet", "index.faiss"}
        others = {file.suffix for file in folder.iterdir() if file.is_file()}
        assert others == {".py", ".json", ".yaml", ".txt", ""}
        requirements = (folder / "requirements.txt").read_text().split()
    assert any(requirement.startswith("ms_assets==") for requirement in requirements)
