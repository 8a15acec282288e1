"""Reading of tables into the arrays that metrics are computed from, for blocks of users."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ms_assets.evaluation.metrics import Songs
from ms_assets.evaluation.truth import RELEVANCES, Truth
from ms_assets.interactions import Interactions
from ms_assets.retrieval.recommender import VIEWS
from ms_assets.streams import Relation
from ms_assets.vectors import Ragged

USERS_AT_ONCE = 2_048


@dataclass(frozen=True)
class Users:
    """Block of consecutive users, numbered from 0 in every array made from their rows."""

    first: int
    uid: NDArray[np.int64]

    def rows(self, table: Relation) -> Relation:
        """Rows of these users in a table, with `user_id` counted from the first of them."""
        last = self.first + len(self.uid) - 1
        return table.filter(f"user_id BETWEEN {self.first} AND {last}").project(
            f"* REPLACE (user_id - {self.first} AS user_id)"
        )

    def interactions(self, table: Relation, n_songs: int, **values: str) -> Interactions:
        """Pairs of these users in a table; values: SQL expressions by name, if the table holds every pair once."""
        columns = ["user_id", "song_id", *(f"CAST({sql} AS DOUBLE) AS {name}" for name, sql in values.items())]
        rows = self.rows(table).project(", ".join(columns)).to_arrow_table()
        return Interactions.of_table(rows, len(self.uid), n_songs)

    def truth(self, ground_truth: Relation, train: Relation, songs: Songs, *relevances: str) -> Truth:
        """Truth of these users in the view `all`; relevances: names in RELEVANCES, all by default.

        Raises:
            ValueError: the ground truth has a pair of user and song twice in the test part.
        """
        values = {name: RELEVANCES[name] for name in relevances or RELEVANCES}
        test = self.interactions(ground_truth.filter("split = 'test'"), len(songs), **values)
        return Truth.of(self.uid, test, self.interactions(train, len(songs)), songs.n_plays)

    def lists(self, recommended: Relation, k: int) -> dict[str, NDArray[np.int64]]:
        """Recommendations for these users by view: song ids int64 [n_users, k] by rank, −1 where there is none."""
        columns = "user_id, rank - 1 AS place, song_id, view"
        rows = self.rows(recommended.filter(f"rank <= {k}")).project(columns).pl()
        matrices = {}
        for view in VIEWS:
            shown = rows.filter(pl.col("view") == view)
            matrices[view] = np.full((len(self.uid), k), -1, np.int64)
            matrices[view][shown["user_id"], shown["place"]] = shown["song_id"]
        return matrices


def n_train_events(train: Relation, n_users: int) -> NDArray[np.int64]:
    """Number of positive train events of each user, int64 [n_users]."""
    counts = train.aggregate("user_id, count(*) AS n").fetchnumpy()
    return np.bincount(counts["user_id"], counts["n"], n_users).astype(np.int64)


def users_of(users: Relation) -> list[Users]:
    """Blocks of all users in splits/users."""
    uid = users.order("user_id").to_arrow_table()["uid"].to_numpy()
    return [Users(first, uid[first : first + USERS_AT_ONCE]) for first in range(0, len(uid), USERS_AT_ONCE)]


def songs_of(songs: Relation) -> Songs:
    """Catalogue for metrics, from splits/songs."""
    table = songs.order("song_id").to_arrow_table()
    cold = ~table["in_graph"].to_numpy(zero_copy_only=False)
    return Songs.of(table["n_train_plays"].to_numpy(), cold, Ragged.from_column(table, "artist_ids"))
