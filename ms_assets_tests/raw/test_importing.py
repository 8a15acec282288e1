"""Own logs in every form that people have them, and what is said of those that cannot be read."""

import gzip
import json
import shutil
import time
from datetime import UTC, datetime

import duckdb
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.raw import staging
from ms_assets.raw.importing import import_events
from ms_assets.raw.schema import SourceError

ROWS = [
    ("ann", "s1", 1_700_000_000, "listen"),
    ("bob", "s1", 1_700_000_060, "like"),
    ("bob", "s2", 1_700_000_030, "listen"),
    ("ann", "s3", 1_700_000_001, "listen"),
]
EXPECTED = [
    ("ann", 1_700_000_000, "s1", "listen", 100.0),
    ("ann", 1_700_000_001, "s3", "listen", 100.0),
    ("bob", 1_700_000_030, "s2", "listen", 100.0),
    ("bob", 1_700_000_060, "s1", "like", None),
]
"""The rows as they arrive: by user and time, with their own ids."""
HEAD = ("user", "song", "time", "type")


def csv(path, rows, names=HEAD, delimiter=","):
    lines = [names, *rows]
    path.write_text("".join(delimiter.join("" if v is None else str(v) for v in line) + "\n" for line in lines))
    return path


def frame(rows=ROWS, names=HEAD):
    return pl.DataFrame(rows, names, orient="row")


def arrived(folder):
    """Imported events with their own ids: user, second, song, type, percent."""
    events = pl.read_parquet(folder / "flat/own/multi_event.parquet")
    named = events.join(pl.read_parquet(folder / "user_ids.parquet"), "uid", maintain_order="left").join(
        pl.read_parquet(folder / "song_ids.parquet"), "item_id", maintain_order="left"
    )
    return named.select("user", "timestamp", "song", "event_type", "played_ratio_pct").rows()


def as_gzip(folder):
    with gzip.open(folder / "log.csv.gz", "wt") as file:
        file.write(csv(folder / "hidden", ROWS).read_text())
    return folder / "log.csv.gz"


def as_json_lines(folder):
    rows = [dict(zip(HEAD, row, strict=True)) for row in ROWS]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "log.jsonl"


def as_parquet(folder):
    frame().write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def as_parts(folder):
    parts = folder / "parts"
    (parts / "day=1").mkdir(parents=True)
    csv(parts / "day=1" / "a[1].csv", ROWS[:2])
    frame(ROWS[2:]).write_parquet(parts / "b.parquet")
    (parts / "_SUCCESS").touch()
    (parts / ".c.csv").write_text("not a log")
    return parts


def as_pattern(folder):
    csv(folder / "log-1.csv", ROWS[:3])
    csv(folder / "log-2.csv", ROWS[3:])
    return folder / "log-*.csv"


def as_address(folder):
    with fsspec.open(f"memory://{folder.name}/log.csv", "w") as file:
        file.write(csv(folder / "hidden", ROWS).read_text())
    return f"memory://{folder.name}"


def as_several(folder):
    return [csv(folder / "one.csv", ROWS[:1]), csv(folder / "two.csv", ROWS[1:])]


FORMS = {
    "csv": lambda folder: csv(folder / "log.csv", ROWS),
    "tab": lambda folder: csv(folder / "log.tsv", ROWS, delimiter="\t"),
    "semicolon": lambda folder: csv(folder / "log.csv", ROWS, delimiter=";"),
    "gzip": as_gzip,
    "json lines": as_json_lines,
    "parquet": as_parquet,
    "folder of parts": as_parts,
    "pattern": as_pattern,
    "address": as_address,
    "several": as_several,
}


@pytest.mark.parametrize("name", ["50 € + [x] & co; #1", "a=1, it's *?"])
def test_a_home_may_have_any_name(tmp_path, name):
    report = import_events(csv(tmp_path / "log.csv", ROWS), tmp_path / name / "own")
    assert report["n_read"] == len(ROWS)


@pytest.mark.parametrize("form", FORMS)
def test_logs_in_every_form_give_the_same_tables(tmp_path, form):
    report = import_events(FORMS[form](tmp_path), tmp_path / "own")
    assert arrived(tmp_path / "own") == EXPECTED
    assert (report["n_read"], report["n_events"], report["n_users"], report["n_songs"]) == (4, 4, 2, 3)
    assert sum(report["sources"].values()) == 4
    assert json.loads((tmp_path / "own/report.json").read_text()) == report


def test_tables_are_exactly_as_published_so_that_they_are_linked_and_not_copied(tmp_path):
    import_events(csv(tmp_path / "log.csv", ROWS), tmp_path / "own")
    found = duckdb.sql(f"FROM '{tmp_path}/own/flat/own/multi_event.parquet'")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
        "uid": "UINTEGER", "timestamp": "UINTEGER", "item_id": "UINTEGER", "is_organic": "UTINYINT",
        "played_ratio_pct": "DOUBLE", "track_length_seconds": "USMALLINT", "event_type": "VARCHAR",
    }  # fmt: skip


@pytest.mark.parametrize("type_", [pl.Int8, pl.Int64, pl.UInt64, pl.Float64])
def test_whole_numbers_of_any_width_stay_numbers_in_their_order(tmp_path, type_):
    log = frame([(user, 7, 5, "listen") for user in (100, 9, 20)]).with_columns(pl.col("user").cast(type_))
    log.write_parquet(tmp_path / "log.parquet")
    import_events(tmp_path / "log.parquet", tmp_path / "own")
    assert pl.read_parquet(tmp_path / "own/user_ids.parquet").rows() == [(0, 9), (1, 20), (2, 100)]


@pytest.mark.parametrize("ids", [["9", "10", "x"], ["007", "7", "8"], ["-", "ü", "'\";"], [str(2**70), "1", "2"]])
def test_other_ids_are_text_and_stay_apart(tmp_path, ids):
    frame([(user, "s", 5, "listen") for user in ids]).write_parquet(tmp_path / "log.parquet")
    import_events(tmp_path / "log.parquet", tmp_path / "own")
    assert pl.read_parquet(tmp_path / "own/user_ids.parquet")["user"].to_list() == sorted(ids)


SECOND = 1_700_000_000
TIMES = {
    "seconds": [SECOND, SECOND + 60],
    "milliseconds": [SECOND * 1_000, SECOND * 1_000 + 60_000],
    "nanoseconds": [SECOND * 10**9, (SECOND + 60) * 10**9],
    "fractions": [SECOND + 0.25, SECOND + 60.5],
    "iso": ["2023-11-14T22:13:20Z", "2023-11-14 22:14:20.5"],
    "iso with a zone": ["2023-11-15T00:13:20+02:00", "2023-11-14T17:14:20-05:00"],
    "iso with and without a zone": ["2023-11-14T22:13:20", "2023-11-14 17:14:20-05"],
    "timestamps": [datetime.fromtimestamp(SECOND + n, UTC) for n in (0, 60)],
    "local timestamps": [datetime.fromtimestamp(SECOND + n, UTC).replace(tzinfo=None) for n in (0, 60)],
}


@pytest.mark.parametrize("form", TIMES)
@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_times_of_every_form_become_seconds(tmp_path, monkeypatch, form, format_):
    monkeypatch.setenv("TZ", "America/New_York")
    log = frame([("ann", song, given, "listen") for song, given in zip("ab", TIMES[form], strict=True)])
    path = tmp_path / f"log.{format_}"
    log.write_parquet(path) if format_ == "parquet" else log.write_csv(path)
    import_events(path, tmp_path / "own")
    assert [row[1] for row in arrived(tmp_path / "own")] == [SECOND, SECOND + 60]


def test_dates_are_the_seconds_at_which_they_begin(tmp_path):
    csv(tmp_path / "log.csv", [("ann", "a", "2024-01-02", "listen")])
    import_events(tmp_path / "log.csv", tmp_path / "own")
    assert arrived(tmp_path / "own")[0][1] == 1_704_153_600


def test_events_of_one_second_keep_the_order_of_their_milliseconds_and_then_of_their_songs(tmp_path):
    rows = [
        ("ann", song, SECOND * 1_000 + ms, "listen")
        for song, ms in zip("abcde", [900, 100, 500, 100, 999], strict=True)
    ]
    csv(tmp_path / "log.csv", rows)
    import_events(tmp_path / "log.csv", tmp_path / "own")
    assert [row[2] for row in arrived(tmp_path / "own")] == list("bdcae")


TIED = [
    ("ann", song, 5, kind, ratio, organic)
    for song, kind, ratio, organic in [
        ("b", "listen", 0.5, 1), ("b", "listen", 0.5, 0), ("b", "listen", 0.25, 1), ("b", "listen", None, 1),
        ("b", "like", None, 1), ("b", "like", None, None), ("a", "like", None, 1), ("a", "listen", 1, 1),
    ]
]  # fmt: skip
"""Events of one user and one time."""


@pytest.mark.parametrize("deduplicate", [False, True])
def test_files_are_the_same_in_whatever_order_the_rows_of_a_log_are(tmp_path, deduplicate):
    log, files = frame(TIED, ("user", "song", "time", "type", "ratio", "organic")), []
    for name, rows in (("one", log), ("other", log.reverse()), ("third", log.sample(fraction=1, shuffle=True, seed=1))):
        rows.write_parquet(tmp_path / f"{name}.parquet")
        report = import_events(tmp_path / f"{name}.parquet", tmp_path / name, deduplicate=deduplicate)
        files.append(report["files"])
    assert files[0] == files[1] == files[2]
    order = [("a", "listen", 100), ("a", "like", None), ("b", "listen", 25), ("b", "listen", 50), ("b", "listen", 50),
             ("b", "listen", None), ("b", "like", None), ("b", "like", None)]  # fmt: skip
    furthest = [order[place] for place in (0, 1, 3, 6)]
    assert [(row[2], *row[3:]) for row in arrived(tmp_path / "one")] == (furthest if deduplicate else order)


def test_whole_numbers_after_one_text_are_in_numeric_order(tmp_path):
    csv(tmp_path / "log.csv", [(user, f"song {song}", 5, "like") for user, song in (("u10", 2), ("v9", 10), ("u9", 7))])
    import_events(tmp_path / "log.csv", tmp_path / "own")
    assert pl.read_parquet(tmp_path / "own/song_ids.parquet").rows() == [(0, "song 2"), (1, "song 7"), (2, "song 10")]
    assert pl.read_parquet(tmp_path / "own/user_ids.parquet")["user"].to_list() == ["u10", "u9", "v9"]


PLAYED = {
    "shares": ("ratio", [0.5, 1.04, None], {}, [50, 100, None]),
    "percents": ("played_ratio_pct", [50, 104, 3], {}, [50, 100, 3]),
    "ratings": ("stars", [1, 3, 5], {"rating": "stars"}, [0, 50, 100]),
    "one rating": ("rating", [4, 4, 4], {}, [100, 100, 100]),
}


@pytest.mark.parametrize("form", PLAYED)
def test_what_was_played_or_how_it_was_rated_becomes_a_percent(tmp_path, form):
    column, given, named, wanted = PLAYED[form]
    rows = [("ann", song, 5, value) for song, value in zip("abc", given, strict=True)]
    csv(tmp_path / "log.csv", rows, ("user", "song", "time", column))
    import_events(tmp_path / "log.csv", tmp_path / "own", columns=named)
    assert [row[4] for row in arrived(tmp_path / "own")] == wanted


def test_played_time_over_the_length_of_the_song_is_a_percent_whatever_the_units(tmp_path):
    rows = [("ann", "a", 5, 90_000, 180), ("ann", "b", 6, 200_000, 100), ("ann", "c", 7, 5, 0), ("ann", "d", 8, "", 9)]
    csv(tmp_path / "log.csv", rows, ("user", "song", "time", "ms_played", "length"))
    import_events(tmp_path / "log.csv", tmp_path / "own", columns={"duration": "length"})
    assert [row[4] for row in arrived(tmp_path / "own")] == [50, 100, None, None]


def test_names_of_event_types_are_mapped_and_some_left_out(tmp_path):
    rows = [("ann", song, n, kind) for n, (song, kind) in enumerate(zip("abc", ["play", "heart", "skip"], strict=True))]
    csv(tmp_path / "log.csv", rows, ("user", "song", "time", "action"))
    report = import_events(
        tmp_path / "log.csv", tmp_path / "own", types={"play": "listen", "heart": "like", "skip": ""}
    )
    assert [row[3] for row in arrived(tmp_path / "own")] == ["listen", "like"]
    assert report["n_dropped"] == {"type left out": 1}


def test_repeated_events_stay_unless_somebody_asks(tmp_path):
    csv(tmp_path / "log.csv", [*ROWS, *ROWS[:2]])
    assert import_events(tmp_path / "log.csv", tmp_path / "own")["n_events"] == 6
    report = import_events(tmp_path / "log.csv", tmp_path / "own", deduplicate=True)
    assert report["n_dropped"] == {"repeated": 2}
    assert arrived(tmp_path / "own") == EXPECTED


def test_dropped_events_are_counted_by_rule(tmp_path):
    odd = [
        (None, "s1", 5, "listen"),
        ("ann", None, 5, "listen"),
        ("ann", "s1", None, "listen"),
        ("ann", "s1", 5, None),
        ("ann", "s1", -5, "listen"),
        ("ann", "s1", int(time.time()) + 3_600, "listen"),
    ]
    csv(tmp_path / "log.csv", [*ROWS, *odd])
    report = import_events(tmp_path / "log.csv", tmp_path / "own")
    rules = ["no user", "no song", "no time", "no type", "time before 1970", "time in the future"]
    assert report["n_dropped"] == dict.fromkeys(rules, 1)
    assert (report["n_read"], report["n_events"]) == (10, 4)


def test_equal_logs_give_equal_files_and_the_report_says_which(tmp_path):
    log = csv(tmp_path / "log.csv", ROWS)
    one, other = (import_events(log, tmp_path / name)["files"] for name in ("one", "other"))
    assert one == other
    assert set(one) == {"flat/own/multi_event.parquet", "user_ids.parquet", "song_ids.parquet"}


def test_songs_are_known_by_audio_artists_and_albums_of_their_own_ids(tmp_path):
    songs = pl.DataFrame({"song": ["s1", "s2", "x"], "audio": [[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]]})
    songs.write_parquet(tmp_path / "audio.parquet")
    csv(tmp_path / "artists.csv", [("s1", "b"), ("s3", "a"), ("s3", "b"), ("s1", "b")], ("song", "artist"))
    (tmp_path / "albums.jsonl").write_text('{"song": "s1", "albums": ["q", "p"]}\n{"song": "s2", "albums": ["p"]}')
    given = {name: tmp_path / file for name, file in
             (("audio", "audio.parquet"), ("artists", "artists.csv"), ("albums", "albums.jsonl"))}  # fmt: skip
    report = import_events(csv(tmp_path / "log.csv", ROWS), tmp_path / "own", **given)
    assert report["songs_known_by"] == {"audio": 2, "artist": 2, "album": 2}
    vectors = pl.read_parquet(tmp_path / "own/embeddings.parquet").rows()
    assert vectors == [(0, [3.0, 4.0], [pytest.approx(0.6), pytest.approx(0.8)]), (1, [0.0, 2.0], [0.0, 1.0])]
    assert pl.read_parquet(tmp_path / "own/artist_ids.parquet").rows() == [(0, "a"), (1, "b")]
    assert pl.read_parquet(tmp_path / "own/artist_item_mapping.parquet").rows() == [(1, 0), (0, 2), (1, 2)]
    assert pl.read_parquet(tmp_path / "own/album_item_mapping.parquet").rows() == [(0, 0), (1, 0), (0, 1)]


def half_written_parquet(folder):
    path = as_parquet(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def half_written_gzip(folder):
    path = as_gzip(folder)
    path.write_bytes(path.read_bytes()[:-10])
    return path


def cut(path, n):
    path.write_text(path.read_text()[:-n])
    return path


def empty_folder(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def folder_of_others(folder):
    (folder / "others").mkdir()
    (folder / "others" / "notes.docx").touch()
    return folder / "others"


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    """An import, to be copied."""
    folder = tmp_path_factory.mktemp("former")
    import_events(csv(folder / "log.csv", ROWS), folder / "own")
    return folder / "own"


def log(*rows, names=HEAD):
    return lambda folder: csv(folder / "log.csv", rows, names)


PLAIN = log(*ROWS)
NAMES = ("user", "song", "time", "x")
BAD = {
    "no source": (lambda folder: [], {}, "events: found no source"),
    "no such file": (lambda folder: folder / "log.csv", {}, r"log\.csv: no such file"),
    "no such pattern": (lambda folder: folder / "*.tsv", {}, r"\*\.tsv: no such file"),
    "no such address": (lambda folder: "memory://nowhere/log.csv", {}, "memory://nowhere/log.csv: no such file"),
    "unknown protocol": (lambda folder: "abc://log.csv", {}, r"abc://log\.csv: cannot be opened"),
    "an empty folder": (empty_folder, {}, "empty: no file of events in this folder; found nothing"),
    "a folder without logs": (folder_of_others, {}, r"found 1 others, such as notes\.docx, expected \.csv"),
    "another ending": (lambda f: csv(f / "log.xls", ROWS), {}, r"log\.xls: found a name with another ending"),
    "a half-written Parquet file": (half_written_parquet, {}, r"log\.parquet: cannot be read to its end"),
    "a half-written gzip file": (half_written_gzip, {}, r"log\.csv\.gz: cannot be read to its end"),
    "a line that was cut off": (lambda f: cut(csv(f / "log.csv", ROWS), 9), {}, r"cannot be read to its end .*Line: 5"),
    "an object that was cut off": (lambda f: cut(as_json_lines(f), 9), {}, r"log\.jsonl: cannot be read to its end"),
    "an empty file": (lambda f: cut(csv(f / "log.csv", ROWS), 1_000), {}, "found '' in the first line"),
    "a name twice": (log(names=("user", "User", "song")), {}, "found 'user,User,song' in the first line"),
    "no rows": (log(), {}, r"all events were dropped \(there are no rows\)"),
    "no time": (log(names=("user", "song", "when")), {}, "found columns user, song, when; none is called time"),
    "unknown --user": (PLAIN, {"columns": {"user": "u"}}, r"column u \(--user\) is missing; found columns user, song"),
    "unknown --song": (PLAIN, {"columns": {"song": "u"}}, r"column u \(--song\) is missing; found columns user, song"),
    "unknown --time": (PLAIN, {"columns": {"time": "u"}}, r"column u \(--time\) is missing; found columns user, song"),
    "unknown --type": (PLAIN, {"columns": {"type": "u"}}, r"column u \(--type\) is missing; found columns user, song"),
    "unknown --ratio": (PLAIN, {"columns": {"ratio": "u"}}, r"column u \(--ratio\) is missing; found columns user"),
    "unknown --played": (PLAIN, {"columns": {"played": "u"}}, r"column u \(--played\) is missing; found columns user"),
    "unknown --duration": (PLAIN, {"columns": {"duration": "u"}}, r"column u \(--duration\) is missing; found"),
    "unknown --rating": (PLAIN, {"columns": {"rating": "u"}}, r"column u \(--rating\) is missing; found columns user"),
    "unknown --organic": (PLAIN, {"columns": {"organic": "u"}}, r"column u \(--organic\) is missing; found"),
    "unknown option": (PLAIN, {"columns": {"usr": "user"}}, "columns: found usr, expected user, song"),
    "played alone": (log(("a", "b", 5, 3), names=NAMES), {"columns": {"played": "x"}}, "the one of the duration"),
    "ratio and rating": (log(("a", "b", 5, 3), names=NAMES), {"columns": {"ratio": "x", "rating": "x"}},
                         "--ratio, --rating: expected one of"),
    "no artists": (lambda f: [csv(f / "log.csv", ROWS), csv(f / "artists.csv", [], ("song", "artist"))][0],
                   {"artists": "artists.csv"}, r"artists\.csv: no row names a song of the events \(--artists\)"),
    "unknown --audio": (PLAIN, {"audio": "nowhere.parquet"}, r"nowhere\.parquet: no such file"),
    "a time in words": (log(*ROWS, ("a", "b", "today", "like")), {},
                        r"log\.csv: row 4 \(from 0\): column time has 'today', expected times: .*found 1 such"),
    "a ratio in words": (log(("a", "b", 5, "half"), names=NAMES), {"columns": {"ratio": "x"}},
                         r"row 0 \(from 0\): column x has 'half', expected numbers from 0.* by --ratio"),
    "a negative ratio": (log(("a", "b", 5, -1), names=NAMES), {"columns": {"ratio": "x"}}, "column x has '-1'"),
    "a rating in words": (log(("a", "b", 5, "good"), names=NAMES), {"columns": {"rating": "x"}}, "x has 'good'"),
    "no flag": (log(("a", "b", 5, "maybe"), names=NAMES), {"columns": {"organic": "x"}}, "x has 'maybe'"),
    "unknown type": (log(*ROWS, ("a", "b", 5, "skip")), {},
                     r"row 4 \(from 0\): found event types 'skip' \(1\), expected listen.*--map skip=listen"),
    "mapped to nothing known": (PLAIN, {"types": {"play": "lisen"}}, "--map play=lisen: expected listen"),
    "times in the future": (log(("a", "b", "2999-01-01", "like")), {}, r"dropped \(1 for time in the future\)"),
    "all dropped": (log((None, "b", 5, "like"), ("a", "b", 5, "like")), {"types": {"like": ""}},
                    r"all events were dropped \(1 for no user, 1 for type left out\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_log_that_cannot_be_read_is_refused_in_one_sentence_and_the_former_import_stays(
    tmp_path, monkeypatch, case, former
):
    make, options, said = BAD[case]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(former, tmp_path / "own")
    with pytest.raises(SourceError, match=said):
        import_events(make(tmp_path), tmp_path / "own", **options)
    assert arrived(tmp_path / "own") == EXPECTED
    assert not list(tmp_path.glob(".own.*"))


def test_the_first_bad_row_of_several_files_is_named_by_its_file(tmp_path):
    csv(tmp_path / "log-1.csv", ROWS)
    csv(tmp_path / "log-2.csv", [ROWS[0], ("a", "b", "x", "like"), ("a", "b", "y", "like")])
    with pytest.raises(SourceError, match=r"log-2\.csv: row 1 \(from 0\): column time has 'x'.*found 2 such rows"):
        import_events(tmp_path / "log-*.csv", tmp_path / "own")


def test_rows_are_read_some_at_a_time_and_ids_known_and_problems_counted_over_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "EVENTS_AT_A_TIME", 2_048)  # the fewest that DuckDB gives
    rows = [(f"u{n % 7}", f"s{n % 2_500}", SECOND + n, "listen") for n in range(7_000)]
    frame(rows).write_parquet(tmp_path / "log.parquet")
    report = import_events(tmp_path / "log.parquet", tmp_path / "own")
    assert (report["n_events"], report["n_users"], report["n_songs"]) == (7_000, 7, 2_500)
    assert sorted((row[0], row[2], row[1], "listen") for row in arrived(tmp_path / "own")) == sorted(rows)
    odd = [("a", "b", str(SECOND), "listen") if n not in (4_500, 6_999) else ("a", "b", "x", "y") for n in range(7_000)]
    frame(odd).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(SourceError, match=r"row 4500 \(from 0\): column time has 'x'.*found 2 such rows"):
        import_events(tmp_path / "log.parquet", tmp_path / "own")


def test_files_of_different_columns_are_refused_by_name(tmp_path):
    csv(tmp_path / "log-1.csv", ROWS)
    csv(tmp_path / "log-2.csv", [row[:3] for row in ROWS], HEAD[:3])
    with pytest.raises(SourceError, match=r"log-2\.csv: found columns of user, song, time, expected .*log-1\.csv"):
        import_events(tmp_path / "log-*.csv", tmp_path / "own")


@pytest.mark.parametrize(
    ("column", "type_"), [("user", pa.list_(pa.int64())), ("time", pa.bool_()), ("song", pa.bool_())]
)
def test_a_column_of_another_type_is_refused_by_its_type(tmp_path, column, type_):
    values = {"user": [[1]], "time": [True], "song": [True]}
    columns = {"user": pa.array(["a"]), "song": pa.array(["b"]), "time": pa.array([5])}
    columns[column] = pa.array(values[column], type_)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    with pytest.raises(SourceError, match=f"log.parquet: column {column} has type .*, expected"):
        import_events(tmp_path / "log.parquet", tmp_path / "own")


VECTORS = {
    "two lengths": (
        [("s1", [1.0, 2.0]), ("s2", [1.0])],
        r"row 1 \(from 0\): column audio has 1 numbers, 0 of them null",
    ),
    "a null": ([("s1", [1.0, None])], r"row 0 \(from 0\): column audio has 2 numbers, 1 of them null; expected 2"),
    "a song twice": ([("s1", [1.0]), ("s1", [2.0])], r"row 1 \(from 0\): song s1 has 2 vectors; expected one"),
    "other songs": ([("x", [1.0])], r"no row names a song of the events \(--audio\)"),
}


@pytest.mark.parametrize("case", VECTORS)
def test_vectors_that_do_not_fit_are_refused_by_row(tmp_path, case):
    rows, said = VECTORS[case]
    pl.DataFrame(rows, {"song": pl.String, "audio": pl.List(pl.Float64)}, orient="row").write_parquet(
        tmp_path / "audio.parquet"
    )
    with pytest.raises(SourceError, match=said):
        import_events(csv(tmp_path / "log.csv", ROWS), tmp_path / "own", audio=tmp_path / "audio.parquet")
    assert not (tmp_path / "own").exists()
