"""Benchmark data: a small folder made by the command line, repeated, and compared with what is published."""

import polars as pl
import pyarrow.parquet as pq
import pytest

from ms_assets.raw.arrival import verify
from ms_assets.raw.sample import SampleShape
from ms_assets.raw.schema import ALWAYS, TABLES
from ms_assets_tests.benchmarks import __main__ as command
from ms_assets_tests.benchmarks import data
from ms_assets_tests.benchmarks.shapes import SHAPES

TINY = SampleShape(n_users=150, n_songs=300, n_listens=6_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "5m", TINY)
        command.main(["generate", str(folder), "--events", "5m", "--times", "3"])
    return folder


@pytest.mark.parametrize("scale", ["50m", "500m"])
@pytest.mark.parametrize("name", ALWAYS)
def test_both_scales_have_what_a_source_needs(con, folder, name, scale):
    verify(con, folder / TABLES[name].file(scale), TABLES[name])


def test_repeating_shifts_the_users_and_keeps_all_else(folder):
    once = pl.read_parquet(data.events_file(folder, "50m"))
    often = pl.read_parquet(data.events_file(folder, "500m"))
    assert often.schema == once.schema
    assert often["uid"].n_unique() == 3 * once["uid"].n_unique()
    assert often["uid"].is_sorted()
    for copy in range(3):
        rows = often.slice(copy * len(once), len(once))
        assert rows.drop("uid").equals(once.drop("uid"))
        assert (rows["uid"].cast(int) - once["uid"].cast(int)).n_unique() == 1


def test_repeating_goes_from_row_group_to_row_group(folder):
    once, often = (pq.read_metadata(data.events_file(folder, scale)) for scale in ("50m", "500m"))
    assert once.num_row_groups == 2
    assert often.num_row_groups == 6


def test_the_comparison_has_a_number_for_every_published_one(folder):
    statistics = data.comparison(folder)
    assert statistics["n_users"] == (150, 10_000)
    assert statistics["listens"][0] == pytest.approx(6_000, rel=0.05)
    assert 0.3 < statistics["recommended_listens"][0] < 0.6
    assert all(found > 0 for found, _ in statistics.values())


def test_a_folder_that_is_there_already_is_kept(folder, capsys):
    before = data.events_file(folder, "50m").stat().st_mtime_ns
    command.main(["generate", str(folder)])
    assert data.events_file(folder, "50m").stat().st_mtime_ns == before
    assert "per_song_median" in capsys.readouterr().out


def test_the_big_shape_has_the_published_size():
    assert SHAPES["50m"].n_users == data.PUBLISHED["n_users"]
    assert SHAPES["50m"].n_listens == pytest.approx(data.PUBLISHED["listens"], rel=0.01)
