"""Every table, row for row, equals what plain loops make of the definitions."""

from itertools import pairwise

import pytest

from ms_assets_tests import slow_reference
from ms_assets_tests.conftest import WORLDS
from ms_assets_tests.worlds import DAY, GAP, published_order, random_case

KEYS = {
    "negatives": ("user_id", "song_id", "event_type"),
    "ground_truth": ("split", "user_id", "song_id"),
    "edges": ("user_id", "song_id", "event_type"),
}


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
        world, rules = random_case(**arguments)
        held |= hard_cases(world, rules, slow_reference.compute(world, rules))
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
