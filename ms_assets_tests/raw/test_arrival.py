"""A source file that is not what Yambda publishes is refused by file and column, and never linked."""

import random
import re

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.raw.schema import TABLES, SourceError, verify
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
    "too narrow an id": wrong("item_id", "USMALLINT", [1] * N, pa.uint16()),
    "signed 32-bit id": wrong("uid", "INTEGER", [1] * N, pa.int32()),
    "text for a number": wrong("timestamp", "VARCHAR", ["0"] * N),
    "float for an id": wrong("uid", "DOUBLE", [1.0] * N),
    "narrow ratio": wrong("played_ratio_pct", "UTINYINT", [1] * N, pa.uint8()),
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
    "short vector": ("embeddings", with_vector([1.0] * 127), "normalized_embed", "128"),
    "long vector": ("embeddings", with_vector([1.0] * 129), "normalized_embed", "128"),
    "vector with a hole": ("embeddings", with_vector([None, *[0.5] * 127]), "normalized_embed", "list_count"),
    "missing vector": ("embeddings", with_vector(None), "normalized_embed", "list_count"),
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
    with pytest.raises(SourceError, match=re.escape(f"{path}: not a whole Parquet file")):
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
