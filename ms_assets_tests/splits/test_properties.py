"""What holds of the splits of any world."""

import hashlib
from collections import Counter

from ms_assets_tests.conftest import TABLES
from ms_assets_tests.worlds import DAY, GAP


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


def test_a_second_run_writes_the_same_bytes(sample):
    platform = sample("per_user")

    def digests():
        return {key: hashlib.sha256(platform.file(key, "sample").read_bytes()).hexdigest() for key in TABLES.values()}

    earlier = digests()
    platform.materialise(*TABLES.values(), scale="sample", config={"split_events": {"protocol": "per_user"}})
    assert digests() == earlier
