"""An index of other data is refused, and a table of recommendations for whatever is wrong with it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.platform.io_managers import IndexOfOrigin
from ms_assets.defs.retrieval import assets
from ms_assets.defs.retrieval import checks as retrieval
from ms_assets.retrieval.implicit_models import ITEM_KNN_GRID, ItemKNN
from ms_assets.retrieval.index import built, origin
from ms_assets.vectors import fixed_size_list
from ms_assets_tests.retrieval.histories import dataset_of, random_histories
from ms_assets_tests.training.graphs import trained_model, unit_rows

N_SONGS, N_TRAINED = 400, 390
MODEL = trained_model(mlflow_run_id="run", inputs={"splits/ground_truth": "run@1"})


class Indexed:
    """Songs, the last of them cold, with users and a model, as tables; and what the check says of an index."""

    def __init__(self, duckdb):
        rng = np.random.default_rng(0)
        self.songs, self.users = unit_rows(rng, N_SONGS, 8), unit_rows(rng, 30, 8)
        self.item_id = 10 * rng.permutation(N_SONGS)
        self.con = duckdb.connection

    def result(self, index, model=MODEL, stated=MODEL, **stored):
        """The check of an index that is stated to be of this model, beside what is stored now."""
        now = {"songs": self.songs, "users": self.users, "item_id": self.item_id, **stored}
        said = origin(stated, self.item_id, self.users, self.songs)
        ids, cold = np.arange(N_SONGS), np.arange(N_SONGS) >= N_TRAINED
        embeddings = {"song_id": ids, "cold": cold, "embedding": fixed_size_list(now["songs"])}
        late = {"song_id": ids[cold], "embedding": fixed_size_list(now["songs"][cold])}
        users = {"user_id": np.arange(30), "embedding": fixed_size_list(now["users"])}
        tables = [{"song_id": ids, "item_id": now["item_id"]}, users, embeddings, late]
        songs, *vectors = (self.con.from_arrow(pa.table(columns)) for columns in tables)
        return retrieval.index_finds_the_nearest_songs(IndexOfOrigin(index, said), songs, model, *vectors)


@pytest.fixture(scope="module")
def indexed(duckdb):
    return Indexed(duckdb)


def test_the_index_holds_every_song_under_its_item_id(indexed):
    songs, item_id, users = indexed.songs, indexed.item_id, indexed.users
    assert indexed.result(built(songs, item_id, users, "exact")[0]).passed
    for vectors, ids in ((songs[:-1], item_id[:-1]), (songs, np.arange(N_SONGS)), (songs, np.roll(item_id, 1))):
        assert not indexed.result(built(vectors, ids, users, "exact")[0]).passed


def test_an_index_that_probes_too_few_lists_fails(indexed):
    index, _ = built(indexed.songs, indexed.item_id, indexed.users, "ivf_flat")
    assert indexed.result(index).passed
    index.nprobe = 2
    assert not indexed.result(index).passed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": replace(MODEL, mlflow_run_id="later")}, "training_run: built from run, found later"),
        ({"model": replace(MODEL, inputs={"splits/ground_truth": "x@2"})}, "split: built from run@1, found x@2"),
        ({"item_id": 10 * np.arange(N_SONGS)}, "id_map: built from"),
        ({"users": unit_rows(np.random.default_rng(9), 30, 8)}, "queries: built from"),
        ({"songs": unit_rows(np.random.default_rng(9), N_SONGS, 8)}, "song_embeddings: built from"),
    ],
)
def test_an_index_of_another_model_split_or_id_map_is_refused_by_name(indexed, changed, said):
    index, _ = built(indexed.songs, indexed.item_id, indexed.users, "exact")
    result = indexed.result(index, **changed)
    assert not result.passed
    assert f"the index was built from different data: {said}" in result.description


def test_every_cold_song_is_placed_with_finite_numbers_of_one_length(table, duckdb):
    songs = table("song_id in_graph", (0, True), (1, False), (2, False))

    def passed(ids, vectors):
        columns = {"song_id": np.array(ids), "embedding": fixed_size_list(np.array(vectors, np.float32).reshape(-1, 2))}
        cold = duckdb.connection.from_arrow(pa.table(columns))
        return retrieval.cold_songs_are_all_placed(cold, songs).passed

    good = [[0.3, 0.4], [0.5, 0.0]]
    assert passed([1, 2], good)
    for ids, vectors in (([1], good[:1]), ([0, 1], good), ([2, 1], good), ([1, 2], [[0.3, 0.4], [0.4, 0.0]]),
                         ([1, 2], [[0.3, np.nan], [0.5, 0.0]])):  # fmt: skip
        assert not passed(ids, vectors), (ids, vectors)
    none = table("song_id in_graph", (0, True))
    empty = pa.table({"song_id": np.array([], int), "embedding": fixed_size_list(np.empty((0, 2), np.float32))})
    assert retrieval.cold_songs_are_all_placed(duckdb.connection.from_arrow(empty), none).passed


def test_lists_keep_what_training_learned_but_for_what_chance_explains_and_cold_songs_above_it(duckdb):
    """Each user's vector is that of a song which they take to in validation, so that the vectors find it first."""
    n_users, con = 20, duckdb.connection
    ids, songs = np.arange(n_users), np.arange(3 * n_users)
    vectors = np.eye(n_users, dtype=np.float32)
    tables = [
        {"user_id": ids, "uid": ids},
        {"song_id": songs, "item_id": songs, "in_graph": songs < n_users},
        {"user_id": ids, "song_id": (ids + 1) % n_users, "timestamp": ids},
        {"split": ["validation"] * n_users, "user_id": ids, "song_id": ids, "adjusted_relevance": np.ones(n_users)},
        {"user_id": ids, "embedding": fixed_size_list(vectors)},
        {"song_id": songs, "cold": songs >= n_users, "embedding": fixed_size_list(np.tile(vectors, (3, 1)))},
    ]
    given = [con.from_arrow(pa.table(columns)) for columns in tables]

    def result(*lists):
        """The check of lists with these songs of each user, in their order."""
        rows = [
            (user, rank, song) for rank, songs in enumerate(lists, 1) for user, song in zip(ids, songs, strict=True)
        ]
        columns = dict(zip(("user_id", "rank", "song_id"), np.transpose(rows), strict=True))
        recommended = con.from_arrow(pa.table({"view": ["discovery"] * len(rows), **columns}))
        return retrieval.lists_keep_what_training_learned(*given, recommended)

    cold, other = ids + n_users, (ids + 2) % n_users
    assert result(ids, cold).metadata["ndcg_of_lists"].value == 1
    assert result(ids, cold).metadata["ndcg_of_trained_vectors"].value == 1
    assert result(ids, cold).metadata["share_of_trained_songs"].value == 1 / 2
    assert result(ids).passed
    assert result(cold, cold + n_users, ids).passed, "validation knows no cold song"
    assert result(np.where(ids < 4, other, ids)).passed
    assert result(np.where(ids < 5, other, ids)).passed, "a quarter, 2.6 standard errors"
    assert not result(np.where(ids < 12, other, ids)).passed
    assert not result(cold).passed, "no song that was trained"
    given[3] = given[3].filter("false")
    assert result(cold).passed, "nobody validates"


def test_nothing_is_recommended_from_an_index_of_other_users_or_songs(indexed):
    def recommended(item_id):
        columns = [
            {"user_id": np.arange(30), "uid": np.arange(30)},
            {"song_id": np.arange(N_SONGS), "item_id": item_id, "in_graph": np.arange(N_SONGS) < N_TRAINED},
            {"user_id": [0], "song_id": [0], "timestamp": [5]},
            {"user_id": np.arange(30), "embedding": fixed_size_list(indexed.users)},
        ]
        users, songs, train, vectors = (indexed.con.from_arrow(pa.table(table)) for table in columns)
        index, _ = built(indexed.songs, indexed.item_id, indexed.users, "exact")
        stored = IndexOfOrigin(index, origin(MODEL, indexed.item_id, indexed.users, indexed.songs))
        return assets.lightgcn(users, songs, train, stored, vectors)

    assert recommended(indexed.item_id).metadata["cold_share_of_top_100"] > 0
    with pytest.raises(ValueError, match="song_index was built from different data: id_map: built from"):
        recommended(indexed.item_id + 1)


def test_a_blend_is_tuned_with_the_vectors_that_have_not_seen_validation(duckdb, table):
    """Users return to songs that are not near them; the refit, which has seen validation, draws these near."""
    n_users, n_songs, rng = 20, 150, np.random.default_rng(3)
    before, songs = unit_rows(rng, n_users, 16), unit_rows(rng, n_songs, 16)
    heard = [(user, song) for user in range(n_users) for song in rng.permutation(n_songs)[:4].tolist()]
    after, item_id = songs[[song for _, song in heard[::4]]], 100 + np.arange(n_songs)

    def vectors(key, learned, unrefitted=None):
        none = pa.nulls(len(learned), pa.list_(pa.float32()))
        columns = {"embedding": fixed_size_list(learned)}
        columns["before_refit"] = none if unrefitted is None else fixed_size_list(unrefitted)
        return pa.table({key: np.arange(len(learned)), **columns, "cold": np.zeros(len(learned), bool)})

    def blended(users, unrefitted=None):
        index = built(songs, item_id, users, "exact")[0]
        return assets.lightgcn_replay(
            table("user_id uid", *((user, 10 * user) for user in range(n_users))),
            table("song_id item_id in_graph", *((song, 100 + song, True) for song in range(n_songs))),
            table("user_id song_id timestamp", *((*pair, 5) for pair in heard)),
            table("user_id song_id split adjusted_relevance", *((*pair, "validation", 1.0) for pair in heard[::4])),
            IndexOfOrigin(index, origin(MODEL, item_id, users, songs)),
            duckdb.connection.from_arrow(vectors("user_id", users, unrefitted)),
            duckdb.connection.from_arrow(vectors("song_id", songs)),
        )

    def setting(result):
        return {name: result.metadata[name] for name in ("replay_weight_all", "decay_all")}

    refitted = blended(after, before)
    assert setting(refitted) == setting(blended(before)) != setting(blended(after))
    lists = pl.from_arrow(pa.concat_tables(refitted.value.tables))
    first = lists.filter(pl.col("view") == "discovery", pl.col("rank") == 1).sort("user_id")
    own = np.zeros((n_users, n_songs), bool)
    own[tuple(np.array(heard).T)] = True
    assert first["song_id"].to_list() == np.where(own, -np.inf, after @ songs.T).argmax(axis=1).tolist()


RECOMMENDED = [
    ("all", 0, 1, 2), ("all", 0, 2, 0), ("all", 0, 3, 1),
    ("all", 1, 1, 0), ("all", 1, 2, 1), ("all", 1, 3, 2),
    ("discovery", 0, 1, 2), ("discovery", 0, 2, 1), ("discovery", 1, 1, 1),
]  # fmt: skip
"""view, user_id, rank, song_id: two users, three songs; user 0 heard song 0, user 1 songs 0 and 2."""
REPLAYED = [("all", 0, 1, 0), ("all", 1, 1, 2), ("all", 1, 2, 0)]


def full(row):
    """With uid, item_id and a score, where a row does not give them."""
    view, user, rank, song, *given = row
    return (view, user, rank, song, *given, *(10 * user, 100 + song, -rank / 2)[len(given) :])


@pytest.fixture
def check(duckdb, table):
    """What the check says of the recommendations of a method."""
    by_method = {check.check_key.asset_key.path[-1]: check for check in retrieval.of_recommendations}

    def result(rows, method="lightgcn", n_songs=3, audible=range(4)):
        graph = HeteroData()
        graph["song"].has_audio = torch.tensor([song in audible for song in range(n_songs)])
        return by_method[method](
            duckdb=duckdb,
            users=table("user_id uid", (0, 0), (1, 10)),
            songs=table("song_id item_id in_graph", *((song, 100 + song, song < 3) for song in range(n_songs))),
            train=table("user_id song_id", (0, 0), (1, 0), (1, 2), (1, 2)),
            recommended=table("view user_id rank song_id uid item_id score", *map(full, rows)),
            **({"bipartite_graph": graph} if method == "content_based" else {}),
        )

    return result


ENDING = ("item_knn", "session_knn", "transitions", "graph_filter")
"""Methods whose lists end where no song is left that something leads to."""


def replaced(old, *new):
    return [row for row in RECOMMENDED if row != old] + list(new)


@pytest.mark.parametrize("method", sorted(set(retrieval.METHODS) - {"replay", *ENDING}))
def test_every_methods_recommendations_are_checked(check, method):
    assert check(RECOMMENDED, method).passed
    assert check(RECOMMENDED[::-1], method).passed
    assert not check(RECOMMENDED[:-1], method).passed


@pytest.mark.parametrize("method", retrieval.METHODS)
def test_who_knows_cold_songs_has_to_list_them(check, method):
    knows_none = method in ("collaborative_filtering", "ials", "bpr", "ease", *ENDING)
    replays = method == "replay"
    assert check(REPLAYED if replays else RECOMMENDED, method, n_songs=4).passed == (knows_none or replays)


def test_who_recommends_by_sound_has_to_list_the_songs_with_audio_alone(check):
    """User 0 heard song 0, user 1 songs 0 and 2."""
    assert check([], "content_based", audible=[]).passed
    only_2 = [("all", 0, 1, 2), ("all", 1, 1, 2), ("discovery", 0, 1, 2)]
    assert check(only_2, "content_based", audible=[2]).passed
    for row in only_2:
        found = check([other for other in only_2 if other != row], "content_based", audible=[2])
        assert f"the end of a list that should go on, user_id {row[1]} in {row[0]} at rank 1" in found.description


def test_replay_lists_all_of_the_users_own_songs_and_nothing_else(check):
    assert check(REPLAYED, "replay").passed
    assert check(REPLAYED[:-1], "replay").description.startswith(
        "replay: the end of a list that should go on, user_id 1 in all at rank 2"
    )


@pytest.mark.parametrize("method", ENDING)
def test_neighbours_may_end_a_list(check, method):
    assert check(RECOMMENDED[:-1], method).passed
    assert not check(RECOMMENDED[1:], method).passed


@pytest.mark.parametrize("method", sorted(set(retrieval.METHODS)))
def test_a_table_without_lists_fails_by_method_and_user(check, method):
    found = check([], method)
    assert not found.passed
    assert f"{method}: the end of a list that should go on, user_id 0 in all at rank 1" in found.description


@pytest.mark.parametrize("setting", ITEM_KNN_GRID)
@pytest.mark.parametrize("seed", range(10))
def test_neighbours_are_known_of_all_who_left_out_more_than_one_other_song(duckdb, setting, seed):
    """As the check demands: a user who heard a song, but neither all others nor all but one."""
    heard = random_histories(np.random.default_rng(seed), 12, 9)
    songs, _ = ItemKNN(**setting).fit(dataset_of(heard, 9)).rank(np.arange(12), 9)
    needed, _ = ItemKNN.candidates
    for user, own in enumerate(heard):
        [(least,)] = duckdb.connection.sql(
            f"SELECT {needed} FROM (SELECT {len(own)} AS n_heard, 9 AS n_known)"
        ).fetchall()
        assert least == (0 < len(own) < 8)
        assert (songs[user] >= 0).sum() >= least


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (replaced(("all", 0, 3, 1), ("all", 0, 4, 1)), "a rank left out or given twice, user_id 0 in all at rank 4"),
        (replaced(("all", 0, 2, 0), ("all", 0, 1, 0)), "a rank left out or given twice, user_id 0 in all at rank 1"),
        (replaced(("all", 0, 1, 2), ("all", 0, 0, 2)), "a rank left out or given twice, user_id 0 in all at rank 0"),
        (replaced(("all", 0, 3, 1), ("all", 0, 3, 0)), "a song that the list has already, user_id 0 in all at rank 3"),
        (replaced(("all", 0, 3, 1)), "the end of a list that should go on, user_id 0 in all at rank 3"),
        (RECOMMENDED[:-1], "the end of a list that should go on, user_id 1 in discovery at rank 1"),
        ([], "the end of a list that should go on, user_id 0 in all at rank 1 (4 such rows)"),
        (replaced(("all", 0, 1, 2), ("all", 0, 1, 3)), "unknown song, user_id 0 in all at rank 1"),
        (replaced(("all", 0, 1, 2), ("all", 0, 1, -1)), "unknown song, user_id 0 in all at rank 1"),
        (replaced(("all", 0, 1, 2), ("all", 0, 1, 2, 0, 2)), "unknown song, user_id 0 in all at rank 1"),
        ([*RECOMMENDED, ("all", 2, 1, 0)], "unknown user, user_id 2 in all at rank 1"),
        (replaced(("all", 0, 1, 2), ("all", 0, 1, 2, 10)), "unknown user, user_id 0 in all at rank 1"),
        (replaced(("discovery", 0, 1, 2), ("discovery", 0, 1, 0)), "a heard song in discovery, user_id 0 in discovery"),
        ([*RECOMMENDED, ("new", 1, 1, 0)], "unknown view, user_id 1 in new at rank 1"),
        *(
            (
                replaced(("all", 1, 2, 1), ("all", 1, 2, 1, 10, 101, score)),
                "a score that is no number, user_id 1 in all",
            )
            for score in (float("nan"), float("inf"), None)
        ),
    ],
)
def test_broken_recommendations_are_refused_by_method_user_and_rank(check, rows, said):
    result = check(rows)
    assert not result.passed
    assert f"lightgcn: {said}" in result.description
