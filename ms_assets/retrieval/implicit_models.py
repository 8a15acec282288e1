"""ItemKNN, iALS and BPR, all by the library `implicit`; they learn from histories alone, and know graph songs alone.

ItemKNN and iALS take the number of a user's positive train events with a song as confidence.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval.baselines import best_first
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.memory import FACTORS
from ms_assets.retrieval.recommender import Ranked, Recommender, VectorRecommender

SONGS_PER_USER = 300
"""Maximum number of a user's songs from which similarities are computed, whose cost grows with its square."""
ITERATIONS = 8
SAMPLES = 30_000_000
"""Number of steps of BPR, unless a pair would get fewer than 10 or more than 200."""

ITEM_KNN_GRID = [
    {"similarity": similarity, "neighbours": neighbours}
    for similarity in ("bm25", "cosine")
    for neighbours in (50, 20, 200)
]
IALS_GRID = [
    {"alpha": 1.0, "regularization": 10.0},
    {"alpha": 3.0, "regularization": 10.0},
    {"alpha": 10.0, "regularization": 10.0},
    {"alpha": 30.0, "regularization": 10.0},
    {"alpha": 10.0, "regularization": 30.0},
    {"alpha": 30.0, "regularization": 100.0},
    {"alpha": 100.0, "regularization": 100.0},
    {"alpha": 300.0, "regularization": 100.0},
]
BPR_GRID = [
    {"learning_rate": 0.1, "regularization": 0.01},
    {"learning_rate": 0.05, "regularization": 0.01},
    {"learning_rate": 0.2, "regularization": 0.01},
    {"learning_rate": 0.1, "regularization": 0.03},
]


@dataclass
class ItemKNN(Recommender):
    """Item-based nearest neighbours: a score is the sum, over the user's songs, of similarity times number of events.

    Deshpande and Karypis, 2004, with BM25 or cosine similarities among the `neighbours` nearest songs, computed from
    each user's most played songs. A list ends where no neighbour is left.

    >>> import polars as pl
    >>> events = pl.DataFrame({"user": ["ann", "ann", "bob", "bob", "cem"], "song": ["a", "b", "a", "b", "a"]})
    >>> ItemKNN(similarity="cosine").fit(events).recommend(["cem"], k=1)["song"].to_list()
    ['b']
    """

    # Any number, for only neighbours are known; but a song is similar to itself, by BM25 if somebody who heard it left
    # out more than one other.
    candidates = ("least(n_heard, 1, greatest(n_known - 1 - n_heard, 0))", "0")
    similarity: Literal["bm25", "cosine"] = "bm25"
    neighbours: int = 50

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight, normalize

        by_song = _most_played(dataset).counts.T
        weighted = bm25_weight(by_song, K1=1.2, B=0.75) if self.similarity == "bm25" else normalize(by_song)
        model = ItemItemRecommender(K=self.neighbours)
        model.fit(weighted.T.tocsr(), show_progress=False)
        return {name: getattr(model.similarity, name) for name in ("data", "indices", "indptr")}

    def _prepare(self, dataset: Dataset) -> None:
        from implicit.nearest_neighbours import ItemItemRecommender
        from scipy.sparse import csr_matrix

        self._matrix, self._model = dataset.counts, ItemItemRecommender()
        parts = tuple(self.learned[name] for name in ("data", "indices", "indptr"))
        similarity = csr_matrix(parts, shape=(dataset.n_graph_songs, dataset.n_graph_songs))
        # Does what unpickling would do, without a pickle: a fitted model consists of its similarities alone.
        self._model.__setstate__({"K": self.neighbours, "num_threads": 0, "similarity": similarity})

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the neighbours of the user's songs."""
        songs, scores = self._model.recommend(user, self._matrix[user], N=n, filter_already_liked_items=False)
        return songs.astype(np.int64), np.where(songs < 0, 0, scores).astype(np.float32)

    def _similar(self, song: NDArray[np.int64], n: int) -> Ranked:
        songs, scores = self._model.similar_items(song, N=n)
        return songs.astype(np.int64), np.where(songs < 0, 0, scores).astype(np.float32)


@dataclass
class IALS(VectorRecommender):
    """Weighted matrix factorisation by alternating least squares (Hu, Koren and Volinsky, 2008).

    The weight of a pair is alpha · number of events if the user heard the song, and 1 otherwise.
    """

    candidates = ("n_known", "n_known - n_heard")
    factors: int = FACTORS
    alpha: float = 1.0
    regularization: float = 10.0
    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        # The library runs its own threads, each of which would start a BLAS pool.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                self.factors, self.regularization, self.alpha, iterations=ITERATIONS, random_state=self.seed
            )
            model.fit(dataset.counts, show_progress=False)
        return {"users": model.user_factors, "songs": model.item_factors}


@dataclass
class BPR(VectorRecommender):
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al., arXiv 1205.2618).

    A song heard shall score higher than a song drawn at random. Steps are taken in one thread, for threads beside each
    other would give other vectors every time; their number is bounded by SAMPLES.
    """

    candidates = ("n_known", "n_known - n_heard")
    factors: int = FACTORS
    learning_rate: float = 0.1
    regularization: float = 0.01
    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            self.factors, self.learning_rate, self.regularization, iterations=epochs(len(dataset.heard)),
            num_threads=1, random_state=self.seed,
        )  # fmt: skip
        model.fit(dataset.counts, show_progress=False)
        return {"users": model.user_factors, "songs": model.item_factors}


def epochs(n_pairs: int) -> int:
    """Number of times that BPR meets every pair."""
    return int(np.clip(SAMPLES // max(n_pairs, 1), 10, 200))


def _most_played(dataset: Dataset) -> Dataset:
    heard = dataset.heard
    kept = np.zeros(len(heard), np.bool_)
    for pairs, order in best_first(dataset, heard.values["n_events"]):
        first = heard.offsets[heard.keys[order] // heard.n_songs]
        kept[order] = np.arange(pairs.start, pairs.stop) - first < SONGS_PER_USER
    return replace(dataset, heard=heard.keep(kept))
