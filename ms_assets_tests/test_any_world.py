"""Random worlds: every table equals what plain loops make of the definitions, and what holds of any world.

All that is asked of these worlds is asked here, for a test process computes them once for its module.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import torch

from ms_assets_tests import slow_reference
from ms_assets_tests.conftest import TABLES, Platform, blocks_of
from ms_assets_tests.worlds import CODES, DAY, GAP, Rules, World, published_order, random_case, unit_vector

WORLDS = [{"seed": seed} for seed in range(10)] + [{"seed": seed, "n_users": 1_000} for seed in (10, 11)]
"""Random worlds, the last of them of several blocks of users."""
ROWS_OF_A_BLOCK = 500
"""In those worlds; DuckDB gives 2,048 at least, ranges of users are as short as that."""
KEYS = {
    "negatives": ("user_id", "song_id", "event_type"),
    "ground_truth": ("split", "user_id", "song_id"),
    "edges": ("user_id", "song_id", "event_type"),
}


@dataclass(frozen=True)
class Case:
    """A random world, what the slow reference makes of it, and what the platform makes of it."""

    world: World
    rules: Rules
    expected: slow_reference.Tables
    platform: Platform

    def found(self, table: str) -> list[dict]:
        return slow_reference.rounded(self.platform.rows(TABLES[table]))

    def wanted(self, table: str) -> list[dict]:
        return slow_reference.rounded(self.expected[table])


@cache
def made(**arguments: int) -> tuple[World, Rules, slow_reference.Tables]:
    """A random world, its rules, and what the slow reference makes of them."""
    world, rules = random_case(**arguments)
    return world, rules, slow_reference.compute(world, rules)


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"seed{world['seed']}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    world, rules, expected = made(**request.param)
    platform = Platform(tmp_path_factory.mktemp("world"))
    with blocks_of(ROWS_OF_A_BLOCK if "n_users" in request.param else 1 << 20):
        platform.split(world, rules, *TABLES.values(), "graph/bipartite_graph")
    return Case(world, rules, expected, platform)


@pytest.mark.parametrize("table", ["users", "songs", "train", "validation", "test"])
def test_a_table_in_the_order_of_its_definition_equals_the_slow_reference(case, table):
    assert case.found(table) == case.wanted(table)


@pytest.mark.parametrize("table", KEYS)
def test_a_table_of_groups_equals_the_slow_reference(case, table):
    def by_key(rows):
        return sorted(rows, key=lambda row: [row[name] for name in KEYS[table]])

    assert by_key(case.found(table)) == by_key(case.wanted(table))


def test_the_random_worlds_hold_every_hard_case():
    held = set()
    for arguments in WORLDS:
        held |= hard_cases(*made(**arguments))
    assert held == {
        "per_user",
        "global_temporal",
        "tie in time",
        "null song",
        "null percent of a listen",
        "null track length of a listen",
        "null event type",
        "song without audio",
        "song without artist",
        "song with several artists",
        "song with several albums",
        "user on the lower threshold",
        "user on the upper threshold",
        "user below",
        "user above",
        "user with one event",
        "active user without a kept event",
        "song only in test",
        "dislike of a cold song",
        "event in a gap",
        "later events of a user without positive train event",
        "percents as floats",
        "null user",
        "null time, per_user",
        "null time, global_temporal",
        "published order, per_user",
        "published order, global_temporal",
        "users mixed up, per_user",
        "users mixed up, global_temporal",
        "tie of users mixed up",
        "more than three blocks, per_user",
        "more than three blocks, global_temporal",
    }


def hard_cases(world, rules, tables):
    rows, cases = {}, {rules.protocol}
    for event in world.events:
        rows.setdefault(event.uid, []).append(event)
    sizes = {uid: len(history) for uid, history in rows.items()}
    listens = [e for e in world.events if e.event_type == "listen"]
    songs, ids = tables["songs"], {row["uid"] for row in tables["users"]}
    active = {uid for uid, n in sizes.items() if rules.min_events <= n <= rules.max_events}
    trained = {row["user_id"] for row in tables["train"]}
    in_train = {row["song_id"] for row in tables["train"]}
    by_time = rules.protocol == "global_temporal"
    gaps = [(start - GAP, start) for start in (rules.test_start, rules.test_start - GAP - DAY)]
    untrained = {row["uid"] for row in tables["users"] if row["user_id"] not in trained}
    timed = [event for event in world.events if event.timestamp is not None]
    tie = any(len({e.timestamp for e in history}) < len(history) for history in rows.values())
    changes = sum(earlier.uid != later.uid for earlier, later in pairwise(world.events))
    mixed_up = changes > 2 * len(rows)
    found = {
        "tie in time": tie,
        "null song": any(e.item_id is None for e in world.events),
        "null percent of a listen": any(e.played_ratio_pct is None for e in listens),
        "null track length of a listen": any(e.track_length_seconds is None for e in listens),
        "null event type": any(e.event_type is None for e in world.events),
        "song without audio": any(e.item_id not in world.audio for e in world.events),
        "song without artist": any(not row["artist_ids"] for row in songs),
        "song with several artists": any(len(row["artist_ids"]) > 1 for row in songs),
        "song with several albums": any(len(row["album_ids"]) > 1 for row in songs),
        "user on the lower threshold": rules.min_events in sizes.values() and rules.min_events > 1,
        "user on the upper threshold": rules.max_events in sizes.values(),
        "user below": any(n < rules.min_events for n in sizes.values()),
        "user above": any(n > rules.max_events for n in sizes.values()),
        "user with one event": 1 in sizes.values() and rules.min_events == 1,
        "active user without a kept event": bool(active - ids),
        "song only in test": any(row["song_id"] not in in_train for row in tables["test"]),
        "dislike of a cold song": any(not row["in_graph"] for row in tables["negatives"]),
        "event in a gap": by_time
        and any(low <= e.timestamp < high and e.uid in ids for e in timed for low, high in gaps),
        "later events of a user without positive train event": by_time
        and any(e.timestamp >= rules.test_start and e.uid in untrained for e in timed),
        "percents as floats": world.float_percents,
        "null user": None in sizes and rules.min_events <= sizes[None] <= rules.max_events,
        f"null time, {rules.protocol}": any(e.timestamp is None and e.uid in ids for e in world.events),
        f"published order, {rules.protocol}": world.events == sorted(world.events, key=published_order),
        f"users mixed up, {rules.protocol}": mixed_up,
        "tie of users mixed up": mixed_up and tie,
        f"more than three blocks, {rules.protocol}": len(world.events) > 3 * 2_048,
    }
    return cases | {name for name, there in found.items() if there}


def kept_events(case):
    """(uid, item_id, timestamp, event_type) of every kept event, as a bag."""
    users = {row["uid"] for row in case.found("users")}
    songs = {row["item_id"] for row in case.found("songs")}
    return Counter(
        (e.uid, e.item_id, e.timestamp, e.event_type)
        for e in case.world.events
        if e.uid in users and e.item_id in songs
    )


def test_no_event_is_lost_or_taken_twice(case):
    uid = [row["uid"] for row in case.found("users")]
    item = [row["item_id"] for row in case.found("songs")]
    parted = Counter(
        (uid[row["user_id"]], item[row["song_id"]], row["timestamp"], row["event_type"])
        for part in ("train", "validation", "test")
        for row in case.found(part)
    )
    kept = kept_events(case)
    assert parted <= kept
    missing = (kept - parted).elements()
    trained = {uid[row["user_id"]] for row in case.found("train")}
    negatives = {(uid[row["user_id"]], item[row["song_id"]], row["event_type"]) for row in case.found("negatives")}
    gaps = [(end - GAP, end) for end in (case.rules.test_start - GAP - DAY, case.rules.test_start)]
    for user, song, time, kind in missing:
        dislike_of_train = (user, song, kind) in negatives or kind is None
        by_time = case.rules.protocol == "global_temporal"
        in_gap = by_time and (time is None or any(low <= time < high for low, high in gaps))
        assert dislike_of_train or in_gap or (by_time and user not in trained)


def test_ids_are_dense_and_in_the_order_of_the_originals(case):
    users, songs = case.found("users"), case.found("songs")
    assert [row["user_id"] for row in users] == list(range(len(users)))
    assert [row["song_id"] for row in songs] == list(range(len(songs)))
    assert [row["uid"] for row in users] == sorted({row["uid"] for row in users})
    order = [(not row["in_graph"], row["item_id"]) for row in songs]
    assert order == sorted(set(order))


def test_graph_songs_are_exactly_the_songs_of_train(case):
    in_graph = {row["song_id"] for row in case.found("songs") if row["in_graph"]}
    assert in_graph == {row["song_id"] for row in case.found("train")}
    assert in_graph == set(range(len(in_graph)))


def test_no_user_is_trained_on_what_happens_after_an_event_that_is_held_out(case):
    last, first = {}, {}
    for row in case.found("train"):
        last[row["user_id"]] = max(last.get(row["user_id"], 0), place_in_time(row))
    for row in case.found("test"):
        first[row["user_id"]] = min(first.get(row["user_id"], 2**32), place_in_time(row))
    assert all(last[user] <= first[user] for user in last.keys() & first.keys())


def place_in_time(row):
    """An event without a time is the last."""
    return 2**32 if row["timestamp"] is None else row["timestamp"]


def test_ground_truth_counts_every_event_that_is_held_out(case):
    counted = Counter()
    for row in case.found("ground_truth"):
        counted[row["split"]] += row["n_events"]
        assert 0 <= row["adjusted_relevance"] <= 1
    assert counted == +Counter({part: len(case.found(part)) for part in ("validation", "test")})


def test_edges_join_every_train_event_exactly_once(case):
    edges, train = case.found("edges"), case.found("train")
    keys = [(row["user_id"], row["song_id"], row["event_type"]) for row in edges]
    assert len(set(keys)) == len(keys)
    assert sum(row["n_events"] for row in edges) == len(train)
    assert set(keys) == {(row["user_id"], row["song_id"], row["event_type"]) for row in train}
    assert all(0 <= row["played_ratio"] <= 1 for row in edges)


def test_the_graph_of_any_world_equals_its_tables(case):
    graph = case.platform.graph()
    songs, edges = case.found("songs"), case.found("edges")
    assert graph["user"].uid.tolist() == [row["uid"] for row in case.found("users")]
    assert graph["song"].item_id.tolist() == [row["item_id"] for row in songs]
    heard = [row["item_id"] in case.world.audio for row in songs]
    assert graph["song"].has_audio.tolist() == heard
    vectors = [unit_vector(row["item_id"]) if some else [0.0] * 128 for row, some in zip(songs, heard, strict=True)]
    assert graph["song"].x.tolist() == vectors
    for owner in ("artist", "album"):
        ends = graph["song"][f"{owner}_offsets"].tolist()
        ids = graph["song"][f"{owner}_ids"].tolist()
        lists = [ids[start:stop] for start, stop in pairwise(ends)]
        assert lists == [row[f"{owner}_ids"] for row in songs]
    found = graph["user", "interacts", "song"]
    rows = torch.cat([found.edge_index.t(), found.edge_attr], dim=1).tolist()
    wanted = [
        (row["user_id"], row["song_id"], CODES[row["event_type"]], row["n_events"], row["played_ratio"], row["weight"])
        for row in edges
    ]
    assert sorted(rows) == [pytest.approx(row) for row in sorted(wanted)]
