"""What a training is said to take, and what happens where it does not fit."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from ms_assets import machine
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.settings import TrainingSettings
from ms_assets.training import devices, memory, negatives
from ms_assets.training.data import GraphTensors
from ms_assets.training.memory import Sizes
from ms_assets.training.network import Network
from ms_assets.training.steps import Steps
from ms_assets_tests.benchmarks.epoch import data_like_yambda
from ms_assets_tests.training.graphs import graph_of

YAMBDA_50M = Sizes(n_users=6_000, n_graph_songs=600_000, n_songs=900_000, n_edges=6_000_000, n_owners=200_000)
GIB = 2**30


def total(settings, sizes=YAMBDA_50M):
    return sum(memory.estimate(sizes, settings).values())


def test_the_sizes_are_those_of_the_graph():
    edges = [(0, 0, "listen", 2, 0.5), (1, 1, "like", 1, 0), (1, 2, "like", 1, 0)]
    graph = graph_of(edges, 2, 3, n_cold=1, artists=[[0], [1], [2], []], albums=[[0], [0], [0], [0]])
    # Three artists and one album.
    assert Sizes.of(GraphTensors.of(graph)) == Sizes(2, 3, 4, 3, 3 + 1)


def test_parameters_their_gradients_moments_and_best_copy_are_counted():
    settings = TrainingSettings(embedding_dim=64, audio=True)
    sizes = Sizes(10, 20, 30, 40, 5)
    # 10 users, 20 songs of the graph, 5 owners and the 192 × 64 projection; five copies of each.
    assert memory.estimate_alone(sizes, settings)["parameters"] == 5 * 4 * 64 * (10 + 20 + 5 + 192)


def test_ranks_divide_what_a_card_holds_and_meet_in_main_memory():
    sizes = Sizes(10, 20, 20, 40, 5)
    of_one, of_two = (TrainingSettings(embedding_dim=64, ranks=ranks) for ranks in (1, 2))
    # Half of the columns of 10 users, 20 songs and the projection; all of the 5 owners'; five copies of each.
    parameters = 5 * 4 * (32 * (10 + 20 + 192) + 64 * 5)
    assert memory.estimate_alone(sizes, of_two)["parameters"] == parameters
    assert memory.estimate(sizes, of_two)["parameters"] == 2 * parameters
    # The first rank saves the columns of all: parameters, two moments, the best state.
    assert memory.estimate(sizes, of_two)["columns of all ranks"] == 4 * 4 * 64 * (10 + 20 + 192 + 5)
    a_card, of_four = (
        sum(memory.estimate_on("cuda:0", YAMBDA_50M, TrainingSettings(ranks=ranks)).values()) for ranks in (1, 4)
    )
    assert a_card / 4 < of_four < a_card
    assert total(of_one, YAMBDA_50M) < total(of_two, YAMBDA_50M)


def test_blocks_that_the_c_library_keeps_count_where_vectors_are_small():
    settings = TrainingSettings(embedding_dim=64)
    beyond = 32 * 2**20 // (4 * 64)  # nodes of which one matrix of vectors has 32 MiB
    small, large = (Sizes(1_000, n - 1_000, n - 1_000, 100_000, 5) for n in (beyond, beyond + 1))
    parts = memory.estimate(small, settings)
    kept = parts.pop("freed blocks and scores of validation")
    # A quarter of all but what the libraries take, and scores of 2^25 songs at a time.
    assert kept == round((sum(parts.values()) - memory.BESIDE) / 4) + 4 * 2**25
    assert "freed blocks and scores of validation" not in memory.estimate(large, settings)
    # Of 10 users no more than 20 songs each are scored.
    assert memory._kept(Sizes(10, 20, 20, 40, 5), settings, 0) == {"freed blocks and scores of validation": 4 * 10 * 20}


@pytest.mark.parametrize(
    "cheaper",
    [
        {"embedding_dim": 64},
        {"edge_weights": "heuristic"},
        {"optimizer": "sgd"},
        {"batch_size": 8_192},
        {"accumulation": 64},
        {"metadata": False},
        {"neutral_negatives": 4},
    ],
    ids=str,
)
def test_what_takes_less_is_estimated_to_take_less(cheaper):
    # In one piece, for a step in many takes most of its memory when they have gone.
    settings = {"embedding_dim": 128, "accumulation": 1}
    assert total(TrainingSettings(**{**settings, **cheaper})) < total(TrainingSettings(**settings))


def test_where_there_is_room_settings_stay_as_they_are(caplog):
    settings = TrainingSettings()
    with caplog.at_level(logging.INFO, logger="ms_assets.training"):
        assert memory.fitted(YAMBDA_50M, settings, 100 * GIB, "cpu") == settings
    assert "of 100.00 GiB (" in caplog.text


def test_where_memory_is_short_a_step_is_cut_into_more_pieces():
    settings = TrainingSettings(batch_size=262_144, neutral_negatives=512, accumulation=1)
    smallest = total(settings.model_copy(update={"accumulation": 256}))
    available = (smallest + total(settings)) // 2
    found = memory.fitted(YAMBDA_50M, settings, available, "cpu")
    assert 1 < found.accumulation <= 256
    assert total(found) <= available < total(settings)
    assert found.model_copy(update={"accumulation": 1}) == settings


def test_what_does_not_fit_is_refused_with_the_parts_and_a_way_out():
    with pytest.raises(ValueError, match="songs on cuda:0 needs about") as refusal:
        memory.fitted(YAMBDA_50M, TrainingSettings(), 2 * GIB, "cuda:0")
    for word in (
        "6,000,000 edges of 6,000 users and 600,000 songs",
        "propagation",
        "song encoder",
        "2.00 GiB are free",
        "lower embedding_dim",
    ):
        assert word in str(refusal.value)


def test_pieces_of_a_step_are_larger_on_a_card_unless_the_settings_say_otherwise():
    settings = TrainingSettings(batch_size=1_000_000)
    assert memory.fitted(YAMBDA_50M, settings, 100 * GIB, "cpu").n_pieces(6_000_000) == 123
    assert memory.fitted(YAMBDA_50M, settings, 100 * GIB, "cuda:0").n_pieces(6_000_000) == 4
    chosen = settings.model_copy(update={"accumulation": 7})
    assert memory.fitted(YAMBDA_50M, chosen, 100 * GIB, "cuda:0") == chosen
    needed = sum(memory.estimate_on("cuda:0", YAMBDA_50M, chosen.model_copy(update={"accumulation": 4})).values())
    assert memory.fitted(YAMBDA_50M, settings, needed, "cuda:0").accumulation == 4
    assert memory.fitted(YAMBDA_50M, settings, needed - 1, "cuda:0").accumulation > 4


@pytest.mark.parametrize("changed", [{}, {"edge_weights": "heuristic", "embedding_dim": 128}], ids=str)
def test_a_step_holds_the_tensors_that_are_estimated_for_a_card(changed, monkeypatch):
    """Those of the CPU, where a product has no room of its own, and negatives are looked up some at a time."""
    monkeypatch.setattr(negatives, "FLAGS_AT_ONCE", negatives.FLAGS_ON_CARD)
    data = data_like_yambda(400, 40_000, 400_000)
    sizes = Sizes.of(data.graph)
    asked = TrainingSettings(**{"embedding_dim": 64, "edge_weight_interval": 2, "spectral_start": False, **changed})
    settings = memory.fitted(sizes, asked, 100 * GIB, "cuda:0")
    steps, tracker = Steps(Network(data.graph, settings), data, settings), MemTracker()
    of_sampler = steps.sampler.heard.keys, steps.sampler.heard.bits
    tracker.track_external(steps.network, steps.weight, steps.features.audio, *of_sampler)
    with tracker:
        for _ in zip(range(settings.edge_weight_interval + 1), steps.epoch(), strict=False):
            tracker.reset_mod_stats()
    taken = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert sum(memory.estimate_on("cuda:0", sizes, settings).values()) == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize(("system", "unit"), [("Linux", 1024), ("Darwin", 1)])
def test_peak_memory_is_counted_in_the_units_of_the_system(monkeypatch, system, unit):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=5_000))
    assert machine.peak_memory() == 5_000 * unit


def test_free_memory_of_the_machine_is_within_what_it_has():
    assert 0 < devices.free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\nactive_file 0\ninactive_file 0\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert devices.free_bytes(torch.device("cpu")) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.free_bytes(torch.device("cpu")) > 2_000_000


@pytest.mark.parametrize("version", [1, 2])
def test_the_cache_of_files_in_a_container_is_free(version, tmp_path, monkeypatch):
    names, prefix, folder = ("max", "current"), "", tmp_path
    if version == 1:
        names, prefix, folder = ("limit_in_bytes", "usage_in_bytes"), "total_", tmp_path / "memory"
        folder.mkdir()
    for name, n in zip(names, (3_000_000, 2_500_000), strict=True):
        (folder / f"memory.{name}").write_text(f"{n}\n")
    (folder / "memory.stat").write_text(f"{prefix}active_file 300000\n{prefix}inactive_file 1200000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert devices.free_bytes(torch.device("cpu")) == 3_000_000 - 2_500_000 + 1_500_000


def test_what_torch_holds_of_a_gpu_is_free(monkeypatch):
    held = {"memory_reserved": 700, "memory_allocated": 500, "mem_get_info": (1_000, 9_000)}
    for name, answer in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert devices.free_bytes(torch.device("cuda:1")) == 1_000 + 700 - 500


MEASURED = """
import sys, resource
import numpy as np, psutil, torch
from ms_assets.settings import TrainingSettings
from ms_assets.training import memory, trainer
from ms_assets_tests.training.graphs import data_of, random_graph
from ms_assets.graph.bipartite import INTERACTS

def trained(graph, settings):
    users = np.arange(graph["user"].num_nodes)
    data = data_of(graph, wanted=(users, users % graph["song"].num_nodes))
    trainer.fit(data, settings, torch.device("cpu"))
    return data

settings = TrainingSettings(embedding_dim=128, batch_size=200_000, epochs=1, spectral_start=False)
trained(random_graph(0), settings)
n_users, n_songs, n_edges = 2_000, 60_000, 200_000
graph, rng = random_graph(0, 12, 15), np.random.default_rng(0)
graph["user"].num_nodes, songs = n_users, graph["song"]
songs.x, songs.has_audio = torch.randn(n_songs, 128), torch.ones(n_songs, dtype=torch.bool)
songs.item_id, songs.in_graph = torch.arange(n_songs), torch.ones(n_songs, dtype=torch.bool)
if "has_audio" in songs:
    songs.has_audio = torch.ones(n_songs, dtype=torch.bool)
for owner in ("artist", "album"):
    songs[f"{owner}_ids"], songs[f"{owner}_offsets"] = torch.arange(n_songs) % 20_000, torch.arange(n_songs + 1)
graph[INTERACTS].edge_index = torch.stack([torch.randint(n_users, (n_edges,)), torch.randint(n_songs, (n_edges,))])
graph[INTERACTS].edge_attr = torch.rand(n_edges, 4)
graph[INTERACTS].edge_attr[:, 0] = 1  # listens
before = psutil.Process().memory_info().rss
data = trained(graph, settings)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(sum(memory.estimate(memory.Sizes.of(data.graph), settings).values()) / (peak - before))
"""


def test_the_estimate_is_near_what_a_training_takes():
    ran = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    # What the process itself holds depends on the allocator and on the load: 1.06 to 1.11 on one machine.
    assert 0.6 < float(ran.stdout) < 2


def test_embeddings_that_do_not_fit_are_refused_with_what_is_held(monkeypatch):
    settings = TrainingSettings(embedding_dim=128)
    monkeypatch.setattr(memory, "free_memory", lambda: 4 * GIB)
    memory.refuse_without_room_to_embed(YAMBDA_50M, settings, refitted=False)
    monkeypatch.setattr(memory, "free_memory", lambda: GIB)
    with pytest.raises(
        NotEnoughMemoryError, match="embedding 6,000 users and 900,000 songs by 6,000,000 edges"
    ) as told:
        memory.refuse_without_room_to_embed(YAMBDA_50M, settings, refitted=True)
    # Five times the vectors of all nodes and 28 bytes an edge; of a refit the vectors once more, and 48 bytes an edge.
    assert f"propagation {(5 * 512 * 906_000 + 28 * 6_000_000) / GIB:.2f} GiB" in str(told.value)
    assert f"former embeddings and graph {(512 * 906_000 + 48 * 6_000_000) / 2**20:.0f} MiB" in str(told.value)


EMBEDDED = """
import dataclasses
from pathlib import Path
import torch
from ms_assets.settings import TrainingSettings
from ms_assets.training import memory
from ms_assets.training.network import Network
from ms_assets_tests.benchmarks.epoch import data_like_yambda
from ms_assets_tests.benchmarks.measure import resident

settings = TrainingSettings(embedding_dim=64)

def embedded(n_songs, n_edges):
    graph = data_like_yambda(1_000, n_songs, n_edges).graph
    graph = dataclasses.replace(graph, n_graph_songs=n_songs - n_songs // 4)
    kept = graph.song < graph.n_graph_songs
    graph = dataclasses.replace(
        graph, user=graph.user[kept], song=graph.song[kept], attributes=graph.attributes[kept]
    )
    state = Network(graph, settings).state_dict()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    network = Network(graph, settings)
    network.load_state_dict(state)
    network.embed(graph.features)
    held = sum(tensor.nbytes for tensor in state.values())
    return sum(memory.estimate_embedding(memory.Sizes.of(graph), settings).values()), held + resident("VmHWM") - before

embedded(100, 1_000)
estimated, taken = embedded(80_000, 1_000_000)
print(estimated / taken)
"""


def test_the_estimate_is_near_what_embeddings_take():
    ran = subprocess.run([sys.executable, "-c", EMBEDDED], capture_output=True, text=True, check=True)
    # As of a training: 1.26 on one machine.
    assert 0.6 < float(ran.stdout) < 2
