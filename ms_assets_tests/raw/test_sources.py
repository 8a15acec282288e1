"""Where files come from: a folder, the hub, or, for the sample alone, the project's generator."""

import re

import pytest

from ms_assets.defs.platform.resources import Environment
from ms_assets.raw.schema import TABLES, SourceError
from ms_assets.raw.source import Source
from ms_assets_tests.worlds import World, listen

MULTI_EVENT = TABLES["multi_event"]


@pytest.fixture
def source_at(tmp_path):
    def source(location):
        return Source(str(location), "main", "flat", tmp_path / "source")

    return source


def test_a_folder_in_the_layout_of_the_hub_is_a_source(source_at, tmp_path):
    World([listen(1, 0, 10)], [10]).write(tmp_path / "yambda", "5b")
    file = source_at(tmp_path / "yambda").fetch(MULTI_EVENT, "5b")
    assert file.path == tmp_path / "yambda/flat/5b/multi_event.parquet"


def test_a_folder_without_the_file_is_refused_by_its_path(source_at, tmp_path):
    expected = f"{tmp_path}/flat/500m/multi_event.parquet: no such file"
    with pytest.raises(SourceError, match=re.escape(expected)):
        source_at(tmp_path).fetch(MULTI_EVENT, "500m")


@pytest.mark.parametrize("location", ["/no/such/folder", "./yambda", "~/nowhere/at/all", "yambda"])
def test_a_name_that_is_neither_folder_nor_dataset_is_refused_with_the_variable(source_at, location):
    with pytest.raises(SourceError, match=rf"MS_ASSETS_SOURCE: found '{re.escape(location)}'"):
        source_at(location).fetch(MULTI_EVENT, "50m")


def test_the_sample_is_generated_whatever_the_source(source_at, tmp_path):
    source = source_at("/no/such/folder")
    first, second = (source.fetch(MULTI_EVENT, "sample") for _ in range(2))
    assert first == second
    assert first.path.is_relative_to(tmp_path / "source")
    assert first.origin == "generated"


def test_real_scales_never_fall_back_to_generated_data(source_at, tmp_path):
    source = source_at(tmp_path)
    source.fetch(MULTI_EVENT, "sample")
    for scale in ("50m", "500m", "5b"):
        with pytest.raises(SourceError):
            source.fetch(MULTI_EVENT, scale)


def test_the_environment_has_defaults_for_everything(monkeypatch, tmp_path):
    names = ("MS_ASSETS_HOME", "MS_ASSETS_SOURCE", "MS_ASSETS_REVISION", "MS_ASSETS_LAYOUT", "MS_ASSETS_MEMORY")
    for name in (*names, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    environment = Environment.read()
    assert environment.data == tmp_path / "var/data"
    assert environment.source == "yandex/yambda"
    assert environment.tracking_uri == f"sqlite:///{tmp_path}/var/mlflow/mlflow.db"
    assert (environment.layout, environment.memory) == ("flat", "1GiB")


def test_the_environment_is_what_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MS_ASSETS_SOURCE", "/data/yambda")
    monkeypatch.setenv("MS_ASSETS_REVISION", "v1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MS_ASSETS_LAYOUT", "sequential")
    monkeypatch.setenv("MS_ASSETS_MEMORY", "8GiB")
    expected = (tmp_path / "elsewhere", "/data/yambda", "v1", "http://mlflow:5000", "sequential", "8GiB")
    assert Environment.read() == Environment(*expected)
