"""The hyper-parameter study: trials that are pruned, resumed, shared between processes, and used by training."""

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace

import mlflow
import numpy as np
import optuna
import polars as pl
import pytest
import torch

from ms_assets.machine import NotEnoughMemoryError
from ms_assets.settings import TrainingSettings
from ms_assets.training import study as studies
from ms_assets.training.race import CANDIDATES
from ms_assets.training.trainer import DivergedError
from ms_assets_tests.conftest import metadata_of
from ms_assets_tests.training.tastes import plant
from ms_assets_tests.training.trials import BASE, SIDE_BY_SIDE, Trainings, goodness, searched


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def test_the_first_trial_is_the_training_as_it_is_and_no_later_one_makes_the_best_worse(url):
    trainings = Trainings()
    table = studies.trials(searched(url, 12, trainings))
    assert trainings.settings[0] == BASE
    [best] = table.filter("is_best").to_dicts()
    assert best["validation_ndcg"] == max(table.filter(pl.col("state") == "complete")["validation_ndcg"])
    assert best["validation_ndcg"] >= goodness(BASE)
    assert TrainingSettings(**{**BASE.model_dump(), **json.loads(best["parameters"])})
    assert best["mlflow_run_id"] == f"run of trial {best['number']}"


def test_what_is_tried_lies_in_the_search_space_and_everything_else_stays(url):
    trainings = Trainings()
    searched(url, 12, trainings)
    for settings in trainings.settings[1:]:
        changed = {name for name, value in settings if value != getattr(BASE, name)}
        assert changed <= set(studies.SEARCH_SPACE)
        for name, space in studies.SEARCH_SPACE.items():
            value = getattr(settings, name)
            assert value in space.choices if hasattr(space, "choices") else space.low <= value <= space.high, name


def test_trials_worse_than_the_median_end_early(url):
    trainings = Trainings()
    table = studies.trials(searched(url, 16, trainings))
    pruned = table.filter(pl.col("state") == "pruned")
    assert 0 < len(pruned) < len(table)
    assert pruned["n_epochs"].max() < BASE.epochs
    assert pruned["validation_ndcg"].max() < table.filter("is_best")["validation_ndcg"].first()
    assert not pruned["is_best"].any()


def test_a_study_goes_on_where_it_was_left_and_then_does_nothing(url):
    first, second, third = Trainings(), Trainings(), Trainings()
    searched(url, 5, first)
    table = studies.trials(searched(url, 9, second))
    assert (len(first.settings), len(second.settings)) == (5, 4)
    assert table["number"].to_list() == list(range(9))
    searched(url, 9, third)
    assert third.settings == []


def test_a_study_in_two_sittings_tries_what_one_in_one_sitting_tries(url, tmp_path):
    first, second, whole = Trainings(), Trainings(), Trainings()
    searched(url, 5, first)
    searched(url, 9, second)
    searched(f"sqlite:///{tmp_path}/whole.db", 9, whole)
    assert first.settings + second.settings == whole.settings


@pytest.mark.parametrize("error", [NotEnoughMemoryError("training needs about 3 TiB"), DivergedError("diverged")])
def test_settings_that_do_not_fit_or_diverge_are_pruned_with_a_remark(url, error):
    def failing(name, settings, listener):
        if settings != BASE:
            raise error
        return Trainings()(name, settings, listener)

    table = studies.trials(searched(url, 3, failing))
    assert table["state"].to_list() == ["complete", "pruned", "pruned"]
    assert table["remark"].to_list() == [None, str(error), str(error)]
    assert table["validation_ndcg"].to_list()[1:] == [None, None]


def test_a_trial_that_diverges_later_is_pruned_with_a_remark_however_good_it_was_before(url):
    def diverging(name, settings, listener):
        trained = Trainings()(name, settings, listener)
        return trained if settings == BASE else replace(trained, best=replace(trained.best, validation_ndcg=9.0),
                                                        diverged="training diverged in epoch 3")  # fmt: skip

    table = studies.trials(searched(url, 3, diverging))
    assert table["state"].to_list() == ["complete", "pruned", "pruned"]
    assert table["remark"].to_list()[1:] == ["training diverged in epoch 3"] * 2
    assert table["is_best"].to_list() == [True, False, False]


def test_the_largest_seed_is_a_seed_like_any_other(url):
    assert len(studies.trials(searched(url, 10, Trainings(), seed=2**32 - 1))) == 10


def test_any_other_error_ends_the_study(url):
    def failing(name, settings, listener):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        searched(url, 3, failing)


def test_processes_side_by_side_share_a_study_and_never_try_the_same(url):
    studies.open_study(url, "taste", BASE)
    assert subprocess.run([sys.executable, "-c", SIDE_BY_SIDE, url, "12"], check=False).returncode == 0
    table = studies.trials(studies.open_study(url, "taste", BASE))
    # One process may begin its last trial while the other is in its own.
    assert 12 <= len(table) <= 13
    assert table["parameters"].n_unique() == len(table)


def test_a_queued_trial_is_claimed_once_however_the_claims_interleave(url, monkeypatch):
    """One claim waits between its reading and its writing for another, which must not get the trial as well."""
    mine, other = (studies.open_study(url, "taste", BASE) for _ in range(2))
    check, claims = mine._storage.check_trial_is_updatable, {}
    rival = threading.Thread(target=lambda: claims.update(other=other._pop_waiting_trial_id()))

    def check_while_the_other_claims(*state):
        check(*state)
        rival.start()
        rival.join(1)

    monkeypatch.setattr(mine._storage._backend, "check_trial_is_updatable", check_while_the_other_claims)
    claims["mine"] = mine._pop_waiting_trial_id()
    rival.join()
    assert claims["mine"] is not None
    assert claims["other"] is None


KILLED = """
import os, sqlite3, sys, time
from ms_assets_tests.training.trials import searched

def killed(name, settings, listener):
    file = sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"))
    while file.execute("SELECT count(*) FROM trial_heartbeats").fetchone() == (0,):
        time.sleep(0.01)
    os._exit(9)

searched(sys.argv[1], 3, killed)
"""


def test_a_trial_of_a_killed_process_is_tried_again_when_its_heart_has_been_silent(url):
    assert subprocess.run([sys.executable, "-c", KILLED, url], check=False).returncode == 9
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
        silence = f"-{2 * studies.HEARTBEAT_SECONDS + 1} seconds"
        file.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, ?)", [silence])
    trainings = Trainings()
    table = studies.trials(searched(url, 3, trainings))
    assert trainings.settings[0] == BASE
    assert table.filter(pl.col("state") == "complete")["number"].len() == 3
    assert table.filter(pl.col("state") == "fail")["number"].to_list() == [0]


def test_a_study_of_other_data_or_another_fixed_setting_is_another_but_what_is_looked_for_makes_no_difference():
    identity = {"data": "a", "epochs": "4", "learning_rate": "0.1"}
    name = studies.name_of("50m", identity)
    assert name == studies.name_of("50m", {**identity, "learning_rate": "0.2"})
    others = [("50m", {**identity, "data": "b"}), ("50m", {**identity, "epochs": "5"}), ("500m", identity)]
    assert len({name, *(studies.name_of(*other) for other in others)}) == 4


def test_importance_is_largest_for_what_makes_the_difference():
    rng, study = np.random.default_rng(0), optuna.create_study(direction="maximize")
    spaces = {name: studies.SEARCH_SPACE[name] for name in ("learning_rate", "margin", "temperature")}
    for _ in range(60):
        params = {name: float(rng.uniform(space.low, space.high)) for name, space in spaces.items()}
        trial = optuna.trial.create_trial(params=params, distributions=spaces, value=2 * params["margin"])
        study.add_trial(trial)
    shares = studies.importances(study)
    assert next(iter(shares)) == "margin"
    assert shares["margin"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_one_trial_alone_has_no_importances_and_still_its_pictures(url):
    study = searched(url, 1, Trainings())
    assert studies.importances(study) == {}
    for picture in (studies.history_picture(studies.trials(study)), studies.importance_picture({})):
        assert picture.get_axes()


@pytest.fixture(scope="module")
def platform(platform_at, tmp_path_factory):
    """A study of two trials over a small graph with planted taste, then a training with what it found."""
    platform = platform_at(tmp_path_factory.mktemp("study"))
    plant(platform)
    study = {"trials": 2, "epochs": 2}
    platform.materialise("training/hyperparameter_study", alone=True,
                         config={"training__hyperparameter_study": study})  # fmt: skip
    return platform


def test_the_study_is_a_table_of_trials_with_nested_mlflow_runs(platform):
    rows = platform.rows("training/hyperparameter_study")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    client = mlflow.MlflowClient(platform.environment.tracking_uri)
    children = [client.get_run(row["mlflow_run_id"]) for row in rows]
    [parent] = {child.data.tags["mlflow.parentRunId"] for child in children}
    assert [artifact.path for artifact in client.list_artifacts(parent)] == ["history.png", "importance.png"]
    for row, child in zip(rows, children, strict=True):
        assert child.info.status == "FINISHED"
        assert child.data.params["learning_rate"] == str(json.loads(row["parameters"])["learning_rate"])
        ndcg = [point.value for point in client.get_metric_history(child.info.run_id, "validation_ndcg")]
        assert max(ndcg) == pytest.approx(row["validation_ndcg"])


def test_a_second_run_adds_trials_to_the_same_study_and_mlflow_run(platform):
    run = platform.materialise("training/hyperparameter_study", alone=True,
                               config={"training__hyperparameter_study": {"trials": 3, "epochs": 2}})  # fmt: skip
    assert len(platform.rows("training/hyperparameter_study")) == 3
    runs = mlflow.MlflowClient(platform.environment.tracking_uri).search_runs(["1"])
    assert len([found for found in runs if "mlflow.parentRunId" not in found.data.tags]) == 1
    for picture in ("history", "importance"):
        assert "data:image/png;base64" in metadata_of(run)[picture]


def test_training_takes_the_best_parameters_on_request_and_the_run_config_goes_before_them(platform):
    [best] = [row for row in platform.rows("training/hyperparameter_study") if row["is_best"]]
    found = json.loads(best["parameters"])

    def trained(**config):
        platform.materialise("training/lightgcn", alone=True, config={"training__lightgcn": {"epochs": 1, **config}})
        return torch.load(platform.file("training/lightgcn", extension=".pt"), weights_only=True)["settings"]

    assert found.items() <= trained(use_study=True).items()
    settings = trained(use_study=True, temperature=0.77)
    assert settings["temperature"] == 0.77
    assert settings["learning_rate"] == found["learning_rate"]
    assert trained()["temperature"] in CANDIDATES["temperature"]


def test_without_a_study_the_request_says_what_to_materialise(platform_at, tmp_path):
    platform = platform_at(tmp_path)
    plant(platform)
    with pytest.raises(ValueError, match="training/hyperparameter_study of 50m has no complete trial; materialise it"):
        platform.materialise("training/lightgcn", alone=True, config={"training__lightgcn": {"use_study": True}})
