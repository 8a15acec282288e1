"""Interactions in either layout and any order become the same tables, sorted by user and time."""

import random
import re

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.defs.platform.resources import Environment
from ms_assets.raw import layouts
from ms_assets.raw.schema import TABLES, SourceError
from ms_assets_tests.conftest import TABLES as COMPUTED
from ms_assets_tests.conftest import Platform, metadata_of, unchanged
from ms_assets_tests.worlds import Rules, World, listen, random_case, reaction, sequential, write_table

EVENTS = [listen(1, 0, 10), listen(1, 5, 11, None), reaction("like", 2, 5, None), listen(4, 0, 10, 20)]
WORLD = World(EVENTS, [10, 11], artists=[(1, 10)], albums=[(2, 11)])
MULTI_EVENT = TABLES["multi_event"]


def rows_of(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def flattened(folder, table):
    return pa.concat_tables(layouts.flattened(write_table(folder, "lists.parquet", table), MULTI_EVENT))


def read(con, file):
    return con.read_parquet(str(file), file_row_number=True)


# the sequential layout


@pytest.fixture
def lists(tmp_path):
    return Platform(tmp_path, layout="sequential")


@pytest.fixture
def file(lists):
    """The source of `lists`, which holds the small world."""
    WORLD.write(lists.source, layout="sequential")
    return lists.source / "sequential/50m/multi_event.parquet"


@pytest.mark.parametrize("seed", [0, 3, 9], ids=["per_user", "global_temporal", "percents as floats"])
def test_both_layouts_give_the_same_splits_and_edges(tmp_path, seed):
    world, rules = random_case(seed)
    platforms = []
    for layout in ("flat", "sequential"):
        (tmp_path / layout).mkdir()
        platforms.append(Platform(tmp_path / layout, layout=layout))
        world.write(platforms[-1].source, layout=layout)
        platforms[-1].materialise(*COMPUTED.values(), config=rules.config())
    flat, from_lists = platforms
    assert not (from_lists.source / "flat").exists()
    for key in COMPUTED.values():
        assert from_lists.file(key).read_bytes() == flat.file(key).read_bytes(), key
    published, flattened = (pq.read_table(platform.file("raw/multi_event")) for platform in platforms)
    assert flattened.equals(published)


def test_the_layout_is_set_by_the_environment(monkeypatch):
    monkeypatch.delenv("MS_ASSETS_LAYOUT", raising=False)
    assert Environment.read().layout == "flat"
    monkeypatch.setenv("MS_ASSETS_LAYOUT", "sequential")
    assert Environment.read().layout == "sequential"


def test_the_metadata_says_which_layout_was_read(lists, file):
    metadata = metadata_of(lists.materialise("raw/multi_event"))
    assert (metadata["layout"], metadata["source_was_sorted"]) == ("sequential", True)
    assert (metadata["source_file"], metadata["dagster/row_count"]) == (str(file), 4)
    assert metadata_of(lists.materialise("raw/embeddings"))["layout"] == "flat"


def test_a_sequential_file_is_left_as_it_is_and_its_rows_are_a_file_of_their_own(lists, file):
    before = file.read_bytes()
    lists.materialise("raw/multi_event")
    assert file.read_bytes() == before
    assert not lists.file("raw/multi_event").is_symlink()
    assert rows_of(pq.read_table(lists.file("raw/multi_event"))) == EVENTS
    assert [path for path in lists.files() if "unfinished" in path] == []


@pytest.mark.parametrize("name", ["listens", "likes", "dislikes", "unlikes", "undislikes"])
def test_the_tables_of_one_type_are_read_from_lists_too(lists, name):
    columns = [column.name for column in TABLES[name].columns]
    events = WORLD.multi_event().select(columns)
    write_table(lists.source, f"sequential/50m/{name}.parquet", sequential(events))
    lists.materialise(f"raw/{name}")
    assert pq.read_table(lists.file(f"raw/{name}")).equals(events)


@pytest.mark.parametrize("n", [layouts.USERS_AT_A_TIME, 3 * layouts.USERS_AT_A_TIME + 1])
def test_more_users_than_are_held_at_a_time_are_flattened_in_order(tmp_path, n):
    events = [listen(uid, time, 10) for uid in range(n) for time in range(uid % 3)]
    table = sequential(World([*events, listen(n, 0, None)], []).multi_event())
    assert rows_of(flattened(tmp_path, table)) == [*events, listen(n, 0, None)]


def test_a_user_without_events_has_no_rows_and_a_file_without_users_has_columns(tmp_path):
    table = sequential(WORLD.multi_event())
    nobody = pa.Table.from_pylist([{"uid": 3, **{name: [] for name in table.column_names[1:]}}], table.schema)
    for given, expected in ((pa.concat_tables([nobody, table, nobody]), EVENTS), (table.slice(0, 0), [])):
        flat = flattened(tmp_path, given)
        assert rows_of(flat) == expected
        assert flat.schema.types == WORLD.multi_event().schema.types


def test_wide_lists_and_columns_more_are_accepted_in_any_order(tmp_path):
    table = sequential(WORLD.multi_event())
    wide = [pa.large_list(field.type.value_type) for field in table.schema if field.name != "uid"]
    table = table.cast(pa.schema(list(zip(table.column_names, [pa.int64(), *wide], strict=True))))
    table = table.append_column("session", pa.array(["a", "b", "c"])).select([7, 6, 5, 4, 3, 2, 1, 0])
    assert rows_of(flattened(tmp_path, table)) == EVENTS


def test_lists_may_lack_columns_have_other_types_and_lie_in_parts(lists, file):
    table = sequential(WORLD.multi_event()).drop_columns(["is_organic", "track_length_seconds"])
    wide = {"item_id": pa.list_(pa.int64()), "uid": pa.int16()}
    table = table.cast(pa.schema([field.with_type(wide.get(field.name, field.type)) for field in table.schema]))
    file.unlink()
    for number in range(3):
        write_table(file, f"part-{number}.parquet", table.slice(number, 1))
    metadata = metadata_of(lists.materialise("raw/multi_event"))
    stored = pq.read_table(lists.file("raw/multi_event"))
    assert rows_of(stored) == [event._replace(is_organic=None, track_length_seconds=None) for event in EVENTS]
    assert (stored.schema.types[0], stored.schema.types[3]) == (pa.uint32(), pa.uint8())
    assert metadata["source_differs"].startswith("uid has type SMALLINT")
    assert [path for path in lists.files() if "unfinished" in path] == []


def with_lists(name, values):
    table = sequential(WORLD.multi_event())
    index = table.column_names.index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(name).type))


DIFFER = "; expected lists of one length for each user: write the file again"
REFUSED = {
    "lists of different lengths": (
        with_lists("item_id", [[10, 11], [], [10]]),
        f"for uid 2 column timestamp has 1 values and column item_id 0{DIFFER}",
    ),
    "lengths swapped between users": (
        with_lists("item_id", [[10], [11, None], [10]]),
        f"for uid 1 column timestamp has 2 values and column item_id 1{DIFFER}",
    ),
    "a null list": (
        with_lists("timestamp", [[0, 5], None, [0]]),
        f"for uid 2 column timestamp has None values and column item_id 1{DIFFER}",
    ),
    "a missing column": (sequential(WORLD.multi_event()).drop_columns("timestamp"), "column timestamp is missing"),
    "a column without lists": (
        sequential(WORLD.multi_event()).set_column(3, "is_organic", pa.array([1, 1, 1], pa.uint8())),
        "column is_organic has type uint8, expected a list for each user",
    ),
    "the flat layout": (WORLD.multi_event(), "column timestamp has type uint32, expected a list for each user"),
    "lists of users": (
        sequential(WORLD.multi_event()).set_column(0, "uid", pa.array([[1], [2], [4]], pa.list_(pa.uint32()))),
        r"column uid has type UINTEGER\[\]",
    ),
    "values out of range": (
        with_lists("played_ratio_pct", [[100, None], [101], [20]]),
        "column played_ratio_pct has 1",
    ),
    "an unknown event type": (with_lists("event_type", [["listen", "skip"], ["like"], ["listen"]]), "example skip"),
}


@pytest.mark.parametrize(("table", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_sequential_file_is_refused_by_its_name_and_nothing_is_left(lists, file, table, expected):
    pq.write_table(table, file)
    with unchanged(lists), pytest.raises(SourceError, match=f"{re.escape(str(file))}: .*{expected}"):
        lists.materialise("raw/multi_event")


def test_a_sequential_file_cut_short_is_refused_by_its_name(lists, file):
    file.write_bytes(file.read_bytes()[:-20])
    with unchanged(lists), pytest.raises(SourceError, match=f"{re.escape(str(file))}: not a whole Parquet file"):
        lists.materialise("raw/multi_event")


def test_an_unknown_layout_is_refused_by_the_variable(tmp_path):
    platform = Platform(tmp_path, layout="wide")
    WORLD.write(platform.source)
    refused = pytest.raises(SourceError, match=r"MS_ASSETS_LAYOUT: found 'wide', expected flat or sequential")
    with unchanged(platform), refused:
        platform.materialise("raw/multi_event")


# the order


USER_AND_TIME = [(9, 5), (2, 5), (9, 0), (2, 5), (2, 0), (9, 5)]
SHUFFLED = [listen(uid, time, song) for song, (uid, time) in enumerate(USER_AND_TIME)]
SORTED = [SHUFFLED[place] for place in (4, 1, 3, 2, 0, 5)]


def test_an_unsorted_source_becomes_a_sorted_file_of_its_own(platform):
    World(SHUFFLED, [10]).write(platform.source)
    source = platform.source / "flat/50m/multi_event.parquet"
    before = source.read_bytes()
    run = platform.materialise("raw/multi_event")
    assert metadata_of(run)["source_was_sorted"] is False
    file = platform.file("raw/multi_event")
    assert not file.is_symlink()
    assert pq.read_table(file).schema.names == World(SHUFFLED, [10]).multi_event().schema.names
    assert rows_of(pq.read_table(file)) == SORTED
    assert source.read_bytes() == before


def test_a_warning_names_the_file_that_is_not_sorted(platform, monkeypatch):
    World(SHUFFLED, [10]).write(platform.source)
    logged = []
    monkeypatch.setattr("dagster.DagsterLogManager.warning", lambda _, text, *__: logged.append(text))
    platform.materialise("raw/multi_event")
    file = f"{platform.source}/flat/50m/multi_event.parquet"
    assert logged == [f"{file}: not sorted by uid and time; writing a sorted copy"]


def test_the_order_of_the_file_settles_ties_in_the_parts(platform):
    parts = [f"splits/{name}" for name in ("songs", "train", "validation", "test")]
    platform.split(World(SHUFFLED, list(range(6))), Rules(train_ratio="0.34", validation_ratio="0.33"), *parts)
    item = [row["item_id"] for row in platform.rows("splits/songs")]
    found = [[(row["user_id"], item[row["song_id"]]) for row in platform.rows(part)] for part in parts[1:]]
    # ⌊0.34 · 3⌋ = 1, ⌊0.67 · 3⌋ = 2: user 2 hears song 4, then 1 and 3 at once; user 9 song 2, then 0 and 5 at once.
    assert found == [[(0, 4), (1, 2)], [(0, 1), (1, 0)], [(0, 3), (1, 5)]]


def test_a_sorted_source_is_linked(platform):
    World(SORTED, [10]).write(platform.source)
    run = platform.materialise("raw/multi_event")
    assert metadata_of(run)["source_was_sorted"] is True
    assert platform.file("raw/multi_event").samefile(platform.source / "flat/50m/multi_event.parquet")


def test_a_copy_gives_way_to_a_link_when_the_source_is_mended_and_the_other_way_round(platform):
    source, file = platform.source / "flat/50m/multi_event.parquet", platform.file("raw/multi_event")
    for events in (SHUFFLED, SORTED, SHUFFLED):
        World(events, [10]).write(platform.source)
        before = source.read_bytes()
        platform.materialise("raw/multi_event")
        assert file.is_symlink() == (events == SORTED)
        assert rows_of(pq.read_table(file)) == SORTED
        assert source.read_bytes() == before
        assert not source.is_symlink()


def test_lists_of_users_out_of_order_become_sorted_rows(lists):
    World(SHUFFLED, [10]).write(lists.source, layout="sequential")
    metadata = metadata_of(lists.materialise("raw/multi_event"))
    assert (metadata["layout"], metadata["source_was_sorted"]) == ("sequential", False)
    assert rows_of(pq.read_table(lists.file("raw/multi_event"))) == SORTED
    assert [path for path in lists.files() if "unfinished" in path] == []


ORDERS = {
    "nothing": ([], True),
    "one row": ([(1, 5)], True),
    "ties": ([(1, 5), (1, 5), (2, 0)], True),
    "a user earlier": ([(1, 5), (3, 0), (2, 9)], False),
    "a time earlier": ([(1, 5), (2, 9), (2, 8)], False),
    "a user comes back": ([(1, 5), (2, 5), (1, 6)], False),
    "times begin again with the next user": ([(1, 9), (2, 0)], True),
    "a time unknown, last": ([(1, 5), (1, None), (1, None), (2, 0)], True),
    "a time unknown, not last": ([(1, None), (1, 5)], False),
    "users unknown, last": ([(2**32 - 2, 5), (None, 0), (None, 5), (None, None)], True),
    "a user unknown, not last": ([(None, 0), (1, 5)], False),
    "a user unknown, times not in order": ([(1, 5), (None, 5), (None, 0)], False),
    "a user unknown, no time": ([(None, None), (None, None)], True),
}


def of_order(uid_and_time):
    types = {"uid": pa.uint32(), "timestamp": pa.uint32()}
    return pa.Table.from_pylist([dict(zip(types, row, strict=True)) for row in uid_and_time], pa.schema(types))


@pytest.mark.parametrize("group", [1, 2, 100], ids=["a row a group", "two rows a group", "one group"])
@pytest.mark.parametrize(("rows", "expected"), ORDERS.values(), ids=ORDERS)
def test_rows_are_sorted_by_user_then_time_with_unknown_ones_last(con, tmp_path, rows, expected, group):
    pq.write_table(of_order(rows), tmp_path / "events.parquet", row_group_size=group)
    events = read(con, tmp_path / "events.parquet")
    assert layouts.is_sorted(events) == expected
    wanted = sorted(rows, key=lambda row: [(value is None, value or 0) for value in row])
    assert layouts.in_order(events).fetchall() == wanted
    assert (rows == wanted) == expected


@pytest.mark.parametrize("wrong", [122_880, 250_000, 299_999])
def test_one_row_out_of_order_is_found_among_many_row_groups(tmp_path, wrong):
    con = duckdb.connect(config={"threads": 4})
    times = list(range(300_000))
    in_order = pa.table({"uid": pa.array([7] * len(times), pa.uint32()), "timestamp": pa.array(times, pa.uint32())})
    times[wrong] = times[wrong - 1] - 1
    broken = in_order.set_column(1, "timestamp", pa.array(times, pa.uint32()))
    for table, expected in ((in_order, True), (broken, False)):
        pq.write_table(table, tmp_path / "events.parquet", row_group_size=10_000)
        assert layouts.is_sorted(read(con, tmp_path / "events.parquet")) == expected


def test_ties_stay_in_the_order_of_the_file_across_row_groups_and_threads(tmp_path):
    rng = random.Random(0)
    n = 60_000
    uids, times = rng.choices([*range(5), None], k=n), rng.choices([0, 5, None], k=n)
    table = pa.table({"uid": pa.array(uids, pa.uint32()), "timestamp": pa.array(times, pa.uint32()), "place": range(n)})
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=1_000)
    con = duckdb.connect(config={"threads": 4})
    ordered = layouts.in_order(read(con, tmp_path / "events.parquet")).fetchall()
    assert ordered == sorted(rows_of(table), key=lambda row: [(value is None, value or 0) for value in row])


def test_the_widest_accepted_types_give_the_same_tables(tmp_path):
    world, rules = random_case(1)
    digests = []
    for name, (id_, small) in {"a": (pa.uint32(), pa.uint8()), "b": (pa.uint64(), pa.int64())}.items():
        (tmp_path / name).mkdir()
        platform = Platform(tmp_path / name)
        world.write(platform.source)
        events = world.multi_event()
        types = dict.fromkeys(("uid", "item_id", "timestamp"), id_)
        types |= {"is_organic": small, "track_length_seconds": pa.float64()}
        schema = pa.schema([field.with_type(types.get(field.name, field.type)) for field in events.schema])
        write_table(platform.source, "flat/50m/multi_event.parquet", events.cast(schema))
        platform.materialise(*COMPUTED.values(), config=rules.config())
        digests.append({key: platform.file(key).read_bytes() for key in COMPUTED.values()})
    assert digests[0] == digests[1]
