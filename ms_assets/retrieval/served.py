"""Served model: its files, and its answers to requests for recommendations."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.index import SongIndex
from ms_assets.retrieval.lightgcn import LightGCN
from ms_assets.retrieval.recommender import Rank, ranked
from ms_assets.vectors import Ragged, fixed_size_list, vector_column

if TYPE_CHECKING:
    import faiss

USERS, SONGS, POPULAR, INDEX = "users.parquet", "songs.parquet", "popular.parquet", "index.faiss"
FEW = 8
"""Largest number of users for which one thread searches: several would wait for one another, and meanwhile keep the
processor from other requests. On two busy cores two threads took 44 ms for a search that one does in 0.8."""
PERSONAL, FALLBACK = "personal", "popular"


@dataclass(frozen=True)
class ModelData:
    """Data of a served model: users and songs with their embeddings, and the users' train events."""

    uid: NDArray[np.int64]
    item_id: NDArray[np.int64]
    users: NDArray[np.float32]
    """Embeddings of users [n_users, d]."""
    songs: NDArray[np.float32]
    """Embeddings of songs as indexed, cold ones calibrated, [n_songs, d]."""
    heard: Interactions
    """Pairs with positive train events."""

    @classmethod
    def read(cls, folder: Path) -> "ModelData":
        """Read users.parquet and songs.parquet, which `write` wrote."""
        users, songs = pq.read_table(folder / USERS), pq.read_table(folder / SONGS)
        return cls(
            users["uid"].to_numpy(),
            songs["item_id"].to_numpy(),
            vector_column(users, "embedding"),
            vector_column(songs, "embedding"),
            _heard(users, len(songs)),
        )


def _heard(users: pa.Table, n_songs: int) -> Interactions:
    lists = Ragged.from_column(users, "heard")
    return Interactions.of(lists.rows(), lists.values, len(users), n_songs)


@dataclass(frozen=True)
class Answer:
    """Recommended songs of one user, best first."""

    kind: str
    """Kind of the answer: PERSONAL, or FALLBACK, the same for all users whom the model does not know."""
    items: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Service:
    """Service that recommends songs to one user or many at a time; safe to use from several threads."""

    uid: NDArray[np.int64]
    by_uid: NDArray[np.int64]
    """Dense user ids in the order of uid."""
    item_id: NDArray[np.int64]
    heard: Interactions
    rank: Rank
    popular: Answer

    @classmethod
    def read(cls, folder: Path) -> "Service":
        """Read the files of `ModelData`, the popular songs and the index, which holds the song embeddings."""
        users, item_id = pq.read_table(folder / USERS), pq.read_table(folder / SONGS, columns=["item_id"])
        popular, items = pq.read_table(folder / POPULAR), item_id["item_id"].to_numpy()
        uid, heard = users["uid"].to_numpy(), _heard(users, len(items))
        dataset, vectors = Dataset(uid, items, len(items), heard), vector_column(users, "embedding")
        model = LightGCN().of_embeddings(dataset, SongIndex.load(folder / INDEX), items, users=vectors)
        return cls(
            uid=uid,
            by_uid=np.argsort(uid),
            item_id=items,
            heard=heard,
            rank=model.rank,
            popular=Answer(FALLBACK, popular["item_id"].to_numpy(), popular["score"].to_numpy()),
        )

    def users(self, uid: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Dense ids of users [n], and flags of those whom the model knows."""
        place = np.searchsorted(self.uid, uid, sorter=self.by_uid).clip(max=len(self.uid) - 1)
        user = self.by_uid[place]
        return user, self.uid[user] == uid

    def answer(self, uid: NDArray[np.int64], k: NDArray[np.int64], exclude_heard: NDArray[np.bool_]) -> list[Answer]:
        """Recommend the k best songs for each row [n] of user, k and flag, without heard songs if the flag is set."""
        user, is_known = self.users(uid)
        known = np.flatnonzero(is_known)
        answers = [Answer(FALLBACK, self.popular.items[:n], self.popular.scores[:n]) for n in k]
        if not len(known):
            return answers
        n_songs = len(self.item_id)
        longest = int(min(k[known].max(), n_songs))
        with _threads(1) if len(known) <= FEW else nullcontext():
            songs, scores = ranked(self.rank, user[known], self.heard, n_songs, longest)
        for row, at in enumerate(known):
            view, n = int(exclude_heard[at]), k[at]
            found = songs[view, row, :n]
            shown = found >= 0
            answers[at] = Answer(PERSONAL, self.item_id[found[shown]], scores[view, row, :n][shown])
        return answers


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Let Faiss search with n threads when called from this one."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write(folder: Path, data: ModelData, popular: pa.Table, index: "faiss.Index") -> None:
    """Write users.parquet (uid, embedding, heard), songs.parquet (item_id, embedding), popular songs and index.

    popular: item_id, score, best first.
    """
    import faiss

    heard = pa.ListArray.from_arrays(data.heard.offsets.astype(np.int32), data.heard.song.astype(np.int32))
    users = {"uid": data.uid, "embedding": fixed_size_list(data.users), "heard": heard}
    songs = {"item_id": data.item_id, "embedding": fixed_size_list(data.songs)}
    for name, table in ((USERS, pa.table(users)), (SONGS, pa.table(songs)), (POPULAR, popular)):
        pq.write_table(table, folder / name, compression="zstd")
    faiss.write_index(index, str(folder / INDEX))
