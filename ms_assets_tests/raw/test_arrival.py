"""A source file that is not what Yambda publishes is refused by file and column, and never linked."""

import random
import re
from decimal import Decimal
from itertools import pairwise

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.raw.arrival import verify
from ms_assets.raw.schema import TABLES, SourceError
from ms_assets_tests.conftest import metadata_of, unchanged
from ms_assets_tests.worlds import World, embeddings, listen, reaction, unit_vector, write_table

EVENTS = [listen(1, 0, 10), listen(1, 5, 11, None), reaction("like", 2, 5, None)]
WORLD = World(EVENTS, [10, 11], artists=[(1, 10)], albums=[(2, 11)])
N = len(EVENTS)


def with_column(name, values, type_=None):
    """The small multi_event with one column replaced."""
    table = WORLD.multi_event()
    column = values if isinstance(values, pa.Array) else pa.array(values, type_)
    return table.set_column(table.column_names.index(name), name, column)


def with_vector(vector):
    """Two embeddings, the second of which is this one."""
    table = embeddings([10, 11])
    vectors = pa.array([unit_vector(10), vector], pa.list_(pa.float32()))
    return table.set_column(2, "normalized_embed", vectors)


def wrong(column, found, values, type_=None):
    """A multi_event with a wrong column, and what is said of it."""
    return "multi_event", with_column(column, values, type_), column, found


SKIPPED = ["listen", "skip", "like"]
REFUSED = {
    "missing column": ("multi_event", WORLD.multi_event().drop_columns("item_id"), "item_id", "is missing"),
    "negative id of few bits": wrong("item_id", "example -1 in row 2", [1, 2, -1], pa.int8()),
    "text for a number": wrong("timestamp", "VARCHAR", ["0"] * N),
    "float with a fraction for an id": wrong(
        "uid",
        "1 values out of range, for example 1.5 in row 1 (from 0); expected whole numbers from 0 to 4294967295; number",
        [1.0, 1.5, 2.0],
    ),
    "no number for an id": wrong("item_id", "example nan in row 2", [1.0, None, float("nan")]),
    "id that a short float may have rounded": wrong(
        "uid",
        "example 33554432.0 in row 2 (from 0); expected whole numbers from 0 to 16777216",
        [0.0, 1.0, 2.0**25],
        pa.float32(),
    ),
    "time with a fraction": wrong("timestamp", "example 0.5 in row 1", [0.0, 0.5, 5.0]),
    "organic by half": wrong("is_organic", "expected whole numbers from 0 to 1", [1.0, 0.0, 0.5]),
    "ratio of few bits above 100": wrong("played_ratio_pct", "example 101 in row 0", [101, 101, 0], pa.uint8()),
    "ratio with a fraction above 100": wrong("played_ratio_pct", "example 100.5", [100.0, 100.5, None]),
    "remedy for an id beyond 32 bits": wrong("uid", "number the ids anew, within 32 bits", [1, 1, 2**40]),
    "remedy for times in milliseconds": wrong("timestamp", "count seconds", [0, 5, 1_700_000_000_000]),
    "id with a fraction": wrong("item_id", "expected whole numbers", [Decimal("1.5")] * N),
    "organic with words": wrong("is_organic", "expected whole numbers", ["yes"] * N),
    "number for a type": wrong("event_type", "BIGINT", [1] * N),
    "unknown event type": wrong("event_type", "1 values out of range, for example skip", SKIPPED),
    "remedy for an unknown event type": wrong(
        "event_type",
        "'undislike'); leave such events out, or add the type to EVENT_TYPES in ms_assets/events.py",
        SKIPPED,
    ),
    "negative id": wrong("item_id", "example -7", [10, -7, 11]),
    "song id beyond 32 bits": wrong("item_id", "example 4294967296", [10, 2**32, 11]),
    "user id beyond 32 bits": wrong("uid", "has 1 values", [1, 1, 2**63 - 1]),
    "audio of an id beyond 32 bits": (
        "embeddings",
        embeddings([10]).set_column(0, "item_id", pa.array([2**40])),
        "item_id",
        "4294967295",
    ),
    "negative time": wrong("timestamp", "example -5", [0, -5, 5]),
    "ratio above 100": wrong("played_ratio_pct", "example 101", [100, 101, 0], pa.uint16()),
    "ratio not a number": wrong("played_ratio_pct", "example nan", [100.0, float("nan"), None]),
    "organic neither 0 nor 1": wrong("is_organic", "example 2", [0, 2, None], pa.uint8()),
    "short vector": (
        "embeddings",
        with_vector([1.0] * 127),
        "normalized_embed",
        "127 numbers, 0 of them null in row 1 (from 0); expected vectors of 128",
    ),
    "long vector": ("embeddings", with_vector([1.0] * 129), "normalized_embed", "128"),
    "vector with a hole": (
        "embeddings",
        with_vector([None, *[0.5] * 127]),
        "normalized_embed",
        "128 numbers, 1 of them null",
    ),
    "vector without numbers": ("embeddings", with_vector([]), "normalized_embed", "example 0 numbers"),
    "missing vector": ("embeddings", with_vector(None), "normalized_embed", "example none"),
    "scalar for a vector": (
        "embeddings",
        embeddings([10]).set_column(1, "embed", pa.array([1.0])),
        "embed",
        "type DOUBLE",
    ),
    "second vector of a song": ("embeddings", embeddings([10, 10]), "item_id", "10"),
    "mapping without owner": ("artist_item_mapping", embeddings([1]).select(["item_id"]), "artist_id", "is missing"),
}


@pytest.mark.parametrize(("name", "table", "column", "found"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_file_is_refused_by_file_and_column(con, tmp_path, name, table, column, found):
    path = write_table(tmp_path, f"{name}.parquet", table)
    with pytest.raises(SourceError, match=re.escape(f"{path}: column {column} ")) as refusal:
        verify(con, path, TABLES[name])
    assert found in str(refusal.value)


ACCEPTED = {
    "as published": ("multi_event", WORLD.multi_event()),
    "wider ids": ("multi_event", with_column("item_id", [10, 11, None], pa.int64())),
    "the highest and the lowest id": ("multi_event", with_column("item_id", [0, 2**32 - 1, None], pa.int64())),
    "widest ids": ("multi_event", with_column("uid", [1, 1, 2], pa.uint64())),
    "ratios as floats": ("multi_event", with_column("played_ratio_pct", [99.5, None, None])),
    "types as a dictionary": (
        "multi_event",
        with_column("event_type", pa.array(["listen", "listen", "like"]).dictionary_encode()),
    ),
    "columns in another order": ("multi_event", WORLD.multi_event().select([6, 5, 4, 3, 2, 1, 0])),
    "a column more": ("multi_event", WORLD.multi_event().append_column("session", pa.array([1] * N))),
    "no rows": ("multi_event", WORLD.multi_event().slice(0, 0)),
    "vectors of fixed size and double precision": (
        "embeddings",
        embeddings([10]).cast(
            pa.schema(
                {
                    "item_id": pa.uint32(),
                    "embed": pa.list_(pa.float64()),
                    "normalized_embed": pa.list_(pa.float32(), 128),
                }
            )
        ),
    ),
}


@pytest.mark.parametrize(("name", "table"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_file_that_holds_the_published_values_is_accepted(con, tmp_path, name, table):
    verify(con, write_table(tmp_path, "file.parquet", table), TABLES[name])


# what differs from the published files and is accepted


def arrived(con, folder, table, name="multi_event"):
    """The rows of a file without their position, the differences that it has, and their order."""
    found = verify(con, write_table(folder, "file.parquet", table), TABLES[name])
    rows = found.rows.order("file_row_number").project("* EXCLUDE file_row_number")
    return rows, found.differences


WHOLE = [getattr(pa, f"{sign}int{bits}")() for sign in ("u", "") for bits in (8, 16, 32, 64)]
WHOLE += [pa.decimal128(38, 0), pa.decimal128(12, 0)]
NUMBERS = [*WHOLE, pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2)]
FLOATS_TOO = [*WHOLE, pa.float32(), pa.float64()]
TYPES = {
    **dict.fromkeys(("uid", "item_id", "timestamp"), FLOATS_TOO),
    "is_organic": [*FLOATS_TOO, pa.bool_()],
    **dict.fromkeys(("played_ratio_pct", "track_length_seconds"), NUMBERS),
    "event_type": [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
}
LONG = 70_000


@pytest.mark.parametrize("type_", [pa.uint32(), pa.int64(), pa.decimal128(20, 0), pa.decimal128(20, 2)], ids=str)
def test_a_track_may_be_longer_than_the_published_type_holds(con, tmp_path, type_):
    lengths = pa.array([None, Decimal(LONG), None]).cast(type_)
    rows, _ = arrived(con, tmp_path, with_column("track_length_seconds", lengths))
    assert [row[5] for row in rows.fetchall()] == [None, LONG, None]


SMALL = [listen(0, 0, 7, 0), listen(1, 0, 100, 99), reaction("like", 1, 5, None)]
SMALL = World([event._replace(track_length_seconds=event.played_ratio_pct) for event in SMALL], []).multi_event()


@pytest.mark.parametrize(
    ("column", "type_"), [(name, type_) for name, types in TYPES.items() for type_ in types], ids=str
)
def test_a_column_of_any_type_that_holds_the_published_values_arrives_with_them(con, tmp_path, column, type_):
    values = pa.array([None if v is None else Decimal(v) if pa.types.is_decimal(type_) else v
                       for v in SMALL[column].to_pylist()]).cast(type_)  # fmt: skip
    given = SMALL.set_column(SMALL.column_names.index(column), column, values)
    rows, differences = arrived(con, tmp_path, given)
    assert rows.fetchall() == [tuple(row.values()) for row in SMALL.to_pylist()]
    found = str(rows.types[rows.columns.index(column)])
    assert found in next(c for c in TABLES["multi_event"].columns if c.name == column).types
    assert differences == [] or differences[0].startswith(f"{column} has type")


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.of_interactions])
@pytest.mark.parametrize("column", ["is_organic", "track_length_seconds"])
def test_a_column_from_which_nothing_is_computed_may_be_missing_or_empty(con, tmp_path, name, column):
    if column not in (columns := [each.name for each in TABLES[name].columns]):
        return
    events = WORLD.multi_event().select(columns)
    without, differences = arrived(con, tmp_path, events.drop_columns(column), name)
    empty, _ = arrived(con, tmp_path, events.set_column(columns.index(column), column, pa.nulls(N)), name)
    assert differences == [f"no {column}, so nulls"]
    for rows in (without, empty):
        assert rows.columns == columns
        assert {row[columns.index(column)] for row in rows.fetchall()} == {None}


def test_ids_of_double_precision_keep_every_digit(con, tmp_path):
    uids = [2.0**32 - 1, 2.0**24 + 1, 0.0]
    rows, differences = arrived(con, tmp_path, with_column("uid", uids))
    assert [row[0] for row in rows.fetchall()] == uids
    assert differences == ["uid has type DOUBLE"]


@pytest.mark.parametrize(("name", "wanted"), [("multi_event", [100, 100, None]), ("listens", [100, 100, 100])])
def test_listens_of_unknown_length_count_as_whole_where_a_file_has_no_ratios(con, tmp_path, name, wanted):
    events = WORLD.multi_event().select([column.name for column in TABLES[name].columns])
    rows, differences = arrived(con, tmp_path, events.drop_columns("played_ratio_pct"), name)
    assert rows.project("played_ratio_pct").fetchall() == [(ratio,) for ratio in wanted]
    assert differences == ["no played_ratio_pct, so every listen counts as whole"]


@pytest.mark.parametrize("type_", [pa.float32(), pa.float64(), pa.int8()], ids=str)
def test_audio_without_vectors_of_length_1_is_brought_to_it_and_silence_left_out(con, tmp_path, type_):
    vectors = pa.array([[3, 4], [0, 0], [-5, 0]], pa.list_(type_))
    given = pa.table({"item_id": pa.array([7, 8, 9], pa.uint32()), "embed": vectors})
    rows, differences = arrived(con, tmp_path, given, "embeddings")
    assert [(song, unit) for song, _, unit in rows.fetchall()] == [
        (7, [pytest.approx(0.6), pytest.approx(0.8)]), (9, [-1, 0]),
    ]  # fmt: skip
    assert {"no normalized_embed, so embed at length 1", "1 unusable rows left out"} <= set(differences)


def test_audio_without_any_vectors_is_refused(con, tmp_path):
    path = write_table(tmp_path, "file.parquet", embeddings([1]).select(["item_id"]))
    with pytest.raises(SourceError, match="column normalized_embed is missing; found item_id; add it"):
        verify(con, path, TABLES["embeddings"])


@pytest.mark.parametrize("column", ["uid", "timestamp", "item_id", "event_type"])
def test_a_column_that_is_needed_is_missed_by_name_and_described(con, tmp_path, column):
    path = write_table(tmp_path, "file.parquet", WORLD.multi_event().drop_columns(column))
    description = next(c for c in TABLES["multi_event"].columns if c.name == column).description
    with pytest.raises(SourceError, match=rf"{path}: column {column} is missing; found .*; add it \(.*{description}"):
        verify(con, path, TABLES["multi_event"])


OTHERS = (
    "user_id",
    "song_id",
    "file_row_number",
    "file_index",
    "filename",
    "event_typ",
    "c0",
    "UID",
    "Item_Id",
    'q"uote',
)


@pytest.mark.parametrize("name", ["multi_event", "embeddings", "artist_item_mapping"])
def test_columns_that_are_not_published_are_left_out_whatever_their_names(con, tmp_path, name):
    given = {"multi_event": WORLD.multi_event(), "embeddings": embeddings([10, 11, 12]),
             "artist_item_mapping": pa.table({"artist_id": [1, 2, 3], "item_id": [10, 11, 12]})}[name]  # fmt: skip
    expected, _ = arrived(con, tmp_path, given, name)
    expected = expected.fetchall()
    for other in OTHERS:
        rows, differences = arrived(con, tmp_path, given.add_column(0, other, pa.array([9, 8, 7])), name)
        assert (rows.columns, rows.fetchall()) == (given.column_names, expected), other
        assert differences == [f"{other} left out"]
    every = given
    for other in OTHERS:
        every = every.append_column(other, pa.array([9, 8, 7]))
    assert arrived(con, tmp_path, every, name)[0].fetchall() == expected


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64(), pa.int8()], ids=str)
@pytest.mark.parametrize("length", [1, 32, 200])
def test_audio_vectors_may_have_any_one_length_and_any_numbers(con, tmp_path, type_, length):
    vectors = [[float(place == song) for place in range(length)] for song in range(3)]
    for list_ in (pa.list_(type_), pa.large_list(type_), pa.list_(type_, length)):
        column = pa.array(vectors, pa.list_(pa.float64())).cast(list_)
        given = pa.table({"item_id": pa.array([0, 1, 2], pa.uint32()), "normalized_embed": column})
        rows, differences = arrived(con, tmp_path, given, "embeddings")
        assert [row[-1] for row in rows.fetchall()] == vectors
        assert str(rows.types[-1]) in ("FLOAT[]", "DOUBLE[]")
        assert differences[0] == "no embed, so nulls"


def test_tables_about_songs_may_be_missing_and_are_then_without_rows(con, tmp_path):
    for name in ("embeddings", "artist_item_mapping", "album_item_mapping"):
        found = verify(con, tmp_path / "none.parquet", TABLES[name])
        columns = {column.name: column.types[0] for column in TABLES[name].columns} | {"file_row_number": "BIGINT"}
        assert dict(zip(found.rows.columns, map(str, found.rows.types), strict=True)) == columns
        assert (len(found.rows), found.differences) == (0, ["no such file, so no rows"])


# a folder of part files


def parts_in(folder, *tables, names=("part-{}.parquet",)):
    for number, table in enumerate(tables):
        write_table(folder, names[number % len(names)].format(number), table)
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    return folder


def test_parts_are_one_table_in_the_order_of_their_names(con, tmp_path):
    events = WORLD.multi_event()
    types = dict.fromkeys(("uid", "item_id"), pa.int64())
    wide = events.cast(pa.schema([field.with_type(types.get(field.name, field.type)) for field in events.schema]))
    tables = (events.slice(2), wide.select([6, 5, 4, 3, 2, 1, 0]).slice(0, 2), events.slice(0, 0))
    names = ("part-1.parquet", "part-0.snappy.parquet", "part-2.parquet")
    folder = parts_in(tmp_path / "multi_event.parquet", *tables, names=names)
    write_table(folder, "_metadata.parquet", embeddings([1]))
    found = verify(con, folder, TABLES["multi_event"])
    rows = found.rows.order("file_row_number").project("* EXCLUDE file_row_number").fetchall()
    assert rows == [tuple(row.values()) for row in events.to_pylist()]
    assert found.differences[0] == "3 part files"


def test_a_bad_row_is_named_by_its_part(con, tmp_path):
    bad = with_column("is_organic", [1, 1, 3], pa.uint8())
    folder = parts_in(tmp_path / "multi_event.parquet", WORLD.multi_event(), bad)
    expected = f"{folder}/part-1.parquet: column is_organic has 1 values out of range, for example 3 in row 2 (from 0)"
    with pytest.raises(SourceError, match=re.escape(expected)):
        verify(con, folder, TABLES["multi_event"])


def test_a_part_that_lacks_a_column_or_is_cut_short_is_named(con, tmp_path):
    folder = parts_in(tmp_path / "multi_event.parquet", WORLD.multi_event(), WORLD.multi_event().drop_columns("uid"))
    with pytest.raises(SourceError, match=re.escape(f"{folder}/part-1.parquet: column uid is missing")):
        verify(con, folder, TABLES["multi_event"])
    (folder / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=re.escape(f"{folder}/part-1.parquet: not a whole Parquet file")):
        verify(con, folder, TABLES["multi_event"])


def test_a_song_in_two_parts_and_vectors_of_two_lengths_in_two_parts_are_refused(con, tmp_path):
    folder = parts_in(tmp_path / "embeddings.parquet", embeddings([1]), embeddings([1]))
    with pytest.raises(SourceError, match=re.escape(f"{folder}: column item_id has 1 in 2 rows")):
        verify(con, folder, TABLES["embeddings"])
    short = pa.table({"item_id": [2], "embed": [[1.0]], "normalized_embed": [[1.0]]})
    parts_in(folder, embeddings([1]), short)
    with pytest.raises(SourceError, match=r"part-1\.parquet: column embed .* 1 numbers, .* vectors of 128"):
        verify(con, folder, TABLES["embeddings"])


def test_a_folder_without_parts_is_refused_by_its_path(con, tmp_path):
    with pytest.raises(
        SourceError, match=re.escape(f"{tmp_path}: no file in this folder; expected multi_event as part")
    ):
        verify(con, tmp_path, TABLES["multi_event"])


@pytest.mark.parametrize("name", ["it's", "a=1", "[ab]*?", "Ünï"])
def test_a_path_is_taken_literally(con, tmp_path, name):
    folder = parts_in(tmp_path / name / "uid=7", WORLD.multi_event(), WORLD.multi_event())
    for path in (folder, folder / "part-0.parquet"):
        assert verify(con, path, TABLES["multi_event"]).rows.columns[:-1] == WORLD.multi_event().column_names


@pytest.mark.parametrize("seed", range(12))
def test_rows_cut_into_parts_of_any_types_and_orders_of_columns_arrive_as_they_were(con, tmp_path, seed):
    rng = random.Random(seed)
    n = rng.randrange(20)
    names = ("uid", "timestamp", "item_id", "played_ratio_pct")
    columns = {name: rng.choices([None, *range(101)], k=n) for name in names}
    whole = pa.table({**columns, "event_type": pa.array(["like"] * n, pa.string())})
    cuts = sorted(rng.choices(range(n + 1), k=rng.randrange(4)))
    for number, (start, end) in enumerate(pairwise([0, *cuts, n])):
        fields = [pa.field(name, rng.choice(WHOLE[:8])) for name in names] + [whole.schema.field("event_type")]
        part = whole.slice(start, end - start).cast(pa.schema(fields))
        write_table(tmp_path, f"part-{number}.parquet", part.select(rng.sample(part.column_names, 5)))
    found = verify(con, tmp_path, TABLES["multi_event"]).rows
    rows = found.order("file_row_number").project(", ".join(whole.column_names)).fetchall()
    assert rows == list(zip(*whole.to_pydict().values(), strict=True))


def test_what_differs_becomes_a_copy_as_published_and_the_log_says_so(platform, monkeypatch):
    WORLD.write(platform.source)
    given = with_column("uid", [1, 1, 2], pa.int16()).drop_columns(["is_organic", "track_length_seconds"])
    given = given.append_column("user_id", pa.array([7] * N)).append_column("file_row_number", pa.array([3, 2, 1]))
    source = write_table(platform.source, "flat/50m/multi_event.parquet", given)
    logged = []
    monkeypatch.setattr("dagster.DagsterLogManager.warning", lambda _, text, *__: logged.append(text))
    metadata = metadata_of(platform.materialise("raw/multi_event"))
    stored = pq.read_table(platform.file("raw/multi_event"))
    nulls = pa.nulls(N)
    expected = WORLD.multi_event().set_column(3, "is_organic", nulls).set_column(5, "track_length_seconds", nulls)
    assert stored.equals(expected.cast(stored.schema))
    assert stored.schema.types[0] == pa.uint32()
    assert logged == [
        f"{source}: uid has type SMALLINT, no is_organic, so nulls, no track_length_seconds, so nulls, "
        "user_id left out, file_row_number left out; writing a copy in the published form"
    ]
    assert metadata["source_differs"].startswith("uid has type SMALLINT")


def test_unsorted_parts_become_one_sorted_file_with_ties_in_the_order_of_the_parts(platform):
    events = [listen(uid, time, song) for song, (uid, time) in enumerate([(9, 5), (2, 5), (9, 5), (2, 0), (9, 5)])]
    table = World(events, []).multi_event()
    WORLD.write(platform.source)
    (platform.source / "flat/50m/multi_event.parquet").unlink()
    parts_in(platform.source / "flat/50m/multi_event.parquet", *(table.slice(n, 1) for n in range(5)))
    platform.materialise("raw/multi_event")
    stored = pq.read_table(platform.file("raw/multi_event"))
    assert stored["item_id"].to_pylist() == [3, 1, 0, 2, 4]
    assert not platform.file("raw/multi_event").is_symlink()


def test_a_folder_without_tables_about_songs_has_songs_without_audio_or_owners(platform):
    write_table(platform.source, "flat/50m/multi_event.parquet", WORLD.multi_event())
    platform.materialise("splits/candidate_songs", config={"splits__songs": {"require_audio": False}})
    found = [tuple(row.values()) for row in platform.rows("splits/candidate_songs")]
    assert found == [(10, [], [], 1), (11, [], [], 1)]


def test_types_written_as_an_enum_are_accepted(con, tmp_path):
    kinds = pl.Enum(["listen", "dislike", "like", "undislike", "unlike"])
    frame = pl.from_arrow(WORLD.multi_event()).cast({"event_type": kinds})
    frame.write_parquet(tmp_path / "file.parquet")
    verify(con, tmp_path / "file.parquet", TABLES["multi_event"])


def test_a_missing_file_is_refused_by_its_path(con, tmp_path):
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path}/none.parquet: no such file")):
        verify(con, tmp_path / "none.parquet", TABLES["multi_event"])


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_a_file_cut_short_is_refused_by_its_path(con, tmp_path, kept):
    path = write_table(tmp_path, "cut.parquet", WORLD.multi_event())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(
        SourceError, match=re.escape(f"{path}: not a whole Parquet file (") + ".*; copy or write it again"
    ):
        verify(con, path, TABLES["multi_event"])


@pytest.mark.parametrize("part", ["page", "footer"])
def test_a_damaged_file_is_refused_by_its_path(con, tmp_path, part):
    rng = random.Random(0)
    events = [listen(uid, 0, rng.randrange(2**32)) for uid in range(5_000)]
    path = write_table(tmp_path, "damaged.parquet", World(events, []).multi_event())
    item_id = pq.read_metadata(path).row_group(0).column(2)
    content = bytearray(path.read_bytes())
    start = {"page": item_id.data_page_offset + 4, "footer": len(content) - 200}[part]
    content[start : start + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(SourceError, match=re.escape(str(path))):
        verify(con, path, TABLES["multi_event"])


def test_a_refused_file_stops_the_run_and_leaves_the_earlier_artefacts(platform):
    WORLD.write(platform.source)
    config = {"splits__users": {"min_events": 1}}
    platform.materialise("splits/users", config=config)
    link = platform.file("raw/multi_event")
    multi_event = platform.source / "flat/50m/multi_event.parquet"
    # The new file arrives beside the old one, as a download would bring it.
    bad = with_column("played_ratio_pct", [100, 101, 0], pa.uint16())
    multi_event.rename(multi_event.with_name("old.parquet"))
    link.unlink()
    link.symlink_to(multi_event.with_name("old.parquet"))
    write_table(platform.source, "flat/50m/multi_event.parquet", bad)
    refused = pytest.raises(SourceError, match=r"multi_event\.parquet: column played_ratio_pct has 1 values")
    with unchanged(platform), refused:
        platform.materialise("splits/users", config=config)


def test_a_file_missing_from_the_folder_is_named_with_its_place_in_the_layout(platform):
    WORLD.write(platform.source, "500m")
    expected = f"{platform.source}/flat/50m/multi_event.parquet: no such file"
    with unchanged(platform), pytest.raises(SourceError, match=re.escape(expected)):
        platform.materialise("raw/multi_event")


def test_source_tables_are_linked_not_copied(platform):
    WORLD.write(platform.source)
    tables = ["multi_event", "embeddings", "artist_item_mapping", "album_item_mapping"]
    platform.materialise(*(f"raw/{name}" for name in tables))
    for name in tables:
        link = platform.file(f"raw/{name}")
        assert link.is_symlink()
        assert link.resolve().is_relative_to(platform.source.resolve())
    assert platform.file("raw/multi_event").samefile(platform.source / "flat/50m/multi_event.parquet")


def test_a_link_keeps_the_order_of_the_file_as_a_column(platform):
    WORLD.write(platform.source)
    platform.materialise("raw/multi_event")
    key = dg.AssetKey(["raw", "multi_event"])
    table = platform.definitions.load_asset_value(key, partition_key="50m")
    rows = table.project("uid, item_id, file_row_number").fetchall()
    assert sorted(rows, key=lambda row: row[2]) == [(1, 10, 0), (1, 11, 1), (2, None, 2)]


def test_the_metadata_of_a_source_table_says_where_it_came_from(platform):
    WORLD.write(platform.source)
    metadata = metadata_of(platform.materialise("raw/multi_event"))
    assert metadata["source"] == str(platform.source)
    assert metadata["dagster/row_count"] == 3


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["embed", "normalized_embed"])
def test_a_vector_that_is_not_finite_is_counted_reported_and_treated_as_missing(platform, name, value):
    WORLD.write(platform.source)
    table = embeddings([10, 11])
    vectors = pa.array([unit_vector(10), [float(value), *unit_vector(11)[1:]]], pa.list_(pa.float32()))
    broken = table.set_column(table.column_names.index(name), name, vectors)
    write_table(platform.source, "embeddings.parquet", broken)
    run = platform.materialise("splits/candidate_songs")
    [found] = [check for check in run.get_asset_check_evaluations() if check.check_name == "audio_vectors_are_finite"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (found.metadata["n_rows"].value, found.metadata["n_not_finite"].value) == (2, 1)
    assert [row["item_id"] for row in platform.rows("raw/embeddings")] == [10]
    assert [row["item_id"] for row in platform.rows("splits/candidate_songs")] == [10]
    assert pq.read_table(platform.source / "embeddings.parquet").num_rows == 2, "the source stays as it is"
