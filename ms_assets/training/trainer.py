"""Training of LightGCN: epochs over all positive edges, validation, early stopping, and the best state."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ms_assets.settings import TrainingSettings
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.columns import WHOLE, Columns
from ms_assets.training.data import GraphTensors, TrainingData
from ms_assets.training.devices import CPU
from ms_assets.training.network import Network
from ms_assets.training.spectral import start_from_spectrum
from ms_assets.training.steps import NotFiniteError, Steps
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets.training.validation import VALIDATION_K, Validator
from ms_assets.training.warm import Former, start_from_former

logger = logging.getLogger(__name__)


MAY_FALL = 10_000_000
"""Edges that a training visits before it has to beat its start, which it may fall below at first and pass later."""
SHORT = 4
"""Epochs of a short training."""


class DivergedError(ValueError):
    """The loss was not finite before the first epoch ended, so there is no state to keep."""


@dataclass
class _Progress:
    """Progress of a training: its start and its epochs so far, and the state of the best."""

    start: Epoch
    history: list[Epoch] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best(self) -> Epoch:
        """Best epoch by validation NDCG, the start among them."""
        return _best([self.start, *self.history])


def _best(epochs: Sequence[Epoch]) -> Epoch:
    """Best epoch by validation NDCG, the last of equally good ones: without validation users, the last of all."""
    return max(epochs, key=lambda epoch: (epoch.validation_ndcg, epoch.number))


def fit(
    data: TrainingData,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    last_epoch: int | None = None,
    kept: dict[str, Any] | None = None,
    former: Former | None = None,
    columns: Columns = WHOLE,
) -> TrainedModel:
    """Train on the graph's edges until validation no longer improves.

    Args:
        data: graph, explicit negatives and validation targets (the view `discovery`: what a user heard is left out).
        settings: sizes, loss and optimiser.
        device: compute device; the CPU gives equal numbers for equal seeds.
        on_epoch: called with every epoch as it ends; training stops if it returns True.
        checkpoint: state to resume from, and file in which the state is saved during training.
        last_epoch: epoch after which to stop, 0 for the start; learning rates stay those of `settings.epochs` epochs.
        kept: plain values to keep in the checkpoint's state.
        former: training to begin with.
        columns: columns that this process trains; the first of several processes saves, is asked by `on_epoch`, and
            returns the whole model, the others return their columns of it.

    Raises:
        ValueError: the graph has no edges.
        DivergedError: the loss is not finite before the first epoch ends.
    """
    saved = checkpoint.state if checkpoint else None
    network = initial_network(data.graph, settings, saved is None, former, columns, device)
    steps, validator = Steps(network.to(device), data, settings), Validator.of(data, settings)
    if saved:
        steps.load_state_dict(saved["steps"])
        history = [Epoch(**epoch) for epoch in saved["history"]]
        state = {name: network.own(name, x) for name, x in saved["best_state"].items()}
        progress = _Progress(Epoch(**saved["start"]), history, state, saved["seconds"])
        logger.info("resuming from a checkpoint in epoch %d", len(progress.history) + 1)
    else:
        ndcg = validator.ndcg(*steps.embeddings())
        progress = _Progress(Epoch(0, 0.0, ndcg, 0.0, 0.0), state=_state(network))
        logger.info("start: validation NDCG@%d %.4f", VALIDATION_K, ndcg)

    def save(seconds: float) -> None:
        if checkpoint:
            epochs = [asdict(epoch) for epoch in progress.history]
            reached = {"start": asdict(progress.start), "history": epochs, "best_state": best_state()}
            state = {"steps": steps.state_dict(), **reached, "seconds": seconds, **(kept or {})}
            if columns.first:
                checkpoint.save(state)

    def best_state() -> dict[str, Tensor]:
        return {name: network.whole(name, x) for name, x in progress.state.items()}

    last_epoch = settings.epochs if last_epoch is None else last_epoch
    n_falling = 0 if former else math.ceil(MAY_FALL / data.graph.n_edges)
    clock, diverged = Clock(progress.seconds, settings.checkpoint_seconds, columns), ""
    try:
        while not _is_over(progress, settings, last_epoch, n_falling):
            for _ in steps.epoch():
                clock.save_if_due(save)
            number, loss, rate = len(progress.history) + 1, steps.finish_epoch(), steps.learning_rate
            epoch = Epoch(number, loss, validator.ndcg(*steps.embeddings()), rate, clock.seconds())
            progress.history.append(epoch)
            if progress.best is epoch:
                progress.state = _state(network)
            _log(progress, settings)
            if columns.decided(bool(on_epoch(epoch))):
                logger.info("stopping on request after epoch %d", number)
                break
    except NotFiniteError as error:
        diverged = _divergence(error, len(progress.history) + 1, settings)
        if not progress.history:
            raise DivergedError(diverged) from error
        logger.warning("%s; the best epoch before, %d, is kept", diverged, progress.best.number)
    return TrainedModel(settings, best_state(), progress.best, progress.history, diverged)


def short(settings: TrainingSettings) -> TrainingSettings:
    """Settings of a short training, with a whole schedule of the learning rate."""
    return settings.model_copy(update={"epochs": min(SHORT, settings.epochs)})


def refit(
    data: TrainingData, fitted: TrainedModel, device: torch.device, checkpoint: Checkpoint | None = None,
    former: Former | None = None, columns: Columns = WHOLE,
) -> TrainedModel:  # fmt: skip
    """Train again on data with the validation part, for the number of epochs that was best without it.

    Returns `fitted` with the new state beside its own; history and best epoch stay those with validation.
    """
    logger.info("training again on train and validation, %d epochs", fitted.best.number)
    last = fitted.best.number
    again = fit(data, fitted.settings, device, checkpoint=checkpoint, last_epoch=last, former=former, columns=columns)
    state = {**again.state, "cold_length": fitted.state["cold_length"]}
    return replace(fitted, state=state, unrefitted=fitted.state, diverged=fitted.diverged or again.diverged)


def _state(network: Network) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}


class Clock:
    """Clock of a training: its seconds, and the time of its next checkpoint."""

    def __init__(self, before: float, interval: float, columns: Columns = WHOLE) -> None:
        """Begin after `before` seconds of training, with at least `interval` seconds between two checkpoints.

        columns: those of this process; the clock of the first one counts for all.
        """
        self._columns = columns
        self._started, self._interval = time.monotonic() - before, interval
        self._due = time.monotonic() + interval

    def seconds(self) -> float:
        """Seconds of the training until now."""
        return time.monotonic() - self._started

    def save_if_due(self, save: Callable[[float], None]) -> None:
        """Save a checkpoint, given the training's seconds, if it is time.

        Saving takes a tenth of the time at most: the next one waits nine times as long as this one took. With an
        interval of 0 a checkpoint follows every step all the same.
        """
        began = time.monotonic()
        if not self._columns.decided(began >= self._due):
            return
        save(self.seconds())
        now = time.monotonic()
        self._due = now + (max(self._interval, 9 * (now - began)) if self._interval else 0.0)


def initial_network(
    graph: GraphTensors,
    settings: TrainingSettings,
    start: bool,
    former: Former | None = None,
    columns: Columns = WHOLE,
    device: torch.device = CPU,
) -> Network:
    """Build the network that training begins with, on the CPU.

    start: from the spectrum, if the settings say so, and then from a former training, if there is one; the first of
    several processes takes it for all. device: where the spectrum is computed.

    Raises:
        ValueError: the graph has no edges.
    """
    if not graph.n_edges:
        raise ValueError(
            "graph/bipartite_graph has no edges, so there is nothing to train on: let more users take part "
            "(splits__users.min_events, max_events), or make the train part larger (split_events)"
        )
    # The network is built on the CPU; all devices by default, and each card would get a context.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Network(graph, settings)
    if start and settings.spectral_start and columns.first:
        start_from_spectrum(network, graph.features, settings, graph.spectra, device)
    if start and former and columns.first:
        start_from_former(network, graph, former)
    network.divide(columns)
    return network


def _is_over(progress: _Progress, settings: TrainingSettings, last_epoch: int, n_falling: int) -> bool:
    """Tell if a training ends after its epochs so far; n_falling: epochs that need not beat the start."""
    n_done = len(progress.history)
    if n_done in (0, last_epoch):
        return n_done == last_epoch
    best = progress.best if n_done >= n_falling else _best(progress.history)
    stale = n_done - best.number
    if stale >= settings.patience:
        logger.info("stopping: validation has not improved in %d epochs", stale)
    return stale >= settings.patience


def _log(progress: _Progress, settings: TrainingSettings) -> None:
    last, best = progress.history[-1], progress.best
    left = last.seconds / last.number * (settings.epochs - last.number)
    logger.info(
        "epoch %d of %d: loss %.4f, validation NDCG@%d %.4f (best %.4f in epoch %d), %.0f s, at most %.0f s left",
        last.number, settings.epochs, last.loss, VALIDATION_K, last.validation_ndcg, best.validation_ndcg,
        best.number, last.seconds, left,
    )  # fmt: skip


def _divergence(error: NotFiniteError, epoch: int, settings: TrainingSettings) -> str:
    names = ("optimizer", "learning_rate", "objective", "temperature", "margin", "max_gradient_norm")
    found = ", ".join(f"{name} {getattr(settings, name)}" for name in names)
    return f"training diverged in epoch {epoch}, {error} ({found}): lower the learning rate or raise the temperature"
