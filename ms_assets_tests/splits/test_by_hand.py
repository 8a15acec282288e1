"""Small worlds whose tables are worked out by hand."""

from contextlib import suppress

import pytest

from ms_assets_tests.worlds import DAY, Rules, World, listen, reaction

T = 26_000_000 - DAY
PARTS = ("train", "validation", "test")


@pytest.fixture
def parts_of(platform):
    """Split some events by some rules; the (uid, timestamp, item_id) of each part, in the file's order."""

    def split(events, rules, audio=None):
        world = World(events, audio or sorted({event.item_id for event in events}))
        platform.split(world, rules, *(f"splits/{name}" for name in ("songs", *PARTS)))
        uid = [row["uid"] for row in platform.rows("splits/users")]
        item = [row["item_id"] for row in platform.rows("splits/songs")]
        return [
            [(uid[r["user_id"]], r["timestamp"], item[r["song_id"]]) for r in platform.rows(f"splits/{part}")]
            for part in PARTS
        ]

    return split


def test_each_user_is_divided_by_position_with_both_ends_rounded_down(parts_of):
    events = [listen(3, 5 * i, 10) for i in range(7)]  # ⌊5.6⌋ = 5 train, ⌊6.3⌋ = 6 up to validation
    events += [listen(5, 0, 20)]  # ⌊0.8⌋ = ⌊0.9⌋ = 0: a single event tests
    train, validation, test = parts_of(events, Rules())
    assert train == [(3, 0, 10), (3, 5, 10), (3, 10, 10), (3, 15, 10), (3, 20, 10)]
    assert validation == [(3, 25, 10)]
    assert test == [(3, 30, 10), (5, 0, 20)]


@pytest.mark.parametrize("highest", [2**24 - 3, 2**24 - 1, 2**32 - 1])
def test_users_are_told_apart_however_high_their_ids(parts_of, highest):
    rows = [listen(uid, i, 10) for uid in (highest - 1, highest) for i in range(4 if uid < highest else 10)]
    train, validation, test = parts_of(rows, Rules(min_events=5))
    assert train == [(highest, i, 10) for i in range(8)]
    assert (validation, test) == ([(highest, 8, 10)], [(highest, 9, 10)])


def test_equal_times_keep_the_order_of_the_file(parts_of):
    songs = [50, 20, 90, 10, 70, 30, 80, 60, 40, 100]
    train, validation, test = parts_of([listen(1, 5, song) for song in songs], Rules())
    assert [song for _, _, song in train + validation + test] == songs
    assert (len(train), len(validation), len(test)) == (8, 1, 1)


def test_ratios_are_exact_decimals(parts_of):
    # In binary floats 0.57 · 100 is 56.99… and (0.57 + 0.01) · 100 is 57.99….
    rules = Rules(train_ratio="0.57", validation_ratio="0.01")
    sizes = [len(part) for part in parts_of([listen(1, i, 10) for i in range(100)], rules)]
    assert sizes == [57, 1, 42]


def test_a_ratio_of_many_digits_divides_a_long_history(parts_of):
    # ⌊0.6666666666666666 · 3000⌋ = 1999, ⌊0.9666666666666666 · 3000⌋ = 2899
    rules = Rules(max_events=3_000, train_ratio="0.6666666666666666", validation_ratio="0.3")
    sizes = [len(part) for part in parts_of([listen(1, i, 10) for i in range(3_000)], rules)]
    assert sizes == [1_999, 900, 101]


def test_the_global_split_has_half_open_parts_and_two_gaps(parts_of):
    validation, gap = T - 1_800 - DAY, 1_800
    times = [0, validation - gap - 1, validation - gap, validation - 1]
    times += [validation, T - gap - 1, T - gap, T - 1, T, T + DAY]
    found = parts_of([listen(1, time, 10) for time in times], Rules(protocol="global_temporal"))
    assert [[time for _, time, _ in part] for part in found] == [
        [0, validation - gap - 1],
        [validation, T - gap - 1],
        [T, T + DAY],
    ]


def test_the_global_split_tests_only_users_with_a_positive_train_event(parts_of):
    events = [listen(1, 0, 10), listen(1, T, 20)]
    events += [listen(2, T - 10_000, 10), listen(2, T, 20)]  # nothing in train
    events += [reaction("dislike", 3, 0, 10), listen(3, T, 20)]  # nothing positive in train
    events += [reaction("undislike", 4, 0, 10), listen(4, T, 20)]
    train, validation, test = parts_of(events, Rules(protocol="global_temporal"))
    assert train == [(1, 0, 10), (4, 0, 10)]
    assert validation == []
    assert test == [(1, T, 20), (4, T, 20)]


def test_users_are_counted_raw_and_reported_kept(platform):
    silent, unnamed = listen(5, 20, 99), listen(5, 30, None)
    events = [listen(2, 0, 10)]  # below min_events
    events += [listen(4, 0, 99), listen(4, 5, 99)]  # active, but plays only what has no audio
    events += [listen(5, 0, 10), silent, unnamed]  # three raw rows, one kept
    events += [listen(8, i, 10) for i in range(3)]
    events += [listen(9, i, 10) for i in range(4)]  # above max_events
    platform.split(World(events, [10]), Rules(min_events=2, max_events=3), "splits/users")
    assert platform.rows("splits/users") == [
        {"user_id": 0, "uid": 5, "n_events": 1},
        {"user_id": 1, "uid": 8, "n_events": 3},
    ]


def test_songs_of_the_graph_come_first_and_songs_of_inactive_users_are_there(platform):
    events = [listen(1, 0, 30), listen(1, 1, 30), reaction("like", 1, 2, 20), reaction("dislike", 1, 3, 5)]
    events += [listen(1, T, 40)]
    events += [listen(2, 0, 7)] * 9  # more events than allowed, yet a candidate
    artists = [(100, 20), (300, 20), (200, 8), (300, 7)]  # song 8 is nobody's, so its artist has no index
    world = World(events, [5, 7, 8, 20, 30, 40], artists, albums=[(11, 40), (11, 40)])
    platform.split(world, Rules(max_events=5, protocol="global_temporal"), "splits/songs")
    columns = ("song_id", "item_id", "artist_ids", "album_ids", "in_graph", "n_train_plays")
    assert [tuple(row[name] for name in columns) for row in platform.rows("splits/songs")] == [
        (0, 20, [0, 1], [], True, 0),
        (1, 30, [], [], True, 2),
        (2, 5, [], [], False, 0),
        (3, 7, [1], [], False, 0),
        (4, 40, [], [0], False, 0),
    ]


def test_relevance_of_what_a_user_met(platform):
    events = [listen(1, i, 10) for i in range(4)] + [listen(1, 10 + i, 20) for i in range(25)]
    events += [listen(1, T, 10, percent) for percent in (50, 51, None)]
    events += [listen(1, T + 1, 20), reaction("like", 1, T + 2, 30), listen(1, T + 2, 30, 80)]
    events += [reaction(kind, 1, T + 3, 40) for kind in ("dislike", "undislike", "dislike")]
    events += [reaction("unlike", 1, T + 4, 50)]
    world = World(events, [10, 20, 30, 40, 50])
    platform.split(world, Rules(protocol="global_temporal"), "splits/songs", "splits/ground_truth")
    item = [row["item_id"] for row in platform.rows("splits/songs")]
    found = {item[row["song_id"]]: list(row.values())[3:] for row in platform.rows("splits/ground_truth")}
    assert found == {  # base, adjusted, listen_plus, likes, dislikes, n_events, n_train_plays
        # 0.7 · 1.01, and 1 % more for 4 of 20 replays
        10: [pytest.approx(0.707), pytest.approx(0.707 * 1.01), 1, 0, 0, 3, 4],
        # 25 replays count as 20: 5 % more
        20: [pytest.approx(0.7), pytest.approx(0.735), 1, 0, 0, 1, 25],
        # 1 + 0.7 · 0.8, cut to 1
        30: [pytest.approx(1.56), 1.0, 1, 1, 0, 2, 0],
        40: [pytest.approx(0.3), pytest.approx(0.3), 0, 0, 2, 3, 0],
        50: [0.0, 0.0, 0, 0, 0, 1, 0],
    }


def test_explicit_negatives_are_distinct_and_know_cold_songs(platform):
    events = [listen(1, 0, 10), listen(1, T, 10)]
    events += [reaction("dislike", 1, time, 20) for time in (1, 2)]
    events += [reaction(kind, 1, 3, 10) for kind in ("unlike", "dislike")]
    events += [reaction("dislike", 1, T, 30)]  # not of the train part
    platform.split(World(events, [10, 20, 30]), Rules(protocol="global_temporal"), "splits/negatives")
    assert [tuple(row.values()) for row in platform.rows("splits/negatives")] == [
        (0, 0, "dislike", True),
        (0, 0, "unlike", True),
        (0, 1, "dislike", False),
    ]


def test_a_part_divided_anew_by_other_settings_never_mixes_with_the_ids_of_the_others(platform):
    events = [listen(1, i, song) for i, song in enumerate((30, 40, 10))]
    events += [listen(1, T + i, 20) for i in range(7)]
    rules = Rules()  # per user, song 20 is heard in train; by time it is cold, and ids differ
    platform.split(World(events, [10, 20, 30, 40]), rules, "splits/songs", *(f"splits/{p}" for p in PARTS))
    with suppress(Exception):  # refusing is fine, too
        by_time = Rules(protocol="global_temporal").config()
        platform.materialise("splits/test", alone=True, config=by_time)
    item = {row["song_id"]: row["item_id"] for row in platform.rows("splits/songs")}
    assert {item[row["song_id"]] for row in platform.rows("splits/test")} == {20}


def test_no_active_user_is_refused_with_the_thresholds(platform):
    World([listen(1, 0, 10)], [10]).write(platform.source)
    with pytest.raises(ValueError, match=r"splits/users: no user has between 5 .* and 9 .*; lower min_events"):
        platform.materialise("splits/users", config=Rules(min_events=5, max_events=9).config())


def test_a_split_without_a_test_part_is_refused_by_name(platform):
    World([listen(1, i, 10) for i in range(9)], [10]).write(platform.source)
    rules = Rules(protocol="global_temporal")
    with pytest.raises(
        ValueError, match=r"split_events: .* leaves no event in test; found .*; change the ratios or test_start"
    ):
        platform.materialise("splits/test", config=rules.config())


def test_an_event_without_a_time_is_a_users_last_and_in_no_part_of_the_global_split(platform, parts_of):
    events = [reaction("like", 1, None, 10), listen(1, None, 20), *(listen(1, 5 * i, 30) for i in range(8))]
    train, validation, test = parts_of(events, Rules())
    assert (train, validation, test) == ([(1, 5 * i, 30) for i in range(8)], [(1, None, 10)], [(1, None, 20)])
    events += [listen(1, T, 40)]
    train, validation, test = parts_of(events, Rules(protocol="global_temporal"))
    assert (train, validation, test) == ([(1, 5 * i, 30) for i in range(8)], [], [(1, T, 40)])
    assert platform.rows("splits/users") == [{"user_id": 0, "uid": 1, "n_events": 11}]


def test_events_without_a_user_are_nobodys_but_name_candidate_songs(platform):
    events = [listen(1, i, 10) for i in range(10)] + [listen(None, i, 20) for i in range(10)]
    platform.split(World(events, [10, 20]), Rules(), "splits/songs", "graph/edges")
    assert [row["uid"] for row in platform.rows("splits/users")] == [1]
    assert [(row["item_id"], row["n_train_plays"]) for row in platform.rows("splits/songs")] == [(10, 8), (20, 0)]
    assert [row["n_events"] for row in platform.rows("graph/edges")] == [8]


def test_events_of_songs_without_audio_take_no_place_in_any_part(platform, parts_of):
    silent = [listen(1, 3 + i, 99) for i in range(10)]
    events = [*(listen(1, i, 10) for i in range(3)), *silent, *(listen(1, 20 + i, 20) for i in range(7))]
    train, validation, test = parts_of(events, Rules(), audio=[10, 20, 30])
    assert train == [(1, 0, 10), (1, 1, 10), (1, 2, 10), *((1, 20 + i, 20) for i in range(5))]
    assert (validation, test) == ([(1, 25, 20)], [(1, 26, 20)])
    assert [row["n_train_plays"] for row in platform.rows("splits/songs")] == [3, 5]
