"""`kill -9` while the command line trains, then the same command: the model is that of an unbroken training."""

import shutil

import mlflow
import polars as pl
import pytest
import torch

from ms_assets_tests.workplace import Workplace, kill, launching, until

QUICK = {"epochs": 3, "patience": 3, "neutral_negatives": 16, "embedding_dim": 32, "race": False}
SETTINGS = {"training__lightgcn": {**QUICK, "checkpoint_seconds": 0, "refit": True}}
TRAINING = 'key:"training/lightgcn" or key:"training/user_embeddings" or key:"training/song_embeddings"'


@pytest.fixture(scope="module")
def workplace(sample_home, tmp_path_factory):
    """A home with everything that training stands on, of the sample."""
    place = Workplace(tmp_path_factory.mktemp("killed"))
    for part in ("source", "data/raw", "data/splits", "data/graph"):
        shutil.copytree(sample_home / part, place.home / part, symlinks=True)
    return place


def copied(workplace, name):
    home = workplace.home.with_name(name)
    shutil.copytree(workplace.home, home, symlinks=True)
    return home


def trained(workplace, home):
    """Train to the end; gives what the command printed."""
    run = workplace.launch("--assets", TRAINING, config=SETTINGS, home=home)
    assert run.returncode == 0, run.stdout
    return run.stdout


def kill_when(workplace, home, stage, n_saved):
    """Start training, and kill it and its children when the stage's checkpoint has been replaced so many times."""
    file, mark = home / f"data/training/lightgcn/.sample.{stage}.checkpoint", home.with_name(f"{stage} is held")
    command = launching("--assets", TRAINING, config=SETTINGS)
    process = workplace.start_held(file, n_saved, mark, *command, home=home)
    until(mark.exists, process)
    kill(process)


def tables(home):
    return {
        name: pl.read_parquet(home / f"data/training/{name}/sample.parquet")
        for name in ("user_embeddings", "song_embeddings")
    }


@pytest.mark.slow
def test_a_training_killed_in_both_its_stages_ends_with_the_embeddings_of_an_unbroken_one(workplace):
    unbroken, home = copied(workplace, "unbroken"), copied(workplace, "killed")
    trained(workplace, unbroken)
    for stage, n_saved in (("fit", 3), ("refit", 2)):
        kill_when(workplace, home, stage, n_saved)
        assert not (home / "data/training/lightgcn/sample.pt").exists()
    assert "resuming from a checkpoint" in trained(workplace, home)
    for name, table in tables(unbroken).items():
        assert table.equals(tables(home)[name])
    assert {path.name for path in (home / "data/training/lightgcn").iterdir()} == {"sample.pt", "sample.origin.json"}

    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow/mlflow.db")
    [finished] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert finished.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(finished.info.run_id, "validation_ndcg")
    kept = torch.load(home / "data/training/lightgcn/sample.pt", weights_only=True)
    assert sorted({point.step for point in history}) == [epoch["number"] for epoch in kept["history"]]
