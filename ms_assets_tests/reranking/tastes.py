"""A hand-made world in which the right order of a user's candidates is known, and the tables that it consists of.

Every user has a favourite of these days, a favourite of a year ago, and a favourite artist with a song not heard yet;
in the validation part the first is worth most, then the second, then the third. Nothing else is ever played again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from ms_assets.reranking import passes
from ms_assets.reranking.features import Knowledge
from ms_assets.reranking.past import Past
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged

DAY = 86_400
N_USERS, N_SONGS, N_SILENT = 120, 40, 10
"""The last users have no validation part."""
SONGS_OF_AN_ARTIST = 4
EVENT = {"event_type": "listen", "played_ratio": 1.0, "is_organic": 1}
TYPES = pa.schema(
    [
        ("user_id", pa.int32()),
        ("song_id", pa.int32()),
        ("timestamp", pa.int64()),
        ("event_type", pa.string()),
        ("played_ratio", pa.float32()),
        ("is_organic", pa.uint8()),
    ]
)


@dataclass(frozen=True)
class Tastes:
    """Songs by user: the recent favourite, the old one, and the new song of the artist that both are by."""

    recent: np.ndarray
    old: np.ndarray
    new: np.ndarray
    others: np.ndarray
    """Songs [n_users, 6] that users met once, by other artists."""

    @classmethod
    def of(cls, seed: int = 0) -> "Tastes":
        rng = np.random.default_rng(seed)
        n_artists = N_SONGS // SONGS_OF_AN_ARTIST
        artist = rng.integers(n_artists, size=N_USERS)
        mine = artist[:, None] * SONGS_OF_AN_ARTIST + np.argsort(rng.random((N_USERS, SONGS_OF_AN_ARTIST)))
        others = np.stack([rng.choice(np.setdiff1d(np.arange(N_SONGS), songs), 6, replace=False) for songs in mine])
        return cls(*mine[:, :3].T, others)

    def train(self, end: int = 400 * DAY) -> list[dict]:
        """Events of every user up to the cut, in the order of users and time."""
        rows = []
        for user in range(N_USERS):
            old = [(self.old[user], end - 380 * DAY + n) for n in range(6)]
            met = [(song, end - 200 * DAY + n) for n, song in enumerate(self.others[user])]
            recent = [(self.recent[user], end - DAY + n) for n in range(6)]
            rows += [{"user_id": user, "song_id": int(s), "timestamp": t, **EVENT} for s, t in old + met + recent]
        return rows

    def validation(self) -> list[tuple]:
        """Rows of splits/ground_truth: split, user_id, song_id, adjusted_relevance."""
        return [
            ("validation", user, int(song), relevance)
            for user in range(N_USERS - N_SILENT)
            for song, relevance in sorted(
                [(self.recent[user], 1.0), (self.old[user], 0.6), (self.new[user], 0.3)], key=lambda pair: pair[0]
            )
        ]

    def lists(self) -> dict[str, list[tuple]]:
        """Lists by source: the user's own songs, and the songs of the favourite artist with others, in any order."""
        rng, rows = np.random.default_rng(1), {"replay": [], "item_knn": []}
        for user in range(N_USERS):
            own = [self.recent[user], self.old[user], *self.others[user]]
            unheard = np.setdiff1d(np.arange(N_SONGS), own)
            listed = {"replay": {"all": own}, "item_knn": {"all": unheard, "discovery": unheard}}
            for source, views in listed.items():
                for view, songs in views.items():
                    shuffled = rng.permutation(songs)
                    rows[source] += [(view, user, rank, int(song), 1.0) for rank, song in enumerate(shuffled, start=1)]
        return {source: sorted(found, key=lambda row: row[:3]) for source, found in rows.items()}


def table(con: duckdb.DuckDBPyConnection, rows: list[dict]) -> Relation:
    """Events as a table of splits."""
    return con.from_arrow(pa.Table.from_pylist(rows, TYPES))


def tables(con: duckdb.DuckDBPyConnection, tastes: Tastes) -> tuple[Relation, Relation, dict[str, Relation]]:
    """Train part, ground truth, and lists by source."""

    def relation(names: str, rows: list[tuple]) -> Relation:
        return con.from_arrow(pa.table(dict(zip(names.split(), map(list, zip(*rows, strict=True)), strict=True))))

    return (
        table(con, tastes.train()),
        relation("split user_id song_id adjusted_relevance", tastes.validation()),
        {name: relation("view user_id rank song_id score", rows) for name, rows in tastes.lists().items()},
    )


def knowledge(*events: Relation) -> Knowledge:
    """What these events tell, of songs that nothing sets apart in sound, four by each artist, on no album."""
    artists = Ragged(np.arange(N_SONGS) // SONGS_OF_AN_ARTIST, np.arange(N_SONGS + 1))
    albums = Ragged(np.empty(0, np.int64), np.zeros(N_SONGS + 1, np.int64))
    embeddings = np.zeros((N_USERS, 2), np.float32), np.zeros((N_SONGS, 2), np.float32)
    return Knowledge.of(Past.of(N_USERS, N_SONGS, *events), artists, albums, embeddings, embeddings[1])


def material(known: Knowledge, lists: dict, train: Relation, ground_truth: Relation) -> Iterator[pa.Table]:
    """Candidates of all learners with their features."""
    return passes.material(known, lists, train, ground_truth, passes.learners(ground_truth))
