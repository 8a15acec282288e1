"""The library and the assets on the same events: equal parts, lists, leaderboard and embeddings."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from ms_assets import (
    BPR,
    EASE,
    IALS,
    SVD,
    ContentBased,
    DecayedPopular,
    GraphFilter,
    ItemKNN,
    LightGCN,
    Popular,
    Random,
    Replay,
    SessionKNN,
    Transitions,
    evaluate,
    split,
)
from ms_assets.retrieval.methods import METHODS
from ms_assets.vectors import vector_column
from ms_assets_tests import slow_reference
from ms_assets_tests.worlds import frame_of, random_case, unit_vector

SEED = 4
TRAINING = {"epochs": 2, "embedding_dim": 16, "seed": 3, "validation_users": 50}
OTHER_BLAS = 1e-4
"""What sums in another order may differ by."""


class Both:
    """A small world as the pipeline has it, and the same events as frames."""

    def __init__(self, platform):
        world, rules = random_case(SEED, n_users=80)
        world = of_trained_users(world, rules)
        world.write(platform.source)
        config = rules.config() | {"training__lightgcn": TRAINING, "evaluation__user_metrics": {"ks": [5, 20]}}
        run = platform.materialise("evaluation/leaderboard", *(f"retrieval/{name}" for name in METHODS), config=config)
        self.platform = platform
        self.metadata = {
            event.asset_key.path[-1]: {name: value.value for name, value in event.materialization.metadata.items()}
            for event in run.get_asset_materialization_events()
            if event.asset_key.path[0] == "retrieval"
        }
        users, songs = (self.stored(f"splits/{table}") for table in ("users", "songs"))
        self.catalogue = songs.select(
            song="item_id", audio=pl.col("item_id").map_elements(audio_of(world), pl.List(pl.Float32)), **owners(world)
        )
        events = frame_of(world, users["uid"].to_list(), songs["item_id"].to_list())
        self.train, self.validation, self.test = split(events, **rules.config()["split_events"])

    def listed(self, method, view):
        """The list of an asset, as `recommend` gives it."""
        rows = self.stored(f"retrieval/{method}").filter(view=view)
        return rows.select(user="uid", rank=pl.col("rank").cast(int), song="item_id", score="score")

    def stored(self, table):
        return pl.read_parquet(self.platform.file(table))


def of_trained_users(world, rules):
    """The world without users of whom the library would know nothing, for none of their events trains."""
    expected = slow_reference.compute(world, rules)
    uid = {expected["users"][row["user_id"]]["uid"] for row in expected["train"]}
    return replace(world, events=[event for event in world.events if event.uid in uid])


def audio_of(world):
    return lambda item_id: unit_vector(item_id) if item_id in world.audio else None


def owners(world):
    found = {}
    for kind, pairs in (("artists", world.artists), ("albums", world.albums)):
        lists = {}
        for owner, song in pairs:
            lists.setdefault(song, []).append(owner)
        found[kind] = pl.col("item_id").map_elements(lambda song, lists=lists: lists.get(song, []), pl.List(pl.Int64))
    return found


@pytest.fixture(scope="module")
def both(platform_at, tmp_path_factory):
    return Both(platform_at(tmp_path_factory.mktemp("both")))


CLASSES = {
    "popular": Popular,
    "random": Random,
    "replay": Replay,
    "collaborative_filtering": SVD,
    "content_based": ContentBased,
    "decayed_popularity": DecayedPopular,
    "item_knn": ItemKNN,
    "ials": IALS,
    "session_knn": SessionKNN,
    "transitions": Transitions,
    "bpr": BPR,
    "graph_filter": GraphFilter,
    "ease": EASE,
}


@pytest.mark.parametrize("method", CLASSES)
def test_a_recommender_gives_the_lists_of_its_asset(both, method):
    known, names = both.metadata[method], CLASSES[method]().__dict__
    for view, exclude_heard in (("all", False), ("discovery", True)):
        settings = {name: known[f"{name}_{view}"] for name in names if f"{name}_{view}" in known}
        model = CLASSES[method](**settings).fit(both.train, both.validation, both.catalogue)
        found = model.recommend(k=100, exclude_heard=exclude_heard)
        wanted = both.listed(method, view)
        assert_frame_equal(found.cast({"user": pl.Int64, "song": pl.Int64}), wanted, check_row_order=False)


@pytest.mark.parametrize(("view", "exclude_heard"), [("all", False), ("discovery", True)])
def test_evaluate_gives_the_rows_of_the_leaderboard(both, view, exclude_heard):
    lists = {method: both.listed(method, view) for method in METHODS}
    board = evaluate(
        {method: shown for method, shown in lists.items() if len(shown)},
        both.test, both.train, both.catalogue, ks=[5, 20], exclude_heard=exclude_heard,
    )  # fmt: skip
    wanted = both.stored("evaluation/leaderboard").filter(view=view)
    keys = ["method", "k", "metric"]
    assert_frame_equal(board.sort(keys), wanted.filter(pl.col("method").is_in(board["method"].implode())).sort(keys))


def test_lightgcn_learns_the_embeddings_of_the_asset(both):
    file = both.platform.file("training/lightgcn", extension=".pt")
    settings = torch.load(file, weights_only=True)["settings"]
    model = LightGCN(**settings).fit(both.train, both.validation, both.catalogue)
    wanted = both.stored("retrieval/queries")
    assert model.dataset.user_ids.tolist() == wanted["uid"].to_list()
    vectors = vector_column(wanted.to_arrow(), "embedding")
    np.testing.assert_allclose(model.learned["users"], vectors, atol=OTHER_BLAS)
    wanted = both.stored("training/song_embeddings")
    assert model.dataset.song_ids.tolist() == wanted["item_id"].to_list()
    warm, trained = ~wanted["cold"].to_numpy(), vector_column(wanted.to_arrow(), "embedding")
    np.testing.assert_allclose(model.learned["songs"][warm], trained[warm], atol=OTHER_BLAS)
    cold = vector_column(both.stored("retrieval/cold_songs").to_arrow(), "embedding")
    np.testing.assert_allclose(model.learned["songs"][~warm], cold, atol=OTHER_BLAS)
