"""What the reports say of tiny files, worked out by hand."""

import pytest

from ms_assets_tests.worlds import World, listen, reaction, write_table

EVENTS = [*(listen(1, i, 10) for i in range(4)), listen(2, 0, 10), listen(2, 1, 20, None), reaction("like", 3, 0, None)]


@pytest.fixture
def published(platform):
    World(EVENTS, [10], artists=[(5, 10), (6, 10)], albums=[(7, 20)]).write(platform.source)
    platform.materialise(
        *(f"raw/{n}" for n in ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping"))
    )
    return platform


def test_the_column_report_lists_every_column_of_the_files_that_are_here(published):
    published.materialise("raw/column_report", alone=True)
    columns = {}
    for row in published.rows("raw/column_report"):
        columns.setdefault(row["file"], []).append((row["column"], row["type"], row["n_rows"], row["first_row"]))
    assert columns.pop("multi_event") == [
        ("uid", "UINTEGER", 7, "1"),
        ("timestamp", "UINTEGER", 7, "0"),
        ("item_id", "UINTEGER", 7, "10"),
        ("is_organic", "UTINYINT", 7, "1"),
        ("played_ratio_pct", "USMALLINT", 7, "100"),
        ("track_length_seconds", "USMALLINT", 7, "180"),
        ("event_type", "VARCHAR", 7, "listen"),
    ]
    assert {file: [name for name, *_ in found] for file, found in columns.items()} == {
        "embeddings": ["item_id", "embed", "normalized_embed"],
        "artist_item_mapping": ["artist_id", "item_id"],
        "album_item_mapping": ["album_id", "item_id"],
    }


def test_statistics_count_events_per_user_and_per_song(published):
    published.materialise("raw/statistics_report", alone=True)
    [row] = published.rows("raw/statistics_report")
    assert {name: row[name] for name in ("file", "n_events", "n_users", "n_songs")} == {
        "file": "multi_event",
        "n_events": 7,
        "n_users": 3,
        "n_songs": 2,
    }
    # users have 4, 2 and 1 events: mean 7/3, sample variance 7/3, quartiles 1.5, 2 and 3
    assert spread(row, "user") == pytest.approx([7 / 3, (7 / 3) ** 0.5, 1, 1.5, 2, 3, 4])
    # songs have 5 and 1: mean 3, sample variance 8
    assert spread(row, "song") == pytest.approx([3, 8**0.5, 1, 2, 3, 4, 5])


def test_a_table_fetched_on_request_is_reported_once_it_is_here(published):
    likes = World([reaction("like", 1, 5, 10)], []).multi_event()
    write_table(published.source, "flat/50m/likes.parquet", likes.select(["uid", "timestamp", "item_id", "is_organic"]))
    published.materialise("raw/likes")
    published.materialise("raw/statistics_report", "raw/column_report", alone=True)
    statistics = {row["file"]: row["n_events"] for row in published.rows("raw/statistics_report")}
    assert statistics == {"multi_event": 7, "likes": 1}
    assert "likes" in {row["file"] for row in published.rows("raw/column_report")}


def test_a_single_user_has_no_spread(platform):
    World([listen(1, 0, 10)], [10]).write(platform.source)
    platform.materialise("raw/multi_event")
    platform.materialise("raw/statistics_report", alone=True)
    [row] = platform.rows("raw/statistics_report")
    assert spread(row, "user") == [1, 0, 1, 1, 1, 1, 1]


def spread(row, of):
    return [row[f"per_{of}_{name}"] for name in ("mean", "std", "min", "q25", "median", "q75", "max")]
