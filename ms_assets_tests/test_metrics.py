"""`python -m ms_assets metrics`: the text that Prometheus reads, held against the records of the artefacts."""

import re
from datetime import datetime

import dagster as dg
import polars as pl
import pytest

from ms_assets.__main__ import main
from ms_assets.defs.platform.lineage import Lineage, Made

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})\{{((?:{NAME}="(?:[^"\\\n]|\\[\\"n])*",?)*)\}} (\S+)')
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\[\\"n])*)"')
TWO_ROWS = pl.DataFrame({"song_id": [1, 2], "score": [0.5, 1.5]}, {"song_id": pl.Int32, "score": pl.Float64})


def parsed(text):
    """Values by metric, asset and scale, read as the format is specified: each family once, told before its samples."""
    assert text.endswith("\n")
    found, helped, family = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in helped
            helped.add(family)
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {family} gauge"
        else:
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name == family
            labels = dict(LABEL.findall(labels))
            assert labels.keys() == {"asset", "scale"}
            key = name.removeprefix("ms_assets_artefact_"), labels["asset"], labels["scale"]
            assert key not in found
            found[key] = float(value)
    return found


@pytest.fixture
def metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MS_ASSETS_HOME", str(tmp_path))

    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["metrics", *arguments])
        assert not end.value.code
        return capsys.readouterr().out

    return command


def test_metrics_of_a_home_without_artefacts_are_empty_families(metrics):
    assert parsed(metrics()) == {}


def test_metrics_say_what_the_record_of_an_artefact_says(shelf, metrics):
    shelf.put(TWO_ROWS)
    shelf.put({"a.txt": b"abc", "b.txt": b"de"}, "folder", "sample")
    records, key = Lineage(shelf.folder / "data"), dg.AssetKey(["room", "value"])
    records.note_check(key, "50m", "rows_are_unique", "two rows are equal")
    found = parsed(metrics())
    for scale, rows, size, failed in (("50m", 2.0, None, 1.0), ("sample", None, 5.0, 0.0)):
        [made] = records.history(key, scale)
        at = datetime.strptime(made.at, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()
        told = {name: value for (name, asset, where), value in found.items() if (asset, where) == ("room/value", scale)}
        seconds = told.pop("step_seconds")
        assert seconds == made.metadata["step_seconds"] and 0 < seconds < 600
        expected = {"made_timestamp_seconds": at, "rows": rows, "failed_checks": failed, "damaged": 0.0}
        expected["bytes"] = (shelf.folder / "data/room/value/50m.parquet").stat().st_size if size is None else size
        assert told == {name: value for name, value in expected.items() if value is not None}


def test_an_artefact_that_somebody_changed_counts_as_damaged_and_hides_no_other(tmp_path, metrics):
    for name in ("good", "bad"):
        file = tmp_path / "data/room" / name / "50m.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"rows")
        made = Made.of(file, {}, "50m", {}, name=file.name, version="v", run_id="run")
        Lineage(tmp_path / "data").note(dg.AssetKey(["room", name]), "50m", made)
    (tmp_path / "data/room/bad/50m.parquet").write_bytes(b"other rows")
    metrics(str(file := tmp_path / "ms_assets.prom"))
    found = parsed(file.read_text())
    assert {name: value for (metric, name, _), value in found.items() if metric == "damaged"} == {
        "room/bad": 1.0, "room/good": 0.0,
    }  # fmt: skip
    assert [name for metric, name, _ in found if metric == "bytes"] == ["room/good"]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["ms_assets.prom"]
