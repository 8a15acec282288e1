"""Linear models: scores are a user's history times a matrix of songs × songs, none of whose entries is left out.

Such a matrix is too large to be kept. It is a product of sparse matrices and a small one, through which histories of
some users at a time are sent. All know graph songs alone.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ms_assets.retrieval import exact
from ms_assets.retrieval.baselines import degrees, positives, singular_vectors
from ms_assets.retrieval.dataset import ROWS, Dataset
from ms_assets.retrieval.memory import FACTORS, MOST_USERS
from ms_assets.retrieval.recommender import Ranked, Recommender, padded
from ms_assets.streams import Relation, in_user_ranges

if TYPE_CHECKING:
    from torch import Tensor

HOUR = 3_600
SESSION = 1_800
"""Seconds after an event within which another one of the user follows it."""

SESSION_GRID = [{"half_life_hours": hours} for hours in (None, 168.0, 24.0, 6.0, 1.0, 0.2, 0.04, 0.008)]
TRANSITIONS_GRID = [{"half_life_hours": hours} for hours in (0.2, 0.04, 1.0, 24.0, None)]
FILTER_GRID = [
    {"power": power, "low_pass": low_pass}
    for low_pass, powers in ((0.3, (0.5, 0.4, 0.3)), (0.0, (0.2, 0.3, 0.4, 0.5)))
    for power in powers
]
EASE_GRID = [{"regularization": regularization} for regularization in (100.0, 5.0, 20.0, 50.0, 250.0)]


class LinearModel(Recommender):
    """Recommender with scores of all graph songs for some users at a time; a list ends with the last one above 0."""

    # Any number more: a song that no user leads to has a score of 0. Users lead back to their own songs.
    candidates = ("least(n_heard, 1)", "0")
    lowest: ClassVar[float] = 0.0
    """Score above which songs are ranked."""

    @abstractmethod
    def _scores(self, user: NDArray[np.int64]) -> "Tensor":
        """Scores of all graph songs, float32 [n_users, n_graph_songs]."""

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank songs by score."""
        n_known = self._fitted().n_graph_songs
        scores, songs = exact.best(self._scores, user, n_known, min(n, n_known))
        is_listed = scores > self.lowest
        return padded(np.where(is_listed, scores, np.float32(0)), np.where(is_listed, songs, -1), n)


@dataclass
class SessionKNN(LinearModel):
    """Item-based nearest neighbours of a user's recent songs, all of them, as the authors of Yambda have it.

    A score is the inner product of the song's events by user with those of the user's songs, which count by their own
    events, halved for every half-life of their age before the user's last event; it is divided by the length of the
    song's vector alone.
    """

    half_life_hours: float | None = None

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        return {"recent": _recent(dataset, self.half_life_hours)}

    def _prepare(self, dataset: Dataset) -> None:
        self._recent, self._counts = dataset.matrix(self.learned["recent"]), dataset.counts
        self._recent.eliminate_zeros()
        lengths = np.sqrt(self._counts.power(2).sum(axis=0)).A1
        self._by_song = self._counts.T.tocsr()
        self._by_song.data /= np.repeat(lengths.astype(np.float32), np.diff(self._by_song.indptr))

    def _scores(self, user: NDArray[np.int64]) -> "Tensor":
        return _sums((self._recent[user] @ self._counts.T).toarray(), self._by_song).T.contiguous()


@dataclass
class Transitions(LinearModel):
    """Next-song transitions: the songs that followed a user's recent songs within a session, whoever played them.

    A score is the sum over the user's songs of their events, which fade as in `SessionKNN`, times the share that the
    candidate has in what followed the song. Events of one second have no order, so neither follows the other. Each song
    follows itself once more than counted, so that a user's own songs lead somewhere where nothing followed them.
    """

    half_life_hours: float | None = 0.2

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        from scipy.sparse import csr_matrix

        assert dataset.train is not None, "a dataset to learn from has its events"
        song, following, n = _all_followed(dataset.train)
        own = np.arange(dataset.n_graph_songs, dtype=song.dtype)
        # Whole numbers, for rows come in an order that threads decide, and ranges of users have pairs in common.
        values = np.concatenate([n, np.ones_like(own)], dtype=np.float64)
        counts = csr_matrix((values, (np.append(song, own), np.append(following, own))), shape=(len(own), len(own)))
        recent = _recent(dataset, self.half_life_hours)
        return {"recent": recent, "n": counts.data, "following": counts.indices, "offsets": counts.indptr}

    def _prepare(self, dataset: Dataset) -> None:
        from scipy.sparse import csr_matrix

        n, following, offsets = (self.learned[name] for name in ("n", "following", "offsets"))
        size = len(offsets) - 1
        shares = n / np.repeat(np.add.reduceat(n, offsets[:-1]), np.diff(offsets))
        self._shares = csr_matrix((shares.astype(np.float32), following, offsets), shape=(size, size))
        self._recent = dataset.matrix(self.learned["recent"])

    def _scores(self, user: NDArray[np.int64]) -> "Tensor":
        import torch

        return torch.from_numpy((self._recent[user] @ self._shares).toarray())


def followed(train: Relation) -> Relation:
    """Number of times that one song followed another within a session: song_id, following, n."""
    window = "OVER (PARTITION BY user_id ORDER BY timestamp, song_id)"
    pairs = train.project(f"song_id, lead(song_id) {window} AS following, lead(timestamp) {window} - timestamp AS gap")
    return pairs.filter(f"gap BETWEEN 1 AND {SESSION}").aggregate("song_id, following, count(*) AS n")


def _all_followed(train: Relation) -> list[NDArray[np.integer]]:
    """Columns of `followed`, of all users, a range of them at a time."""
    found = pa.concat_tables(in_user_ranges(followed, train, rows=ROWS).tables)
    return [found[name].to_numpy() for name in ("song_id", "following", "n")]


def _recent(dataset: Dataset, half_life_hours: float | None) -> NDArray[np.float32]:
    """Events of each pair in `heard`, halved for every half-life before the user's last event, float32 [n_pairs]."""
    if half_life_hours is None:
        return dataset.heard.values["n_events"].astype(np.float32)
    return dataset.aged(f"pow(2, age / {-HOUR * half_life_hours})").astype(np.float32)


@dataclass
class GraphFilter(LinearModel):
    """Closed-form filter of the bipartite graph, GF-CF (Shen et al., arXiv 2108.07567).

    R has a one for every positive pair, divided by the root of the user's number of songs and by a power of the song's
    number of users. A user's songs are sent through RᵀR and, with weight `low_pass`, through the projection on the
    strongest right singular vectors of R, divided by that power of the song's number before and multiplied after.
    """

    power: float = 0.5
    low_pass: float = 0.3
    factors: int = FACTORS
    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        if not self.low_pass:
            return {}
        _, strongest = singular_vectors(positives(dataset, 0.5, self.power), self.factors, self.seed)
        return {"strongest": strongest}

    def _prepare(self, dataset: Dataset) -> None:
        matrix = positives(dataset, 0.5, self.power)
        self._heard, self._matrix, self._by_song = positives(dataset), matrix, matrix.T.tocsr()
        if self.low_pass:
            scale = (degrees(dataset)[1] ** self.power).astype(np.float32)[:, None]
            self._into, self._out = self.learned["strongest"] / scale, self.learned["strongest"] * scale * self.low_pass

    def _scores(self, user: NDArray[np.int64]) -> "Tensor":
        import torch

        songs = self._heard[user]
        scores = _sums((songs @ self._matrix.T).toarray(), self._by_song).T.contiguous()
        return scores.addmm_(*map(torch.from_numpy, (songs @ self._into, self._out.T))) if self.low_pass else scores


@dataclass
class EASE(LinearModel):
    """Embarrassingly shallow autoencoder: ridge regression of every song on all others (Steck, arXiv 1905.03375).

    With X the ones of MOST_USERS users at most and K = (XXᵀ + regularization)⁻¹, the weights of all songs × songs are
    (XᵀKX − its diagonal q) / (1 − q), column by column: the inverse is users × users, so that no song is left out.
    """

    candidates = ("n_known", "n_known - n_heard")
    lowest = -np.inf
    regularization: float = 100.0
    seed: int = 0

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        users = np.random.default_rng(self.seed).permutation(np.flatnonzero(dataset.heard.counts))[:MOST_USERS]
        ones = positives(dataset)[users]
        # K = LᵀL; squares of LX sum to its diagonal without the cancellation that is near in float32.
        root = _inverse_root((ones @ ones.T).toarray().astype(np.float64), self.regularization)
        by_song = ones.T.tocsr()
        rows = np.array_split(root, 1 + len(root) * dataset.n_graph_songs // exact.AT_ONCE)
        explained = np.zeros(dataset.n_graph_songs, np.float32)
        for some in rows:
            explained += _sums(some, by_song).square_().sum(dim=1).numpy()
        return {"users": users, "root": root, "explained": explained}

    def _prepare(self, dataset: Dataset) -> None:
        self._heard = positives(dataset)
        self._learnt = self._heard[self.learned["users"]]
        self._by_song = self._learnt.T.tocsr()

    def _scores(self, user: NDArray[np.int64]) -> "Tensor":
        import torch

        songs, root, explained = self._heard[user], self.learned["root"], self.learned["explained"]
        scores = _sums((songs @ self._learnt.T).toarray() @ root.T @ root, self._by_song).T.contiguous()
        row, own = (torch.from_numpy(ids.astype(np.int64)) for ids in songs.nonzero())
        scores[row, own] -= torch.from_numpy(explained)[own]
        return scores.div_(torch.from_numpy(1 - explained))


def _inverse_root(gram: NDArray[np.float64], regularization: float) -> NDArray[np.float32]:
    """Inverse of the lower Cholesky factor of a symmetric matrix + regularization, in its place, float32 [n, n]."""
    from scipy.linalg import cholesky, inv

    gram[np.diag_indices_from(gram)] += regularization
    # LAPACK works in place on columns; rows of a symmetric matrix are its columns.
    factor = cholesky(gram.T, lower=True, overwrite_a=True)
    return inv(factor, assume_a="lower triangular", overwrite_a=True).astype(np.float32, order="C")


def _sums(weights: NDArray[np.float32], by_song: Any) -> "Tensor":
    """Sums over users of weight times value: [n, n_users] and sparse [n_songs, n_users] to float32 [n_songs, n]."""
    import torch

    # A third of the time of SciPy's product with a dense matrix.
    user, offsets, value = (torch.from_numpy(part) for part in (by_song.indices, by_song.indptr, by_song.data))
    table = torch.from_numpy(np.ascontiguousarray(weights.T))
    return torch.nn.functional.embedding_bag(user, table, offsets[:-1], mode="sum", per_sample_weights=value)
