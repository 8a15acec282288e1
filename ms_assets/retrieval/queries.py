"""Queries of users: the vector that training learned, drawn towards the songs that the user heard lately.

    q = unit(u + Σ_h w_h · m_h),    m_h = unit(Σ_s a_s · unit(s)),    a_s = Σ 2^(−age / h) over the user's events with s

A learned vector knows every song of the user and none as the latest. Means that fade with half-lives h are searched by
the same index, without training again. Data without times or sessions gain nothing from them, so each weight w_h is 0
unless validation gains. The grid is small, for what is chosen among many by chance does not hold for other users.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.recommender import TOP_K, nearest
from ms_assets.retrieval.tuning import Tuner
from ms_assets.vectors import unit

logger = logging.getLogger(__name__)

HALF_LIVES = (60, 86_400, 1_209_600)
"""Half-lives in seconds: a minute, a day, two weeks."""
WEIGHTS = (0.1, 0.2)
HEARD, RIDGE = 10.0, 30.0
"""Weights of heard songs and of the vector's length in folding in, the best on validation of users left out."""
LARGEST_GRAM = 200.0
"""Largest mean eigenvalue of a catalogue's Gram matrix; 160, of 16,000 songs, is the largest that was tried."""

WEIGHTS_FOUND = "weights"
"""Metadata of the asset `retrieval/queries`: the weights that were chosen, by their half-life in seconds as text."""


@dataclass(frozen=True)
class Fit:
    """Weights of half-lives, and what they were chosen by."""

    queries: NDArray[np.float32]
    """Queries of all users for the vectors by which the weights were chosen, as `of_users` computes them."""
    weights: dict[int, float] = field(default_factory=dict)
    """Weight of each half-life that gains, by its seconds."""
    trials: list[dict[str, float]] = field(default_factory=list)
    """Half-life, weight, mean gain in NDCG over the choice before, and the gain's standard error."""


def fit(dataset: Dataset, users: NDArray[np.float32], songs: NDArray[np.float32]) -> Fit:
    """Choose the weight of one half-life after the other, the shortest first.

    The weight with the greatest mean NDCG@100 in `discovery` over the users that `Tuner` draws is chosen, 0 included:
    lists of a hundred songs are told apart by less chance than those of ten.

    Args:
        dataset: dataset with a validation part.
        users: vectors of users, unit rows, float32 [n_users, d], of a training that has not seen the validation part.
        songs: vectors of graph songs by the same training, float32 [n_graph_songs, d].
    """
    tuner = Tuner.of(dataset)
    chosen, trials = dict[int, float](), list[dict[str, float]]()
    if not len(tuner.targets["discovery"]):
        return Fit(users)

    def ndcg(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        found = tuner.ndcg_of_users(nearest(vectors, songs), "discovery", TOP_K)
        return found[~np.isnan(found)]

    drawn, reached = users, ndcg(users)
    for half_life in HALF_LIVES:
        mean = recent(dataset, songs, half_life)
        best = None
        for weight in WEIGHTS:
            tried = drawn + np.float32(weight) * mean
            found = ndcg(tried)
            gain, error = (found - reached).mean(), (found - reached).std() / np.sqrt(len(found))
            trials.append({"half_life": half_life, "weight": weight, "gain": float(gain), "error": float(error)})
            logger.info("songs of a half-life of %d s, weight %g: NDCG@%d %+.4f", half_life, weight, TOP_K, gain)
            if gain > 0 and (best is None or found.mean() > best[1].mean()):
                best = weight, found, tried
        if best:
            chosen[half_life], reached, drawn = best
    return Fit(unit(drawn) if chosen else users, chosen, trials)


def of_users(
    dataset: Dataset, users: NDArray[np.float32], songs: NDArray[np.float32], weights: Mapping[int, float]
) -> NDArray[np.float32]:
    """Queries of all users, unit rows, float32 [n_users, d]; the learned vectors themselves without weights."""
    if not weights:
        return users
    drawn = users
    for half_life, weight in weights.items():
        drawn = drawn + np.float32(weight) * recent(dataset, songs, half_life)
    return unit(drawn)


def recent(dataset: Dataset, songs: NDArray[np.float32], half_life: int) -> NDArray[np.float32]:
    """Means of the directions of users' songs, which fade with their age, unit rows, float32 [n_users, d].

    Ages are counted back from the user's last event. A user without events has zeros.
    """
    directions, means = unit(songs), np.zeros((dataset.heard.n_users, songs.shape[1]), np.float32)
    for users, faded in dataset.aged_by_range(f"pow(2, -age / {float(half_life)})"):
        fading = dataset.heard.of_users(np.arange(users.start, users.stop)).csr(faded, dataset.n_graph_songs)
        means[users.start : users.stop] = fading @ directions
    return unit(means)


def gram(songs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of the outer products of all songs' vectors, float64 [d, d], of a size that `folded` takes.

    songs: vectors of all songs, float32 [n_songs, d].
    """
    total = songs.T.astype(np.float64) @ songs
    return total * min(1.0, LARGEST_GRAM * len(total) / max(np.trace(total), LARGEST_GRAM))


def folded(
    songs: NDArray[np.float32], song: NDArray[np.int64], ages: NDArray[np.float64], weights: Mapping[int, float],
    gram: NDArray[np.float64],
) -> NDArray[np.float32]:  # fmt: skip
    """Query of a user whom training has not seen, by the songs that they heard lately, a unit vector float32 [d].

    In place of the learned vector stands the one that scores heard songs near 1 and all others near 0, by least squares
    as implicit ALS folds users in (Hu, Koren, Volinsky, ICDM 2008), whose direction is that of

        (G + HEARD · Σ_s v_s v_sᵀ + RIDGE · I)⁻¹ Σ_s v_s        over the distinct songs s that were heard

    What was heard last draws it as it draws others'.

    Args:
        songs: vector of the song of each event, float32 [n_events, d], at least one.
        song: id of the song of each event, int64 [n_events].
        ages: seconds since each event, [n_events].
        weights: weights of half-lives, as `fit` chooses them.
        gram: G, as the function of that name computes it.
    """
    directions, ages = unit(songs), ages - ages.min()
    heard = songs[np.unique(song, return_index=True)[1]].astype(np.float64)
    squares = gram + HEARD * heard.T @ heard + RIDGE * np.eye(len(gram))
    learned = unit(np.linalg.solve(squares, heard.sum(axis=0)).astype(np.float32)[None])[0]

    def mean(fading: NDArray[np.float64]) -> NDArray[np.float32]:
        return unit(np.asarray(fading @ directions, np.float32)[None])[0]

    drawn = learned + sum(np.float32(weight) * mean(0.5 ** (ages / h)) for h, weight in weights.items())
    return unit(drawn[None])[0]
