"""Two trainings never share a card, and one that is killed keeps it from nobody."""

import pytest

from ms_assets_tests.workplace import Workplace, kill, until

TRAININGS = """
import time
from pathlib import Path
import dagster as dg
from ms_assets.defs.platform.executor import executor_by_scale
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.scales import SCALES

@dg.asset(partitions_def=SCALES, pool="gpu", io_manager_key="nothing")
def training(context):
    log, hangs = Path("log"), Path("hangs").exists()
    with log.open("a") as file:
        file.write(f"{context.partition_key} begins\\n")
    time.sleep(1)
    while hangs:
        time.sleep(0.1)
    with log.open("a") as file:
        file.write(f"{context.partition_key} ends\\n")

class Nothing(dg.IOManager):
    def handle_output(self, context, obj): pass
    def load_input(self, context): pass

executor = executor_by_scale(Path("home"), FileLocks(Path("home")), lambda: 1 << 30)
defs = dg.Definitions([training], executor=executor, resources={"nothing": Nothing()})
"""


@pytest.fixture
def place(tmp_path):
    place = Workplace(tmp_path)
    (tmp_path / "trainings.py").write_text(TRAININGS)
    return place


def start(place, scale):
    target = ["-m", "trainings", "--select", "training", "--partition", scale]
    return place.start("dagster", "asset", "materialize", *target)


def log(place):
    file = place.folder / "log"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def test_a_second_training_waits_for_the_first_and_goes_on_when_that_is_killed(place):
    (place.folder / "hangs").touch()
    first = start(place, "sample")
    try:
        until(lambda: log(place), first)
        (place.folder / "hangs").unlink()
        others = {scale: start(place, scale) for scale in ("500m", "sample")}
        for scale, what in (("500m", "gpu"), ("sample", "sample")):
            assert any(f"waiting for {what}: it is the turn of run" in line for line in others[scale].stdout)
        assert log(place) == ["sample begins"]
    finally:
        kill(first)
    for other in others.values():
        assert other.communicate() and other.returncode == 0
    begun, *rest = log(place)
    assert begun == "sample begins"
    assert sorted([rest[:2], rest[2:]]) == [["500m begins", "500m ends"], ["sample begins", "sample ends"]]
    with place.instance() as instance:
        assert sorted(run.status.value for run in instance.get_runs()) == ["FAILURE", "SUCCESS", "SUCCESS"]
