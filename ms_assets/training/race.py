"""Race on the validation part for what no default wins on all data: the temperature, and training or a plain SVD."""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch

from ms_assets.settings import TrainingSettings
from ms_assets.training import trainer
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.data import TrainingData
from ms_assets.training.rehearsal import with_cold_length
from ms_assets.training.steps import NotFiniteError, Steps
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets.training.validation import VALIDATION_K, Validator

logger = logging.getLogger(__name__)

TEMPERATURES = (0.15, 0.1, 0.2)
"""Temperatures in the race, the first wins a tie."""
EPOCHS = 4
"""Epochs of each temperature, a whole schedule of the learning rate: three fifths of the default training."""
LARGEST_RACE = 2_000_000
"""Edges of the largest graph whose temperature is raced for."""


def train(
    data: TrainingData,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
) -> TrainedModel:
    """Train with what wins the race, and fit the length of cold songs; arguments and errors as in `trainer.fit`.

    The race is deterministic. Without validation users, or with `race` off, there is none.
    """
    validator, reached = Validator.of(data, settings), {}
    races = settings.race and len(validator.users) > 0
    if races and settings.temperature is None and data.graph.n_edges <= LARGEST_RACE:
        if checkpoint and checkpoint.state:
            reached = checkpoint.state["race"]
        else:
            reached = temperatures(data, settings, device, validator)
        chosen = max(TEMPERATURES, key=lambda temperature: reached[_name(temperature)])
        logger.info("race: temperature %g", chosen)
        settings = settings.model_copy(update={"temperature": chosen})
    trained = trainer.fit(data, settings, device, on_epoch, checkpoint, kept={"race": reached})
    if races and settings.spectral_start:
        plain = trainer.fit(data, plain_svd(settings), device, last_epoch=0)
        reached = {**reached, "trained": trained.best.validation_ndcg, "plain SVD": plain.best.validation_ndcg}
        if plain.best.validation_ndcg > trained.best.validation_ndcg:
            logger.info("race: the plain SVD, NDCG@%d %.4f", VALIDATION_K, plain.best.validation_ndcg)
            trained = replace(trained, settings=plain.settings, state=plain.state, best=plain.best)
    return with_cold_length(data, replace(trained, race=reached), device)


def temperatures(
    data: TrainingData, settings: TrainingSettings, device: torch.device, validator: Validator
) -> dict[str, float]:
    """Best validation NDCG of a short training with each of `TEMPERATURES`, by name."""
    network = trainer.initial_network(data.graph, settings, start=True).to(device)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reached = {}
    for temperature in TEMPERATURES:
        network.load_state_dict(start)
        tried = settings.model_copy(update={"temperature": temperature, "epochs": min(EPOCHS, settings.epochs)})
        steps, ndcg = Steps(network, data, tried), [0.0]
        try:
            for _ in range(tried.epochs):
                for _ in steps.epoch():
                    pass
                steps.finish_epoch()
                ndcg.append(validator.ndcg(*steps.embeddings()))
        except NotFiniteError as error:
            logger.warning("race: temperature %g diverged, %s", temperature, error)
            ndcg = [0.0]
        reached[_name(temperature)] = max(ndcg)
        logger.info("race: temperature %g, NDCG@%d %.4f", temperature, VALIDATION_K, max(ndcg))
    return reached


def plain_svd(settings: TrainingSettings) -> TrainingSettings:
    """Settings whose start is a truncated SVD of the graph's 0/1 matrix, as it is: a rival that training must beat."""
    return settings.model_copy(update={"layers": 0, "edge_weights": "uniform", "spectrum": "plain"})


def _name(temperature: float) -> str:
    return f"temperature {temperature:g}"
