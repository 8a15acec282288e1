"""A training on a device beside the CPU: nothing is left on the wrong side, and the numbers are the CPU's.

What the device cannot see is told in docs/benchmarks.md, "CUDA".
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from ms_assets.defs.platform.io_managers import CheckpointOnDisk
from ms_assets.machine import NotEnoughMemoryError
from ms_assets.tracking import MLflowRun
from ms_assets.training import devices, experiments, inputs, memory, race, trainer
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.network import Network
from ms_assets.training.propagation import Propagation
from ms_assets.training.steps import Steps
from ms_assets_tests.emulated import IS_POSSIBLE, EmulatedTensor, MixedDevicesError, emulation
from ms_assets_tests.training.graphs import data_of
from ms_assets_tests.training.tastes import CPU, EXPLICIT, GRAPH, WANTED, kill, one_thread, settings_of

pytestmark = one_thread
DATA = data_of(GRAPH, EXPLICIT, WANTED)
QUICK = {"epochs": 2, "edge_weight_interval": 3}


@pytest.fixture
def there():
    if not IS_POSSIBLE:
        pytest.skip("a card is here, and test_cuda.py trains on it")
    with emulation() as device:
        yield device


def outcome(trained):
    """All that a training says, and its parameters, which lie on the CPU."""
    assert not any(isinstance(tensor, EmulatedTensor) for tensor in trained.state.values())
    history = [(epoch.number, epoch.loss, epoch.validation_ndcg) for epoch in trained.history]
    return history, trained.race, {name: tensor.tolist() for name, tensor in trained.state.items()}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"optimizer": "sgd", "accumulation": 3},
        {"objective": "bpr", "spectral_start": False},
        {"edge_weights": "heuristic"},
        {"audio": False, "metadata": False, "song_residual": True},
    ],
    ids=str,
)
def test_a_training_with_its_validation_gives_the_numbers_of_the_cpu(changed, there):
    settings = settings_of(**QUICK, **changed)
    assert outcome(trainer.fit(DATA, settings, there)) == outcome(trainer.fit(DATA, settings, CPU))


def test_the_race_and_the_length_of_cold_songs_give_the_numbers_of_the_cpu(there):
    settings = settings_of(**QUICK)
    found, wanted = (race.train(DATA, settings, device) for device in (there, CPU))
    assert outcome(found) == outcome(wanted)
    for ours, theirs in zip(found.embeddings(DATA.graph), wanted.embeddings(DATA.graph), strict=True):
        assert torch.equal(ours, theirs)


def test_a_refit_gives_the_numbers_of_the_cpu(there):
    fitted = trainer.fit(DATA, settings_of(**QUICK), CPU)
    assert outcome(trainer.refit(DATA, fitted, there)) == outcome(trainer.refit(DATA, fitted, CPU))


@pytest.mark.parametrize("resumed_on", ["emulated", "cpu"])
def test_a_training_that_was_killed_goes_on_on_either_device(resumed_on, there, tmp_path):
    settings, file = settings_of(**QUICK, checkpoint_seconds=0), CheckpointOnDisk(tmp_path / "model.checkpoint")
    kill(file, DATA, settings, there, after=4)
    checkpoint = Checkpoint.open(file, DATA, settings)
    device = there if resumed_on == "emulated" else CPU
    found = trainer.fit(DATA, settings, device, checkpoint=checkpoint)
    assert outcome(found) == outcome(trainer.fit(DATA, settings, CPU))


class Run(MLflowRun):
    """A run that is told nothing."""

    def __init__(self):
        super().__init__("a run", "")

    def child(self, name):
        return nullcontext(SimpleNamespace(run_id=name, log_settings=lambda s: None, log_metrics=lambda m, step: None))


def test_a_trial_of_a_study_is_fitted_to_the_memory_of_the_device_and_trained_there(there, monkeypatch):
    settings = settings_of(**QUICK)
    sizes = memory.Sizes.of(DATA.graph)
    smallest = sum(memory.estimate(sizes, settings.model_copy(update={"accumulation": 1})).values())
    monkeypatch.setattr(devices, "resolve", lambda wanted: there)
    monkeypatch.setattr(devices, "free_bytes", lambda device: {there: smallest, CPU: 1 << 40}[device])
    tried = []
    monkeypatch.setattr(experiments.trainer, "fit", lambda data, settings, device, tell: tried.append(device) or fit(
        data, settings, device, tell
    ))  # fmt: skip
    trained = experiments.within(Run(), DATA)("trial 0", settings, lambda epoch: None)
    assert tried == [there]
    assert outcome(trained) == outcome(fit(DATA, settings, CPU))
    monkeypatch.setattr(devices, "free_bytes", lambda device: {there: 1_000, CPU: 1 << 40}[device])
    with pytest.raises(NotEnoughMemoryError, match="on emulated:0"):
        inputs.fitted(settings, DATA.graph)


fit = trainer.fit


def test_an_index_left_on_the_cpu_is_refused(there):
    network = Network(DATA.graph, settings_of()).to(there)
    steps = Steps(network, DATA, settings_of())
    steps.user = steps.user.cpu()
    with pytest.raises(MixedDevicesError, match="on emulated and on the CPU"):
        steps._step(torch.arange(8).to(there))


def test_weights_left_on_the_cpu_are_refused(there):
    adjacency = Network(DATA.graph, settings_of()).adjacency.to(there)
    with pytest.raises(MixedDevicesError):
        Propagation(adjacency, torch.ones(DATA.graph.n_edges), 2)


def test_a_generator_of_the_cpu_is_refused_for_numbers_on_the_device(there):
    with pytest.raises(MixedDevicesError, match="generator of cpu"):
        torch.randint(9, (2, 3), generator=torch.Generator(), device=there)


def test_numpy_does_not_see_the_device(there):
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(3).to(there).numpy()
