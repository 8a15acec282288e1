"""Tables larger than memory: where they are cut never shows in what comes out."""

import random
import resource
import signal
from contextlib import contextmanager
from itertools import pairwise

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.streams import ROW_GROUP, TableWriter, in_user_ranges, user_ranges, whole_users

SCHEMA = pa.schema({"user_id": pa.int32(), "place": pa.int64()})


def rows_of(users):
    """A row per entry: the user, and the row's place."""
    return pa.table({"user_id": users, "place": range(len(users))}, SCHEMA)


def cut(users, ends):
    """The rows of these users as record batches that end at these rows."""
    [rows] = rows_of(users).to_batches() or [pa.RecordBatch.from_pylist([], SCHEMA)]
    return [rows.slice(low, high - low) for low, high in pairwise([0, *ends, len(users)])]


# whole users


CUTS = {
    "one batch": ([1, 1, 2, 3], []),
    "between users": ([1, 1, 2, 3], [2, 3]),
    "within users": ([1, 1, 2, 2, 3, 3], [1, 3, 5]),
    "a user longer than a batch": ([1, 2, 2, 2, 2, 2, 2, 2, 3], [3, 5, 7]),
    "a user longer than a batch, cut at its ends": ([1, 2, 2, 2, 2, 3], [1, 3, 5]),
    "only one user": ([7] * 9, [1, 2, 5]),
    "one row a batch": ([1, 1, 2, 3, 3, 3], [1, 2, 3, 4, 5]),
    "batches without rows": ([1, 1, 2, 2], [0, 0, 1, 1, 3, 4]),
    "every user in a batch of its own": ([1, 2, 3], [1, 2]),
}


@pytest.mark.parametrize(("users", "ends"), CUTS.values(), ids=CUTS)
def test_no_user_is_in_two_batches_and_no_row_is_moved(users, ends):
    check_whole_users(users, ends)


@pytest.mark.parametrize("seed", range(30))
def test_random_cuts_are_mended(seed):
    rng = random.Random(seed)
    users = sorted(rng.choices(range(rng.choice([1, 3, 20])), k=rng.randint(1, 60)))
    check_whole_users(users, sorted(rng.choices(range(len(users) + 1), k=rng.randint(0, 15))))


def check_whole_users(users, ends):
    found = list(whole_users(iter(cut(users, ends)), "user_id"))
    assert pa.Table.from_batches(found).combine_chunks().equals(rows_of(users))
    held = [set(part["user_id"].to_pylist()) for part in found]
    assert all(held), "a batch without rows is no use to anybody"
    assert sum(map(len, held)) == len(set().union(*held))


def test_a_user_is_handed_on_as_soon_as_the_next_one_begins():
    waiting = iter(cut([1, 1, 2, 2, 3, 4], [3, 4, 5]))
    first = next(whole_users(waiting, "user_id"))
    assert first["user_id"].to_pylist() == [1, 1]
    assert len(list(waiting)) >= 2, "no more than one batch is read ahead"


@pytest.mark.parametrize("ends", [[], [1], [2], [1, 2, 3]])
@pytest.mark.parametrize("users", [[2, 1, 1, 3], [1, 2, 1, 2], [1, 2, 3, 1]])
def test_users_out_of_order_are_refused_wherever_the_cuts_fall(users, ends):
    with pytest.raises(ValueError, match="rows are not sorted by user_id"):
        list(whole_users(cut(users, ends), "user_id"))


@pytest.mark.parametrize("batches", [[], cut([], [0])], ids=["no batch", "batches without rows"])
def test_nothing_gives_no_batch(batches):
    assert list(whole_users(batches, "user_id")) == []


# ranges of users


@pytest.fixture
def tables(con):
    """Two tables of users sorted by user, long and short ones, some in one table alone."""
    rng = random.Random(0)
    users = rng.sample(range(500), 60)
    first = sorted(user for user in users[:50] for _ in range(rng.choice([1, 1, 2, 30])))
    second = sorted(user for user in users[30:] for _ in range(rng.choice([1, 3])))
    return con.from_arrow(rows_of(first)), con.from_arrow(rows_of(second))


def counts_of(tables):
    counts = {}
    for table in tables:
        for user, n in table.aggregate("user_id, count(*)").fetchall():
            counts[user] = counts.get(user, 0) + n
    return counts


@pytest.mark.parametrize("rows", [1, 7, 40, 1_000])
def test_ranges_of_users_hold_every_user_once_and_about_as_many_rows_as_they_may(tables, rows):
    counts, ranges = counts_of(tables), user_ranges(*tables, rows=rows)
    held = [[user for user in sorted(counts) if first <= user <= last] for first, last in ranges]
    assert [user for users in held for user in users] == sorted(counts)
    for users, (first, last) in zip(held, ranges, strict=True):
        assert (users[0], users[-1]) == (first, last)
        assert sum(counts[user] for user in users[1:]) < rows, "only the first user may be longer than that"
    for earlier, later in pairwise(held):
        assert sum(counts[user] for user in earlier + later) >= rows, "neighbours could have been one range"


def test_one_range_holds_all_that_fits(tables):
    counts = counts_of(tables)
    assert user_ranges(*tables, rows=sum(counts.values()) + 1) == [(min(counts), max(counts))]


def by_user(con, first, second):
    return con.sql("""
        SELECT coalesce(first.user_id, second.user_id) AS user_id, count(*) AS n, sum(first.place)::BIGINT AS sum,
            max(second.place) AS last
        FROM first FULL JOIN second ON first.user_id = second.user_id GROUP BY ALL ORDER BY 1
    """)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_query_by_ranges_of_users_gives_what_it_gives_at_once(con, tables, rows):
    def query(first, second):
        return by_user(con, first, second)

    found = list(in_user_ranges(query, *tables, rows=rows).tables)
    assert len(found) == len(user_ranges(*tables, rows=rows)) > 1
    assert pa.concat_tables(found).equals(query(*tables).to_arrow_table())


def test_tables_without_rows_give_one_table_with_columns(con):
    empty = con.from_arrow(rows_of([]))
    [found] = in_user_ranges(lambda *tables: by_user(con, *tables), empty, empty, rows=5).tables
    assert (len(found), found.column_names) == (0, ["user_id", "n", "sum", "last"])


def test_a_range_is_computed_when_it_is_asked_for(con, tables):
    asked = []

    def query(first, second):
        asked.append(first)
        return by_user(con, first, second)

    stream = iter(in_user_ranges(query, *tables, rows=1).tables)
    next(stream)
    assert len(asked) == 1


# the writer

N = 2 * ROW_GROUP + 5_000


@pytest.fixture(scope="module")
def mixed():
    """Ids, times, numbers with nulls, many different numbers, text, truth, lists: what our tables hold."""
    return (
        duckdb.connect()
        .sql(f"""
            SELECT (i // 300)::INTEGER AS user_id, (hash(i) % 20000000)::BIGINT AS timestamp,
                CASE WHEN hash(i) % 7 > 0 THEN hash(i) % 101 / 100 END AS share, hash(i)::DOUBLE AS many,
                ['listen', 'like', 'dislike'][1 + (hash(i) % 3)::INTEGER] AS event_type, i % 2 = 0 AS in_graph,
                [(i % 5)::INTEGER, 7] AS ids
            FROM range({N}) t(i) ORDER BY i
        """)
        .to_arrow_table()
        .combine_chunks()
    )


def written(path, tables):
    with TableWriter(path) as writer:
        return writer.fill(tables)


def random_pieces(table, n, seed):
    ends = sorted(random.Random(seed).choices(range(len(table)), k=n))
    return [table.slice(low, high - low) for low, high in pairwise([0, *ends, len(table)])]


def by_hundreds(table, rows):
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


PIECES = {
    "of a row group": lambda table: by_hundreds(table, ROW_GROUP),
    "of less than a row group": lambda table: by_hundreds(table, 50_001),
    "of more than a row group": lambda table: by_hundreds(table, ROW_GROUP + 1),
    "of few rows": lambda table: by_hundreds(table, 999),
    "of any size": lambda table: random_pieces(table, 40, 0),
    "of which some are empty": lambda table: [table.slice(0, 0), *random_pieces(table, 5, 1), table.slice(0, 0)],
    "of several chunks": lambda table: [pa.concat_tables(random_pieces(table, 40, 2))],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_a_file_has_the_same_bytes_however_its_rows_come(tmp_path, mixed, pieces):
    whole, pieced = (written(tmp_path / name, tables) for name, tables in (("a", [mixed]), ("b", pieces(mixed))))
    assert pieced.read_bytes() == whole.read_bytes()


def test_a_file_holds_the_rows_in_their_order_in_row_groups_of_one_size(tmp_path, mixed):
    path = written(tmp_path / "table.parquet", by_hundreds(mixed, 40_000))
    assert pq.read_table(path).equals(mixed)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(3)] == [ROW_GROUP, ROW_GROUP, 5_000]
    encodings = [metadata.row_group(0).column(i).encodings for i in range(2)]
    assert all("DELTA_BINARY_PACKED" in found for found in encodings)
    assert all(metadata.row_group(0).column(i).compression == "ZSTD" for i in range(metadata.num_columns))


def test_a_table_without_rows_has_columns(tmp_path, mixed):
    path = written(tmp_path / "table.parquet", [mixed.slice(0, 0)])
    assert pq.read_schema(path).names == mixed.column_names
    assert pl.read_parquet(path).shape == (0, 7)
    assert duckdb.read_parquet(str(path)).fetchall() == []


def test_a_dictionary_of_names_comes_back_as_text(tmp_path):
    names = pa.DictionaryArray.from_arrays(pa.array([2, None, 0], pa.int8()), ["listen", "like", "unlike"])
    path = written(tmp_path / "table.parquet", [pa.table({"name": names})])
    frame = pl.read_parquet(path)
    assert frame.schema == {"name": pl.String}
    assert frame["name"].to_list() == ["unlike", None, "listen"]
    assert [str(type_) for type_ in duckdb.read_parquet(str(path)).types] == ["VARCHAR"]


@contextmanager
def files_at_most(size):
    """No file can grow beyond this, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_row_group_that_cannot_be_written_is_an_error_of_the_one_who_waits_for_it(tmp_path, mixed):
    with files_at_most(100_000), pytest.raises(OSError, match="large"):
        written(tmp_path / "table.parquet", by_hundreds(mixed, ROW_GROUP))


def test_an_error_that_comes_with_the_next_rows_is_not_swallowed(tmp_path, mixed):
    with files_at_most(100_000), pytest.raises(OSError, match="large"), TableWriter(tmp_path / "table") as writer:
        writer.append(mixed.slice(0, ROW_GROUP))
        writer.append(mixed.slice(ROW_GROUP, ROW_GROUP))


def test_a_folder_that_is_gone_is_an_error(tmp_path, mixed):
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "gone" / "table.parquet", [mixed])


def test_rows_of_other_columns_are_refused(tmp_path, mixed):
    with pytest.raises(pa.ArrowInvalid, match=r"[Ss]chema"):
        written(tmp_path / "table.parquet", [mixed, mixed.drop_columns("ids")])


def test_a_stream_that_breaks_off_leaves_the_writers_thread_at_rest(tmp_path, mixed):
    def breaking():
        yield mixed
        raise KeyboardInterrupt

    writer = TableWriter(tmp_path / "table.parquet")
    with pytest.raises(KeyboardInterrupt), writer:
        writer.fill(breaking())
    with pytest.raises(RuntimeError, match="shutdown"):
        writer._thread.submit(print)
