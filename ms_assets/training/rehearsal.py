"""Rehearsal of cold songs: a training from which some songs are hidden, to fit the length of songs nobody has heard."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.training import trainer
from ms_assets.training.columns import WHOLE, Columns
from ms_assets.training.data import GraphTensors, TrainingData
from ms_assets.training.trained import TrainedModel
from ms_assets.training.validation import VALIDATION_K, Validator

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.1
"""Largest share of the graph's songs that are hidden; otherwise that of cold songs in the catalogue."""
FEWEST_MET, FEWEST_PAIRS = 0.05, 0.01
"""Shares of the cold songs, and of the validation part, either of which the pairs of cold songs there have to reach."""
FACTORS = tuple(2.0 ** (step / 8) for step in range(-8, 25))
"""Lengths that are tried, in units of the mean length of the graph's songs."""


def with_cold_length(
    data: TrainingData, trained: TrainedModel, device: torch.device, columns: Columns = WHOLE
) -> TrainedModel:
    """Fit the length of cold songs' vectors.

    Some songs of the graph are hidden, and a short training knows them by their content alone. Their listeners in
    train count as targets beside those of validation. Of the lengths tried, the shortest is taken whose NDCG is within
    one standard error of the best: longer vectors crowd out songs that are known, and hidden songs are a larger part of
    these targets than new ones mostly are.
    The length is the mean one where there is nothing to fit: no cold song, or nothing known of songs but who hears
    them; where validation holds many cold songs, they tell the length themselves (`retrieval/cold_start.py`).
    """
    graph, settings = data.graph, trained.settings
    mean = float(trained.state["log_lengths"].exp().mean())

    def of_length(factor: float) -> TrainedModel:
        return replace(trained, state={**trained.state, "cold_length": torch.tensor(factor * mean)})

    n_hidden = number_hidden(graph.n_graph_songs, graph.n_songs)
    knows_content = settings.audio or settings.metadata
    if (
        not n_hidden
        or not len(data.targets)
        or not knows_content
        or meets_cold_songs(data.targets, graph.n_graph_songs)
    ):
        return of_length(1.0)
    logger.info("training again without %d songs, to fit the length of cold ones", n_hidden)
    rehearsed = without_songs(data, n_hidden, settings.seed)
    brief = trainer.short(settings)
    last_epoch = min(trained.best.number, brief.epochs)
    again = trainer.fit(rehearsed, brief, device, last_epoch=last_epoch, columns=columns)
    if not columns.first:
        return trained  # which holds own columns alone, as the other does
    users, songs = again.embeddings(rehearsed.graph)
    kept, cold = songs.tensor_split([rehearsed.graph.n_graph_songs])
    unit = float(kept.norm(dim=1).mean())
    validator = Validator.of(rehearsed, settings, cold=True)
    reached = [validator.ndcg_of_users(users, torch.cat([kept, factor * unit * cold])) for factor in FACTORS]
    chosen = shortest_within_one_error(reached)
    logger.info(
        "length of cold songs: %.2f × the mean, NDCG@%d %.4f", FACTORS[chosen], VALIDATION_K, reached[chosen].mean()
    )
    return of_length(FACTORS[chosen])


def number_hidden(n_graph_songs: int, n_songs: int) -> int:
    """Number of graph songs that are hidden of a catalogue."""
    return round(min(LARGEST_SHARE, 1 - n_graph_songs / n_songs) * n_graph_songs)


def shortest_within_one_error(reached: Sequence[NDArray[np.float64]]) -> int:
    """Index of the first of some results that lies within one standard error of the best; NDCG of users [n] each.

    The error is that of the mean paired difference from the best.
    """
    best = max(reached, key=np.mean)
    lost = [best - each for each in reached]
    return next(n for n, gap in enumerate(lost) if gap.mean() <= gap.std() / np.sqrt(len(gap)))


def meets_cold_songs(validation: Interactions, n_graph_songs: int) -> bool:
    """Tell if validation can speak for cold songs: it meets a twentieth of them, or one in a hundredth of its pairs.

    A day meets few of a large catalogue's cold songs, but often. A part drawn from train at random meets next to none
    of those that are heard later.
    """
    met, n_cold = validation.song[validation.song >= n_graph_songs], validation.n_songs - n_graph_songs
    return len(met) > 0 and (len(np.unique(met)) >= FEWEST_MET * n_cold or len(met) >= FEWEST_PAIRS * len(validation))


def without_songs(data: TrainingData, n_hidden: int, seed: int) -> TrainingData:
    """Training data in which some songs of the graph are cold, and its cold songs are left out.

    Train events of the hidden songs are targets beside those of validation, as relevant as these are in the mean; as
    many are drawn as validation has, for train may last as many weeks as validation does days.
    """
    graph, generator = data.graph, torch.Generator().manual_seed(seed)
    order = torch.randperm(graph.n_graph_songs, generator=generator)
    n_kept = graph.n_graph_songs - n_hidden
    songs = torch.cat([order[:n_kept].sort().values, order[n_kept:]])
    numbers = torch.arange(len(songs), dtype=graph.song.dtype)
    place = torch.full((graph.n_songs,), -1, dtype=graph.song.dtype).index_put((songs,), numbers)
    song = place[graph.song]
    seen = song < n_kept
    kept = GraphTensors(
        graph.user[seen],
        song[seen],
        graph.attributes[seen],
        graph.features.select(songs),
        graph.n_users,
        n_kept,
    )

    def renumbered(pairs: Interactions) -> Interactions:
        to = place.numpy()[pairs.song]
        values = {name: array[to >= 0] for name, array in pairs.values.items()}
        return kept.pairs(pairs.user[to >= 0], to[to >= 0], **values)

    # From the edges: the pairs of all would be held once more, and their users and songs beside.
    hidden = kept.pairs(graph.user[~seen].numpy(), song[~seen].numpy())
    later = renumbered(data.targets).without(hidden)
    if len(hidden) > len(later) > 0:
        drawn = torch.randperm(len(hidden), generator=generator)[: len(later)].sort().values.numpy()
        hidden = kept.pairs(hidden.user[drawn], hidden.song[drawn])
    users, songs_later = (np.concatenate(both) for both in ((hidden.user, later.user), (hidden.song, later.song)))
    mean = data.targets.values["relevance"].mean()
    relevance = np.concatenate([np.full(len(hidden), mean), later.values["relevance"]])
    return TrainingData(kept, renumbered(data.disliked), kept.pairs(users, songs_later, relevance=relevance))
