"""LightGCN as a recommender, alone and with the user's own songs in one list."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ms_assets.retrieval import queries
from ms_assets.retrieval.baselines import activation
from ms_assets.retrieval.cold_start import placed
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.index import SongIndex, gpu_of
from ms_assets.retrieval.recommender import Ranked, VectorRecommender
from ms_assets.settings import TrainingSettings, validated
from ms_assets.vectors import Ragged

TINY = 1e-30
OF_THE_ASSET = ("use_study", "replace_checkpoint", "checkpoint_seconds", "warm_start", "ranks")
"""Settings that concern the study, the checkpoints, the stored model and the processes of the asset alone."""
BLEND_GRID: list[dict[str, float]] = [
    *(
        {"replay_weight": weight, "decay": decay}
        for weight in (1.0, 0.0, 0.25, 4.0, 64.0)
        for decay in (0.0, 0.5, 0.75, 1.0)
        if weight or not decay
    ),
    *({"replay_weight": weight, "decay": 0.0} for weight in (-0.25, -1.0, -64.0)),
]
"""Settings of the blend: from new songs alone over LightGCN alone to, but for equals, `Replay` alone.

Heard songs belong last where nobody returns, as in a log that has each pair of user and song once.
"""


class LightGCN(VectorRecommender):
    """LightGCN: vectors of users and songs learned on their graph, searched by an index (He et al., arXiv 2002.02126).

    Settings are the fields of `TrainingSettings`, such as `epochs`, `embedding_dim` or `seed`, but for OF_THE_ASSET,
    which are refused. With `refit`, the validation part is learned from too, after it has chosen the epoch. Progress is
    logged: `logging.basicConfig(level="INFO")` shows it.

    >>> LightGCN(epochs=5).settings.epochs
    5
    """

    index: SongIndex

    def __init__(self, **settings: Any) -> None:
        self.settings = validated(TrainingSettings, settings)
        for name in OF_THE_ASSET:
            if (found := getattr(self.settings, name)) != TrainingSettings.model_fields[name].default:
                raise ValueError(
                    f"{name}: found {found}, expected none, for only the asset training/lightgcn acts on it"
                )

    def of_embeddings(
        self, dataset: Dataset, index: SongIndex, ids: NDArray[np.int64], **learned: NDArray[np.float32]
    ) -> Self:
        """Set embeddings that were learned elsewhere, in place of `fit`.

        Args:
            dataset: users and songs.
            index: index over the songs' embeddings.
            ids: id of each song in the index, by song_id, int64 [n_songs].
            learned: embeddings of `users` [n_users, d], and of `songs` [n_songs, d] if they are needed.
        """
        self.dataset, self.learned, self.index = dataset, learned, index
        self._ids, self._by_id = ids, np.argsort(ids)
        return self

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        from ms_assets.graph.bipartite import bipartite_graph
        from ms_assets.graph.edges import edges
        from ms_assets.training import inputs, race, refit, trainer

        given = dataset.tables
        assert given is not None, "frames come with the tables that a graph is made of"
        silence = np.zeros((dataset.n_songs, 1), np.float32), np.zeros(dataset.n_songs, bool)
        graph = bipartite_graph(
            given.users.to_arrow_table(),
            given.songs.to_arrow_table(),
            dataset.audio or silence,
            len(given.train),
            edges(given.connection, given.train).to_arrow_reader(),
        )
        data = inputs.training_data(graph, given.negatives, given.ground_truth)
        has_metadata = bool(len(graph["song"].artist_ids) + len(graph["song"].album_ids))
        known = {"audio": dataset.audio is not None, "metadata": has_metadata}
        used = {name: is_known and getattr(self.settings, name) for name, is_known in known.items()}
        settings, device = inputs.fitted(validated(TrainingSettings, self.settings.model_dump() | used), data.graph)
        self.trained = race.train(data, settings, device)
        n = dataset.n_graph_songs
        users, songs = before = [vectors.numpy() for vectors in self.trained.embeddings(data.graph)]
        fit = queries.fit(dataset, before[0], before[1][:n])
        asked = fit.queries
        if settings.refit and len(given.validation):
            parts = given.negatives, given.train, given.validation
            data = refit.refit_data(given.connection, graph, *parts)
            self.trained = trainer.refit(data, self.trained, device)
            users, songs = (vectors.numpy() for vectors in self.trained.embeddings(data.graph))
            asked = queries.of_users(dataset, users, songs[:n], fit.weights)
        if n < dataset.n_songs:
            artists = Ragged.from_column(given.songs.order("song_id").to_arrow_table(), "artist_ids")
            cold, _, _ = placed(dataset, songs, artists, judged=(fit.queries, before[1]))
            songs = np.concatenate([songs[:n], cold])
        return {"users": asked, "songs": songs}

    def _prepare(self, dataset: Dataset) -> None:
        gpu = gpu_of(self.settings.device)
        index = SongIndex.build(self.learned["songs"], queries=self.learned["users"], gpu=gpu)
        self.of_embeddings(dataset, index, np.arange(dataset.n_songs), **self.learned)

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the songs that the index finds nearest to the users."""
        return self.find(self.learned["users"][user], n)

    def find(self, vectors: NDArray[np.float32], n: int) -> Ranked:
        """Rank the n songs that the index finds nearest to vectors float32 [n_vectors, d]."""
        found, scores = self.index.search(vectors, n)
        place = np.searchsorted(self._ids, found, sorter=self._by_id).clip(max=len(self._ids) - 1)
        return np.where(found >= 0, self._by_id[place], -1), scores

    def _settings(self) -> dict[str, Any]:
        return self.settings.model_dump()


class LightGCNReplay(LightGCN):
    """LightGCN with the scores of the user's own songs raised, or lowered, by their activation, as in `Replay`.

        score = user · song + weight · log(1 + a) / log(1 + most),    a = Σ (age in minutes + 1)^−decay

    over the user's positive train events with the song; most is the user's largest a. Songs never heard score as in
    `LightGCN`, so that lists without heard songs are the same.
    """

    def __init__(self, replay_weight: float = 1.0, decay: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.replay_weight, self.decay = replay_weight, decay

    def _learn(self, dataset: Dataset) -> dict[str, NDArray[Any]]:
        return {**super()._learn(dataset), "activation": activation(dataset, self.decay)}

    def rank(self, user: NDArray[np.int64], n: int) -> Ranked:
        """Rank the songs nearest to the users together with the users' own songs."""
        found, scores = super().rank(user, n)
        blended, values = np.full_like(found, -1), np.zeros_like(scores)
        for row, one in enumerate(user):
            heard, raised = self._own(one)
            new = (found[row] >= 0) & ~np.isin(found[row], heard)
            candidates, both = np.concatenate([heard, found[row][new]]), np.concatenate([raised, scores[row][new]])
            best = np.argsort(-both, kind="stable")[: found.shape[1]]
            blended[row, : len(best)], values[row, : len(best)] = candidates[best], both[best]
        return blended, values

    def _own(self, user: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        pairs = self._fitted().heard
        here = slice(pairs.offsets[user], pairs.offsets[user + 1])
        heard, active = pairs.keys[here] % pairs.n_songs, np.log1p(self.learned["activation"][here])
        near = self.learned["songs"][heard] @ self.learned["users"][user]
        return heard, (near + self.replay_weight * active / active.max(initial=TINY)).astype(np.float32)

    def _settings(self) -> dict[str, Any]:
        return {"replay_weight": self.replay_weight, "decay": self.decay, **super()._settings()}
