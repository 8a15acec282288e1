"""The table of event types: what an entry may hold, one entry for a new type, and who refuses an unknown one."""

import os
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from ms_assets.evaluation import passes
from ms_assets.events import EVENT_TYPES, NEGATIVES
from ms_assets.graph.bipartite import INTERACTS, with_edges
from ms_assets.graph.edges import edges
from ms_assets.graph.statistics import graph_statistics
from ms_assets.settings import SplitSettings
from ms_assets.splits.audits import conservation
from ms_assets.splits.id_map import IdMap
from ms_assets.splits.protocols import parted_events
from ms_assets.splits.relevance import ground_truth
from ms_assets.training import refit
from ms_assets.training.data import GraphTensors
from ms_assets.training.objectives import positive_weights
from ms_assets_tests.training.graphs import graph_of
from ms_assets_tests.workplace import ROOT, answer_of


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_an_entry_is_within_what_graph_and_training_can_hold(kind):
    assert kind.code >= 1 and [other.code for other in EVENT_TYPES.values()].count(kind.code) == 1
    assert kind.edge_weight is None or 0 < kind.edge_weight <= 1
    assert kind.edge_ratio is None or 0 <= kind.edge_ratio <= 1
    for intercept, slope in (kind.relevance, kind.loss):
        assert min(intercept, intercept + slope) >= 0


@pytest.mark.parametrize("kind", NEGATIVES.values(), ids=NEGATIVES)
def test_an_explicit_negative_is_worth_nothing_as_a_positive(kind):
    assert (kind.relevance, kind.edge_ratio, kind.loss) == ((0, 0), None, (0, 0))


ENTRIES = """
    "clip": EventType(code=6, relevance=(0.1, 0.5), edge_weight=0.6, loss=(0.2, 0.4)),
    "skip": EventType(code=7),
}
\"""Every event type"""


@pytest.fixture(scope="module")
def two_more(tmp_path_factory):
    """What the rooms make of a world with a sixth and a seventh type, once the table has an entry for each."""
    folder = tmp_path_factory.mktemp("two_more_types")
    shutil.copytree(ROOT / "ms_assets", folder / "ms_assets", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)  # by which the definitions find their folder
    table = folder / "ms_assets/events.py"
    source = table.read_text()
    assert source.count('\n}\n"""Every event type') == 1
    table.write_text(source.replace('\n}\n"""Every event type', ENTRIES))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    program = ("-m", "ms_assets_tests.two_more_types", folder)
    return answer_of(sys.executable, *program, cwd=folder, env=environment)


def test_one_entry_in_the_table_makes_a_positive_type_known_to_the_splits(two_more):
    assert [(row["song_id"], row["event_type"], row["played_ratio"]) for row in two_more["train"]] == [
        (0, "listen", 1.0), (0, "clip", 0.5), (0, "clip", 1.0), (1, "clip", 0.0),
    ]  # fmt: skip
    assert [(row["split"], row["song_id"], row["base_relevance"]) for row in two_more["ground_truth"]] == [
        ("test", 1, pytest.approx(0.1 + 0.5 * 0.5))
    ]


def test_one_entry_in_the_table_makes_an_explicit_negative_known_to_the_splits(two_more):
    assert [(row["song_id"], row["event_type"], row["in_graph"]) for row in two_more["negatives"]] == [
        (2, "skip", False)
    ]
    assert [row["n_events"] for row in two_more["ground_truth"]] == [2]


def test_one_entry_in_the_table_makes_a_positive_type_known_to_the_graph(two_more):
    wanted = [(0, "clip", 2, 0.75, 0.6), (0, "listen", 1, 1.0, 0.7), (1, "clip", 1, 0.0, 0.6)]
    assert [tuple(row.values())[1:] for row in two_more["edges"]] == wanted
    np.testing.assert_allclose(two_more["attributes"], [(6, 2, 0.75, 0.6), (1, 1, 1.0, 0.7), (6, 1, 0, 0.6)], 1e-6)
    assert two_more["statistics"]["n_clip_edges"] == 2
    assert two_more["statistics"]["mean_played_ratio_clip"] == pytest.approx(0.375)


def test_one_entry_in_the_table_makes_a_positive_type_known_to_training(two_more):
    assert two_more["positive_weights"] == pytest.approx([0.2 + 0.4 * 0.75, 1.0, 0.2])
    # The network's input for each bucket: the type's share of the largest code, log2 of the count, ratio, weight.
    wanted = [(1 / 7, 0, 1.0, 0.7), (6 / 7, 0, 0.0, 0.6), (6 / 7, 1, 0.75, 0.6)]
    np.testing.assert_allclose(two_more["learned_from"], wanted, 1e-6)


HELD = "user_id song_id timestamp event_type played_ratio is_organic"
KNOWN = (0, 0, 5, "listen", 0.5, 1)
UNKNOWN = (0, 0, 5, "skip", None, 1)


def graph():
    return graph_of([(0, 0, "listen", 1, 0.5)], n_users=1, n_graph_songs=1)


def with_code(code):
    graph_with_code = graph()
    graph_with_code[INTERACTS].edge_attr[0, 0] = code
    return graph_with_code


def divided(con, table, known, unknown):
    events = table("uid item_id timestamp event_type", (1, 10, 5, "skip"))
    list(parted_events(events, np.array([1]), IdMap(np.array([10])), SplitSettings(), 1_000))


def audited(con, table, known, unknown):
    events = table("uid item_id timestamp event_type", (1, 10, 5, "skip"))
    conservation(con, events, table("user_id uid", (0, 1)), table("song_id item_id", (0, 10)), known, known, known)


def sliced(con, table, known, unknown):
    users, songs = table("user_id uid", (0, 7)), table("song_id in_graph n_train_plays artist_ids", (0, True, 1, [0]))
    truth = table("split user_id song_id adjusted_relevance", ("test", 0, 0, 1.0))
    passes.slices({}, users, songs, known, unknown, truth, [10])


def edge_table(kind):
    columns = {"user_id": [0], "song_id": [0], "event_type": [kind], "n_events": [1], "played_ratio": [0.5]}
    return pa.table({**columns, "weight": [0.7]})


PLACES = {
    "the division": divided,
    "the audit of raw events": audited,
    "the audit of parts": lambda con, _, known, unknown: conservation(con, *[known] * 5, unknown),
    "the ground truth": lambda con, _, known, unknown: ground_truth(con, known, known, unknown).fetchall(),
    "the edges": lambda con, _, known, unknown: edges(con, unknown).fetchall(),
    "the graph": lambda *_: with_edges(graph(), 1, edge_table("skip").to_batches()),
    "positives of a refit": lambda con, _, *parts: refit.graph_of_train_and_validation(con, graph(), *parts),
    "negatives of a refit": lambda con, _, known, unknown: refit.explicit_negatives(
        known.project("user_id, song_id"), unknown
    ).fetchall(),
    "slices by source": sliced,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_unknown_type_is_refused_by_name_with_what_to_do(place, duckdb, table):
    with pytest.raises(Exception, match=r"event_type: found skip, expected listen, like.*; leave such events out, or"):
        place(duckdb.connection, table, table(HELD, KNOWN), table(HELD, KNOWN, UNKNOWN))


@pytest.mark.parametrize(
    "place",
    [graph_statistics, lambda found: positive_weights(found[INTERACTS].edge_attr), GraphTensors.of],
    ids=["statistics", "loss", "training"],
)
def test_an_unknown_code_of_a_stored_graph_is_refused(place):
    with pytest.raises(ValueError, match="event_type: found code 6, expected listen, like"):
        place(with_code(6))


def test_an_edge_of_an_explicit_negative_is_refused_by_name_where_positives_are_weighed(duckdb, table):
    with pytest.raises(ValueError, match="event_type: found dislike, expected listen, like or undislike"):
        positive_weights(with_code(3)[INTERACTS].edge_attr)
    with pytest.raises(Exception, match="event_type: found dislike, expected listen, like or undislike"):
        edges(duckdb.connection, table(HELD, (0, 0, 5, "dislike", None, 1))).fetchall()


def test_events_without_a_type_are_nobodys_but_counted(duckdb, table):
    held_out = table(HELD, KNOWN, (0, 0, 5, None, None, 1))
    [row] = ground_truth(duckdb.connection, table(HELD, KNOWN), table(HELD, KNOWN).limit(0), held_out).pl().to_dicts()
    assert (row["n_events"], row["base_relevance"]) == (2, pytest.approx(0.35))
    assert refit.explicit_negatives(table("user_id song_id", (0, 1)), held_out).fetchall() == [(0, 1)]


def test_a_listen_weighs_bit_for_bit_what_its_formula_says():
    assert torch.equal(positive_weights(torch.tensor([[1, 1, 0.1, 0.7]])), 0.3 + 0.7 * torch.tensor([0.1]))
