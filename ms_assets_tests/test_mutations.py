"""Every asset check passes on what the pipeline makes, and fails on mutations of it: no check is believed untested."""

import inspect
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import dagster as dg
import faiss
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from ms_assets.definitions import defs
from ms_assets.defs.platform.io_managers import IndexOfOrigin
from ms_assets.defs.platform.lineage import RECORD, InconsistentInputsError, Made
from ms_assets.defs.platform.scales import PARTITION_TAG, SCALES
from ms_assets.defs.platform.schemas import SCHEMA
from ms_assets.defs.raw.checks import audio_vectors_are_finite
from ms_assets.defs.retrieval.checks import PROBLEMS
from ms_assets.evaluation import passes
from ms_assets.raw import published
from ms_assets.retrieval.methods import METHODS, RANKED
from ms_assets.vectors import fixed_size_list, vector_column
from ms_assets_tests.conftest import COMMON_CHECKS, Platform
from ms_assets_tests.workplace import SHORTLY

SCALE = "sample"
GRAPH = defs.resolve_asset_graph()
CHECKS = {key.to_user_string(): key for key in sorted(GRAPH.asset_check_keys, key=str)}
OF_DATA = [name for name, key in CHECKS.items() if key.name not in COMMON_CHECKS]
OF_ROWS = [name for name in CHECKS if name not in OF_DATA]


# mutations


def sql(name, query):
    """The table of this name as a query changes it, `t` for itself."""
    return lambda given: {name: given[name].query("t", query)}


def without(name, condition):
    return sql(name, f"FROM t WHERE NOT ({condition})")


def with_(name, value, column, where="true"):
    """Values of a column, where a condition holds, replaced by others."""
    return sql(name, f"SELECT * REPLACE (CASE WHEN {where} THEN {value} ELSE {column} END AS {column}) FROM t")


def reversed_ids(name, column):
    """Ids counted from the other end: known ones, but of others."""
    return sql(name, f"SELECT * REPLACE (max({column}) OVER () - {column} AS {column}) FROM t")


def swapped(name, other):
    return lambda given: {name: given[other], other: given[name]}


def vectors(name, change):
    """Embeddings [rows, dimensions] of a table, in the order of its rows, as a function changes them."""

    def mutate(given):
        table = given[name].to_arrow_table()
        column = fixed_size_list(change(vector_column(table, "embedding")))
        place = table.column_names.index("embedding")
        return {name: given["duckdb"].connection.from_arrow(table.set_column(place, "embedding", column))}

    return mutate


def with_row(value):
    """Vectors, the first of them replaced."""
    return lambda found: np.concatenate([np.full_like(found[:1], value), found[1:]])


def permuted(found):
    return found[np.random.default_rng(0).permutation(len(found))]


def all_equal(found):
    return np.repeat(found[:1], len(found), axis=0)


def model(**changed):
    return lambda given: {"lightgcn": replace(given["lightgcn"], **changed)}


def rising(given):
    first = given["lightgcn"].history[0]
    return {"lightgcn": replace(given["lightgcn"], history=[first, replace(first, loss=first.loss + 1)])}


def found_nothing(given):
    return {"lightgcn": replace(given["lightgcn"], best=replace(given["lightgcn"].best, validation_ndcg=0.0))}


def flipped(song):
    def mutate(given):
        graph = given["bipartite_graph"].clone()
        graph["song"].in_graph[song] = ~graph["song"].in_graph[song]
        return {"bipartite_graph": graph}

    return mutate


def index(change):
    """The index, changed; its origin stays, as if the file had been exchanged."""

    def mutate(given):
        ids = faiss.vector_to_array(given["song_index"].index.id_map)
        stored = faiss.downcast_index(given["song_index"].index.index)
        found, numbers = change(stored.reconstruct_n(0, stored.ntotal), ids)
        other = faiss.IndexIDMap2(faiss.IndexFlatIP(stored.d))
        other.add_with_ids(found, numbers)
        return {"song_index": IndexOfOrigin(other, given["song_index"].origin)}

    return mutate


def of_another(name):
    return lambda given: {
        "song_index": IndexOfOrigin(given["song_index"].index, {**given["song_index"].origin, name: "another"})
    }


def as_by_chance(method):
    """Metrics of a method, replaced by those of random lists."""
    query = f"SELECT * REPLACE ('{method}' AS method) FROM t WHERE method = 'random'"
    return sql("user_metrics", f"FROM t WHERE method <> '{method}' UNION ALL {query}")


def with_records(change):
    """Records of the stored asset: the one that lies there as changed, before it the same unchanged."""

    def mutate(given):
        stored = given["io_manager"].lineage.history
        return {"io_manager": recording(lambda *of: [replace(change(stored(*of)[0]), run_id="r"), *stored(*of)])}

    return mutate


def recording(history):
    return SimpleNamespace(lineage=SimpleNamespace(history=history))


def fewer_rows(made):
    return replace(made, metadata={"dagster/row_count": made.metadata["dagster/row_count"] // 2 - 1})


def worse_ndcg(made):
    ndcg = {name: [low - 0.01, low - 0.02, low] for name, (_, low, _) in made.metadata["ndcg_of_lightgcn"].items()}
    return replace(made, metadata={**made.metadata, "ndcg_of_lightgcn": ndcg})


def as_real(given):
    """The report of a scale whose figures are published."""
    return {"context": of_scale("50m")}


ONE = "uid = (SELECT min(uid) FROM t)"
FIRST, SECOND = f"{ONE} AND rank = 1", f"{ONE} AND rank = 2"


def with_heard(given):
    """The first song of each list in `discovery`, replaced by one that the user has heard."""
    heard = (
        given["train"]
        .aggregate("'discovery' AS view, user_id, 1 AS rank, min(song_id) AS song_id")
        .join(given["songs"].project("song_id, item_id"), "song_id")
    )
    lists = given["recommended"].set_alias("lists")
    kept = lists.join(heard, "view, user_id, rank", how="anti")
    columns = ", ".join(
        f"heard.{name}" if name in ("song_id", "item_id") else f"lists.{name}" for name in lists.columns
    )
    on = " AND ".join(f"lists.{name} = heard.{name}" for name in ("view", "user_id", "rank"))
    return {"recommended": kept.union(lists.join(heard.set_alias("heard"), on).project(columns))}


RECOMMENDATIONS = {
    "unknown view": with_("recommended", "'new'", "view", FIRST),
    "unknown user": with_("recommended", "uid + 1", "uid", FIRST),
    "unknown song": with_("recommended", "item_id + 1", "item_id", FIRST),
    "unknown song: ids are permuted": sql(
        "recommended",
        """SELECT * REPLACE (coalesce(lead(song_id) OVER w, first_value(song_id) OVER w) AS song_id)
        FROM t WINDOW w AS (PARTITION BY view, user_id ORDER BY rank)""",
    ),
    "a song that the list has already": sql("recommended", f"""
        FROM t UNION ALL SELECT * REPLACE (101 AS rank) FROM t WHERE {FIRST}
    """),
    "a score that is no number": with_("recommended", "'nan'::FLOAT", "score", SECOND),
    "a score that is no number: there is none": with_("recommended", "NULL", "score", SECOND),
    "a rank left out or given twice: left out": with_("recommended", "rank + 1", "rank", f"{ONE} AND rank > 1"),
    "a rank left out or given twice: twice": with_("recommended", "1", "rank", SECOND),
    "a heard song in discovery": with_heard,
    "the end of a list that should go on": without("recommended", f"{ONE} AND rank > 50"),
    "the end of a list that should go on: no list": without("recommended", "true"),
}  # fmt: skip
"""Mutations of recommendations, by the problem that the check has to name."""
MUTATIONS = {
    "raw/embeddings:audio_vectors_are_finite": {"one vector is not": lambda given: {"n_unusable": 1}},
    "raw/multi_event:events_have_a_time_and_a_type": {
        "no time": with_("multi_event", "NULL", "timestamp", "file_row_number = 0"),
        "no type": with_("multi_event", "NULL", "event_type", "file_row_number = 0"),
        "no events": without("multi_event", "true"),
    },
    "raw/multi_event:every_event_type_occurs": {
        kind: without("multi_event", f"event_type = '{kind}'")
        for kind in ("listen", "like", "dislike", "unlike", "undislike")
    },
    "raw/statistics_report:statistics_are_the_published_ones": {
        "of the sample": as_real,
        "one user more": lambda given: {
            "context": of_scale("50m"),
            "statistics_report": as_published(given["duckdb"], n_users=lambda n: n + 1),
        },
    },
    "splits/candidate_songs:events_name_candidate_songs": {
        "no song": without("candidate_songs", "true"),
        "songs of nobody": with_("candidate_songs", "0", "n_events"),
        "few songs": without("candidate_songs", "item_id % 100 > 0"),
    },
    "splits/users:user_ids_are_dense": {
        "from 1": with_("users", "user_id + 1", "user_id"),
        "one twice": with_("users", "1", "user_id", "user_id = 0"),
        "a gap": without("users", "user_id = 1"),
        "none": without("users", "true"),
    },
    "splits/songs:song_ids_are_dense": {
        "from 1": with_("songs", "song_id + 1", "song_id"),
        "one twice": with_("songs", "1", "song_id", "song_id = 0"),
        "a gap": without("songs", "song_id = 1"),
        "none": without("songs", "true"),
    },
    "splits/songs:graph_songs_come_first": {
        "they come last": reversed_ids("songs", "song_id"),
        "the first is none": with_("songs", "false", "in_graph", "song_id = 0"),
        "there are none": with_("songs", "false", "in_graph"),
    },
    "splits/ground_truth:held_out_events_follow_train": {
        "parts are exchanged": swapped("train", "test"),
        "a validation event is early": with_("validation", "0", "timestamp", "user_id = 0"),
        "a test event is early": with_("test", "0", "timestamp", "user_id = 0"),
        "a train event is late": with_("train", "100_000_000", "timestamp", "user_id = 0"),
    },
    "splits/train:every_kept_event_is_in_one_part": {
        "one is lost": sql("train", "FROM t LIMIT (SELECT count(*) - 1 FROM t)"),
        "one is there twice": sql("train", "FROM t UNION ALL (FROM t LIMIT 1)"),
        "one is of test": lambda given: {"train": given["train"].union(given["test"].limit(1))},
        "times are others": with_("train", "timestamp + 1", "timestamp"),
        "users are others": with_("train", "0", "user_id"),
        "songs are others": with_("train", "0", "song_id"),
        "types are others": with_("train", "'like'", "event_type"),
    },
    "splits/train:songs_count_the_plays_of_train_alone": {
        "a play is lost": sql("train", "FROM t ORDER BY event_type <> 'listen' OFFSET 1"),
        "a song is in train alone": with_("train", "1_000_000", "song_id", "song_id = 0"),
        "plays of another part": lambda given: {"train": given["train"].query(
            "t", "FROM t UNION ALL (FROM t WHERE event_type = 'listen' LIMIT 1)")},
    },
    "splits/ground_truth:ground_truth_speaks_of_the_events": {
        "a row is lost": sql("ground_truth", "FROM t LIMIT (SELECT count(*) - 1 FROM t)"),
        "a row is there twice": sql("ground_truth", "FROM t UNION ALL (FROM t LIMIT 1)"),
        "test is validation": with_("ground_truth", "'validation'", "split"),
        "songs are permuted": reversed_ids("ground_truth", "song_id"),
        "users are permuted": reversed_ids("ground_truth", "user_id"),
        **{name: with_("ground_truth", f"{name} + 1", name)
           for name in ("n_events", "n_train_plays", "listen_plus", "likes", "dislikes")},
    },
    "graph/edges:edges_are_distinct_and_weighted": {
        "no weight": with_("edges", "0", "weight"),
        "a great weight": with_("edges", "2", "weight"),
        "a weight that is no number": with_("edges", "'nan'::FLOAT", "weight"),
        "a ratio above 1": with_("edges", "1.5", "played_ratio"),
        "no event": with_("edges", "0", "n_events"),
        "an event more": with_("edges", "n_events + 1", "n_events"),
        "one is twice": sql("edges", "FROM t UNION ALL (FROM t LIMIT 1)"),
        "one is lost": sql("edges", "FROM t OFFSET 1"),
        "another order": sql("edges", "FROM t ORDER BY user_id DESC, song_id, event_type"),
        "none": without("edges", "true"),
    },
    "graph/edges:edges_are_of_train_alone": {
        "a song of nobody": with_("edges", "1_000_000", "song_id", "song_id = 0"),
        "another type": with_("edges", "'dislike'", "event_type", "user_id = 0"),
        "songs are permuted": reversed_ids("edges", "song_id"),
        "edges of test": lambda given: {"train": given["train"].filter("user_id > 0")},
    },
    "graph/bipartite_graph:graph_songs_have_edges_and_cold_ones_none": {
        "a graph song is cold": flipped(0),
        "a cold song is of the graph": flipped(-1),
    },
    "training/lightgcn:training_learned": {
        "the loss rose": rising,
        "nothing is found": found_nothing,
    },
    "training/lightgcn:training_did_not_diverge": {"it did": model(diverged="training diverged in epoch 3")},
    "training/user_embeddings:user_embeddings_are_healthy": {
        "no number": vectors("user_embeddings", with_row(np.nan)),
        "no end": vectors("user_embeddings", with_row(np.inf)),
        "no length": vectors("user_embeddings", with_row(0)),
        "another length": vectors("user_embeddings", lambda found: 2 * found),
        "all equal": vectors("user_embeddings", all_equal),
        "none": without("user_embeddings", "true"),
    },
    "training/song_embeddings:song_embeddings_are_healthy": {
        "no number": vectors("song_embeddings", with_row(np.nan)),
        "no end": vectors("song_embeddings", with_row(np.inf)),
        "no length": vectors("song_embeddings", with_row(0)),
        "all equal": vectors("song_embeddings", all_equal),
        "none": without("song_embeddings", "true"),
    },
    "retrieval/song_index:index_finds_the_nearest_songs": {
        "the index has others' ids": index(lambda found, ids: (found, np.roll(ids, 1))),
        "the index lacks a song": index(lambda found, ids: (found[1:], ids[1:])),
        "the index has permuted vectors": index(lambda found, ids: (permuted(found), ids)),
        "the index is of another training": of_another("training_run"),
        "the index is of another split": of_another("split"),
        "the index is of another id map": of_another("id_map"),
        "users are permuted": vectors("queries", permuted),
        "songs are permuted": vectors("song_embeddings", permuted),
        "cold songs are permuted": vectors("cold_songs", permuted),
        "items are permuted": reversed_ids("songs", "song_id"),
        "a song lacks": without("songs", "song_id = 0"),
    },
    "retrieval/cold_songs:cold_songs_are_all_placed": {
        "one lacks": sql("cold_songs", "FROM t OFFSET 1"),
        "one is of the graph": sql("cold_songs", "SELECT * REPLACE (song_id - 1 AS song_id) FROM t"),
        "no number": vectors("cold_songs", with_row(np.nan)),
        "another length": vectors("cold_songs", with_row(1)),
    },
    "retrieval/lightgcn:lists_keep_what_training_learned": {
        "all songs are cold": with_("recommended", "max(song_id) OVER () - rank", "song_id"),
        "songs are permuted": reversed_ids("recommended", "song_id"),
        "users are permuted": reversed_ids("recommended", "user_id"),
        "only replays": without("recommended", "view = 'discovery'"),
    },
    **{f"retrieval/{method}:recommendations_are_complete": {"no first song": without("recommended", FIRST)}
       for method in METHODS},
    "reranking/ranked:recommendations_are_complete": {"no first song": without("recommended", FIRST)},
    "reranking/features:features_know_only_the_past": {
        "a feature is what it should predict": with_("features", "relevance", "sound", "relevance > 0"),
        "events to come are counted": with_("features", "own_n + 1", "own_n", "relevance > 0"),
        "songs are permuted": reversed_ids("features", "song_id"),
        "users are permuted": reversed_ids("features", "user_id"),
    },
    "reranking/ranker:ranker_is_worth_its_while": {
        "a source is far better": with_("features", "1 - relevance", "ials_rank", "true"),
        "the worst come first": with_("features", "(own_n = 0)::DOUBLE", "relevance", "true"),
    },
    "evaluation/user_metrics:metrics_lie_within_their_range": {
        "above 1": with_("user_metrics", "1.5", "ndcg", "k = 10"),
        "below 0": with_("user_metrics", "-0.1", "recall", "k = 10"),
        "no number": with_("user_metrics", "'nan'::DOUBLE", "auc", "k = 10"),
        "a lift below −1": with_("user_metrics", "-1.5", "popularity_lift", "k = 10"),
        "nobody": without("user_metrics", "true"),
    },
    "evaluation/user_metrics:methods_beat_chance": {
        f"{method} is as good as random": as_by_chance(method) for method in ("lightgcn", "popular")
    },
    "evaluation/leaderboard:lightgcn_beats_the_baselines": {
        "popular is best": with_("leaderboard", "1", "mean", "method = 'popular'"),
        "lightgcn is worst": with_("leaderboard", "0", "mean", "method = 'lightgcn'"),
        "lightgcn lacks": without("leaderboard", "method = 'lightgcn'"),
        "nothing is compared": without("leaderboard", "metric = 'ndcg'"),
    },
    "evaluation/leaderboard:lightgcn_is_as_good_as_before": {"it is worse": with_records(worse_ndcg)},
    "evaluation/champion:challenger_is_not_worse": {
        "it is": sql("champion", "SELECT * REPLACE (-0.2::DOUBLE AS ci_low, -0.1::DOUBLE AS ci_high) FROM t")
    },
    "evaluation/champion:champion_answers": {"there is none": with_("champion", "'nobody'", "name")},
    **{name: {"less than half of the rows": with_records(fewer_rows)} for name in OF_ROWS},
}  # fmt: skip
"""Mutations of each check's data, by check and by what they do; every one has to fail."""
NO_PROMISE = {
    "evaluation/leaderboard:lightgcn_beats_the_baselines": with_("leaderboard", "1", "mean", "method = 'lightgcn'")
}
"""Data that are put right before a check sees them: a training of one epoch need not be best."""
EACH = [(name, what) for name, mutations in MUTATIONS.items() for what in mutations]


def of_scale(scale):
    return SimpleNamespace(run=SimpleNamespace(tags={PARTITION_TAG: scale}))


def as_published(duckdb, **changed):
    """The report of a true 50m, some figures changed."""
    rows = [{"file": file, **figures} for file, figures in published.STATISTICS["50m"].items()]
    rows = [{**row, **{name: change(row[name]) for name, change in changed.items() if name in row}} for row in rows]
    return duckdb.connection.from_arrow(pl.DataFrame(rows).to_arrow())


# the platform that is mutated


class Computed:
    """A home in which everything was made that the checks look at, and what the checks are given of it."""

    def __init__(self, folder):
        self.platform = Platform(folder)
        self.resources = self.platform.definitions.resources
        self.checks = {check.check_key: check for check in self.platform.definitions.asset_checks or ()}
        self._values = {}

    def stored(self, key):
        """An artefact as its I/O manager reads it, once."""
        if key not in self._values:
            manager = self.platform.definitions.resolve_assets_def(key).get_io_manager_key_for_asset_key(key)
            place = self.resources[manager]
            self._values[key] = place.read(place._path(key, SCALE))
        return self._values[key]

    def table(self, key):
        return self.stored(dg.AssetKey.from_user_string(key))

    def metrics(self, lists, truth=None):
        """Metrics of every user by lists of methods, at the shortest length that is judged."""
        tables = [self.table(f"splits/{name}") for name in ("users", "songs", "train", "ground_truth")]
        rows = passes.user_metrics(lists, *tables[:3], tables[3] if truth is None else truth, [10])
        return self.resources["duckdb"].connection.from_arrow(pa.concat_tables(rows))

    def given(self, check, wanted):
        """What a check may take, by name."""
        records = self.platform.lineage

        def history(key, scale):
            return records.history(key, scale)[:1] or [MADE]

        known = {"context": of_scale(SCALE), "io_manager": recording(history)}
        inputs = {name: self.stored(key) for name, key in check.keys_by_input_name.items() if name in wanted}
        return {**self.resources, **inputs, **known}

    def result(self, name, mutate=None):
        """Result of a check of the stored artefacts, or of a mutation of them."""
        if name.endswith(":audio_vectors_are_finite"):  # the asset yields it itself
            return audio_vectors_are_finite(**{"n_usable": 9, "n_unusable": 0, **(mutate({}) if mutate else {})})
        check = self.checks[CHECKS[name]]
        function = inspect.unwrap(check.node_def.compute_fn.decorated_fn)
        wanted = inspect.signature(function).parameters
        given = self.given(check, wanted)
        given |= NO_PROMISE[name](given) if name in NO_PROMISE else {}
        given |= mutate(given) if mutate else {}
        return function(**{argument: given[argument] for argument in wanted})


MADE = Made(
    version="v", name="x", size=1, modified=1, run_id="r", at="", inputs={}, origins={},
    metadata={"dagster/row_count": 100},
)  # fmt: skip
"""Record of a table that this home does not hold."""


@pytest.fixture(scope="module")
def computed(sample_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("computed")
    shutil.copytree(sample_home, folder / "home", symlinks=True)
    return Computed(folder)


# every check


def test_every_check_has_a_mutation():
    assert set(CHECKS) - {name for name, _ in EACH} == set(), "a check without a mutation"
    assert set(MUTATIONS) - set(CHECKS) == set(), "a mutation of no check"
    assert len(CHECKS) > 60


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_passes_on_what_the_pipeline_made(computed, name):
    assert computed.result(name).passed


def test_published_statistics_pass_as_those_of_their_scale(computed):
    name = "raw/statistics_report:statistics_are_the_published_ones"
    report = as_published(computed.resources["duckdb"])
    assert computed.result(name, lambda given: {"context": of_scale("50m"), "statistics_report": report}).passed


@pytest.mark.parametrize(("name", "what"), EACH)
def test_a_check_fails_on_a_mutation(computed, name, what):
    result = computed.result(name, MUTATIONS[name][what])
    assert not result.passed
    blocks = GRAPH.get_check_spec(CHECKS[name]).blocking
    assert blocks or result.severity == dg.AssetCheckSeverity.WARN


@pytest.mark.parametrize("what", RECOMMENDATIONS)
def test_recommendations_fail_by_the_problem_that_they_have(computed, what):
    result = computed.result("retrieval/lightgcn:recommendations_are_complete", RECOMMENDATIONS[what])
    assert f"lightgcn: {what.split(':')[0]}, user_id" in result.description


def test_every_problem_of_recommendations_has_a_mutation():
    assert {what.split(":")[0] for what in RECOMMENDATIONS} == set(PROBLEMS)


# ids that were permuted


@pytest.fixture(scope="module")
def permuted_lists(computed):
    """Every method's lists in which each song has the ids of another one, and the metrics of all of them."""
    con, songs = computed.resources["duckdb"].connection, computed.table("splits/songs")

    def permuted(method):
        lists = computed.table(LISTS[method])
        columns = ", ".join("songs.item_id" if name == "item_id" else name for name in lists.columns)
        return con.sql(f"""
            SELECT {columns} FROM (SELECT * REPLACE ({OTHER.format(n=len(songs))} AS song_id) FROM lists)
            JOIN (SELECT song_id, item_id FROM songs) songs USING (song_id)
        """)

    return {method: permuted(method) for method in LISTS}


@pytest.fixture(scope="module")
def metrics(computed, permuted_lists):
    """Metrics of the stored lists, and of permuted ones."""
    stored = {method: computed.table(key) for method, key in LISTS.items()}
    return computed.metrics(stored), computed.metrics(permuted_lists)


LISTS = {**{method: f"retrieval/{method}" for method in METHODS}, RANKED: f"reranking/{RANKED}"}
"""Tables of recommendations by method."""
OTHER = "song_id * 7919 % {n}"
"""Permutation of the numbers below n, which 7,919 does not divide."""
BEAT_CHANCE = "evaluation/user_metrics:methods_beat_chance"


@pytest.mark.parametrize("method", LISTS)
def test_lists_with_permuted_song_ids_are_found(computed, permuted_lists, metrics, method):
    stored, permuted = metrics
    mixed = stored.filter(f"method <> '{method}'").union(permuted.filter(f"method = '{method}'"))
    found = [
        computed.result(
            f"{LISTS[method]}:recommendations_are_complete", lambda given: {"recommended": permuted_lists[method]}
        ),
        computed.result(BEAT_CHANCE, lambda given: {"user_metrics": mixed}),
    ]
    assert [result.description for result in found if not result.passed]
    if method != "random":
        assert found[1].description.startswith(f"{method}: no better than random lists"), "without a look at the lists"


def test_a_ground_truth_with_permuted_song_ids_is_found(computed):
    n_songs = len(computed.table("splits/songs"))
    truth = computed.table("splits/ground_truth").query(
        "t", f"SELECT * REPLACE ({OTHER.format(n=n_songs)} AS song_id) FROM t"
    )
    stored = {method: computed.table(key) for method, key in LISTS.items()}
    judged_by_it = computed.metrics(stored, truth)
    speaks = computed.result("splits/ground_truth:ground_truth_speaks_of_the_events", lambda _: {"ground_truth": truth})
    assert not speaks.passed
    chance = computed.result(BEAT_CHANCE, lambda _: {"ground_truth": truth, "user_metrics": judged_by_it})
    assert "test events are of another division" in chance.description


# a check of each room, as it runs


@pytest.fixture
def copy(computed, tmp_path):
    """A copy of the home, which a test may spoil."""
    for part in ("data", "source"):
        shutil.copytree(computed.platform.home / part, tmp_path / "home" / part, symlinks=True)
    return Platform(tmp_path)


def spoiled(platform, check, mutate):
    """Materialise a mutation of the checked asset, as another producer of it would, with that check."""
    key, definitions = check.check_key.asset_key, platform.definitions
    real, spec = definitions.resolve_assets_def(key), definitions.resolve_assets_def(key).get_asset_spec(key)
    manager = real.get_io_manager_key_for_asset_key(key)
    place = definitions.resources[manager]

    @dg.asset(key=key, deps=spec.deps, partitions_def=SCALES, metadata={SCHEMA: spec.metadata[SCHEMA]},
              io_manager_key=manager)  # fmt: skip
    def other():
        stored = place.read(place._path(key, SCALE))
        [value] = mutate({key.path[-1]: stored, "recommended": stored, "duckdb": platform.duckdb}).values()
        return value

    before = [dg.AssetSpec(each, partitions_def=SCALES) for each in {*check.keys_by_input_name.values()} - {key}]
    alone = dg.Definitions([other, *before], asset_checks=[check], resources=definitions.resources)
    return alone.resolve_implicit_global_asset_job_def().execute_in_process(
        {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}, partition_key=SCALE, raise_on_error=False
    )


AS_IT_RUNS = {
    "splits/users:user_ids_are_dense": ("one twice", "splits/train"),
    "graph/edges:edges_are_distinct_and_weighted": ("a great weight", "graph/bipartite_graph"),
    "training/user_embeddings:user_embeddings_are_healthy": ("no number", "retrieval/queries"),
    "retrieval/popular:recommendations_are_complete": ("no first song", "evaluation/user_metrics"),
    "evaluation/user_metrics:metrics_lie_within_their_range": ("above 1", "evaluation/differences"),
}
"""Blocking checks, one of each room: a mutation, and an asset that follows."""
MADE_BY_ONE_STEP = {"training/user_embeddings": ("training/user_embeddings", "training/song_embeddings")}


@pytest.mark.parametrize("name", AS_IT_RUNS)
def test_what_failed_a_blocking_check_is_on_record_and_refused_by_later_runs_until_made_again(
    computed, copy, capfd, name
):
    (what, after), key, check = AS_IT_RUNS[name], CHECKS[name].asset_key, CHECKS[name].name
    asset = key.to_user_string()
    run = spoiled(copy, computed.checks[CHECKS[name]], MUTATIONS[name][what])
    [found] = run.get_asset_check_evaluations()
    assert not found.passed and not run.success
    record = copy.file(asset, SCALE, RECORD)
    failed = json.loads(record.read_text())[0]["failed"]
    assert failed.keys() == {check}
    said = failed[check]
    assert said == found.description or all(f"{name} {value.value}" in said for name, value in found.metadata.items())
    assert f"{asset} failed its check {check}: {said}" in capfd.readouterr().err

    later, made = Platform(copy.home.parent), copy.file(after, SCALE, RECORD).read_text()
    with pytest.raises(InconsistentInputsError) as refused:
        later.materialise(after, scale=SCALE, config=SHORTLY, alone=True)
    expected = f"{asset} of {SCALE} failed a blocking check ({check}: {said}); mend its cause and materialise it again"
    assert expected in str(refused.value)
    assert copy.file(after, SCALE, RECORD).read_text() == made

    for again in (MADE_BY_ONE_STEP.get(asset, (asset,)), [after]):
        later.materialise(*again, scale=SCALE, config=SHORTLY, alone=True)
    assert not json.loads(record.read_text())[0]["failed"]


def test_what_failed_a_check_that_only_warns_is_read_by_what_follows(computed, copy):
    name = "raw/multi_event:events_have_a_time_and_a_type"
    typeless = "SELECT * EXCLUDE (file_row_number) REPLACE (nullif(event_type, 'unlike') AS event_type) FROM t"
    run = spoiled(copy, computed.checks[CHECKS[name]], sql("multi_event", typeless))
    [found] = run.get_asset_check_evaluations()
    assert run.success and (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert not json.loads(copy.file("raw/multi_event", SCALE, RECORD).read_text())[0]["failed"]
    Platform(copy.home.parent).materialise("splits/candidate_songs", scale=SCALE, alone=True)
