"""A table of recommendations is refused for whatever is wrong with it, by method, user and rank."""

import pytest

from ms_assets.retrieval import checks as retrieval

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
    by_method = {check.check_key.asset_key.path[-1]: check for check in retrieval.checks}

    def result(rows, method="lightgcn", n_songs=3):
        return by_method[method](
            duckdb=duckdb,
            users=table("user_id uid", (0, 0), (1, 10)),
            songs=table("song_id item_id in_graph", *((song, 100 + song, song < 3) for song in range(n_songs))),
            train=table("user_id song_id", (0, 0), (1, 0), (1, 2), (1, 2)),
            recommended=table("view user_id rank song_id uid item_id score", *map(full, rows)),
        )

    return result


def replaced(old, *new):
    return [row for row in RECOMMENDED if row != old] + list(new)


@pytest.mark.parametrize("method", set(retrieval.METHODS) - {"replay", "item_knn"})
def test_every_methods_recommendations_are_checked(check, method):
    assert check(RECOMMENDED, method).passed
    assert check(RECOMMENDED[::-1], method).passed
    assert not check(RECOMMENDED[:-1], method).passed


@pytest.mark.parametrize("method", retrieval.METHODS)
def test_who_knows_cold_songs_has_to_list_them(check, method):
    knows_none = method in ("collaborative_filtering", "ials", "item_knn")
    replays = method == "replay"
    assert check(REPLAYED if replays else RECOMMENDED, method, n_songs=4).passed == (knows_none or replays)


def test_replay_lists_all_of_the_users_own_songs_and_nothing_else(check):
    assert check(REPLAYED, "replay").passed
    assert check(REPLAYED[:-1], "replay").description.startswith(
        "replay: the end of a list that should go on, user_id 1 in all at rank 2"
    )


def test_neighbours_may_end_a_list(check):
    assert check(RECOMMENDED[:-1], "item_knn").passed
    assert not check(RECOMMENDED[1:], "item_knn").passed


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
