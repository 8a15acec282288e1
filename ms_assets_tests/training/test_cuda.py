"""A training on a card: the CPU's numbers apart from rounding, resumed on either side, and within its estimate."""

import pytest
import torch

from ms_assets.defs.platform.io_managers import CheckpointOnDisk
from ms_assets.training import inputs, memory, race, trainer
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.network import Network
from ms_assets.training.propagation import Adjacency
from ms_assets.training.steps import Steps
from ms_assets_tests.benchmarks.epoch import data_like_yambda
from ms_assets_tests.training.graphs import data_of
from ms_assets_tests.training.tastes import CPU, EXPLICIT, GRAPH, WANTED, gradients, kill, one_thread, settings_of

pytestmark = [
    one_thread, pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]  # fmt: skip
CARD = torch.device("cuda")
DATA = data_of(GRAPH, EXPLICIT, WANTED)
GENTLE = {"optimizer": "sgd", "epochs": 2, "learning_rate": 0.1, "edge_weight_interval": 3, "temperature": 0.1}
"""Settings with which rounding does not grow: few steps, by the gradient alone."""


def are_close(found, wanted):
    assert all(tensor.device == CPU for tensor in found.state.values())
    assert found.race == pytest.approx(wanted.race, abs=0.02)
    for ours, theirs in zip(found.embeddings(DATA.graph), wanted.embeddings(DATA.graph), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(40_000, 9), (9, 40_000), (50, 70)], ids=str)
def test_a_product_and_its_gradients_are_those_of_the_cpu_however_long_a_row_is(shape):
    n_users, n_songs = shape
    n, draw = max(shape), torch.Generator().manual_seed(0)
    user, song = (torch.cat([torch.arange(n) % size, torch.zeros(n, dtype=torch.long)]) for size in shape)
    adjacency = Adjacency(user, song, n_users, n_songs)
    entries = torch.rand(4 * n, generator=draw, dtype=torch.double)
    x, gradient = torch.randn(2, n_users + n_songs, 32, generator=draw, dtype=torch.double)
    wanted = adjacency(entries, x), adjacency.gradient_of_entries(entries, x, gradient)
    entries, x, gradient = (tensor.float().to(CARD) for tensor in (entries, x, gradient))
    there = adjacency.to(CARD)
    found = there(entries, x), there.gradient_of_entries(entries, x, gradient)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [{}, {"objective": "bpr"}, {"edge_weights": "uniform"}, {"song_residual": True}, {"accumulation": 3}],
    ids=str,
)
def test_gradients_are_those_of_the_cpu(changed):
    (loss, wanted), (there, found) = (gradients(device, **changed) for device in (CPU, CARD))
    assert there == pytest.approx(loss, rel=1e-4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"accumulation": 3},
        {"objective": "bpr", "spectral_start": False},
        {"edge_weights": "heuristic"},
        {"audio": False, "metadata": False, "song_residual": True},
    ],
    ids=str,
)
def test_a_training_gives_the_numbers_of_the_cpu(changed):
    settings = settings_of(**GENTLE | changed)
    found, wanted = (trainer.fit(DATA, settings, device) for device in (CARD, CPU))
    assert [epoch.loss for epoch in found.history] == pytest.approx([epoch.loss for epoch in wanted.history], rel=1e-3)
    are_close(found, wanted)


def test_the_race_the_length_of_cold_songs_and_a_refit_give_the_numbers_of_the_cpu():
    settings = settings_of(**GENTLE)
    found, wanted = (race.train(DATA, settings, device) for device in (CARD, CPU))
    are_close(found, wanted)
    are_close(trainer.refit(DATA, wanted, CARD), trainer.refit(DATA, wanted, CPU))


@pytest.mark.parametrize("killed_on", ["cuda", "cpu"])
@pytest.mark.parametrize("resumed_on", ["cuda", "cpu"])
def test_a_training_that_was_killed_goes_on_on_either_device(killed_on, resumed_on, tmp_path):
    settings, file = settings_of(**GENTLE, checkpoint_seconds=0), CheckpointOnDisk(tmp_path / "model.checkpoint")
    kill(file, DATA, settings, torch.device(killed_on), after=4)
    checkpoint = Checkpoint.open(file, DATA, settings)
    found = trainer.fit(DATA, settings, torch.device(resumed_on), checkpoint=checkpoint)
    are_close(found, trainer.fit(DATA, settings, CPU))


@pytest.mark.parametrize("n_edges", [1_000_000, 10_000_000])
@pytest.mark.parametrize("changed", [{}, {"edge_weights": "heuristic", "embedding_dim": 128}], ids=str)
def test_a_card_holds_what_was_estimated(changed, n_edges):
    data = data_like_yambda(n_edges // 1_000, n_edges // 10, n_edges)
    asked = {"embedding_dim": 64, "batch_size": None, "spectral_start": False, "device": "cuda", **changed}
    settings, device = inputs.fitted(settings_of(**asked), data.graph)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    steps = Steps(Network(data.graph, settings).to(device), data, settings)
    for _, _ in zip(range(12), steps.epoch(), strict=False):
        pass
    steps.embeddings()
    taken = torch.cuda.max_memory_allocated() - before
    estimated = sum(memory.estimate_on("cuda", memory.Sizes.of(data.graph), settings).values())
    assert taken == pytest.approx(estimated, rel=0.15)
