"""MLflow's store in a home of any name, and in one that was copied or renamed: it reads and writes its own files."""

import logging
import shutil
import sqlite3
import subprocess

import mlflow
import pandas as pd
import pytest

from ms_assets import tracking
from ms_assets.__main__ import main
from ms_assets.defs.platform.resources import MLflow
from ms_assets_tests import planted
from ms_assets_tests.planted import model

NAMES = ["a b", "Müller's", "50 € + [x] & co; #1", "データ"]


def store_of(home):
    folder = home / "mlflow"
    return MLflow(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=(folder / "artifacts").as_uri())


def addresses(home):
    """Every address of files in the store's database."""
    with sqlite3.connect(home / "mlflow/mlflow.db") as store:
        return {
            value
            for table, columns in tracking.ADDRESSES.items()
            for column in columns
            for (value,) in store.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE 'file:%'")
        }


def files(home):
    return {path.relative_to(home) for path in (home / "mlflow/artifacts").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A home with a training and a champion."""
    home = tmp_path_factory.mktemp("filled") / NAMES[0]
    registry = store_of(home).registry("50m")
    with mlflow.start_run():
        mlflow.log_text("curve", "curve.txt")
    registry.promote(planted.register(registry, model(0.5)), {})
    return home


@pytest.fixture
def original(filled, tmp_path):
    """The home as if it had been made where it lies now, and used since."""
    home = tmp_path / "original"
    shutil.copytree(filled, home)
    store_of(home).registry("50m")
    return home


def answers(registry):
    loaded = mlflow.pyfunc.load_model(f"models:/{registry.name}@champion")
    return loaded.predict(pd.DataFrame({"uid": [int(planted.UID[0])], "k": [3], "exclude_heard": [True]}))


@pytest.mark.parametrize("name", NAMES)
def test_a_champion_is_registered_promoted_and_loaded_in_a_home_of_any_name(tmp_path, original, name):
    home = original.rename(tmp_path / name)
    registry = store_of(home).registry("50m")
    first, second = registry.version(1), planted.register(registry, model(0.6))
    for version in (first, second):
        assert registry.intact(version)
        with registry.files(version) as folder:
            assert folder.is_relative_to(home)
    registry.promote(second, {})
    assert len(answers(registry)) == 1


def test_a_copy_reads_and_writes_its_own_files_and_the_original_stays_as_it_is(tmp_path, original, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    before = addresses(original), files(original)
    with caplog.at_level(logging.WARNING):
        registry = store_of(copy).registry("50m")
    assert f"{copy}/mlflow/mlflow.db was copied or moved: its files are looked for in {copy}" in caplog.text
    assert addresses(copy) == {found.replace(original.as_uri(), copy.as_uri()) for found in before[0]}
    with mlflow.start_run():
        mlflow.log_text("curve", "curve.txt")
    version = planted.register(registry, model(0.6))
    with registry.files(version) as folder:
        assert folder.is_relative_to(copy)
    assert (addresses(original), files(original)) == before
    shutil.rmtree(original)
    assert registry.intact(registry.champion()) and len(answers(registry)) == 1


def test_mlflows_own_pages_show_the_files_of_a_copy(tmp_path, original, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    monkeypatch.setenv("MS_ASSETS_HOME", str(copy))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    served = []
    monkeypatch.setattr(subprocess, "call", lambda command: served.append(addresses(copy)))
    with pytest.raises(SystemExit):
        main(["mlflow"])
    assert served == [{found.replace(original.as_uri(), copy.as_uri()) for found in addresses(original)}]


def test_the_next_opening_changes_nothing_and_says_nothing(original, caplog):
    before = (original / "mlflow/mlflow.db").read_bytes()
    store_of(original).registry("50m")
    assert (original / "mlflow/mlflow.db").read_bytes() == before
    assert not caplog.records


@pytest.mark.parametrize("kept", ["s3://bucket/mlflow/artifacts", "file:///disk/of/artifacts"])
def test_files_that_somebody_keeps_elsewhere_stay_there(original, kept):
    with sqlite3.connect(original / "mlflow/mlflow.db") as store:
        store.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'ms_assets'", [kept])
    before = addresses(original)
    store_of(original).registry("50m")
    assert addresses(original) == before


def test_a_store_that_two_homes_share_keeps_the_files_of_the_first(tmp_path, original):
    uri = f"sqlite:///{original}/mlflow/mlflow.db"
    other = MLflow(tracking_uri=uri, artifact_location=(tmp_path / "other/mlflow/artifacts").as_uri())
    before = addresses(original)
    assert other.registry("50m").intact(other.registry("50m").champion())
    assert addresses(original) == before


def test_addresses_beside_the_former_folder_are_left_alone(tmp_path, original):
    beside = f"{original.as_uri()}/mlflow/artifacts-of-others/1"
    with sqlite3.connect(original / "mlflow/mlflow.db") as store:
        store.execute("UPDATE runs SET artifact_uri = ?", [beside])
    home = original.rename(tmp_path / "renamed")
    store_of(home).registry("50m")
    assert beside in addresses(home)


def test_a_home_reached_through_a_link_is_the_same_home(tmp_path, original):
    (tmp_path / "link").symlink_to(original)
    before = addresses(original)
    registry = store_of(tmp_path / "link").registry("50m")
    assert addresses(original) == before and registry.intact(registry.champion())
