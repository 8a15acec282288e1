"""The checks of the splits pass on good data, and fail on data broken in the way that they name."""

import dagster as dg
import pyarrow as pa
import pytest

from ms_assets.defs.splits import checks as splits
from ms_assets_tests.conftest import metadata
from ms_assets_tests.worlds import DAY, GAP


def test_events_and_audio_need_a_common_song_and_should_have_many(table):
    events = [(1,), (2,), (2,), (None,)]

    def found(songs, events):
        named = table("item_id", *events)
        return splits.events_name_candidate_songs(table("item_id n_events", *songs), named)

    half = found([(2, 2)], events)
    assert half.passed
    assert metadata(half)["share_of_candidates"] == 2 / 4
    assert metadata(half)["n_events"] == 4
    assert (metadata(half)["n_candidates"], metadata(half)["about_n_songs"]) == (1, 2)
    quarter = found([(1, 1)], events)
    assert (quarter.passed, quarter.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert metadata(quarter)["share_of_candidates"] == 1 / 4
    for songs, named in ([], events), ([], []):
        none = found(songs, named)
        assert (none.passed, none.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert metadata(none)["share_of_candidates"] == 0


DENSE = [(splits.user_ids_are_dense, "user_id"), (splits.song_ids_are_dense, "song_id")]


@pytest.mark.parametrize(("check", "name"), DENSE, ids=["users", "songs"])
def test_ids_count_from_0_without_gaps_or_doubles(check, name, table):
    assert check(table(name, (2,), (0,), (1,))).passed
    for broken in [1, 2, 3], [0, 1, 3], [0, 1, 1], [0, 0, 2], [-1, 0, 1], []:
        assert not check(table(name, *((i,) for i in broken))).passed


def test_graph_songs_have_the_lowest_ids(table):
    def passed(*rows):
        return splits.graph_songs_come_first(table("song_id in_graph", *rows)).passed

    assert passed((0, True), (1, True), (2, False))
    assert not passed((0, True), (1, False), (2, True))
    assert not passed((0, False), (1, True))
    assert not passed((0, False))


def test_no_part_holds_events_earlier_than_those_before_it(duckdb, table):
    def passed(train, validation, test):
        parts = (table("user_id timestamp", *rows) for rows in (train, validation, test))
        return splits.held_out_events_follow_train(duckdb, *parts).passed

    train, validation, test = [(0, 1), (0, 5), (1, 9)], [(0, 5), (1, 9)], [(0, 8), (2, 0)]
    assert passed(train, validation, test)
    assert passed(train, [], test)
    assert not passed(train, [(0, 4), (0, 6)], test)
    assert not passed(train, validation, [(1, 8), (1, 10)])
    assert not passed(train, validation, [(1, 10), (0, 4)])
    assert not passed([(5, 0)], [(0, 7)], [(0, 6)])


# every event is in one part

RAW = "uid item_id timestamp event_type"
PART = "user_id song_id timestamp event_type"
USERS = [(0, 50), (1, 60)]
SONGS = [(0, 7), (1, 8)]


@pytest.fixture
def conserved(duckdb, table):
    """What the check says of raw events and parts; users 50 and 60 are active, songs 7 and 8 candidates."""

    def result(events, train, validation, test):
        named = {"event_type": pa.string()}

        def rows(names, values):
            columns = list(zip(*values, strict=True)) or [()] * 4
            arrays = [pa.array(c, named.get(n, pa.int32())) for n, c in zip(names.split(), columns, strict=True)]
            return duckdb.connection.from_arrow(pa.table(arrays, names=names.split()))

        return splits.every_kept_event_is_in_one_part(
            duckdb=duckdb,
            train=rows(PART, train),
            multi_event=rows(RAW, events),
            users=table("user_id uid", *USERS),
            songs=table("song_id item_id", *SONGS),
            validation=rows(PART, validation),
            test=rows(PART, test),
        )

    return result


EVENTS = [
    *((50, 7, time, "listen") for time in (0, 5, 5, 10, 15, 20)),
    *((60, 8, time, "like") for time in (0, 5, 10)),
    (50, 8, 7, "dislike"),  # not positive
    (70, 7, 3, "listen"),  # of an inactive user
    (50, 9, 3, "listen"),  # of a song without audio
    (50, None, 3, "listen"),
    (None, 7, 3, "listen"),
]
TRAIN = [*((0, 0, time, "listen") for time in (0, 5, 5, 10)), (1, 1, 0, "like")]
VALIDATION = [(0, 0, 15, "listen"), (1, 1, 5, "like")]
TEST = [(0, 0, 20, "listen"), (1, 1, 10, "like")]


def test_parts_that_hold_every_kept_event_once_pass(conserved):
    found = conserved(EVENTS, TRAIN, VALIDATION, TEST)
    assert found.passed
    assert (metadata(found)["n_kept"], metadata(found)["n_in_parts"]) == (9, 9)
    held_out_dislike = [*TEST, (0, 1, 20, "dislike")]
    assert conserved([*EVENTS, (50, 8, 20, "dislike")], TRAIN, VALIDATION, held_out_dislike).passed
    assert conserved(EVENTS[:6], TRAIN[:4], [], [*VALIDATION[:1], *TEST[:1]]).passed, "no validation part"


BROKEN = {
    "an event of train is lost": (TRAIN[1:], VALIDATION, TEST),
    "an event of validation is lost": (TRAIN, VALIDATION[1:], TEST),
    "an event of test is lost": (TRAIN, VALIDATION, TEST[:1]),
    "one of two equal events is lost": (TRAIN[:1] + TRAIN[2:], VALIDATION, TEST),
    "an event is in two parts": (TRAIN, [*VALIDATION, TEST[0]], TEST),
    "an event is twice in a part": ([*TRAIN, TRAIN[0]], VALIDATION, TEST),
    "an event is there twice, another is lost": ([TRAIN[0], *TRAIN[1:4], TRAIN[0]], VALIDATION, TEST),
    "an event of a song without audio": ([*TRAIN, (0, 2, 3, "listen")], VALIDATION, TEST),
    "an event of an inactive user": ([*TRAIN, (2, 0, 3, "listen")], VALIDATION, TEST),
    "an event nobody had": ([*TRAIN, (1, 0, 3, "listen")], VALIDATION, TEST),
    "another song": ([(0, 1, 0, "listen"), *TRAIN[1:]], VALIDATION, TEST),
    "another user": ([(1, 0, 0, "listen"), *TRAIN[1:]], VALIDATION, TEST),
    "another time": ([(0, 0, 1, "listen"), *TRAIN[1:]], VALIDATION, TEST),
    "another type": ([(0, 0, 0, "like"), *TRAIN[1:]], VALIDATION, TEST),
}


@pytest.mark.parametrize("parts", BROKEN.values(), ids=BROKEN)
def test_parts_with_an_event_too_many_or_too_few_fail(conserved, parts):
    assert not conserved(EVENTS, *parts).passed


def test_an_event_moved_to_another_part_is_not_this_checks_to_find(conserved):
    assert conserved(EVENTS, TRAIN[1:], VALIDATION, [TRAIN[0], *TEST]).passed


START = 1_000_000
"""Of the test part, in a division by time."""
VALID = START - GAP - DAY
TIMED = [
    *((50, 7, time, "listen") for time in (0, 500, VALID - GAP - 1, VALID, VALID + 50, START - GAP - 1, START)),
    (50, 7, VALID - GAP, "listen"),  # in the first gap
    (50, 7, VALID - 1, "like"),
    (50, 7, START - GAP, "listen"),  # in the second
    (60, 8, VALID, "listen"),  # of a user without a train event
    (60, 8, START, "listen"),
]
BY_TIME = (
    [(0, 0, time, "listen") for time in (0, 500, VALID - GAP - 1)],
    [(0, 0, time, "listen") for time in (VALID, VALID + 50, START - GAP - 1)],
    [(0, 0, START, "listen")],
)


def test_a_division_by_time_may_leave_out_its_gaps_and_users_without_a_train_event(conserved):
    found = conserved(TIMED, *BY_TIME)
    assert found.passed
    assert metadata(found) == {"n_kept": 12, "n_between_parts": 5, "n_in_parts": 7, "conserved": True}
    timeless = [(50, 7, None, "listen"), *TIMED]
    assert conserved(timeless, *BY_TIME).passed, "an event without a time is in no part"


def test_a_division_by_time_that_loses_another_event_fails(conserved):
    train, validation, test = BY_TIME
    for broken in (
        ([train[0], train[2]], validation, test),
        (train[:2], validation, test),  # what is left out then spans more than the gap
        (train, [validation[0], validation[2]], test),
        (train, validation, []),
        ([*train, train[0]], validation, test),
        (train, [*validation, test[0]], test),
        (train, validation, [*test, (1, 1, START, "listen")]),
        ([*train, (0, 0, VALID - GAP, "listen")], validation, test),
    ):
        assert not conserved(TIMED, *broken).passed, broken


def test_parts_that_lie_closer_than_the_gap_may_leave_out_nothing(conserved):
    events = [(50, 7, time, "listen") for time in (0, 100, 200 + GAP - 1, 2 * DAY)]
    parts = [(0, 0, time, "listen") for _, _, time, _ in events]
    assert conserved(events, parts[:2], parts[2:3], parts[3:]).passed
    between = [*events, (50, 7, 150, "listen")]
    assert not conserved(between, parts[:2], [(0, 0, 100 + GAP, "listen")], parts[3:]).passed


@pytest.mark.parametrize("missing", ["songs", "validation", "test"])
def test_parts_that_are_not_there_yet_are_waited_for(duckdb, table, missing):
    names = ("train", "multi_event", "users", "songs", "validation", "test")
    tables = {name: None if name == missing else table(PART) for name in names}
    found = splits.every_kept_event_is_in_one_part(duckdb=duckdb, **tables)
    assert found.passed
    assert metadata(found)["waits_for"] == "the other parts: songs, validation, test"


# plays


def test_songs_count_the_plays_of_train_and_no_others(duckdb, table):
    train = [(0, "listen"), (0, "listen"), (0, "like"), (1, "like"), (2, "listen")]
    songs = [(0, True, 2), (1, True, 0), (2, True, 1), (3, False, 0)]

    def wrong(*songs):
        found = splits.songs_count_the_plays_of_train_alone(
            duckdb, table("song_id event_type", *train), table("song_id in_graph n_train_plays", *songs)
        )
        assert found.passed == (metadata(found)["n_wrong_songs"] == 0)
        return metadata(found)["n_wrong_songs"]

    assert wrong(*songs) == 0
    assert wrong((0, True, 3), *songs[1:]) == 1, "a play of the test part is counted in"
    assert wrong((0, True, 1), *songs[1:]) == 1
    assert wrong(*songs[:3], (3, False, 1)) == 1, "so is one of a cold song"
    assert wrong(*songs[:3], (3, True, 0)) == 1, "a cold song is said to be in the graph"
    assert wrong(songs[0], (1, False, 0), *songs[2:]) == 1, "a graph song is said to be cold"
    assert wrong(*songs[1:]) == 1, "a song of train is missing"
    assert wrong(songs[0], (1, True, None), *songs[2:]) == 1
    assert wrong(songs[0], (1, False, 3), (2, False, 1), songs[3]) == 2


def test_plays_wait_for_the_songs(duckdb, table):
    found = splits.songs_count_the_plays_of_train_alone(duckdb, table("song_id event_type"), None)
    assert found.passed
    assert metadata(found)["waits_for"] == "splits/songs"


# ground truth

MET = "user_id song_id event_type played_ratio"
LEARNT = [(0, 0, "listen", 1.0), (0, 0, "listen", 0.2), (0, 0, "like", None), (1, 0, "listen", 0.3)]
VALIDATED = [(0, 0, "listen", 0.6), (0, 0, "listen", 0.5), (0, 1, "like", None)]
TESTED = [(0, 0, "listen", 0.9), (1, 0, "dislike", None), (1, 0, "listen", None), (2, 1, "unlike", None)]
TRUTH = [
    # split, user_id, song_id, n_events, listen_plus, likes, dislikes, n_train_plays
    ("validation", 0, 0, 2, 1, 0, 0, 2),
    ("validation", 0, 1, 1, 0, 1, 0, 0),
    ("test", 0, 0, 1, 1, 0, 0, 2),
    ("test", 1, 0, 2, 0, 0, 1, 1),
    ("test", 2, 1, 1, 0, 0, 0, 0),
]


@pytest.fixture
def truth(duckdb, table):
    """What the check says of a ground truth, and of parts where they are not those above."""

    def result(rows, validation=VALIDATED, test=TESTED):
        names = "split user_id song_id n_events listen_plus likes dislikes n_train_plays"
        parts = [table(MET, *part) for part in (LEARNT, validation, test)]
        return splits.ground_truth_speaks_of_the_events(duckdb, table(names, *rows), *parts)

    return result


def replaced(row, **changed):
    names = ("split", "user_id", "song_id", "n_events", "listen_plus", "likes", "dislikes", "n_train_plays")
    old = dict(zip(names, TRUTH[row], strict=True))
    return [*TRUTH[:row], tuple({**old, **changed}.values()), *TRUTH[row + 1 :]]


def test_a_ground_truth_that_counts_every_event_passes(truth):
    assert truth(TRUTH).passed
    assert truth(TRUTH[2:], validation=[]).passed


def test_a_lost_or_repeated_event_of_the_ground_truth_is_found(truth):
    assert not truth(TRUTH[1:]).passed
    assert not truth([*TRUTH, TRUTH[-1]]).passed
    assert not truth(TRUTH[2:]).passed, "a split is missing"
    assert not truth(TRUTH, validation=[]).passed, "a split is of nobody"
    assert not truth(TRUTH, test=TESTED[1:]).passed
    for changed in ({"n_events": 3}, {"listen_plus": 2}, {"likes": 1}, {"dislikes": 1}, {"split": "test"}):
        assert not truth(replaced(0, **changed)).passed, changed


def test_plays_of_the_ground_truth_are_those_of_train(truth):
    for changed in ({"n_train_plays": 3}, {"n_train_plays": 1}, {"n_train_plays": 0}):
        found = truth(replaced(2, **changed))  # 3: with the user's play in test
        assert not found.passed, changed
        assert metadata(found)["n_wrong_train_plays"] == 1
    assert not truth(replaced(1, n_train_plays=1)).passed, "a play of a song that is not in train"
