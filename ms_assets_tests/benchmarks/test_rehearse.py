"""Rehearsal of a scale: made-up tables with the scale's degrees, every stage over them, and what follows for it."""

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from ms_assets.settings import TrainingSettings
from ms_assets.training.memory import Sizes
from ms_assets_tests.benchmarks import fraction, rehearse, stages
from ms_assets_tests.benchmarks.shapes import GRAPHS
from ms_assets_tests.benchmarks.stages import STAGES, TRAINING, Found

TINY = Sizes(n_users=40, n_graph_songs=200, n_songs=260, n_edges=2_000, n_owners=60)
GIB = 2**30
SETTINGS = stages.settings_of("500m")


def test_a_fraction_has_as_many_edges_for_each_node_as_the_whole():
    some = fraction.sizes_of(GRAPHS["500m"], 0.01)
    assert some == Sizes(600, 18_000, 24_600, 600_000, 6_000)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fraction")
    fraction.write(folder, TINY)
    return {path.stem: duckdb.read_parquet(str(path)).pl() for path in folder.glob("*.parquet")}


def test_every_graph_song_and_no_cold_one_has_an_edge_and_edges_are_about_as_many_as_asked(tables):
    edges = tables["train"].select("user_id", "song_id").unique()
    assert set(edges["song_id"]) == set(range(200))
    assert set(edges["user_id"]) == set(range(40))
    assert len(edges) == pytest.approx(2_000, rel=0.1)
    assert tables["songs"]["in_graph"].sum() == 200
    assert tables["songs"]["n_train_plays"].sum() == len(tables["train"])


def test_made_up_tables_are_sorted_by_user_and_hold_each_pair_of_a_part_once(tables):
    for name in ("train", "negatives"):
        assert tables[name]["user_id"].is_sorted()
    truth = tables["ground_truth"]
    assert len(truth) == len(truth.unique(["split", "user_id", "song_id"]))
    # Half of what is heard later has been heard before.
    heard = set(tables["train"].select("user_id", "song_id").iter_rows())
    known = np.mean([pair in heard for pair in truth.select("user_id", "song_id").iter_rows()])
    assert 0.4 < known < 0.85


@pytest.mark.parametrize(
    "names",
    [
        (*list(STAGES)[: list(STAGES).index("retrieval/lightgcn") + 1], "retrieval/popular"),
        pytest.param(tuple(STAGES), marks=pytest.mark.slow),
    ],
    ids=["few", "all"],
)
def test_every_stage_runs_on_what_the_stages_before_left_and_tells_what_it_took(names, tmp_path, monkeypatch):
    monkeypatch.setitem(GRAPHS, "500m", TINY)
    tried = {name: stage for name, stage in STAGES.items() if name in names}
    for module in (rehearse, stages):
        monkeypatch.setattr(module, "STAGES", tried)
    monkeypatch.setattr(
        rehearse, "measured", lambda names, *where: ((name, stages.found(name, *where)) for name in names)
    )
    [run] = rehearse.rehearse("500m", [1.0], SETTINGS, 0, tmp_path)
    assert list(run.stages) == list(tried)
    estimated = {stage for stage, found in run.stages.items() if found.estimated}
    assert estimated == {stage for stage in tried if stage in rehearse.estimates("500m", SETTINGS)}
    for stage, found in run.stages.items():
        assert found.peak >= found.beyond
        assert found.seconds["all"] > 0
        assert found.disk > 0 or not tried[stage].files
    assert set(run.stages[TRAINING].seconds) == {"all", "spectra", *stages.STEPS}
    text = rehearse.section("500m", [run])
    assert "2,000 edges" in text
    assert "measured" in text
    assert list(Path(tmp_path).iterdir()) == []


def test_a_stage_that_took_nothing_beyond_what_its_process_held_has_no_share():
    run = made_up(1)
    run.stages[TRAINING] = replace(run.stages[TRAINING], beyond=0)
    [row] = [row for row in rehearse.section("500m", [run]).splitlines() if row.startswith(f"| {TRAINING} |")][:1]
    assert "(" not in row


def made_up(share):
    """A run whose processes take 1 GiB and 10 GiB for the whole scale, and whose seconds grow with their power."""
    found = {}
    for name, stage in STAGES.items():
        seconds = {"all": 3_600 * share**stage.power, **dict.fromkeys(stages.STEPS, 10 * share)}
        peak = int((1 + 10 * share) * GIB)
        found[name] = Found(seconds, peak, peak - GIB, int(9 * share * GIB), int(share * GIB))
    return rehearse.Run(share, fraction.sizes_of(GRAPHS["500m"], share), SETTINGS, found, int(2 * share * GIB))


RUNS = [made_up(share) for share in (0.01, 0.1)]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != TRAINING])
def test_the_line_through_fractions_ends_at_the_whole_scale(stage):
    assert rehearse.whole(RUNS, lambda found: found.peak, stage) == pytest.approx(11 * GIB, rel=1e-6)
    assert rehearse.hours("500m", RUNS, stage) == pytest.approx(1, rel=1e-6)


def test_a_training_takes_its_steps_and_those_with_cold_songs_hidden():
    settings = TrainingSettings(batch_size=1_048_576, epochs=8)
    assert stages.settings_of("500m").step_size(60_000_000) == settings.step_size(60_000_000)
    # 58 steps an epoch of 60 M edges, ten seconds each; 8 epochs and 4. All else: an hour less two steps of two epochs.
    expected = (8 + 4) * 58 * 10 / 3_600 + 1 - 4 * 10 / 3_600
    assert rehearse.hours("500m", RUNS, TRAINING) == pytest.approx(expected, rel=1e-6)


def test_the_largest_fraction_is_the_one_that_the_memory_holds(monkeypatch):
    monkeypatch.setattr(rehearse, "run", lambda scale, share, settings, place: made_up(share))
    # Four fifths of 5 GiB hold 1 GiB and three tenths of 10 GiB.
    assert [run.fraction for run in rehearse.rehearse("500m", [0.01, 0.1], SETTINGS, 5 * GIB, None)] == pytest.approx(
        [0.01, 0.1, 0.3]
    )
    assert [run.fraction for run in rehearse.rehearse("500m", [0.01, 0.1], SETTINGS, 100 * GIB, None)][-1] == 1
    assert len(rehearse.rehearse("500m", [0.01, 0.1], SETTINGS, 0, None)) == 2


def test_memory_is_as_many_times_its_estimate_as_at_the_largest_fraction():
    assert rehearse.memory_of(RUNS, "graph/edges", None) == pytest.approx(11 * GIB, rel=1e-6)
    # Ten ninths of .9 GiB, beside the one that the process held.
    assert rehearse.memory_of(RUNS, "reranking/ranker", int(0.9 * GIB)) == pytest.approx(2 * GIB, rel=1e-6)
    assert rehearse.memory_of([made_up(1)], "reranking/ranker", GIB) == pytest.approx(11 * GIB, rel=1e-6)


def test_the_section_marks_each_figure_and_names_the_largest_process(monkeypatch):
    monkeypatch.setattr(rehearse, "estimates", lambda scale, settings: dict.fromkeys(STAGES, 9 * GIB))
    text = rehearse.section("500m", RUNS)
    assert "| graph/edges | 11.00 e |" in text
    assert "1.10 (0.90)" in text  # 9 of 10 parts of what a hundredth takes beyond its start
    assert "needs 11.00 GiB (extrapolated)" in text
    # Of each stage a GiB of files, and two of the tables that are given; an hour of each stage but of the training.
    told = next(row for row in text.splitlines() if row.startswith("| **all** |")).split("|")
    assert told[2].strip() == "**11.00**"
    assert told[4].strip() == f"**{len(STAGES) + 2:.2f}**"
    given = 480 * 0.292 / 3_600
    trained = rehearse.hours("500m", RUNS, TRAINING)
    assert float(told[5].strip(" *")) == pytest.approx(given + len(STAGES) - 1 + trained, abs=0.02)


def test_tuning_takes_as_long_at_any_size_and_other_work_grows():
    runs = [made_up(share) for share in (0.01, 0.1)]
    for run in runs:
        taken = run.stages["retrieval/ease"]
        run.stages["retrieval/ease"] = replace(taken, seconds={"all": taken.seconds["all"] + 360, "tuning": 360})
    assert rehearse.hours("500m", runs, "retrieval/ease") == pytest.approx(1.1, rel=1e-6)


def test_settings_of_the_training_are_given_by_name():
    assert stages.settings_of("5b", embedding_dim="16", spectral_start="false") == SETTINGS.model_copy(
        update={"embedding_dim": 16, "spectral_start": False, "batch_size": 2_097_152, "epochs": 4}
    )
    with pytest.raises(ValueError, match=r"embedding_dim: .*found 'few'"):
        stages.settings_of("5b", embedding_dim="few")


@pytest.mark.slow
def test_a_stage_runs_in_a_process_of_its_own(tmp_path):
    fraction.write(tmp_path, TINY)
    [(name, found)] = rehearse.measured(["graph/edges"], tmp_path, SETTINGS)
    assert name == "graph/edges"
    assert found.peak > 50 << 20
    assert (tmp_path / "edges.parquet").exists()
