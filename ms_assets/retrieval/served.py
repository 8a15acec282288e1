"""The model as it is served: what it keeps in files, and how it answers who asks for songs."""

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
"""Users at a time that one thread searches for: several would wait for one another, and take the processor from other
requests while they do. On two busy cores two threads took 44 ms for what one does in 0.8."""
PERSONAL, FALLBACK = "personal", "popular"


@dataclass(frozen=True)
class ModelData:
    """What a training knows: who there is, which songs, where they lie, and who has heard what."""

    uid: NDArray[np.int64]
    item_id: NDArray[np.int64]
    users: NDArray[np.float32]
    """Embeddings [n_users, d]."""
    songs: NDArray[np.float32]
    """Embeddings as indexed, cold songs calibrated, [n_songs, d]."""
    heard: Interactions
    """Positive train events."""

    def write(self, folder: Path) -> None:
        """Write users.parquet (uid, embedding, heard) and songs.parquet (item_id, embedding)."""
        heard = pa.ListArray.from_arrays(self.heard.offsets.astype(np.int32), self.heard.song.astype(np.int32))
        users = {"uid": self.uid, "embedding": fixed_size_list(self.users), "heard": heard}
        songs = {"item_id": self.item_id, "embedding": fixed_size_list(self.songs)}
        for name, columns in ((USERS, users), (SONGS, songs)):
            pq.write_table(pa.table(columns), folder / name, compression="zstd")

    @classmethod
    def read(cls, folder: Path) -> "ModelData":
        """Read what `write` wrote."""
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
    """The songs of one user, best first."""

    kind: str
    """PERSONAL, or FALLBACK: the same for everybody whom the model does not know."""
    items: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Service:
    """Answers who asks for songs, one user or many at a time; safe to ask from several threads."""

    uid: NDArray[np.int64]
    by_uid: NDArray[np.int64]
    """Users in the order of their uids."""
    item_id: NDArray[np.int64]
    heard: Interactions
    rank: Rank
    popular: Answer

    @classmethod
    def read(cls, folder: Path) -> "Service":
        """From the files of `ModelData`, the popular songs and the index; song embeddings are in the index."""
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

    def answer(self, uid: NDArray[np.int64], k: NDArray[np.int64], exclude_heard: NDArray[np.bool_]) -> list[Answer]:
        """For each of the rows [n] the k best songs of a user, without those that they heard where so asked."""
        place = np.searchsorted(self.uid, uid, sorter=self.by_uid).clip(max=len(self.uid) - 1)
        user = self.by_uid[place]
        known = np.flatnonzero(self.uid[user] == uid)
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
    """Faiss searches with so many threads in this one."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write(folder: Path, data: ModelData, popular: pa.Table, index: "faiss.Index") -> None:
    """Write everything that `ModelData.read` and `Service.read` read; popular: item_id, score, best first."""
    import faiss

    data.write(folder)
    pq.write_table(popular, folder / POPULAR, compression="zstd")
    faiss.write_index(index, str(folder / INDEX))
