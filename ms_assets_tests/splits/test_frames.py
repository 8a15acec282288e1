"""Frames divided and encoded by the library, against the slow reference of the assets and worked out by hand."""

import datetime

import polars as pl
import pytest

from ms_assets import split
from ms_assets.files import DamagedFileError
from ms_assets.splits.frames import tables
from ms_assets_tests import slow_reference
from ms_assets_tests.worlds import DAY, GAP, frame_of, random_case

SEEDS = range(10)
PARTS = ("train", "validation", "test")
COLUMNS = ["user", "song", "time", "type", "played_ratio"]
POSITIVE = pl.col("type").is_in(slow_reference.POSITIVE)


class Divided:
    """A random world, what the slow reference makes of it, and what the library makes of the events that take part."""

    def __init__(self, seed):
        world, rules = random_case(seed)
        self.expected = slow_reference.compute(world, rules)
        self.uid = [row["uid"] for row in self.expected["users"]]
        self.item_id = [row["item_id"] for row in self.expected["songs"]]
        events = frame_of(world, self.uid, self.item_id)
        config = rules.config()["split_events"]
        self.parts = split(events, **(config if rules.protocol == "global_temporal" else config | {"test_start": 0}))
        self.catalogue = pl.DataFrame({"song": self.item_id}, schema={"song": pl.Int64})

    def wanted(self, part):
        """A part as the slow reference has it, by the ids of the world."""
        return [
            (self.uid[row["user_id"]], self.item_id[row["song_id"]], row["timestamp"], row["event_type"], ratio(row))
            for row in self.expected[part]
        ]


def ratio(row):
    return None if row["played_ratio"] is None else pytest.approx(float(row["played_ratio"]))


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed{seed}")
def divided(request):
    return Divided(request.param)


@pytest.mark.parametrize("part", PARTS)
def test_split_divides_as_the_asset_does(divided, part):
    found = getattr(divided.parts, part)
    assert found.columns == ["is_organic", *COLUMNS]
    assert found.filter(POSITIVE if part == "train" else True).select(COLUMNS).rows() == divided.wanted(part)


def test_the_tables_of_frames_are_those_of_the_assets(divided):
    found = tables(*divided.parts, divided.catalogue)
    assert found.song_ids.tolist() == divided.item_id
    columns = ("song_id", "in_graph", "n_train_plays")
    assert found.songs.order("song_id").project(", ".join(columns)).fetchall() == [
        tuple(row[name] for name in columns) for row in divided.expected["songs"]
    ]
    for part in PARTS:
        rows = getattr(found, part).project("user_id, song_id, timestamp, event_type, played_ratio").fetchall()
        assert [(found.user_ids[u], found.song_ids[s], *rest) for u, s, *rest in rows] == divided.wanted(part)
    disliked = found.negatives.project("user_id, song_id, event_type, in_graph").fetchall()
    assert sorted((found.user_ids[user], *rest) for user, *rest in disliked) == sorted(
        (divided.uid[row["user_id"]], row["song_id"], row["event_type"], row["in_graph"])
        for row in divided.expected["negatives"]
    )


def test_the_ground_truth_of_frames_is_that_of_the_assets(divided):
    found = tables(*divided.parts, divided.catalogue)
    names = list(divided.expected["ground_truth"][0])
    rows = found.ground_truth.project(", ".join(names)).pl().to_dicts()
    by_uid = slow_reference.rounded([row | {"user_id": int(found.user_ids[row["user_id"]])} for row in rows])
    wanted = [row | {"user_id": divided.uid[row["user_id"]]} for row in divided.expected["ground_truth"]]

    def key(row):
        return row["split"], row["user_id"], row["song_id"]

    assert sorted(by_uid, key=key) == sorted(slow_reference.rounded(wanted), key=key)


LISTENS = pl.DataFrame({"user": ["ann"] * 10 + ["bob"] * 3, "song": list("abcdefghijabc"), "time": range(13)})


def test_users_with_too_few_or_too_many_events_are_left_out():
    counts = {(1, None): (10, 1, 2), (4, None): (8, 1, 1), (1, 9): (2, 0, 1), (3, 3): (2, 0, 1)}
    for (low, high), wanted in counts.items():
        parts = split(LISTENS, min_events=low, max_events=high)
        assert tuple(map(len, parts)) == wanted


def test_the_last_day_tests_unless_a_time_is_given():
    last = 40 * DAY
    times = [last - 2 * DAY - 3 * GAP, last - DAY - GAP - 1, last - DAY - 1, last - DAY, last]
    events = pl.DataFrame({"user": ["ann"] * 5, "song": list("abcde"), "time": times})
    parts = split(events, protocol="global_temporal")
    assert [part["song"].to_list() for part in parts] == [["a"], ["b"], ["d", "e"]]
    later = split(events, protocol="global_temporal", test_start=last)
    assert [part["song"].to_list() for part in later] == [["a"], ["c", "d"], ["e"]]


def test_timestamps_divide_like_seconds():
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    stamped = LISTENS.with_columns(time=pl.lit(begin) + pl.duration(seconds=pl.col("time")))
    for found, wanted in zip(split(stamped), split(LISTENS), strict=True):
        assert found["song"].to_list() == wanted["song"].to_list()


def test_columns_that_the_library_does_not_know_are_kept_as_they_are():
    events = LISTENS.with_columns(device=pl.lit("radio"), session=pl.lit(7, pl.UInt8))
    for found in split(events):
        assert found.schema == events.schema


def test_events_stand_in_the_order_of_users_and_time_and_equal_times_in_that_of_the_frame():
    events = pl.DataFrame({"user": [2, 1, 2, 1, 2, 1], "song": [1, 2, 3, 4, 5, 6], "time": [9, 5, 9, 5, 1, 1]})
    train, validation, test = split(events, train_ratio=0.7, validation_ratio=0.0)
    assert train.rows() == [(1, 6, 1), (1, 2, 5), (2, 5, 1), (2, 1, 9)]
    assert (len(validation), test.rows()) == (0, [(1, 4, 5), (2, 3, 9)])


def test_without_times_events_divide_in_the_order_of_the_frame():
    train, _, test = split(LISTENS.drop("time").filter(user="ann"))
    assert (train["song"].to_list(), test["song"].to_list()) == (list("abcdefgh"), ["j"])


def test_an_event_of_another_part_that_names_an_unknown_song_is_left_out():
    held_out = pl.DataFrame({"user": ["ann", "ann"], "song": ["a", "z"]})
    assert len(tables(LISTENS, test=held_out).test) == 1
    assert len(tables(LISTENS, test=held_out, songs=pl.DataFrame({"song": ["z"]})).test) == 2


def test_audio_becomes_unit_vectors_in_the_order_of_songs_and_zeros_where_it_is_unknown():
    train = pl.DataFrame({"user": ["ann", "ann"], "song": ["b", "c"]})
    songs = pl.DataFrame({"song": ["a", "b", "d"], "audio": [[3, 4], [0, 2], None]})
    found = tables(train, songs=songs)
    assert found.song_ids.tolist() == ["b", "c", "a", "d"]
    audio, has_audio = zip(*found.audio.fetchall(), strict=True)
    assert has_audio == (True, False, True, False)
    assert audio == ([0, 1], [0, 0], [pytest.approx(0.6), pytest.approx(0.8)], [0, 0])


def test_an_artist_may_be_an_id_or_a_list_of_ids():
    train = pl.DataFrame({"user": ["ann"] * 3, "song": ["a", "b", "c"]})
    alone = tables(train, songs=pl.DataFrame({"song": ["a", "b"], "artists": ["x", "y"], "albums": [9, 9]}))
    lists = tables(train, songs=pl.DataFrame({"song": ["a", "b"], "artists": [["x"], ["y"]], "albums": [[9], [9]]}))
    for found in (alone, lists):
        assert found.songs.project("artist_ids, album_ids").fetchall() == [([0], [0]), ([1], [0]), ([], [])]


def test_without_a_played_ratio_column_a_listen_counts_as_whole_and_a_null_as_unknown():
    train = pl.DataFrame({"user": ["ann"], "song": ["a"]})
    held_out = pl.DataFrame({"user": ["ann", "ann"], "song": ["a", "a"], "played_ratio": [0.5, None]})
    assert tables(train).train.project("played_ratio").fetchall() == [(1.0,)]
    assert tables(train, test=held_out).test.project("played_ratio").fetchall() == [(0.5,), (None,)]


@pytest.mark.parametrize("column", ["time", "type", "played_ratio"])
def test_a_column_without_any_value_is_as_good_as_none(column):
    events = LISTENS.drop("time").with_columns(pl.lit(None).alias(column))
    assert [len(part) for part in split(events)] == [10, 1, 2]
    wanted = {"time": (None, "listen", 1.0), "type": (None, None, 1.0), "played_ratio": (None, "listen", None)}
    found = tables(LISTENS, test=events.head(1)).test.project("timestamp, event_type, played_ratio").fetchall()
    assert found == [wanted[column]]


EVENT = {"user": ["ann"], "song": ["a"]}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"song": ["a"]}, "events: found columns song, expected user and song; rename what stands for user"),
        ({}, "events: found columns , expected user and song; rename what stands for user and song"),
        (EVENT | {"user": [None]}, "events: found rows without user, expected an id in every row; drop them first"),
        (EVENT | {"song": [None]}, "events: found rows without song, expected an id in every row; drop them first"),
        (EVENT | {"user": [b"ann"]}, "events: found ids of type Binary in column user, expected numbers or strings"),
        (EVENT | {"song": [["a"]]}, r"events: found ids of type List\(String\) in column song, expected numbers or"),
        (EVENT | {"song": [datetime.date(2026, 1, 1)]}, "events: found ids of type Date in column song, expected numb"),
        (EVENT | {"type": ["play"]}, r"events: column type has values such as \['play'\].*expected names among listen"),
        (EVENT | {"type": [3]}, r"events: column type has values such as \[3\] \(Int64\), expected names among listen"),
        (EVENT | {"time": [0.5]}, "events: column time has values such as .*, expected whole seconds or timestamps"),
        (EVENT | {"time": ["noon"]}, "events: column time has values such as .*, expected whole seconds or timestamps"),
        (EVENT | {"played_ratio": [1.1]}, r"events: column played_ratio has values such as \[1.1\].*from 0 to 1"),
        (EVENT | {"played_ratio": [-0.1]}, "events: column played_ratio has values such as .*, expected numbers from"),
        (EVENT | {"played_ratio": [float("nan")]}, "events: column played_ratio has values such as .*from 0 to 1"),
        (EVENT | {"played_ratio": ["all"]}, "events: column played_ratio has values such as .*from 0 to 1"),
    ],
)
def test_a_column_that_cannot_be_used_is_named_with_what_was_found_and_what_is_expected(frame, said):
    with pytest.raises(ValueError, match=said):
        split(pl.DataFrame(frame))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ({"test": pl.DataFrame({"user": [1], "song": ["a"]})}, "column user: found VARCHAR in train, "),
        ({"songs": pl.DataFrame({"song": [1]})}, "column song: found .*expected one type; cast"),
        ({"songs": pl.DataFrame({"song": ["a", "a"]})}, "songs: found song a in several rows"),
        ({"songs": pl.DataFrame({"item": ["a"]})}, "songs: found columns item, expected song; rename"),
        ({"songs": pl.DataFrame({"song": [None]})}, "songs: found rows without song, expected an id"),
        (
            {"songs": pl.DataFrame({"song": ["a", "b"], "audio": [[1.0], [1.0, 2.0]]})},
            r"songs: found audio vectors of \[1, 2\] numbers, expected one length",
        ),
        (
            {"validation": pl.DataFrame({"user": ["ann"]})},
            "validation: found columns user, expected user and song; rename what stands for song",
        ),
    ],
)
def test_frames_that_do_not_fit_together_are_refused_by_name(frames, said):
    with pytest.raises(ValueError, match=said):
        tables(LISTENS, **frames)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_ratio": 2}, "train_ratio"),
        ({"trainratio": 0.5}, "trainratio"),
        ({"protocol": "random"}, "protocol"),
        ({"min_events": 11}, r"events: no user has between 11 \(min_events\) and"),
        ({"min_events": 5, "max_events": 2}, "max_events"),
        ({"protocol": "global_temporal", "test_start": 10 * DAY}, r"events: .*test_start=864000.* leaves none in test"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        split(LISTENS, **settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.parquet", "events: nowhere.parquet does not exist; expected a frame or the path of a Parquet file"),
        (7, "events: found int, expected a frame of polars or pandas, or a Parquet file's path"),
    ],
)
def test_what_is_no_frame_is_refused_by_its_type(given, said):
    with pytest.raises(ValueError, match=said):
        split(given)


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path):
    (tmp_path / "events.parquet").write_text("user,song\nann,a\n")
    with pytest.raises(
        DamagedFileError, match=r"events\.parquet cannot be read .*; if it is damaged, write events again"
    ):
        split(tmp_path / "events.parquet")
