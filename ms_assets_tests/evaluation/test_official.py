"""The arithmetic of Yambda's authors, against a slow computation from events and lists."""

import numpy as np
import polars as pl
import pytest

from ms_assets.evaluation import official, protocol, published
from ms_assets.evaluation.leaderboard import OFFICIAL, pane
from ms_assets.evaluation.tables import Users
from ms_assets_tests import slow_metrics
from ms_assets_tests.evaluation.boards import relation
from ms_assets_tests.worlds import Rules, World, listen

N_USERS, N_SONGS, K = 20, 15, 8
EVENT = "user_id song_id event_type played_ratio"


def events(rng, n):
    kinds = rng.choice(["listen", "like", "dislike"], n, p=[0.7, 0.2, 0.1]).tolist()
    ratios = [float(rng.choice([0.49, 0.5, 0.51, 1.0])) if kind == "listen" else None for kind in kinds]
    return list(zip(rng.integers(0, N_USERS, n).tolist(), rng.integers(0, N_SONGS, n).tolist(), kinds, ratios,
                    strict=True))  # fmt: skip


def is_target(view, kind, ratio):
    return kind == "like" if view == "official_like" else kind == "listen" and ratio >= 0.5


@pytest.mark.parametrize("view", official.VIEWS)
@pytest.mark.parametrize("seed", range(5))
def test_official_metrics_are_those_of_a_slow_computation(seed, view, table):
    rng = np.random.default_rng(seed)
    test, train = events(rng, 400), events(rng, 25)
    lists = [rng.permutation(N_SONGS)[:K].tolist() for _ in range(N_USERS)]
    lists[0] = [-1] * K
    trained = [any(user == row[0] for row in train) for user in range(N_USERS)]
    assert not all(trained)
    targets = [[s for u, s, *what in test if u == user and is_target(view, *what)] for user in range(N_USERS)]
    assert any(len(set(songs)) < len(songs) for songs in targets)
    wanted = slow_metrics.official(lists, targets, trained, 5)

    found = official.targets(table(EVENT, *test), table(EVENT, *train), view)
    uid = 3 * np.arange(N_USERS)
    pairs = Users(0, uid).interactions(found, N_SONGS, n_events="n_events")
    rows = official.user_metrics(np.array(lists), pairs, uid, 5)
    assert rows["uid"].to_list() == [3 * u for u in range(N_USERS) if trained[u] and targets[u]]
    keyed = rows.with_columns(method=pl.lit("popular"), view=pl.lit(view), k=pl.lit(5))
    measured = pane(relation(keyed), OFFICIAL)
    assert dict(zip(measured.metrics, measured.samples[0, 0], strict=True)) == pytest.approx(wanted)


def test_half_a_track_is_a_listen_plus_of_the_authors(table):
    rows = [(0, 1, "listen", 0.5), (0, 2, "listen", 0.4999), (0, 3, "listen", None), (1, 4, "listen", 0.5)]
    found = official.targets(table(EVENT, *rows), table(EVENT, rows[0]), "official_listen_plus")
    assert found.fetchall() == [(0, 1, 1)]


def test_a_song_played_twice_is_two_targets_of_which_one_can_be_found(table):
    test = table(EVENT, *[(0, 1, "like", None)] * 3, (0, 2, "like", None))
    users = Users(0, np.array([7]))
    targets = users.interactions(official.targets(test, test, "official_like"), 5, n_events="n_events")
    [row] = official.user_metrics(np.array([[1, 2, 3]]), targets, users.uid, 3).to_dicts()
    assert row["recall"] == 2 / 4
    assert row["dcg"] == pytest.approx(1 + 1 / np.log2(3))
    assert row["ideal_dcg"] == pytest.approx(1 + 1 / np.log2(3) + 1 / 2)


# protocol

T = protocol.TEST_START
THEIRS = {"train": [(0,), (T - 90_001,)], "validation": [(T - 1_801,)], "test": [(T,), (T + 86_399,)]}


@pytest.fixture
def judged(table):
    """The protocol told from times of parts, and numbers of users and songs here and in the raw events."""

    def protocol_of(scale="50m", users=10_000, songs=934_057, raw_users=10_000, raw_songs=934_057, **parts):
        spans = protocol.spans_of(**{name: table("timestamp", *rows) for name, rows in (THEIRS | parts).items()})
        return protocol.Protocol(scale, spans, users, raw_users, songs, raw_songs, {})

    return protocol_of


def test_the_authors_own_division_of_all_users_and_songs_is_comparable(judged):
    found = judged()
    assert found.name == "global_temporal"
    assert found.matches
    assert found.comparable
    assert "are comparable" in found.verdict()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"test": [(T - 5,)]}, "test_start"),
        ({"validation": [(T - 1_800,)]}, "test_start"),
        ({"users": 9_999}, "9,999 of 10,000 users"),
        ({"songs": 700_000}, "700,000 of 934,057 songs"),
        ({"scale": "sample"}, "sample is no size of Yambda"),
        ({"train": [(T + 1,)]}, "one by one"),
        ({"validation": [(T + 1,)]}, "one by one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_differs_from_the_authors_is_named(judged, changed, named):
    found = judged(**changed)
    assert not found.matches
    assert not found.comparable
    assert named in found.verdict()
    assert found.verdict().startswith("Figures are not comparable")


def test_other_events_than_the_published_ones_are_named_though_the_protocol_matches(judged):
    found = judged()
    other = protocol.Protocol(**(vars(found) | {"differing": {"n_users": "found 7, published 10,000"}}))
    assert other.matches
    assert not other.comparable
    assert "n_users found 7, published 10,000" in other.verdict()


def test_a_division_without_a_validation_part_is_global_too(judged):
    assert judged(validation=[]).comparable


def test_every_published_row_has_a_figure_for_each_heading_or_ends_early():
    for views in published.RESULTS.values():
        for models in views.values():
            assert all(0 < len(figures) <= len(published.FIGURES) for figures in models.values())
    assert published.RESULTS["50m"]["official_listen_plus"]["ItemKNN"][1] == 0.0934


TABLES = ("raw/multi_event", *(f"splits/{name}" for name in ("users", "songs", "train", "validation", "test")))
DAYS = (1_000, T - 95_000, T - 60_000, T, T + 500)
WORLD = World(
    [listen(user, day, song) for user in (3, 5) for song, day in enumerate(DAYS)]
    + [listen(7, 2_000 + song, song) for song in range(5)],
    audio=[0, 1, 2, 3],
)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"require_audio": False}, None),
        ({}, "4 of 5 songs"),
        ({"require_audio": False, "test_start": T - 70_000}, "test_start"),
        ({"require_audio": False, "protocol": "per_user"}, "one by one"),
    ],
    ids=["theirs", "songs without audio left out", "cut elsewhere", "divided per user"],
)
def test_the_protocol_is_told_from_the_tables_that_a_run_leaves(platform, rules, named):
    platform.split(WORLD, Rules(**({"protocol": "global_temporal"} | rules)), *TABLES)
    tables = {key.split("/")[1]: platform.duckdb.connection.read_parquet(str(platform.file(key))) for key in TABLES}
    spans = protocol.spans_of(**{name: tables[name] for name in ("train", "validation", "test")})
    found = protocol.Protocol.of("50m", spans, tables["users"], tables["songs"], tables["multi_event"])
    assert found.matches is (named is None)
    assert not found.comparable
    assert (named or "n_users found 3, published 10,000") in found.verdict()
