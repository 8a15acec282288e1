"""Cold start: vectors for songs without a train event, by encoding and artist, at a length fitted on validation.

    direction   c = normalise(normalise(encoding) + centroid), the centroid being the direction of the trained songs of
                each of its artists, averaged and normalised; where no artist has a trained song, c = encoding
    length      γ, one for all cold songs: their scores are γ · (user · c), those of other songs user · s

An encoding has seen no listeners, so its scores are not comparable with those of trained songs. γ makes them so. Where
validation meets too few of the cold songs to say anything, γ is the length that the training rehearsed: both ask the
whole validation part, and not the users drawn from it, so that one of them always fits the length. Here it is chosen
such that the share of cold songs in the top 100 of `discovery` equals their share among the new songs that users took
to in the validation part. With w the scores of a user's 100 best trained songs not heard before and c those of their
100 best cold songs, both falling, the j-th cold song is in the merged top 100 exactly if γ ≥ w[101 − j] / c[j]; so γ is
that share's quantile of these bounds.

No length gives cold songs a share that they cannot have, as where half of them point away from a user: γ would put them
before every other song. Nor does a share say whose lists hold them: where all songs are alike to a user, γ gives some
users nothing else. So where lists of a view surely lose more than a fifth of the NDCG that they have without cold
songs, the share is halved until no view surely loses anything. The length that cold songs come with is judged alike
where validation meets enough of them, but no drawn user took to any.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval import exact
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.recommender import TOP_K, VIEWS, nearest, ranked
from ms_assets.retrieval.tuning import TUNING_K, Tuner
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged, embeddings, unit

SHORTEST = 1e-3
"""Smallest length of cold songs, in units of the mean length of trained songs."""
KEPT, SURE = 0.8, 2.0
"""Share of the NDCG that lists have to keep, and standard errors by which they surely do not."""


@dataclass(frozen=True)
class Calibration:
    """Length of cold songs' vectors, and the shares that it was fitted by."""

    length: float
    wanted_share: float
    """Share of cold songs among the new songs that the drawn users took to in validation; of a length that was
    shortened, their share in the top 100 of `discovery` with it."""
    share_before: float
    """Share of cold songs in the top 100 of `discovery` with the mean length of trained songs."""
    share_after: float
    """Share of cold songs in the top 100 of `discovery` with the fitted length."""


def directions(
    encodings: NDArray[np.float32], trained: NDArray[np.float32], artists: Ragged
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Unit vectors of cold songs, float32 [n_cold, d], and flags of those with an artist who has a trained song.

    artists: artists of every song, trained songs [n_trained, d] first, then cold ones.
    """
    from scipy.sparse import csr_matrix

    n_trained, n_artists = len(trained), int(artists.values.max(initial=-1)) + 1
    ones = np.ones(len(artists.values), np.float32)
    of_songs = csr_matrix((ones, artists.values, artists.offsets), shape=(len(artists.offsets) - 1, n_artists))
    centroids = unit(of_songs[:n_trained].T @ trained)
    own = unit(of_songs[n_trained:] @ centroids)
    return unit(unit(encodings) + own), np.asarray(own.any(axis=1))


def calibrate(
    users: NDArray[np.float32], trained: NDArray[np.float32], cold: NDArray[np.float32], tuner: Tuner
) -> Calibration | None:
    """Fit the length of cold songs; None if the drawn users took to none of them.

    users float32 [n_users, d], trained [n_trained, d], cold: unit vectors [n_cold, d].
    """
    is_cold = tuner.targets["discovery"].song >= len(trained)
    if not (len(cold) and is_cold.any()):
        return None
    best, wanted = _Best.of(users, trained, cold, tuner), float(is_cold.mean())
    n_held = min(max(round(wanted * best.n_places), 1), best.n_reachable)
    return best.calibration(best.kept(n_held), wanted)


def shorten(
    users: NDArray[np.float32], trained: NDArray[np.float32], cold: NDArray[np.float32], tuner: Tuner, length: float
) -> Calibration | None:
    """Shorten a length of cold songs; None if lists do not surely lose by it.

    users float32 [n_users, d], trained [n_trained, d], cold: unit vectors [n_cold, d].
    """
    if not (len(cold) and len(tuner.users)):
        return None
    best = _Best.of(users, trained, cold, tuner)
    n_before = int(np.searchsorted(best.bounds, length, side="right"))
    n_held = best.kept(n_before)
    return best.calibration(n_held, n_before / best.n_places) if n_held < n_before else None


@dataclass(frozen=True)
class _Best:
    """Best trained and best cold songs of the drawn users, and the lengths at which cold songs take their places."""

    tuner: Tuner
    songs: NDArray[np.int64]
    """Best trained songs of each view, [views, n_drawn, TOP_K]; negative where there are no more."""
    scores: NDArray[np.float32]
    cold: NDArray[np.int64]
    """Best cold songs, [n_drawn, k]."""
    of_cold: NDArray[np.float32]
    """Their scores at length 1."""
    bounds: NDArray[np.float64]
    """Lengths at which cold songs take one place more in the top 100 of `discovery`, ascending."""
    mean: float
    """Mean length of trained songs."""

    @classmethod
    def of(
        cls, users: NDArray[np.float32], trained: NDArray[np.float32], cold: NDArray[np.float32], tuner: Tuner
    ) -> Self:
        """Search both kinds of songs."""
        k = min(TOP_K, len(cold))
        songs, scores = ranked(nearest(users, trained), tuner.users, tuner.heard, len(trained), TOP_K)
        scores[songs < 0] = -np.inf
        rivals = scores[VIEWS.index("discovery")][:, ::-1][:, :k]
        of_cold, place = exact.search(users[tuner.users], cold, k)
        with np.errstate(divide="ignore"):
            bounds = np.sort(np.where(of_cold > 0, rivals / np.maximum(of_cold, 1e-9), np.inf).ravel())
        mean = float(np.linalg.norm(trained, axis=1).mean())
        return cls(tuner, songs, scores, len(trained) + place, of_cold, bounds, mean)

    @property
    def n_places(self) -> int:
        """Number of places in the top 100 of all drawn users."""
        return len(self.tuner.users) * TOP_K

    @property
    def n_reachable(self) -> int:
        """Number of places that cold songs can have at any length."""
        return int((self.bounds < np.inf).sum())

    def kept(self, n_held: int) -> int:
        """Number of places that cold songs keep of those that they would hold, by what validation says of the lists."""
        if n_held and self._surely_keep_less(KEPT, n_held):
            while n_held > 1 and self._surely_keep_less(1.0, n_held):
                n_held //= 2
        return n_held

    def calibration(self, n_held: int, wanted: float) -> Calibration:
        """Length with which cold songs hold so many places, where a share was wanted."""
        length = self._length(n_held)
        before, after = np.searchsorted(self.bounds, [self.mean, length], side="right") / self.n_places
        return Calibration(length, wanted, float(before), float(after))

    def _length(self, n_held: int) -> float:
        return max(float(self.bounds[n_held - 1]), SHORTEST * self.mean) if self.n_reachable else self.mean

    def _surely_keep_less(self, share: float, n_held: int) -> bool:
        """Tell if lists of a view with cold songs surely keep less than a share of the NDCG of those without."""
        with_cold = _merged(self.songs, self.scores, self.cold, np.float32(self._length(n_held)) * self.of_cold)
        lost = share * self._without - _ndcg(self.tuner, with_cold)
        return bool((lost.mean(axis=1) > SURE * lost.std(axis=1) / np.sqrt(lost.shape[1])).any())

    @cached_property
    def _without(self) -> NDArray[np.float64]:
        """NDCG of lists without cold songs, [views, n_drawn]."""
        return _ndcg(self.tuner, self.songs)


def _merged(
    songs: NDArray[np.int64], scores: NDArray[np.float32], cold: NDArray[np.int64], of_cold: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Best of trained songs [views, n_drawn, k] and cold ones [n_drawn, k], int64 [views, n_drawn, TUNING_K]."""
    n_views = len(songs)
    both, points = (
        np.concatenate([trained, np.broadcast_to(new, (n_views, *new.shape))], axis=2)
        for trained, new in ((songs, cold), (scores, of_cold))
    )
    order = np.argsort(-points, axis=2, kind="stable")[:, :, :TUNING_K]
    return np.take_along_axis(both, order, axis=2)


def _ndcg(tuner: Tuner, lists: NDArray[np.int64]) -> NDArray[np.float64]:
    """NDCG of the drawn users in each view, float64 [views, n_drawn], of lists int64 [views, n_drawn, k]."""
    return np.nan_to_num([tuner.ndcg_of_lists(lists[n, :, :TUNING_K], view) for n, view in enumerate(VIEWS)])


def placed(
    dataset: Dataset,
    songs: NDArray[np.float32],
    artists: Ragged,
    judged: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Calibration | None]:
    """Place cold songs among the trained ones.

    Args:
        dataset: dataset with a validation part.
        songs: embeddings float32 [n_songs, d], cold songs as encoded.
        artists: artists of every song.
        judged: queries of users [n_users, d] and embeddings of songs by a training that has not seen the validation
            part, by which the length is fitted; those of a refit would find in validation what they were trained on.

    Returns:
        Vectors of the cold songs float32 [n_cold, d], flags of those with an artist who has a trained song, and the
        calibration of their length; None, and the length that they were encoded with, if validation meets too few, or
        no drawn user took to any and lists do not surely lose by it.
    """
    from ms_assets.training.rehearsal import meets_cold_songs

    assert dataset.validation is not None, "cold songs are placed by the validation part"
    trained, encoded = np.split(songs, [dataset.n_graph_songs])
    cold, known = directions(encoded, trained, artists)
    users, known_songs = judged
    trained_before, encoded_before = np.split(known_songs, [dataset.n_graph_songs])
    length = float(np.linalg.norm(encoded, axis=1).mean()) if len(encoded) else 1.0
    fit = None
    if meets_cold_songs(dataset.validation, dataset.n_graph_songs):
        cold_before, _ = directions(encoded_before, trained_before, artists)
        known_before = users, trained_before, cold_before, Tuner.of(dataset)
        fit = calibrate(*known_before) or shorten(*known_before, length)
    return np.float32(fit.length if fit else length) * cold, known, fit


def indexed_vectors(song_embeddings: Relation, cold_songs: Relation) -> NDArray[np.float32]:
    """Vectors in the index by song_id: embeddings of trained songs, calibrated ones of cold songs, float32 [n, d]."""
    trained = song_embeddings.filter("NOT cold")
    return np.concatenate([embeddings(table, "song_id") for table in (trained, cold_songs) if len(table)])
