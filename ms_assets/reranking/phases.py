"""Phases: what is known when rankers learn, before validation, and when lists are ranked, before the test part.

Both know the train part, as every recommender does, so that the leaderboard compares methods that know the same. After
a refit LightGCN has seen the validation part: lists are then ranked with its events too, and rankers learn from
embeddings and lists of the training before the refit.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray

from ms_assets.machine import free_memory, refuse_beyond
from ms_assets.reranking.candidates import Lists
from ms_assets.reranking.features import Knowledge, estimate
from ms_assets.reranking.past import Past
from ms_assets.retrieval.cold_start import directions, indexed_vectors
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.index import SongIndex
from ms_assets.retrieval.lightgcn import LightGCN
from ms_assets.retrieval.methods import METHODS
from ms_assets.retrieval.recommender import recommendations
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged, dimensions, embeddings, is_refitted, unrefitted

SOURCES = tuple(name for name in METHODS if name != "random")
"""Recommenders whose lists are candidates."""
OF_LIGHTGCN = ("lightgcn", "lightgcn_replay")


@dataclass(frozen=True)
class Phase:
    """Knowledge of a phase, and the lists that were made from it."""

    known: Knowledge
    lists: Lists


@dataclass(frozen=True)
class Stored:
    """Stored tables that phases are made of, and audio, float32 [n_songs, d]."""

    users: Relation
    songs: Relation
    train: Relation
    negatives: Relation
    queries: Relation
    song_embeddings: Relation
    cold_songs: Relation
    audio: NDArray[np.float32]
    lists: Lists

    @property
    def is_refitted(self) -> bool:
        """True if LightGCN was trained anew on train and validation."""
        return is_refitted(self.queries)

    def known_before_validation(self) -> Knowledge:
        """Knowledge of the phase in which rankers learn.

        Raises:
            NotEnoughMemoryError: what is known of all songs and users does not fit into free memory.
        """
        self._refuse_without_room()
        vectors = self._unrefitted_vectors() if self.is_refitted else self._vectors()
        return self._known(self._past(self.train, self.negatives), vectors)

    def before_validation(self, con: duckdb.DuckDBPyConnection) -> Phase:
        """Phase in which rankers learn: neither events nor embeddings nor lists know the validation part."""
        known = self.known_before_validation()
        if not self.is_refitted:
            return Phase(known, self.lists)
        users, songs = known.embeddings
        dataset = Dataset.of(self.users, self.songs, self.train)
        index = SongIndex.build(songs, dataset.song_ids, queries=users)
        model = LightGCN().of_embeddings(dataset, index, dataset.song_ids, users=users)
        lists = {**self._unrefitted_lists(), "lightgcn": con.from_arrow(recommendations(model))}
        return Phase(known, lists)

    def before_test(self, validation: Relation) -> Phase:
        """Phase in which lists are ranked; validation: splits/validation, which is known after a refit alone.

        Raises:
            NotEnoughMemoryError: what is known of all songs and users does not fit into free memory.
        """
        self._refuse_without_room()
        if not self.is_refitted:
            return Phase(self._known(self._past(self.train, self.negatives), self._vectors()), self.lists)
        past = self._past(self.train, self.negatives, validation)
        return Phase(self._known(past, self._vectors()), self._unrefitted_lists())

    def _refuse_without_room(self) -> None:
        n_users, n_songs = len(self.users), len(self.songs)
        refuse_beyond(
            free_memory(),
            f"ranking for {n_users:,} users among {n_songs:,} songs",
            estimate(n_users, n_songs, len(self.train), dimensions(self.song_embeddings)),
            "lower training__lightgcn.embedding_dim, or rank on a machine with more memory",
        )

    def _past(self, *events: Relation) -> Past:
        return Past.of(len(self.users), len(self.songs), *events)

    def _vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return embeddings(self.queries, "user_id"), indexed_vectors(self.song_embeddings, self.cold_songs)

    def _unrefitted_vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # A refit leaves the length of cold songs, which was chosen by the training before it.
        songs, placed = unrefitted(self.song_embeddings, "song_id"), embeddings(self.cold_songs, "song_id")
        trained, encoded = np.split(songs, [len(songs) - len(placed)])
        cold, _ = directions(encoded, trained, self._tags("artist_ids"))
        lengths = np.linalg.norm(placed, axis=1, keepdims=True)
        return unrefitted(self.queries, "user_id"), np.concatenate([trained, lengths * cold])

    def _tags(self, name: str) -> Ragged:
        return Ragged.from_column(self.songs.order("song_id").to_arrow_table(), name)

    def _unrefitted_lists(self) -> dict[str, Relation | None]:
        # The blend's lists cannot be made anew without the weight that validation chose for it.
        return {**self.lists, "lightgcn_replay": None}

    def _known(self, past: Past, vectors: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Knowledge:
        return Knowledge.of(past, self._tags("artist_ids"), self._tags("album_ids"), vectors, self.audio)
