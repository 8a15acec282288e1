"""Steps side by side: what each needs, and which are started together on a machine."""

from types import SimpleNamespace

import dagster as dg
import pytest

from ms_assets import machine
from ms_assets.definitions import defs
from ms_assets.defs.platform import side_by_side
from ms_assets.defs.platform.needs import CHECKS, ESTIMATES, GIB, PROCESS, ROWS, SHAPES, SIZES, Needs, of_step
from ms_assets.defs.platform.scales import scale_settings
from ms_assets.defs.platform.side_by_side import Room
from ms_assets.settings import TrainingSettings
from ms_assets.training import memory as training_memory
from ms_assets_tests.homes import artefacts
from ms_assets_tests.workplace import Workplace

NEEDS = {
    "small": Needs(1, 2), "another": Needs(1, 2), "third": Needs(1, 2), "large": Needs(1, 7), "all cores": Needs(8, 1),
    "huge": Needs(1, 100), "trains": Needs(1, 1), "trains too": Needs(1, 1),
}  # fmt: skip
FREE, CORES = 8, 2


def test_the_table_names_every_asset_and_nothing_else():
    made = {asset.node_def.name for asset in defs.assets if isinstance(asset, dg.AssetsDefinition)}
    assert set(ROWS) - {CHECKS} == made


@pytest.mark.parametrize("step", ROWS)
def test_a_step_needs_no_less_memory_at_a_larger_size(step):
    needed = [of_step(step, size, 1 << 30, {}).memory for size in SIZES]
    assert needed == sorted(needed) and needed[0] >= GIB


@pytest.mark.parametrize("size", ["50m", "500m", "5b"])
@pytest.mark.parametrize(
    ("step", "estimate"),
    [("training__lightgcn", training_memory.estimate), ("embeddings", training_memory.estimate_embedding)],
)
def test_figures_of_trainings_are_those_of_their_refusal_beside_the_graph(step, estimate, size):
    sizes = training_memory.Sizes(**SHAPES[size]._asdict(), n_owners=SHAPES[size].n_songs // 4)
    settings = scale_settings(TrainingSettings, size, {})
    graph = sum(ESTIMATES["graph__bipartite_graph"](SHAPES[size]).values())
    needed = PROCESS + graph + sum(estimate(sizes, settings).values())
    assert needed < of_step(step, size, 0, {}).memory < 1.15 * needed


def test_a_step_that_is_given_the_graph_holds_it_beside_what_it_estimates():
    graph, own = (
        sum(ESTIMATES[step](SHAPES["5b"]).values()) for step in ("graph__bipartite_graph", "retrieval__content_based")
    )
    found = of_step("retrieval__content_based", "5b", 0, {}).memory
    assert PROCESS + graph + own <= found < PROCESS + graph + own + GIB


def test_what_makes_tables_needs_what_the_run_lets_tables_hold_and_a_process():
    assert of_step("graph__edges", "5b", 3 << 30, {}) == Needs(2, (3 << 30) + PROCESS)
    assert of_step("graph__edges_edges_are_distinct_and_weighted", "5b", 3 << 30, {}).memory == (3 << 30) + PROCESS


@pytest.mark.parametrize(
    ("config", "gpus"),
    [({}, 0), ({"device": None}, 0), ({"device": "auto", "ranks": 2}, 0), ({"device": "cuda"}, 1),
     ({"device": "cuda:1", "ranks": None}, 1), ({"device": "cuda", "ranks": 4}, 4)],
)  # fmt: skip
def test_a_step_takes_a_gpu_for_each_rank_where_its_run_names_cuda(config, gpus):
    assert of_step("training__lightgcn", "500m", 0, config).gpus == gpus


def step(key, pool=None):
    return SimpleNamespace(key=key, pool=pool)


@pytest.fixture
def room(monkeypatch):
    """Room on a machine of eight bytes and two cores, whose pool another run has until it is taken from `holders`."""
    monkeypatch.setattr(side_by_side, "free_memory", lambda: FREE)
    monkeypatch.setattr(side_by_side, "cores", lambda: CORES)
    said, left, holders = [], [], []

    def take(pool, stack):
        stack.callback(left.append, pool)
        return lambda: holders[-1] if holders else None

    room = Room(NEEDS.__getitem__, take, said.append)
    return SimpleNamespace(
        said=said, left=left, holders=holders, close=room.close,
        choose=lambda running, *waiting: [
            chosen.key for chosen in room.choose([step(key) for key in running], [step(key) for key in waiting])
        ],
        trains=lambda running, *keys: [
            chosen.key
            for chosen in room.choose([step(key, "gpu") for key in running], [step(key, "gpu") for key in keys])
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("running", "waiting", "chosen"),
    [
        ([], ["small", "another"], ["small", "another"]),
        ([], ["small", "another", "third"], ["small", "another"]),
        ([], ["small", "large", "another"], ["small", "another"]),
        ([], ["large", "small"], ["large"]),
        ([], ["all cores", "small"], ["all cores"]),
        ([], ["huge", "small"], ["huge"]),
        (["small"], ["huge", "all cores", "large"], []),
        (["small"], ["another"], ["another"]),
    ],
)
def test_steps_start_together_as_far_as_memory_and_cores_reach(room, running, waiting, chosen):
    room.choose([], *running)
    assert room.choose(running, *waiting) == chosen


def test_memory_is_looked_up_when_nothing_runs(room, monkeypatch):
    assert room.choose([], "small") == ["small"]
    monkeypatch.setattr(side_by_side, "free_memory", lambda: 3)
    assert room.choose(["small"], "another") == ["another"], "what runs has been counted already"
    assert room.choose([], "small", "another") == ["small"]


def test_of_two_steps_of_a_pool_one_runs_and_the_other_follows(room):
    assert room.trains([], "trains", "trains too") == ["trains"]
    assert room.trains(["trains"], "trains too") == []
    assert room.left == []
    assert room.trains([], "trains too") == ["trains too"]
    assert room.left == ["gpu"]
    room.close()
    assert room.left == ["gpu", "gpu"]


def test_while_another_run_has_the_pool_other_steps_start_and_it_is_said_once_for_whom(room):
    room.holders.append("one")
    assert [room.trains([], "trains") for _ in range(3)] == [[], [], []]
    assert room.choose([], "small") == ["small"]
    assert room.said == ["waiting for gpu: it is the turn of run one"]
    room.holders.clear()
    assert room.trains([], "trains") == ["trains"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, 16), ({"cpu.max": "max 100000\n"}, 16), ({"cpu.max": "250000 100000\n"}, 2),
     ({"cpu.max": "50000 100000\n"}, 1),
     ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
     ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4)],
)  # fmt: skip
def test_cores_are_those_of_the_container(tmp_path, monkeypatch, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert machine.cores() == expected


MEETING = """
import os
import time
from pathlib import Path
import dagster as dg
import torch
from ms_assets.defs.platform.executor import executor_by_scale
from ms_assets.defs.platform.io_managers import TorchIOManager
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.scales import SCALES

def recommender(name, other):
    @dg.asset(key=["retrieval", name], partitions_def=SCALES)
    def meeting():
        Path(name).touch()
        while not Path(other).exists():
            time.sleep(0.05)
        return {"weight": torch.zeros(3)}
    return meeting

home = Path("home").absolute()
resources = {"io_manager": TorchIOManager(base_dir=str(home / "data"))}
executor = executor_by_scale(home, FileLocks(home), lambda: 1 << 30)
assets = [recommender("random", "popular"), recommender("popular", "random")]
defs = dg.Definitions(assets, executor=executor, resources=resources)
"""


@pytest.mark.slow
@pytest.mark.skipif(machine.cores() < 2, reason="needs two cores")
def test_recommenders_that_wait_for_each_other_meet_because_they_run_at_the_same_time(tmp_path):
    place = Workplace(tmp_path)
    (tmp_path / "meeting.py").write_text(MEETING)
    run = place.run("dagster", "asset", "materialize", "-m", "meeting", "--select", "*", "--partition", "500m")
    assert run.returncode == 0, run.stdout
    assert set(artefacts(place.home)) == {"retrieval/random/500m.pt", "retrieval/popular/500m.pt"}
