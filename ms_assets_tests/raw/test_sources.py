"""Where files come from: a folder, the hub, or, for the sample alone, the project's generator."""

import re

import pytest

from ms_assets.defs.platform.resources import Environment
from ms_assets.raw import hub
from ms_assets.raw.schema import TABLES, SourceError
from ms_assets.raw.source import Source
from ms_assets_tests.loopback_hub import COMMIT
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


@pytest.fixture
def pinned(source_at, tmp_path, monkeypatch):
    """A dataset on the hub and its pin; nothing is downloaded."""
    monkeypatch.setattr(hub, "download", lambda dataset, commit, file, verified: tmp_path / commit)
    pin = tmp_path / "source/revisions/somebody%2Fyambda@main"
    pin.parent.mkdir(parents=True)
    return source_at("somebody/yambda"), pin


@pytest.mark.parametrize("written", ["{}", "{}\n", "{}\r\n", "\n {}\t\n\n"])
def test_a_pin_that_a_person_has_written_may_have_space_around_the_commit(pinned, written):
    source, pin = pinned
    pin.write_bytes(written.format(COMMIT).encode())
    assert source.fetch(MULTI_EVENT, "50m").revision == COMMIT


@pytest.mark.parametrize("written", ["", "\n", "main\n", COMMIT[:12], f"{COMMIT}\n{COMMIT}"])
def test_a_pin_without_a_commit_is_refused_by_its_path(pinned, written):
    source, pin = pinned
    pin.write_text(written)
    with pytest.raises(
        SourceError, match=rf"{re.escape(str(pin))}: found '.*', expected 40 hexadecimal digits; remove"
    ):
        source.fetch(MULTI_EVENT, "50m")


def test_only_tables_about_songs_may_be_missing_from_a_folder(source_at, tmp_path):
    for name, table in TABLES.items():
        if name in ("embeddings", "artist_item_mapping", "album_item_mapping"):
            assert source_at(tmp_path).fetch(table, "50m").path == tmp_path / f"{name}.parquet"
        else:
            with pytest.raises(SourceError, match=rf"{name}\.parquet: no such file; expected {name}"):
                source_at(tmp_path).fetch(table, "50m")


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
