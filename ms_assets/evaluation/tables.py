"""From the tables of earlier rooms to the arrays that metrics are computed of, some users at a time."""

from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets.evaluation.metrics import Songs
from ms_assets.evaluation.official import EventTargets
from ms_assets.evaluation.truth import RELEVANCES, Flags, Pairs, Truth
from ms_assets.events import IS_POSITIVE
from ms_assets.retrieval.recommendations import VIEWS
from ms_assets.vectors import Ragged

Relation = duckdb.DuckDBPyRelation

USERS_AT_ONCE = 2_048


@dataclass(frozen=True)
class Users:
    """Consecutive users, numbered from 0 in every array that is made of them."""

    first: int
    uid: NDArray[np.int64]

    def rows(self, table: Relation) -> Relation:
        """Their rows of a table, `user_id` counting from the first of them."""
        last = self.first + len(self.uid) - 1
        return table.filter(f"user_id BETWEEN {self.first} AND {last}").project(
            f"* REPLACE (user_id - {self.first} AS user_id)"
        )

    def truth(
        self, ground_truth: Relation, train: Relation, songs: Songs, relevances: tuple[str, ...] = RELEVANCES
    ) -> Truth:
        """What they did in the test part, in the view `all`; relevances: those that are asked for."""
        heard = self.rows(train).project("user_id, song_id").to_arrow_table()
        history = Pairs.of(heard["user_id"].to_numpy(), heard["song_id"].to_numpy(), len(self.uid), len(songs))
        met = self.rows(ground_truth.filter("split = 'test'")).pl()
        return Truth.of(met, self.uid, history, songs.n_plays, relevances)

    def lists(self, recommended: Relation, k: int) -> dict[str, NDArray[np.int64]]:
        """What was recommended to them by view: song ids int64 [n_users, k] by rank, −1 where there is none."""
        columns = "user_id, rank - 1 AS place, song_id, view"
        rows = self.rows(recommended.filter(f"rank <= {k}")).project(columns).pl()
        matrices = {}
        for view in VIEWS:
            shown = rows.filter(pl.col("view") == view)
            matrices[view] = np.full((len(self.uid), k), -1, np.int64)
            matrices[view][shown["user_id"], shown["place"]] = shown["song_id"]
        return matrices

    def n_train_events(self, train: Relation) -> NDArray[np.int64]:
        """How many positive train events each of them has."""
        counts = self.rows(train).aggregate("user_id, count(*) AS n").to_arrow_table()
        found = np.zeros(len(self.uid), np.int64)
        found[counts["user_id"].to_numpy()] = counts["n"].to_numpy()
        return found

    def driven(self, test: Relation, pairs: Pairs) -> tuple[Flags, Flags]:
        """Which pairs have a positive test event of the user's own choice, and which one driven by a recommendation."""
        events = self.rows(test).filter(f"{IS_POSITIVE} AND is_organic IS NOT NULL")
        rows = events.project("user_id, song_id, is_organic").distinct().pl()
        by_source = [rows.filter(pl.col("is_organic") == source) for source in (1, 0)]
        organic, recommended = (
            Pairs.of(some["user_id"].to_numpy(), some["song_id"].to_numpy(), pairs.n_users, pairs.n_songs)
            for some in by_source
        )
        return pairs.among(organic), pairs.among(recommended)

    def targets(self, events: Relation, n_songs: int) -> EventTargets:
        """Their official targets; events: of `official.target_events`."""
        return EventTargets.of(self.rows(events).pl(), len(self.uid), n_songs)


def users_of(users: Relation, at_once: int = USERS_AT_ONCE) -> list[Users]:
    """All users of splits/users, some at a time."""
    uid = users.order("user_id").to_arrow_table()["uid"].to_numpy()
    return [Users(first, uid[first : first + at_once]) for first in range(0, len(uid), at_once)]


def songs_of(songs: Relation) -> Songs:
    """The catalogue, from splits/songs."""
    table = songs.order("song_id").to_arrow_table()
    cold = ~table["in_graph"].to_numpy(zero_copy_only=False)
    return Songs.of(table["n_train_plays"].to_numpy(), cold, Ragged.from_column(table, "artist_ids"))
