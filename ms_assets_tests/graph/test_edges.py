"""Weighted edges, by hand and against the contract's numbers."""

from ms_assets_tests.worlds import DAY, Rules, World, listen, reaction

T = 26_000_000 - DAY


def test_an_edge_has_the_mean_of_its_known_ratios_and_the_weight_of_its_type(platform):
    events = [listen(1, 0, 10, 40), listen(1, 1, 10, None), listen(1, 2, 10, 80)]
    events += [reaction("like", 1, 3, 10), reaction("like", 1, 4, 10), reaction("undislike", 1, 5, 10)]
    events += [reaction("dislike", 1, 6, 10), listen(1, 7, 20, None), listen(2, 0, 20, 0)]
    events += [listen(1, T, 10, 100)]
    platform.split(World(events, [10, 20]), Rules(protocol="global_temporal"), "graph/edges")
    assert [tuple(row.values()) for row in platform.rows("graph/edges")] == [
        (0, 0, "like", 2, 1.0, 1.0),
        (0, 0, "listen", 3, 0.6, 0.7),
        (0, 0, "undislike", 1, 0.5, 0.3),
        (0, 1, "listen", 1, 0.5, 0.7),
        (1, 1, "listen", 1, 0.0, 0.7),
    ]
