"""How values become files: whole or not at all, with what is known of them, and back."""

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_assets.defs.platform.io_managers import MissingPartitionError, TableIOManager, published
from ms_assets.defs.platform.scales import SCALES
from ms_assets.defs.platform.schemas import as_metadata
from ms_assets.streams import ROW_GROUP, TableStream
from ms_assets_tests.conftest import unchanged
from ms_assets_tests.worlds import Rules, World, listen

COLUMNS = as_metadata({"song_id": ("INTEGER", "song"), "score": ("DOUBLE", "score")})
WORLD = World([listen(1, i, 10 + i % 3) for i in range(10)], [10, 11, 12])


def rows_of(con, n, score="i / 2"):
    return con.sql(f"SELECT i::INTEGER AS song_id, ({score})::DOUBLE AS score FROM range({n}) t(i)")


def test_a_relation_a_frame_and_an_arrow_table_come_back_as_the_same_lazy_relation(shelf):
    ids, scores = pa.array([0, 1], pa.int32()), pa.array([0.0, 0.5])
    arrow = pa.table({"song_id": ids, "score": scores})
    for value in (rows_of(shelf.con, 2), arrow, pl.from_arrow(arrow)):
        shelf.put(value)
        found = shelf.get()
        assert found.columns == ["song_id", "score"]
        assert found.fetchall() == [(0, 0.0), (1, 0.5)]


def test_a_file_lies_under_room_asset_and_scale(shelf):
    for scale in ("50m", "5b"):
        shelf.put(rows_of(shelf.con, 2), scale=scale)
    assert sorted(shelf.files()) == ["room/value/50m.parquet", "room/value/5b.parquet"]


def test_a_table_is_compressed_with_zstd(shelf):
    for value in (rows_of(shelf.con, 1_000), rows_of(shelf.con, 1_000).to_arrow_table()):
        shelf.put(value)
        metadata = pq.read_metadata(shelf.folder / "data/room/value/50m.parquet")
        assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_vector_column_keeps_its_fixed_size(shelf):
    @dg.asset(partitions_def=SCALES, metadata=as_metadata({"embedding": ("FLOAT[]", "vector")}))
    def vectors():
        array = pa.FixedSizeListArray.from_arrays(pa.array(range(6), pa.float32()), 3)
        return pa.table({"embedding": array})

    dg.materialize([vectors], resources=shelf.managers, partition_key="50m")
    file = shelf.folder / "data/vectors/50m.parquet"
    assert pq.read_schema(file).field("embedding").type == pa.list_(pa.float32(), 3)
    assert pl.read_parquet(file)["embedding"].to_list() == [[0, 1, 2], [3, 4, 5]]


def test_the_metadata_tells_rows_size_place_time_and_memory(shelf):
    metadata = shelf.put(rows_of(shelf.con, 7)).materialization.metadata
    file = shelf.folder / "data/room/value/50m.parquet"
    assert metadata["dagster/row_count"].value == 7
    assert metadata["dagster/uri"].value == file.as_uri()
    assert metadata["size_bytes"].value == file.stat().st_size
    assert metadata["write_seconds"].value >= 0
    assert metadata["peak_memory_mib"].value > 10


@pytest.mark.parametrize(
    "wrong",
    [
        "SELECT 1::INTEGER AS song_id",
        "SELECT 1::INTEGER AS song_id, 1.0::DOUBLE AS score, 1 AS more",
        "SELECT 1.0::DOUBLE AS score, 1::INTEGER AS song_id",
        "SELECT 1::BIGINT AS song_id, 1.0::DOUBLE AS score",
    ],
    ids=["missing", "more", "order", "type"],
)
@pytest.mark.parametrize("kind", ["relation", "arrow"])
def test_other_columns_than_declared_are_refused_by_asset(shelf, wrong, kind):
    relation = shelf.con.sql(wrong)
    value = relation if kind == "relation" else relation.to_arrow_table()
    with unchanged(shelf), pytest.raises(TypeError, match="room/value: expected columns"):
        shelf.put(value)


def test_a_query_that_fails_half_way_leaves_the_earlier_table_and_nothing_else(shelf):
    shelf.put(rows_of(shelf.con, 10))
    fails_late = rows_of(shelf.con, 1_000_000, "CASE WHEN i = 999000 THEN error('broken') ELSE i END")
    with unchanged(shelf), pytest.raises(Exception, match="broken"):
        shelf.put(fails_late)


def scores(low, high):
    return pa.table({"song_id": pa.array(range(low, high), pa.int32()), "score": [i / 2 for i in range(low, high)]})


def test_a_stream_of_tables_is_one_table_in_row_groups_of_one_size(shelf):
    n = ROW_GROUP + 10
    shelf.put(TableStream(scores(low, min(low + 50_000, n)) for low in range(0, n, 50_000)))
    assert shelf.get().to_arrow_table().equals(scores(0, n))
    metadata = pq.read_metadata(shelf.folder / "data/room/value/50m.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [ROW_GROUP, 10]


def test_a_stream_that_breaks_off_leaves_the_earlier_table_and_nothing_else(shelf):
    def breaking():
        yield scores(0, 2 * ROW_GROUP)
        raise ZeroDivisionError

    shelf.put(TableStream([scores(0, 3)]))
    with unchanged(shelf), pytest.raises(ZeroDivisionError):
        shelf.put(TableStream(breaking()))


def test_a_stream_of_other_columns_than_declared_is_refused(shelf):
    with unchanged(shelf), pytest.raises(TypeError, match="room/value: expected columns"):
        shelf.put(TableStream([scores(0, 3).drop_columns("score")]))


def write_drafts(shelf, given_back, error=None):
    """An asset of two outputs that fills both drafts, gives back some of them, and may fail after that."""
    keys = {name: dg.AssetKey(["room", name]) for name in ("left", "right")}
    outs = {name: dg.AssetOut(key=key, metadata=COLUMNS, is_required=False) for name, key in keys.items()}

    @dg.multi_asset(outs=outs, partitions_def=SCALES)
    def both(io_manager: dg.ResourceParam[TableIOManager]):
        with io_manager.drafts(keys, "50m") as drafts:
            for number, name in enumerate(keys):
                drafts[name].append(scores(0, 2))
                drafts[name].append(scores(2, 5 + number))
            for name in given_back:
                yield dg.Output(drafts[name], output_name=name)
            if error:
                raise error

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    dg.materialize([both], resources=shelf.managers, partition_key="50m", run_config=quiet)


def test_drafts_that_are_given_back_are_published_and_the_others_removed(shelf):
    write_drafts(shelf, ["right"])
    assert list(shelf.files()) == ["room/right/50m.parquet"]
    assert pq.read_table(shelf.folder / "data/room/right/50m.parquet").equals(scores(0, 6))
    write_drafts(shelf, ["left", "right"])
    assert sorted(shelf.files()) == ["room/left/50m.parquet", "room/right/50m.parquet"]
    assert pq.read_table(shelf.folder / "data/room/left/50m.parquet").equals(scores(0, 5))


def test_drafts_of_a_body_that_raises_are_removed(shelf):
    write_drafts(shelf, ["left", "right"])
    with unchanged(shelf), pytest.raises(ZeroDivisionError):
        write_drafts(shelf, [], ZeroDivisionError())


def test_a_draft_published_before_its_body_raises_is_whole(shelf):
    with pytest.raises(ZeroDivisionError):
        write_drafts(shelf, ["left"], ZeroDivisionError())
    assert list(shelf.files()) == ["room/left/50m.parquet"]
    assert pq.read_table(shelf.folder / "data/room/left/50m.parquet").equals(scores(0, 5))


def test_a_draft_without_columns_is_an_error_and_leaves_nothing(shelf):
    manager, keys = shelf.managers["io_manager"], {"value": dg.AssetKey(["room", "value"])}
    with pytest.raises(AssertionError, match="a table has columns"), manager.drafts(keys, "50m") as drafts:
        drafts["value"].finish()
    assert shelf.files() == {}


def test_what_is_stored_is_found_without_being_an_input(shelf):
    manager, key = shelf.managers["io_manager"], dg.AssetKey(["room", "value"])
    assert manager.stored(key, "50m") is None
    shelf.put(scores(0, 3))
    assert manager.stored(key, "50m").to_arrow_table().equals(scores(0, 3))
    assert manager.stored(key, "5b") is None


def test_a_body_that_raises_publishes_nothing(tmp_path):
    target = tmp_path / "room" / "table.parquet"
    with pytest.raises(KeyboardInterrupt), published(target) as unfinished:
        unfinished.write_text("half")
        assert not target.exists()
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []


def test_publishing_replaces_a_link_and_not_what_it_points_to(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("source")
    target.symlink_to(source)
    with published(target) as unfinished:
        unfinished.write_text("new")
    assert target.read_text() == "new"
    assert source.read_text() == "source"


def test_a_missing_input_says_what_to_materialise_for_which_scale(platform):
    with unchanged(platform), pytest.raises(MissingPartitionError, match="materialise splits/train for 50m first"):
        platform.materialise("graph/edges", alone=True)


def test_a_scale_does_not_read_the_files_of_another(platform):
    WORLD.write(platform.source)
    platform.materialise("raw/multi_event")
    with pytest.raises(MissingPartitionError, match="materialise raw/multi_event for 500m first"):
        platform.materialise("raw/statistics_report", scale="500m", alone=True)


def test_a_link_whose_source_is_gone_says_so(platform):
    WORLD.write(platform.source)
    platform.materialise("raw/multi_event")
    multi_event = platform.source / "flat/50m/multi_event.parquet"
    multi_event.unlink()
    with pytest.raises(MissingPartitionError, match=f"materialise raw/multi_event for 50m.*{multi_event} is gone"):
        platform.materialise("raw/statistics_report", alone=True)


def test_a_failing_asset_leaves_every_earlier_file_as_it_was(platform):
    platform.split(WORLD, Rules(), "splits/users")
    with unchanged(platform), pytest.raises(ValueError, match="no user has between 500"):
        platform.materialise("splits/users", alone=True, config=Rules(min_events=500).config())
