"""The ablation: which variants there are, and what their table says."""

import mlflow
import polars as pl
import pytest

from ms_assets.settings import TrainingSettings
from ms_assets.training import ablation
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets_tests.conftest import metadata_of
from ms_assets_tests.training.tastes import plant


def test_every_variant_changes_the_training_in_one_setting():
    base = TrainingSettings()
    found = ablation.variants(base)
    assert found.pop(ablation.AS_TRAINED) == base
    changes = {
        name: {key for key, value in settings if value != getattr(base, key)} for name, settings in found.items()
    }
    assert {len(changed) for changed in changes.values()} == {1}
    parts = {"edge_weights", "audio", "metadata", "song_residual", "balance_scales", "spectral_start", "objective",
             "song_lengths", "hard_weight", "layers"}  # fmt: skip
    assert set.union(*changes.values()) == parts


def test_a_variant_that_is_the_training_already_or_no_model_at_all_is_left_out():
    audio_alone = ablation.variants(
        TrainingSettings(metadata=False, edge_weights="uniform", layers=0, song_residual=False)
    )
    left_out = {"without audio", "without artists and albums", "edge weights uniform", "no propagation"}
    assert not left_out & set(audio_alone)
    assert "edge weights learned" in audio_alone


def fit(name, settings, listener):
    """Worth its number of layers, and a little of its seed."""
    epoch = Epoch(3, 0.5, settings.layers / 10 + settings.seed / 100, 0.1, 7.0)
    return TrainedModel(settings, {}, epoch, [epoch], mlflow_run_id=f"run of {name}")


def test_the_table_has_a_row_for_every_variant_and_seed():
    table = ablation.table(TrainingSettings(layers=2), range(3), fit)
    assert len(table) == 3 * len(ablation.variants(TrainingSettings(layers=2)))
    assert table.filter(variant=ablation.AS_TRAINED, seed=1).row(0) == (
        "as trained", 1, pytest.approx(0.21), 3, 7.0, "run of as trained, seed 1",
    )  # fmt: skip


def test_the_summary_is_the_mean_over_seeds_its_deviation_and_the_difference_from_the_whole():
    rows = [
        (ablation.AS_TRAINED, 0, 0.4, 1, 2.0, "a"),
        (ablation.AS_TRAINED, 1, 0.6, 1, 4.0, "b"),
        ("without audio", 0, 0.3, 1, 1.0, "c"),
        ("without audio", 1, 0.3, 1, 1.0, "d"),
        ("BPR", 0, 0.55, 1, 1.0, "e"),
        ("BPR", 1, 0.65, 1, 1.0, "f"),
    ]
    found = ablation.summary(pl.DataFrame(rows, schema=ablation.COLUMNS, orient="row"))
    assert found["variant"].to_list() == ["BPR", ablation.AS_TRAINED, "without audio"]
    assert found["validation_ndcg"].to_list() == pytest.approx([0.6, 0.5, 0.3])
    assert found["against_as_trained"].to_list() == pytest.approx([0.1, 0.0, -0.2])
    assert found["standard_deviation"].to_list() == pytest.approx([0.05 * 2**0.5, 0.1 * 2**0.5, 0.0])
    assert found["seconds"].to_list() == [1.0, 3.0, 1.0]


def test_the_asset_retrains_what_was_trained_and_each_variant_as_runs_within_one_run(platform_at, tmp_path):
    platform = platform_at(tmp_path)
    plant(platform)
    config = {"epochs": 2, "embedding_dim": 8, "batch_size": 400, "neutral_negatives": 8}
    run = platform.materialise("training/lightgcn", alone=True, config={"training__lightgcn": config})
    ablated = platform.materialise("training/ablation", alone=True)
    table = pl.DataFrame(platform.rows("training/ablation"))
    base = TrainingSettings(**config)
    assert table["variant"].to_list() == list(ablation.variants(base))
    again = table.filter(variant=ablation.AS_TRAINED)["validation_ndcg"].first()
    assert again == pytest.approx(metadata_of(run)["best_validation_ndcg"], abs=1e-4)
    client = mlflow.MlflowClient(platform.environment.tracking_uri)
    children = [client.get_run(run_id) for run_id in table["mlflow_run_id"]]
    assert len({child.data.tags["mlflow.parentRunId"] for child in children}) == 1
    assert {child.data.params["layers"] for child in children} == {"3", "0"}
    assert "| without audio |" in metadata_of(ablated)["ablation"]
