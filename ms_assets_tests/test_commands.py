"""The command lines, as somebody types them: real processes, over a home of their own."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess

import dagster as dg
import mlflow
import polars as pl
import pytest

from ms_assets.__main__ import main
from ms_assets_tests.contract import CHECKPOINT, METHODS, OTHERS, PUBLISHED, TABLES
from ms_assets_tests.homes import artefacts, checkpoint, comparable
from ms_assets_tests.observed import announced, asked_for, left
from ms_assets_tests.workplace import EPOCHS, FEW, SHORTLY, K, Workplace

PICTURES = {"graph/statistics", CHECKPOINT, "reranking/ranker", "evaluation/leaderboard"}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="session")
def champion_shown(pipeline) -> CompletedProcess:
    return pipeline.run("python", "-m", "ms_assets", "champion", "sample")


@pytest.fixture(scope="session")
def first_run(pipeline) -> dg.DagsterRun:
    with pipeline.instance() as instance:
        [run] = instance.get_runs(dg.RunsFilter(job_name="pipeline", statuses=[dg.DagsterRunStatus.SUCCESS]))
    return run


@pytest.fixture(scope="session")
def materialisations(pipeline, first_run) -> dict[str, dg.AssetMaterialization]:
    """Those that the event log has of the pipeline's run, by asset key."""
    with pipeline.instance() as instance:
        entries = instance.all_logs(first_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = [entry.dagster_event.step_materialization_data.materialization for entry in entries]
    return {materialisation.asset_key.to_user_string(): materialisation for materialisation in found}


def test_the_pipeline_makes_every_artefact_of_the_contract_and_nothing_else(pipeline):
    expected = {f"{key}/sample.parquet" for key in TABLES}
    expected |= {f"{key}/sample{ending}" for key, endings in OTHERS.items() for ending in endings}
    assert set(artefacts(pipeline.home)) == expected


def test_a_run_writes_nothing_outside_its_home(pipeline):
    before = {"workspace.yaml", "dagster.yaml", "pyproject.toml", "ms_assets"}
    before |= {"Makefile", "constraints.txt", "quiet.pth", ".venv", "sitecustomize.py", "__pycache__", "user"}
    assert {path.name for path in pipeline.folder.iterdir()} - before == {"home"}


@pytest.mark.slow
def test_a_second_run_in_another_home_gives_the_same_bytes(pipeline, tmp_path):
    twin = Workplace(tmp_path, origin=pipeline.folder)
    run = twin.launch("--job", "pipeline", config=SHORTLY)
    assert run.returncode == 0, run.stdout
    assert comparable(twin.home) == comparable(pipeline.home)
    mine, yours = (checkpoint(artefacts(home)[f"{CHECKPOINT}/sample.pt"])[0] for home in (pipeline.home, twin.home))
    assert mine["mlflow_run_id"] != yours["mlflow_run_id"]


SINGLY = ("raw/artist_item_mapping", "graph/statistics")


@pytest.fixture(scope="session")
def materialised_singly(pipeline) -> list[CompletedProcess]:
    """Runs of one asset each, after which all artefacts have the bytes of before, and those of the assets are new."""
    before, state = artefacts(pipeline.home), pipeline.state()
    runs = [pipeline.materialise(key) for key in SINGLY]
    replaced = {path for path, entry in pipeline.state().items() if state[path] != entry}
    assert replaced >= {str(pipeline.home / "data" / key / "sample.parquet") for key in SINGLY}
    assert artefacts(pipeline.home) == before
    return runs


def test_single_assets_are_materialised_again_one_after_the_other_with_the_same_bytes(materialised_singly):
    for run in materialised_singly:
        assert run.returncode == 0, run.stdout


def test_no_command_sends_or_announces_anything_or_leaves_it_to_be_sent(pipeline, materialised_singly, champion_shown):
    """Neither does the run of the whole pipeline; `dg` finds no fault in the definitions."""
    check = pipeline.run("dg", "check", "defs")
    assert "All definitions loaded successfully" in check.stdout
    runs = [check, champion_shown, *materialised_singly]
    for run in runs:
        assert run.returncode == 0, run.stdout
    launched = pipeline.folder.with_name("pipeline.log").read_text()
    assert "training__lightgcn" in launched
    said = [launched, *(run.stdout for run in runs)]
    assert [announced(text) for text in said] == [[]] * len(said)
    assert (asked_for(pipeline), left(pipeline)) == ("", set())


def test_dg_launches_several_assets_with_a_selection(pipeline):
    state = pipeline.state()
    run = pipeline.launch("--assets", "splits/users,graph/edges", config=FEW)
    assert run.returncode == 0, run.stdout
    replaced = {path for path, entry in pipeline.state().items() if state[path] != entry}
    data = pipeline.home / "data"
    assert {path for path in replaced if path.endswith(".parquet")} == {
        str(data / "splits/users/sample.parquet"),
        str(data / "graph/edges/sample.parquet"),
    }


@pytest.mark.parametrize(
    ("what", "op", "setting", "named"),
    [
        (("--assets", "splits/users"), "splits__users", {"min_event": 1}, '"min_event"'),
        (("--job", "pipeline"), "training__lightgcn", {"device": "tpu"}, "training__lightgcn: .*device: .*'tpu'"),
    ],
    ids=["misspelt", "unknown device"],
)
def test_a_wrong_setting_is_refused_by_name_before_anything_is_replaced(pipeline, what, op, setting, named):
    state = pipeline.state()
    run = pipeline.launch(*what, config={op: setting})
    assert run.returncode != 0
    assert re.search(named, run.stdout), run.stdout
    assert pipeline.state() == state


@pytest.mark.parametrize("program", ["dg", "dagster", "python"])
def test_an_unknown_scale_is_refused_by_its_name(workplace, program):
    run = {
        "dg": lambda: workplace.launch("--assets", "raw/embeddings", scale="51m"),
        "dagster": lambda: workplace.materialise("raw/embeddings", scale="51m"),
        "python": lambda: workplace.run("python", "-m", "ms_assets", "51m"),
    }[program]()
    assert run.returncode != 0
    assert "51m" in run.stdout or "{sample,50m,500m,5b,own}" in run.stdout, run.stdout


def test_an_asset_whose_input_is_missing_says_what_to_materialise_first(workplace, tmp_path):
    run = workplace.materialise("graph/edges", home=tmp_path / "empty")
    assert run.returncode != 0
    assert "materialise splits/train for sample first" in run.stdout
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_leaderboard_on_the_command_line_shows_every_method_in_both_views(pipeline):
    run = pipeline.run("python", "-m", "ms_assets", "sample")
    assert run.returncode == 0, run.stdout
    _, *tables = run.stdout.split("\nsample, ")
    assert [table.splitlines()[0] for table in tables] == [f"view discovery, K = {K}", f"view all, K = {K}"]
    for table in tables:
        shown = [line.split("┆")[0].strip("│ ") for line in table.splitlines() if line.startswith("│")]
        assert sorted(shown) == sorted(["method", *METHODS])


def test_the_champions_songs_for_all_users_are_the_lists_of_the_second_stage(pipeline, tmp_path):
    run = pipeline.run("python", "-m", "ms_assets", "recommend", "sample", str(tmp_path / "lists.parquet"), "--k", "20")
    assert run.returncode == 0, run.stdout
    ranked = pl.read_parquet(pipeline.home / "data/reranking/ranked/sample.parquet")
    wanted = ranked.filter(pl.col("rank") <= 20, view="discovery").select(user="uid", rank="rank", song="item_id")
    found = pl.read_parquet(tmp_path / "lists.parquet")
    assert found.select("user", "rank", "song").equals(wanted) and len(wanted) > 0
    assert f"{len(wanted):,} rows, by version 1 of ms_assets-sample" in run.stdout


def test_the_first_training_is_the_champion_tied_to_its_run_with_what_it_reached_in_the_test_part(
    pipeline, materialisations, champion_shown
):
    assert materialisations["evaluation/champion"].metadata["reason"].value == "there was no champion"
    client = mlflow.MlflowClient(f"sqlite:///{pipeline.home}/mlflow/mlflow.db")
    version = client.get_model_version_by_alias("ms_assets-sample", "champion")
    assert version.run_id in materialisations[CHECKPOINT].metadata["mlflow_run"].value
    assert set(json.loads(version.tags["inputs"])) >= {"graph/bipartite_graph", "splits/train"}
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    found = {metric.key: metric.value for metric in logged.metrics}
    board = pl.read_parquet(pipeline.home / "data/evaluation/leaderboard/sample.parquet")
    [ndcg] = board.filter(method="lightgcn", view="discovery", k=K, metric="ndcg")["mean"]
    assert found[f"test discovery ndcg at {K}"] == pytest.approx(ndcg)
    assert re.search(r"│ 1 +┆ champion ┆ .* there was no champion", champion_shown.stdout), champion_shown.stdout


def test_a_scale_without_a_leaderboard_says_what_to_materialise(pipeline, monkeypatch):
    monkeypatch.setenv("MS_ASSETS_HOME", str(pipeline.home))
    with pytest.raises(SystemExit, match=r"^materialise evaluation/leaderboard for 50m first: "):
        main(["50m"])


def test_the_event_log_has_a_materialisation_of_every_asset_with_the_rows_of_its_table(pipeline, materialisations):
    assert set(materialisations) == TABLES | set(OTHERS)
    assert {materialisation.partition for materialisation in materialisations.values()} == {"sample"}
    for key in TABLES:
        n_rows = pl.scan_parquet(pipeline.home / "data" / key / "sample.parquet").select(pl.len()).collect().item()
        assert materialisations[key].metadata["dagster/row_count"].value == n_rows, key


def test_the_event_log_has_the_columns_of_every_table(pipeline, materialisations):
    without = {key for key in TABLES if "dagster/column_schema" not in materialisations[key].metadata}
    assert without == set()
    for key in TABLES:
        found = [column.name for column in materialisations[key].metadata["dagster/column_schema"].schema.columns]
        assert found == pl.read_parquet_schema(pipeline.home / "data" / key / "sample.parquet").names(), key


COPIED = {"user_id", "song_id", "uid", "item_id", "timestamp", "event_type", "is_organic", "artist_ids", "album_ids",
          "in_graph", "view", "method", "k"}  # fmt: skip
"""Columns whose values a table takes from those of the same name before it, where it is said to be made of any."""


def test_what_a_column_is_said_to_be_made_of_holds_its_values(pipeline, materialisations):
    def values(key, column):
        table = pl.read_parquet(pipeline.home / "data" / key / "sample.parquet", columns=[column])
        return {tuple(value) if isinstance(value, list) else value for value in table[column].unique().to_list()}

    looked_at = set()
    for key in TABLES - PUBLISHED:
        traced = materialisations[key].metadata["dagster/column_lineage"].lineage.deps_by_column
        for column in COPIED & set(traced):
            tables = [s.asset_key.to_user_string() for s in traced[column] if s.column_name == column]
            if tables:
                missing = values(key, column) - set.union(*(values(table, column) for table in tables))
                assert missing == set(), f"{key}.{column}: {len(missing)} values are in none of {tables}"
                looked_at.add((key, column))
    assert len(looked_at) > 60


def test_everything_after_the_training_names_its_mlflow_run_and_nothing_else_does(materialisations):
    trained = {CHECKPOINT, "training/user_embeddings", "training/song_embeddings", "retrieval/queries",
               "retrieval/cold_songs", "retrieval/song_index", "retrieval/lightgcn", "retrieval/lightgcn_replay",
               "reranking/served_model"}  # fmt: skip
    named = {key: found.metadata["mlflow_run"].value for key, found in materialisations.items()
             if "mlflow_run" in found.metadata}  # fmt: skip
    assert set(named) == trained | {key for key in materialisations if key.startswith(("reranking/", "evaluation/"))}
    assert len(set(named.values())) == 1


def test_pictures_are_kept_as_markdown_that_the_ui_renders(materialisations):
    pictured = {
        key
        for key, materialisation in materialisations.items()
        for value in materialisation.metadata.values()
        if isinstance(value, dg.MarkdownMetadataValue) and "](data:image/png;base64,iVBOR" in value.md_str
    }
    assert pictured == PICTURES


def test_every_check_of_the_pipeline_ran_and_none_that_blocks_failed(pipeline, first_run):
    with pipeline.instance() as instance:
        entries = instance.all_logs(first_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [entry.dagster_event.asset_check_evaluation_data for entry in entries]
    assert {check.asset_key.path[0] for check in checks} == {key.split("/")[0] for key in TABLES}
    assert [check for check in checks if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR] == []


def test_mlflow_has_one_run_of_the_training_tied_to_the_run_of_dagster(pipeline, first_run, materialisations):
    client = mlflow.MlflowClient(f"sqlite:///{pipeline.home}/mlflow/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name == "ms_assets"]
    [training] = client.search_runs([experiment.experiment_id])
    assert training.info.status == "FINISHED"
    page = f"http://127.0.0.1:3000/runs/{first_run.run_id}"
    assert f"({page})" in training.data.tags["mlflow.note.content"]
    assert {name: value for name, value in training.data.tags.items() if name.startswith("dagster.")} == {
        "dagster.run_id": first_run.run_id,
        "dagster.run_url": page,
        "dagster.asset_key": CHECKPOINT,
        "dagster.partition": "sample",
    }
    assert training.data.params["epochs"] == str(EPOCHS)
    assert training.data.params["device"] == materialisations[CHECKPOINT].metadata["device"].value
    for metric in ("loss", "validation_ndcg"):
        series = client.get_metric_history(training.info.run_id, metric)
        assert [point.step for point in series] == list(range(1, EPOCHS + 1)), metric
    pictures = [artifact.path for artifact in client.list_artifacts(training.info.run_id)]
    assert pictures == ["degrees.png", "edge_weights.png", "embedding_norms.png", "training_curves.png"]
    for name in pictures:
        picture = client.download_artifacts(training.info.run_id, name)
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert training.data.metrics["audio scale"] > 0
    assert training.info.run_id in materialisations[CHECKPOINT].metadata["mlflow_run"].value
