"""Served model: its files, and its answers to requests for recommendations.

Ids are those that the data came with: Yambda's numbers, or what an imported log calls its users, songs and artists.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.retrieval import queries
from ms_assets.retrieval.dataset import Dataset
from ms_assets.retrieval.index import SongIndex
from ms_assets.retrieval.lightgcn import LightGCN
from ms_assets.retrieval.recommender import ranked
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged, fixed_size_list, unit, vector_column

if TYPE_CHECKING:
    import faiss

USERS, SONGS, POPULAR, INDEX = "users.parquet", "songs.parquet", "popular.parquet", "index.faiss"
RECENT = b"recent"
"""Key of the metadata of USERS with the weights of recent songs, as JSON, by their half-life in seconds."""
NUMBER, ARTISTS = "number", "artist_ids"
"""Columns of songs: the id in the index, and the ids of the song's artists."""
FEW = 8
"""Largest number of users for which one thread searches: several would wait for one another, and meanwhile keep the
processor from other requests. On two busy cores two threads took 44 ms for a search that one does in 0.8."""
PERSONAL, FALLBACK, FOLDED, SIMILAR = "personal", "popular", "recent", "similar"
CANDIDATES = 1_000
"""Number of songs that the index finds for a song's direction, of which the nearest are those with the best cosines. On
the sample, where lengths differ sevenfold, they hold all of the ten nearest; 300 would hold 98 % of them."""
REASONS = 3
"""Largest number of heard songs that an answer names for each of its songs."""


def _plain(ids: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Ids as an array of int64, or of text."""
    values = ids.to_numpy(zero_copy_only=False) if isinstance(ids, pa.Array) else ids.to_numpy()
    return values.astype(str) if values.dtype == object else values.astype(np.int64)


@dataclass(frozen=True)
class Ids:
    """Distinct ids by dense id, which are found by binary search."""

    values: NDArray[Any]
    """Ids, int64 or text, [n]."""
    order: NDArray[np.int64]
    """Dense ids in the order of the values."""

    @classmethod
    def of(cls, table: pa.Table, name: str) -> Self:
        """Read a column of ids."""
        values = _plain(table[name])
        return cls(values, np.argsort(values, kind="stable"))

    def find(self, wanted: NDArray[Any] | Sequence[Any]) -> NDArray[np.int64]:
        """Dense ids of wanted values, int64 [n_wanted]; −1 where a value is unknown."""
        wanted = np.asarray(wanted, self.values.dtype if not len(wanted) else None)
        place = self.order[np.searchsorted(self.values, wanted, sorter=self.order).clip(max=len(self.values) - 1)]
        return np.where(self.values[place] == wanted, place, -1)


@dataclass(frozen=True)
class ModelData:
    """Data of a served model: users and songs with their embeddings, and the users' train events."""

    uid: NDArray[Any]
    """Ids of users as the data came with them, int64 or text."""
    item_id: NDArray[Any]
    """Ids of songs as the data came with them, int64 or text."""
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
            Ids.of(users, "uid").values,
            Ids.of(songs, "item_id").values,
            vector_column(users, "embedding"),
            vector_column(songs, "embedding"),
            _heard(users, len(songs)),
        )


def _heard(users: pa.Table, n_songs: int) -> Interactions:
    lists = Ragged.from_column(users, "heard")
    return Interactions.of(lists.rows(), lists.values, len(users), n_songs)


@dataclass(frozen=True)
class Question:
    """Request for one list of songs; what it asks for beyond a user's list is empty by default."""

    k: int
    uid: Any = None
    """Id of a user, int or text; None if nobody known is asked for."""
    exclude_heard: bool = True
    """Leave out the songs that the user has heard."""
    recent: Sequence[Any] = ()
    """Ids of songs that somebody heard lately, one for each event; they stand for what the model knows of the user."""
    ages: Sequence[float] = ()
    """Seconds since each of these events; all count alike without them."""
    similar_to: Any = None
    """Id of the song whose nearest songs are asked for."""
    without_artists: Sequence[Any] = ()
    """Ids of artists whose songs are left out."""
    only_songs: Sequence[Any] | None = None
    """Ids of the songs that may be answered; None for all."""
    why: bool = False
    """Name the nearest of the heard songs for each song of the answer."""


@dataclass(frozen=True)
class Answer:
    """Recommended songs of one user, best first."""

    kind: str
    """Kind of the answer: PERSONAL; FOLDED, by recent songs; SIMILAR, to a song; or FALLBACK, the same for all whom the
    model does not know."""
    items: NDArray[Any]
    scores: NDArray[np.float32]
    because: list[NDArray[Any]] = field(default_factory=list)
    """Ids of the nearest heard songs for each item, if they were asked for."""


@dataclass(frozen=True)
class Service:
    """Service that recommends songs to one user or many at a time; safe to use from several threads."""

    folder: Path
    users: Ids
    songs: Ids
    heard: Interactions
    queries: NDArray[np.float32]
    """Vectors that users' songs are searched by, [n_users, d]."""
    model: LightGCN
    popular: Answer
    weights: Mapping[int, float]
    """Weights of recent songs by their half-life in seconds, as `queries.fit` has chosen them."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the files of `ModelData`, the popular songs and the index, which holds the song embeddings."""
        users, songs = pq.read_table(folder / USERS), pq.read_table(folder / SONGS, columns=["item_id"])
        popular, ids = pq.read_table(folder / POPULAR), Ids.of(songs, "item_id")
        who, heard, vectors = Ids.of(users, "uid"), _heard(users, len(songs)), vector_column(users, "embedding")
        numbers = ids.values
        if NUMBER in pq.read_schema(folder / SONGS).names:
            numbers = pq.read_table(folder / SONGS, columns=[NUMBER])[NUMBER].to_numpy()
        dataset = Dataset(who.values, ids.values, len(songs), heard)
        weights = json.loads((users.schema.metadata or {}).get(RECENT, b"{}"))  # none before version 0.3
        return cls(
            folder=folder,
            users=who,
            songs=ids,
            heard=heard,
            queries=vectors,
            model=LightGCN().of_embeddings(dataset, SongIndex.load(folder / INDEX), numbers, users=vectors),
            popular=Answer(FALLBACK, Ids.of(popular, "item_id").values, popular["score"].to_numpy()),
            weights={int(half_life): weight for half_life, weight in weights.items()},
        )

    def answer(self, uid: NDArray[Any], k: NDArray[np.int64], exclude_heard: NDArray[np.bool_]) -> list[Answer]:
        """Recommend the k best songs for each row [n] of user, k and flag, without heard songs if the flag is set."""
        user = self.users.find(uid)
        known = np.flatnonzero(user >= 0)
        answers = [Answer(FALLBACK, self.popular.items[:n], self.popular.scores[:n]) for n in k]
        if not len(known):
            return answers
        n_songs = len(self.songs.values)
        longest = int(min(k[known].max(), n_songs))
        with _threads(1) if len(known) <= FEW else nullcontext():
            songs, scores = ranked(self.model.rank, user[known], self.heard, n_songs, longest)
        for row, at in enumerate(known):
            view, n = int(exclude_heard[at]), k[at]
            found = songs[view, row, :n]
            shown = found >= 0
            answers[at] = Answer(PERSONAL, self.songs.values[found[shown]], scores[view, row, :n][shown])
        return answers

    def ask(self, question: Question) -> Answer:
        """Answer one question of any form: similar songs come before recent ones, recent ones before the user."""
        recent = self.songs.find(question.recent)
        kind, query = self._query(question, recent)
        left_out = self._left_out(question)
        allowed = None if question.only_songs is None else np.unique(self.songs.find(question.only_songs))
        if kind == FALLBACK:
            return self._popular(question.k, left_out, allowed)
        if kind == SIMILAR:
            left_out = np.append(left_out, self.songs.find([question.similar_to]))
        songs, scores = self._nearest(kind, query, question.k, left_out, allowed)
        return self.explained(question, kind, songs, scores)

    def may_answer(self, question: Question, songs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Flags of songs by dense id [n] that the question leaves in."""
        kept = ~np.isin(songs, self._left_out(question))
        return kept if question.only_songs is None else kept & np.isin(songs, self.songs.find(question.only_songs))

    def explained(self, question: Question, kind: str, songs: NDArray[np.int64], scores: NDArray[np.float32]) -> Answer:
        """Answer of these songs by dense id [n], with its reasons if the question asks for them."""
        because = self._nearest_heard(songs, self._heard_by(question)) if question.why and kind != SIMILAR else []
        return Answer(kind, self.songs.values[songs], scores, because)

    def _heard_by(self, question: Question) -> NDArray[np.int64]:
        """Dense ids of the songs that the user has heard, and of the recent ones, ascending."""
        recent = self.songs.find(question.recent)
        return np.union1d(self.heard.take(self._user(question))[0], recent[recent >= 0])

    def _left_out(self, question: Question) -> NDArray[np.int64]:
        by_artist = self._songs_of(question.without_artists)
        return np.union1d(by_artist, self._heard_by(question)) if question.exclude_heard else by_artist

    def _user(self, question: Question) -> NDArray[np.int64]:
        """Dense id of the user, [1], or [0] if the model knows none."""
        user = self.users.find([] if question.uid is None else [question.uid])
        return user[user >= 0]

    def _query(self, question: Question, recent: NDArray[np.int64]) -> tuple[str, NDArray[np.float32]]:
        """Kind of the answer, and the vector [d] that its songs are searched by; zeros for popular songs."""
        user, known = self._user(question), recent >= 0
        if question.similar_to is not None:
            [song] = self.songs.find([question.similar_to])
            if song >= 0:
                return SIMILAR, unit(self.vectors[[song]])[0]
        elif known.any():
            ages = np.asarray(question.ages if len(question.ages) else np.zeros(len(recent)), float)[known]
            return FOLDED, queries.folded(self.vectors[recent[known]], recent[known], ages, self.weights, self.gram)
        elif len(user):
            return PERSONAL, self.queries[user[0]]
        return FALLBACK, np.zeros(self.queries.shape[1], np.float32)

    def _nearest(
        self, kind: str, query: NDArray[np.float32], k: int, left_out: NDArray[np.int64],
        allowed: NDArray[np.int64] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
        """Songs with the best scores, at most k: by inner product, or by cosine if similar ones are asked for."""
        if allowed is not None:
            candidates = allowed[allowed >= 0]
        else:
            n = max(k, CANDIDATES if kind == SIMILAR else 0) + len(left_out)
            with _threads(1):
                [candidates], _ = self.model.find(query[None], min(n, len(self.songs.values)))
            candidates = candidates[candidates >= 0]
        candidates = candidates[~np.isin(candidates, left_out)]
        vectors = self.vectors[candidates]
        scores = (unit(vectors) if kind == SIMILAR else vectors) @ query
        best = np.argsort(-scores, kind="stable")[:k]
        return candidates[best], scores[best]

    def _popular(self, k: int, left_out: NDArray[np.int64], allowed: NDArray[np.int64] | None) -> Answer:
        songs = self.songs.find(self.popular.items)
        kept = ~np.isin(songs, left_out) & (True if allowed is None else np.isin(songs, allowed))
        shown = np.flatnonzero(kept)[:k]
        return Answer(FALLBACK, self.popular.items[shown], self.popular.scores[shown])

    def _nearest_heard(self, songs: NDArray[np.int64], heard: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Ids of the heard songs with the best cosines to each song, at most REASONS, the song itself left out."""
        near = unit(self.vectors[songs]) @ unit(self.vectors[heard]).T
        near[songs[:, None] == heard] = -np.inf
        best = np.argsort(-near, axis=1, kind="stable")[:, :REASONS]
        return [self.songs.values[heard[row[near[place, row] > -np.inf]]] for place, row in enumerate(best)]

    def _songs_of(self, artists: Sequence[Any]) -> NDArray[np.int64]:
        """Dense ids of the songs of these artists; unknown artists have none."""
        if not len(artists):
            return np.empty(0, np.int64)
        artist, song = self.artists
        return np.unique(song[np.isin(artist, artists)])

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Embeddings of songs as indexed, [n_songs, d]; read when they are first needed."""
        return vector_column(pq.read_table(self.folder / SONGS, columns=["embedding"]), "embedding")

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """Sum of the outer products of the songs' vectors, [d, d], by which users are folded in."""
        return queries.gram(self.vectors)

    @cached_property
    def artists(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Pairs of artist and song, read when they are first needed: ids of artists, and dense ids of songs."""
        if ARTISTS not in pq.read_schema(self.folder / SONGS).names:  # before version 0.3
            return np.empty(0, np.int64), np.empty(0, np.int64)
        lists = pq.read_table(self.folder / SONGS, columns=[ARTISTS])[ARTISTS].combine_chunks()
        return _plain(lists.flatten()), lists.value_parent_indices().to_numpy().astype(np.int64)


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


def artists_of(songs: Relation, pairs: Relation) -> pa.Array:
    """Lists of the ids of each song's artists, by song_id; pairs: artist_id and item_id, for any songs."""
    known = pairs.aggregate("item_id, list(DISTINCT artist_id ORDER BY artist_id) AS artists", "item_id")
    lists = songs.set_alias("songs").join(known.set_alias("known"), "item_id", how="left").order("song_id")
    return lists.project("coalesce(artists, []) AS artists").to_arrow_table()["artists"].combine_chunks()


def write(
    folder: Path, data: ModelData, popular: pa.Table, index: "faiss.Index", number: NDArray[np.int64] | None = None,
    artists: pa.Array | None = None, weights: Mapping[int, float] | None = None,
) -> None:  # fmt: skip
    """Write users.parquet (uid, embedding, heard), songs.parquet (item_id, embedding), popular songs and index.

    Args:
        folder: folder for the files.
        data: users and songs.
        popular: item_id, score, best first.
        index: index over the songs.
        number: id of each song in the index, int64 [n_songs]; item_id by default.
        artists: list of the ids of each song's artists, if they are known.
        weights: weights of recent songs by their half-life in seconds.
    """
    import faiss

    heard = pa.ListArray.from_arrays(data.heard.offsets.astype(np.int32), data.heard.song.astype(np.int32))
    users = {"uid": pa.array(data.uid), "embedding": fixed_size_list(data.users), "heard": heard}
    songs = {"item_id": pa.array(data.item_id), "embedding": fixed_size_list(data.songs)}
    if number is not None:
        songs[NUMBER] = pa.array(number)
    if artists is not None:
        songs[ARTISTS] = artists
    known = pa.table(users).replace_schema_metadata({RECENT: json.dumps(weights or {})})
    for name, table in ((USERS, known), (SONGS, pa.table(songs)), (POPULAR, popular)):
        pq.write_table(table, folder / name, compression="zstd")
    faiss.write_index(index, str(folder / INDEX))
