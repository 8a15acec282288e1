"""The checks of edges and graph pass on good data, and fail on data broken in the way that they name."""

import pytest

from ms_assets.defs.graph import checks as graph_checks
from ms_assets_tests.conftest import metadata
from ms_assets_tests.training.graphs import random_graph

NAMES = "user_id song_id event_type n_events played_ratio weight"
GOOD = [(0, 0, "like", 1, 1.0, 1.0), (0, 0, "listen", 2, 0.5, 0.7), (1, 0, "listen", 1, 0.0, 0.7)]


@pytest.fixture
def found(table):
    """What the check says of these edges and of a train part with so many events."""

    def result(edges, n_train):
        train = table("user_id", *[(0,)] * n_train)
        return graph_checks.edges_are_distinct_and_weighted(table(NAMES, *edges), train)

    return result


def test_edges_are_distinct_with_numbers_in_their_ranges(found):
    assert found(GOOD, 4).passed
    for broken in (
        (1, 0, "listen", 1, 0.0, 0.7),
        (1, -1, "listen", 1, 0.5, 0.7),
        (1, 1, "listen", 0, 0.5, 0.7),
        (1, 1, "listen", 1, 1.1, 0.7),
        (1, 1, "listen", 1, -0.1, 0.7),
        (1, 1, "listen", 1, None, 0.7),
        (1, 1, "listen", 1, float("nan"), 0.7),
        (1, 1, "listen", 1, 0.5, 0.0),
        (1, 1, "listen", 1, 0.5, 1.1),
        (1, 1, "listen", 1, 0.5, None),
    ):
        assert not found([*GOOD, broken], 4 + broken[3]).passed, broken
    assert found([*GOOD, (1, 1, "listen", 1, 0.5, 0.7)], 5).passed
    assert not found([(-1, 1, "listen", 1, 0.5, 0.7), *GOOD], 5).passed
    assert not found([], 0).passed


def test_equal_edges_and_edges_out_of_order_are_counted(found):
    twice = found([GOOD[0], *GOOD], 5)
    assert not twice.passed
    assert metadata(twice)["n_out_of_order_or_twice"] == 1
    for order in (1, 0, 2), (2, 0, 1), (0, 2, 1):
        unsorted = found([GOOD[place] for place in order], 4)
        assert not unsorted.passed, order
        assert metadata(unsorted)["n_out_of_order_or_twice"] == 1


@pytest.mark.parametrize("n_train", [0, 3, 5])
def test_edges_stand_for_every_event_of_train(found, n_train):
    result = found(GOOD, n_train)
    assert not result.passed
    assert (metadata(result)["n_events"], metadata(result)["n_train_events"]) == (4, n_train)


def test_an_edge_of_an_event_that_is_held_out_is_found(table, duckdb):
    names = "user_id song_id event_type"
    train = [(0, 0, "like"), (0, 0, "listen"), (0, 0, "listen"), (1, 0, "listen")]
    check = graph_checks.edges_are_of_train_alone

    def result(*edges):
        return check(duckdb, table(names, *edges), table(names, *train))

    assert result(*sorted(set(train))).passed
    assert result(train[0]).passed, "that an edge lacks is for another check to say"
    for leaked in (0, 1, "listen"), (0, 0, "undislike"), (2, 0, "listen"):
        found = result(*sorted({*train, leaked}))
        assert not found.passed
        assert metadata(found) == {"n_leaked": 1}
        assert "user_id {} has song_id {} by a {}".format(*leaked) in found.description


def test_what_is_called_a_graph_song_has_an_edge_and_a_cold_one_has_none():
    check = graph_checks.graph_songs_have_edges_and_cold_ones_none
    graph = random_graph(0)
    assert check(graph).passed
    for song in (0, -1):
        broken = graph.clone()
        broken["song"].in_graph[song] = not broken["song"].in_graph[song]
        assert not check(broken).passed
    assert metadata(check(broken))["n_wrong"] == 1
