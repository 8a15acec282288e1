"""Training LightGCN: epochs over every positive edge, validation, early stopping, the best state kept."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.lightgcn import LightGCN
from ms_assets.training.spectral import start_from_spectrum
from ms_assets.training.steps import NotFiniteError, Pairs, Steps
from ms_assets.training.validation import VALIDATION_K, Validator

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one pass over the edges came to."""

    number: int
    loss: float
    validation_ndcg: float
    learning_rate: float
    seconds: float
    """Since training began, times that it was cut off left out."""


@dataclass(frozen=True)
class Trained:
    """The best state of a model, and how it was reached."""

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch]
    diverged: str = ""
    """Why training stopped before its time, if it did: epoch, step and settings."""


class DivergedError(ValueError):
    """The loss was no number before the first epoch ended: there is no state to keep."""


@dataclass
class _Progress:
    """Epochs so far, and the state after the best of them."""

    history: list[Epoch] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best(self) -> Epoch:
        """The last of the equally good ones: without validation users, the last of all."""
        return max(self.history, key=lambda epoch: (epoch.validation_ndcg, epoch.number))

    def add(self, epoch: Epoch, model: LightGCN) -> None:
        """Note an epoch, and keep the model's state if it is the best."""
        self.history.append(epoch)
        if self.best is epoch:
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def train(
    graph: "HeteroData",
    explicit_negatives: Pairs,
    validation: Judgements,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    last_epoch: int | None = None,
) -> Trained:
    """Train on the graph's edges until validation no longer improves.

    Args:
        graph: as `graph.bipartite.bipartite_graph` builds it.
        explicit_negatives: (user ids, song ids) of dislikes and unlikes; songs may be cold.
        validation: relevance of songs to users; what a user has an edge to is left out (the view `discovery`).
        settings: sizes, loss and optimiser.
        device: where to compute; the CPU gives the same numbers again for the same seed.
        on_epoch: told of every epoch as it ends; training ends when it answers True.
        checkpoint: what to go on from, and where to save the state as training goes.
        last_epoch: stop after it, with learning rates as if `settings.epochs` were to come.

    Raises:
        ValueError: the graph has no edges.
        DivergedError: the loss is no number before the first epoch ends.
    """
    saved = checkpoint.state if checkpoint else None
    model = _started(graph, settings, spectral=settings.spectral_start and saved is None).move(device)
    steps, progress = Steps(model, graph, explicit_negatives, settings, device), _Progress()
    validator = Validator.of(validation, steps.heard, settings, model.n_graph_songs)
    if saved:
        steps.load_state_dict(saved["steps"])
        progress = _Progress([Epoch(**epoch) for epoch in saved["history"]], saved["best_state"], saved["seconds"])
        logger.info("going on from a checkpoint in epoch %d", len(progress.history) + 1)

    def save(seconds: float) -> None:
        if checkpoint:
            epochs = [asdict(epoch) for epoch in progress.history]
            kept = {"history": epochs, "best_state": progress.state, "seconds": seconds}
            checkpoint.save({"steps": steps.state_dict(), **kept})

    clock, diverged = _Clock(progress.seconds, settings.checkpoint_seconds), ""
    try:
        while not _is_over(progress.history, settings, last_epoch or settings.epochs):
            for _ in steps.epoch():
                if clock.checkpoint_is_due():
                    save(clock.seconds())
            number, loss, rate = len(progress.history) + 1, steps.finish_epoch(), steps.learning_rate
            ndcg = validator.ndcg(*steps.embeddings())
            epoch = Epoch(number, loss, ndcg, rate, clock.seconds())
            progress.add(epoch, model)
            _log(progress, settings)
            if on_epoch(epoch):
                logger.info("told to stop after epoch %d", number)
                break
    except NotFiniteError as error:
        diverged = _divergence(error, len(progress.history) + 1, settings)
        if not progress.history:
            raise DivergedError(diverged) from error
        logger.warning("%s; epoch %d is kept", diverged, progress.best.number)
    return Trained(progress.state, progress.best, progress.history, diverged)


def refit(
    graph: "HeteroData",
    explicit_negatives: Pairs,
    fitted: Trained,
    settings: TrainingSettings,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train anew on a graph that holds the validation part too, as many epochs as were best without.

    Returns `fitted` with the new state: its history and its best epoch are those that validation chose by.
    """
    logger.info("training anew on train and validation, %d epochs", fitted.best.number)
    again = train(
        graph,
        explicit_negatives,
        nothing_to_find(graph),
        settings,
        device,
        checkpoint=checkpoint,
        last_epoch=fitted.best.number,
    )
    return replace(fitted, state=again.state, diverged=fitted.diverged or again.diverged)


class _Clock:
    """Seconds of a training, and when its next checkpoint is due."""

    def __init__(self, before: float, interval: float) -> None:
        self._started, self._interval = time.monotonic() - before, interval
        self._last = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def checkpoint_is_due(self) -> bool:
        now = time.monotonic()
        due = now - self._last >= self._interval
        self._last = now if due else self._last
        return due


def nothing_to_find(graph: "HeteroData") -> Judgements:
    """The validation part of a training that takes it for training."""
    ids = np.empty(0, np.int64)
    return Judgements.of(ids, ids, np.empty(0), graph["user"].num_nodes, graph["song"].num_nodes)


def _started(graph: "HeteroData", settings: TrainingSettings, spectral: bool) -> LightGCN:
    if not graph.num_edges:
        raise ValueError(
            "graph/bipartite_graph has no edges, there is nothing to train on: let more users take part "
            "(splits__users.min_events, max_events), or a larger train part (split_events)"
        )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = LightGCN(graph, settings)
    if spectral:
        start_from_spectrum(model, settings.seed, settings.balance_scales)
    elif settings.balance_scales:
        model.encoder.balance(model.features)
    return model


def _is_over(history: list[Epoch], settings: TrainingSettings, last_epoch: int) -> bool:
    if len(history) in (0, last_epoch):
        return bool(history)
    stale = len(history) - _Progress(history).best.number
    if stale >= settings.patience:
        logger.info("no better validation in %d epochs: stopping", stale)
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
    names = ("optimizer", "learning_rate", "objective", "temperature", "margin", "max_gradient_norm", "precision")
    found = ", ".join(f"{name} {getattr(settings, name)}" for name in names)
    return f"training diverged in epoch {epoch}, {error} ({found}): lower the learning rate or raise the temperature"
