"""Race on the validation part for what no default wins on all data: spectrum, lengths, temperature, or plain SVDs; and,
where there is a former training, whether to begin with it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.settings import TrainingSettings
from ms_assets.training import trainer
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.columns import WHOLE, Columns
from ms_assets.training.data import TrainingData
from ms_assets.training.network import Network, log_lengths
from ms_assets.training.rehearsal import with_cold_length
from ms_assets.training.steps import NotFiniteError, Steps
from ms_assets.training.trained import Epoch, TrainedModel
from ms_assets.training.validation import VALIDATION_K, Validator
from ms_assets.training.warm import Former
from ms_assets.vectors import ALIKE

logger = logging.getLogger(__name__)

CANDIDATES = {
    "spectrum_power": (1.0, 2.0, 4.0, 8.0),
    "length_power": (0.1, 0.0, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6),
    "temperature": (0.15, 0.1, 0.2),
}
"""Values of each setting in the race, the first wins a tie."""
TRAINED, PLAIN, FORMER, SPECTRAL = "trained", "plain SVD", "former training", "spectral start"
"""Names in a race: of the trained model and its rivals, and of what a warm start may begin with."""
LARGEST_RACE, FEWEST_EPOCHS = 4_000_000, 2
"""Edges that a short training with one temperature visits at most, and its epochs at least, for the first one tells
little; a graph for which both cannot be has no race of temperatures."""


def train(
    data: TrainingData,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    former: Former | None = None,
    columns: Columns = WHOLE,
) -> TrainedModel:
    """Train with what wins the race, and fit the length of cold songs; arguments and errors as in `trainer.fit`.

    The race is deterministic. Without validation users, or with `race` off, there is none. A former training brings
    along what a race has chosen for it; of one that the spectral start beats nothing is left but the temperature, by
    which no trainings are compared again.
    """
    if former:
        settings = former.chosen(settings, ["temperature"])
    validator = Validator.of(data, settings)
    reached: dict[str, float] = {}
    races = settings.race and len(validator.users) > 0
    if races:
        saved = checkpoint.state if checkpoint else None
        if saved:
            reached = saved["race"]
        elif former and settings.spectral_start:
            reached = _beginnings(data, settings, device, validator, columns, former)
        former = begun_with(former, reached)
        if not (saved or former):
            reached |= compared(data, settings, device, validator, columns)
    settings = former.chosen(settings) if former else settings.model_copy(update=_winners(reached))
    trained = trainer.fit(
        data, settings, device, on_epoch, checkpoint, kept={"race": reached}, former=former, columns=columns
    )
    trained = replace(trained, race=reached)
    if races and settings.spectral_start:
        trained = _or_plain_svds(data, trained, device, columns)
    return with_cold_length(data, trained, device, columns)


def _or_plain_svds(data: TrainingData, trained: TrainedModel, device: torch.device, columns: Columns) -> TrainedModel:
    """Take the best of a trained model and plain SVDs, by validation NDCG; the trained model wins a tie."""
    reached, best = {**trained.race, TRAINED: trained.best.validation_ndcg}, trained
    for name, settings in plain_svds(trained.settings).items():
        plain = trainer.fit(data, settings, device, last_epoch=0, columns=columns)
        _note(reached, name, plain.best.validation_ndcg)
        if reached[name] > best.best.validation_ndcg:
            best = replace(best, settings=settings, state=plain.state, best=plain.best)
    return replace(best, race=reached)


def compared(
    data: TrainingData,
    settings: TrainingSettings,
    device: torch.device,
    validator: Validator,
    columns: Columns = WHOLE,
) -> dict[str, float]:
    """Compare the candidates of every setting that is open; returns the validation NDCG of each by its name.

    Spectra and lengths are compared at the spectral start, without any training, and temperatures by short trainings
    from the best one.
    """
    reached: dict[str, float] = {}
    if settings.spectral_start and settings.spectrum == "normalised":
        reached |= _starts(data, settings, device, validator, columns)
    if settings.temperature is None and FEWEST_EPOCHS * data.graph.n_edges <= LARGEST_RACE:
        chosen = settings.model_copy(update=_winners(reached))
        network = trainer.initial_network(data.graph, chosen, start=True, columns=columns, device=device).to(device)
        reached |= _temperatures(network, data, chosen, validator)
    return reached


def begun_with(former: Former | None, reached: Mapping[str, float]) -> Former | None:
    """Former training, or None where the spectral start or a plain SVD has reached more in a race."""
    plain = max((ndcg for name, ndcg in reached.items() if name.startswith(PLAIN)), default=0.0)
    beaten = reached.get(SPECTRAL, 0.0) > reached.get(FORMER, 0.0) or plain > reached.get(TRAINED, plain)
    return None if beaten else former


def _beginnings(
    data: TrainingData, settings: TrainingSettings, device: torch.device, validator: Validator, columns: Columns,
    former: Former,
) -> dict[str, float]:  # fmt: skip
    """Validation NDCG of a former training on the present graph, and of the spectral start with its choices."""
    settings = former.chosen(settings)
    reached: dict[str, float] = {}
    for name, start in ((FORMER, former), (SPECTRAL, None)):
        _note(reached, name, validator.ndcg(*_embeddings_at_start(data, settings, device, columns, start)))
    return reached


def _starts(
    data: TrainingData, settings: TrainingSettings, device: torch.device, validator: Validator, columns: Columns
) -> dict[str, float]:
    """Validation NDCG of the start with each power of the spectrum, while it rises, and of lengths, with the best one.

    A power of the spectrum reaches what its best lengths do. One that leaves users alike is not tried: the direction
    that all of them share would decide how many cold songs are shown.
    """
    spectra = CANDIDATES["spectrum_power"] if settings.spectrum_power is None else ()
    lengths = CANDIDATES["length_power"] if settings.length_power is None and settings.song_lengths else ()
    if not (spectra or lengths):
        return {}
    of_spectra: dict[str, float] = {}
    best: dict[str, float] = {}
    for power in spectra or (settings.initial_spectrum_power,):
        start = settings.model_copy(update={"spectrum_power": power})
        users, songs = _embeddings_at_start(data, start, device, columns)
        if best and users.mean(dim=0).norm() >= ALIKE:
            logger.info("race: spectrum power %g leaves users alike", power)
            break
        of_lengths = _length_powers(users, songs, data, lengths or (settings.initial_length_power,), validator)
        _note(of_spectra, _name("spectrum_power", power), max(of_lengths.values()))
        if best and max(of_lengths.values()) <= max(best.values()):
            break
        best = of_lengths
    return (of_spectra if spectra else {}) | (best if lengths else {})


def _embeddings_at_start(
    data: TrainingData, settings: TrainingSettings, device: torch.device, columns: Columns, former: Former | None = None
) -> tuple[Tensor, Tensor]:
    """Embeddings of users [n_users, d] and graph songs [n_graph_songs, d] before training; nothing else stays."""
    network = trainer.initial_network(
        data.graph, settings, start=True, former=former, columns=columns, device=device
    ).to(device)
    features = data.graph.features.select(torch.arange(data.graph.n_graph_songs)).to(device)
    return network.of_graph(features, network.frozen_propagation())


def _length_powers(
    users: Tensor, songs: Tensor, data: TrainingData, powers: Sequence[float], validator: Validator
) -> dict[str, float]:
    """Validation NDCG of embeddings [n_users, d], [n_graph_songs, d] with lengths at powers of songs' edges."""
    degrees = torch.bincount(data.graph.song, minlength=data.graph.n_graph_songs).to(songs.device)
    directions = functional.normalize(songs, dim=1)
    reached: dict[str, float] = {}
    for power in powers:
        lengths = log_lengths(degrees, power)
        ndcg = validator.ndcg(users, directions * lengths.exp()[:, None])
        _note(reached, _name("length_power", power), ndcg)
    return reached


def _temperatures(
    network: Network, data: TrainingData, settings: TrainingSettings, validator: Validator
) -> dict[str, float]:
    """Best validation NDCG of a short training from the network's state with each temperature."""
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    brief = trainer.short(settings)
    epochs = min(brief.epochs, LARGEST_RACE // data.graph.n_edges)
    reached: dict[str, float] = {}
    for temperature in CANDIDATES["temperature"]:
        network.load_state_dict(start)
        tried = brief.model_copy(update={"epochs": epochs, "temperature": temperature})
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
        _note(reached, _name("temperature", temperature), max(ndcg))
    return reached


def _note(reached: dict[str, float], name: str, ndcg: float) -> None:
    reached[name] = ndcg
    logger.info("race: %s, NDCG@%d %.4f", name, VALIDATION_K, ndcg)


def _winners(reached: dict[str, float]) -> dict[str, Any]:
    """Best value of each setting that was compared."""
    winners = {}
    for setting, values in CANDIDATES.items():
        ndcg = [reached.get(_name(setting, value), -1.0) for value in values]
        if max(ndcg) >= 0:
            winners[setting] = values[ndcg.index(max(ndcg))]
    return winners


def _name(setting: str, value: float) -> str:
    return f"{setting.replace('_', ' ')} {value:g}"


def plain_svds(settings: TrainingSettings) -> dict[str, TrainingSettings]:
    """Settings by name whose start is a truncated SVD of the graph's matrix as it is: rivals that training must beat.

    The matrix has a 1 for every pair, or, where edges have weights, those of the start.
    """
    plain = settings.model_copy(update={"layers": 0, "spectrum": "plain"})
    found = {PLAIN: plain.model_copy(update={"edge_weights": "uniform"})}
    return found if plain.edge_weights == "uniform" else found | {f"{PLAIN} of edge weights": plain}
