"""What is used of other packages without being promised by them: a test that fails says which of it has changed.

`pyproject.toml` bounds the versions of these packages. The hub client's cache is in raw/test_hub.py.
"""

import importlib.util
import json
import re

import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from ms_assets.defs.platform.resources import TUNING, DuckDB
from ms_assets.registry import MODEL
from ms_assets.reranking import pyfunc_model
from ms_assets_tests import planted
from ms_assets_tests.workplace import ROOT, Workplace

BOUNDED = ("dagster", "duckdb", "huggingface_hub", "mlflow")


@pytest.mark.parametrize("package", BOUNDED)
def test_a_package_of_which_more_is_used_than_it_promises_has_an_upper_bound(package):
    assert re.search(rf'"{package}>=[\d.]+,<[\d.]+"', (ROOT / "pyproject.toml").read_text())


def test_mlflow_imports_the_scoring_server_by_the_name_that_tells_it_from_other_programs():
    assert importlib.util.find_spec(pyfunc_model.SCORING_SERVER)


def test_mlflow_writes_the_stack_trace_of_an_error_by_the_name_that_is_left_out(monkeypatch):
    monkeypatch.setattr(MlflowException, "serialize_as_json", MlflowException.serialize_as_json)
    monkeypatch.setattr(scoring_server, "parse_csv_input", scoring_server.parse_csv_input)

    def written():
        return json.loads(MlflowException("wrong", stack_trace="line 1").serialize_as_json())

    before = written()
    pyfunc_model._prepare_server()
    assert before == {**written(), "stack_trace": "line 1"}
    assert "stack_trace" not in written()


def test_mlflow_keeps_the_source_that_a_version_was_given_and_loads_a_model_by_the_id_in_it(store):
    registry = planted.new_registry(store)
    version = planted.register(registry, planted.model(0))
    [stored] = registry._client.search_model_versions(f"name = '{registry.name}'")
    assert stored.source == f"{MODEL}{version.model_id}"
    assert registry._client.get_logged_model(version.model_id).name == registry.name


def test_duckdb_knows_every_setting_that_it_is_given_and_takes_it(tmp_path):
    rows = DuckDB(temp_directory=str(tmp_path)).connection.sql("SELECT name, value FROM duckdb_settings()").fetchall()
    settings = dict(rows)
    assert {name: settings.get(name) for name in TUNING} == {name: str(value).lower() for name, value in TUNING.items()}


def test_a_duckdb_without_a_tuning_setting_does_without_it(tmp_path, monkeypatch):
    monkeypatch.setitem(TUNING, "a_setting_of_the_past", 1)
    assert DuckDB(temp_directory=str(tmp_path)).connection.sql("SELECT 1").fetchall() == [(1,)]


def test_dagsters_history_lies_in_the_home_as_it_did_in_that_of_0_1(tmp_path):
    workplace = Workplace(tmp_path)
    with workplace.instance() as instance:
        assert instance.get_runs() == []
        assert instance.get_asset_keys() == []
    found = {str(path.relative_to(workplace.home / "dagster")) for path in workplace.home.rglob("*.db")}
    assert found == {"runs/runs.db", "events/index.db", "schedules/schedules.db"}
