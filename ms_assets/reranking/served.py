"""Second stage of the served model: its files, and answers in one stage or in two.

The files hold what features ask a `Past` for, measured once, and the lists of all sources; arrays that grow with the
users are mapped into memory, so that an answer reads those of its user alone. Pools, features and scores come from the
code that makes `reranking/ranked`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ms_assets.interactions import Interactions
from ms_assets.reranking import candidates, passes, ranker
from ms_assets.reranking.candidates import Listed, Lists, Pool
from ms_assets.reranking.features import Knowledge
from ms_assets.reranking.past import ranges
from ms_assets.reranking.ranker import Ranker
from ms_assets.retrieval.recommender import TOP_K, VIEWS
from ms_assets.retrieval.served import PERSONAL, Answer, ModelData, Question, Service
from ms_assets.streams import with_progress
from ms_assets.vectors import Ragged, fixed_size_list, vector_column

RANKED = "ranked"
KEYS, MEASURES = "pair_keys.bin", "pair_measures.bin"
"""Arrays [n_pairs] and [n_pairs, n_measures] of all pairs of user and song in the past, the keys ascending."""
SONGS, SCORES = "listed_songs.bin", "listed_scores.bin"
"""Arrays [n_users, views, n_sources, TOP_K] of the lists of all sources, songs −1 where a list has ended."""
TYPES = {KEYS: "<i8", MEASURES: "<f8", SONGS: "<i4", SCORES: "<f4"}
"""Types of the numbers in files that hold an array and nothing else."""
FACTS = "song_facts.parquet"
"""One row per song: audio, artist_ids, album_ids, and a column for each measure over all users."""
SOURCES = b"sources"
"""Key of the metadata of FACTS that names the sources in the order of SONGS."""


@dataclass(frozen=True)
class StoredPast:
    """Past of which the measures of all pairs are stored: what a `Past` computes from events."""

    keys: NDArray[np.int64]
    measures: NDArray[np.float64]
    names: list[str]
    n_users: int
    n_songs: int

    def pairs(self, first: int, last: int) -> Interactions:
        """Measures of every pair of these users, who are numbered from 0, with a song."""
        begin, end = np.searchsorted(self.keys, [first * self.n_songs, (last + 1) * self.n_songs])
        values = dict(zip(self.names, np.array(self.measures[begin:end].T), strict=True))
        keys = np.array(self.keys[begin:end]) - first * self.n_songs
        return Interactions(keys, last - first + 1, self.n_songs, values)


@dataclass(frozen=True)
class SecondStage:
    """Second stage of a model: everybody's candidates in the order of its ranker; safe to use from several threads."""

    data: ModelData
    known: Knowledge
    ranker: Ranker
    sources: list[str]
    songs: NDArray[np.int32]
    """Songs of the lists, as in SONGS."""
    scores: NDArray[np.float32]
    """Scores, likewise."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what `write` wrote; None if the model has no second stage."""
        if not (folder / ranker.ABOUT).exists():
            return None
        data, table = ModelData.read(folder), pq.read_table(folder / FACTS)
        sources = table.schema.metadata[SOURCES].decode().split()
        artists, albums = (Ragged.from_column(table, name) for name in ("artist_ids", "album_ids"))
        of_songs = {name: table[name].to_numpy() for name in table.column_names[3:]}
        keys, measures = _mapped(folder, KEYS, -1), _mapped(folder, MEASURES, -1, len(of_songs))
        past = StoredPast(keys, measures, list(of_songs), len(data.uid), len(data.item_id))
        known = Knowledge(past, artists, albums, of_songs, (data.users, data.songs), vector_column(table, "audio"))
        songs, scores = (_mapped(folder, name, -1, len(VIEWS), len(sources), TOP_K) for name in (SONGS, SCORES))
        files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".json", ".txt")}
        model = Ranker.of_files(files)
        return cls(data, known, model, sources, songs, scores)

    def order(self, view: str, first: int, last: int) -> passes.Order:
        """Candidates of a range of users in the ranker's order."""
        return passes.order(self.known, self.ranker, view, first, self._pool(view, first, last))

    def _pool(self, view: str, first: int, last: int) -> Pool:
        n_songs, here = self.known.past.n_songs, (slice(first, last + 1), VIEWS.index(view))
        songs, scores, found = np.array(self.songs[here]), np.array(self.scores[here]), {}
        for n, source in enumerate(self.sources):
            user, place = np.nonzero(songs[:, n] >= 0)
            keys = user * n_songs + songs[user, n, place]
            found[source] = Listed(keys, place + 1, scores[user, n, place])
        heard = self.data.heard.of_users(np.arange(first, last + 1))
        return candidates.united(found, passes.left_out(view, heard), self.known.of_late)


@dataclass(frozen=True)
class TwoStages:
    """Service that recommends by retrieval alone or by both stages; safe to use from several threads."""

    retrieval: Service
    second: SecondStage | None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the files of a model."""
        return cls(Service.read(folder), SecondStage.read(folder))

    def answer(
        self, uid: NDArray[Any], k: NDArray[np.int64], exclude_heard: NDArray[np.bool_],
        is_ranked: NDArray[np.bool_],
    ) -> list[Answer]:  # fmt: skip
        """Recommend the k best songs for each row [n], by both stages where `is_ranked`.

        Retrieval answers whom the model does not know, and views for which nothing was learned.
        """
        answers: dict[int, Answer] = {}
        if self.second is not None:
            user = self.retrieval.users.find(uid)
            for row in np.flatnonzero(is_ranked & (user >= 0)):
                view = VIEWS[int(exclude_heard[row])]
                if view in self.second.ranker.models:
                    found = self.second.order(view, int(user[row]), int(user[row]))
                    songs, scores = found.song[: k[row]], found.score[: k[row]].astype(np.float32)
                    answers[int(row)] = Answer(RANKED, self.retrieval.songs.values[songs], scores)
        rest = np.array([row for row in range(len(uid)) if row not in answers], np.int64)
        others = self.retrieval.answer(uid[rest], k[rest], exclude_heard[rest]) if len(rest) else []
        answers |= dict(zip(rest.tolist(), others, strict=True))
        return [answers[row] for row in range(len(uid))]

    def ask(self, question: Question, is_ranked: bool) -> Answer:
        """Answer a question of any form; the second stage orders a known user's list if its candidates are enough."""
        found = self.retrieval.ask(question)
        view = VIEWS[int(question.exclude_heard)]
        if found.kind != PERSONAL or not is_ranked or not self.second or view not in self.second.ranker.models:
            return found
        [user] = self.retrieval.users.find([question.uid])
        order = self.second.order(view, int(user), int(user))
        kept = np.flatnonzero(self.retrieval.may_answer(question, order.song))[: question.k]
        if len(kept) < len(found.items):
            return found
        return self.retrieval.explained(question, RANKED, order.song[kept], order.score[kept].astype(np.float32))


def write(folder: Path, known: Knowledge, lists: Lists, model: Ranker) -> None:
    """Write the files of a second stage beside those of the first; none where nothing was learned.

    Args:
        folder: folder of the model's files.
        known: what is known before the part that is served.
        lists: tables of recommendations by source.
        model: ranker of the lists `reranking/ranked`.
    """
    if not model.models:
        return
    for name, content in model.to_files().items():
        (folder / name).write_bytes(content)
    facts = {"audio": fixed_size_list(known.audio), "artist_ids": _column(known.artists)}
    facts |= {"album_ids": _column(known.albums), **{name: pa.array(n) for name, n in known.of_songs.items()}}
    table = pa.table(facts).replace_schema_metadata({SOURCES: " ".join(lists)})
    pq.write_table(table, folder / FACTS, compression="zstd")
    n_users, n_songs = known.past.n_users, known.past.n_songs
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in TYPES}
        some = with_progress(ranges(n_users), "users of the model", n_users, lambda users: users[1] - users[0] + 1)
        for first, last in some:
            pairs = known.past.pairs(first, last)
            (pairs.keys + first * n_songs).astype(TYPES[KEYS]).tofile(files[KEYS])
            np.stack([pairs.values[name] for name in known.of_songs], 1).astype(TYPES[MEASURES]).tofile(files[MEASURES])
            shape = last - first + 1, len(VIEWS), len(lists), TOP_K
            songs, scores = np.full(shape, -1, TYPES[SONGS]), np.zeros(shape, TYPES[SCORES])
            for n, view in enumerate(VIEWS):
                for m, found in enumerate(candidates.listed(lists, view, (first, last), n_songs).values()):
                    user, song = np.divmod(found.keys, n_songs)
                    songs[user, n, m, found.rank - 1], scores[user, n, m, found.rank - 1] = song, found.score
            songs.tofile(files[SONGS])
            scores.tofile(files[SCORES])


def _column(lists: Ragged) -> pa.ListArray:
    return pa.ListArray.from_arrays(lists.offsets.astype(np.int32), lists.values)


def _mapped(folder: Path, name: str, *shape: int) -> NDArray[Any]:
    return np.memmap(folder / name, TYPES[name], "r").reshape(shape)
