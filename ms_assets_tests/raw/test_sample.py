"""The generated sample has the size, the plants and the repeatability that everything offline leans on."""

from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ms_assets.raw.arrival import verify
from ms_assets.raw.sample import USERS_PER_BLOCK, SampleShape, generate
from ms_assets.raw.schema import TABLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "first"
    generate(folder, SampleShape())
    return folder


def content(of):
    return {str(p.relative_to(of)): p.read_bytes() for p in of.rglob("*.parquet")}


@pytest.fixture(scope="module")
def events(folder):
    return pl.read_parquet(folder / "flat/sample/multi_event.parquet")


@pytest.mark.parametrize("name", TABLES)
def test_every_file_passes_the_checks_of_the_published_ones(con, folder, name):
    verify(con, folder / TABLES[name].file("sample"), TABLES[name])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(folder, tmp_path):
    small = {"n_users": 40, "n_songs": 300, "n_listens": 2_000}
    generate(tmp_path / "again", SampleShape())
    generate(tmp_path / "small", SampleShape(**small))
    generate(tmp_path / "other", SampleShape(**small, seed=8))

    assert len(content(folder)) == 9
    assert content(folder) == content(tmp_path / "again")
    small, other = content(tmp_path / "small"), content(tmp_path / "other")
    assert all(small[file] != other[file] for file in small)


def test_any_number_of_threads_gives_the_same_bytes(folder, tmp_path):
    for threads in (1, 3):
        generate(tmp_path / str(threads), SampleShape(), threads=threads)
        assert content(tmp_path / str(threads)) == content(folder)


def test_a_user_lies_in_one_row_group(folder):
    metadata = pq.read_metadata(folder / "flat/sample/multi_event.parquet")
    spans = [metadata.row_group(i).column(0).statistics for i in range(metadata.num_row_groups)]
    assert len(spans) == 1_000 / USERS_PER_BLOCK
    assert all(before.max < after.min for before, after in pairwise(spans))


def test_the_files_lie_where_the_scale_belongs(tmp_path):
    generate(tmp_path / "data", SampleShape(n_users=40, n_songs=300, n_listens=2_000), scale="50m")
    assert set(content(tmp_path / "data")) == {table.file("50m") for table in TABLES.values()}


def test_nothing_unfinished_stays_behind(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["first"]


def test_the_sample_has_about_a_thousand_users_and_three_hundred_thousand_events(events, folder):
    assert events["uid"].n_unique() == 1_000
    assert 290_000 <= len(events) <= 310_000
    assert 14_000 <= events["item_id"].n_unique() <= 20_000
    mapping = pl.read_parquet(folder / "artist_item_mapping.parquet")
    assert 18_000 <= mapping["item_id"].n_unique() <= 20_000


def test_events_stand_in_the_published_order_and_end_at_the_published_time(events):
    assert events.equals(events.sort("uid", "timestamp", maintain_order=True))
    assert events["timestamp"].max() == 26_000_000
    assert (events["timestamp"] % 5 == 0).all()


def test_a_single_type_file_holds_the_events_of_its_type(events, folder):
    for kind in ("listen", "like", "dislike", "unlike", "undislike"):
        alone = pl.read_parquet(folder / f"flat/sample/{kind}s.parquet")
        assert len(alone) > 100
        assert alone.equals(events.filter(event_type=kind).select(alone.columns))


def test_songs_have_several_artists_or_none_and_some_have_no_audio(events, folder):
    artists = pl.read_parquet(folder / "artist_item_mapping.parquet").group_by("item_id").len()
    audio = pl.read_parquet(folder / "embeddings.parquet")["item_id"]
    played = events["item_id"].drop_nulls().unique()
    assert artists.filter(pl.col("len") > 1).height > 500
    assert played.is_in(artists["item_id"].implode()).mean() < 0.99
    assert 0.7 < played.is_in(audio.implode()).mean() < 0.9


def test_rows_without_song_and_listens_without_ratio_are_planted(events):
    listens = events.filter(event_type="listen")
    assert 0 < events["item_id"].null_count() < 500
    assert 0.005 < listens["played_ratio_pct"].null_count() / len(listens) < 0.02
    others = events.filter(pl.col("event_type") != "listen")
    assert others["played_ratio_pct"].null_count() == len(others)


def test_most_listens_of_a_user_repeat_a_song(events):
    listens = events.filter(event_type="listen").drop_nulls("item_id")
    replayed = 1 - listens.select("uid", "item_id").n_unique() / len(listens)
    assert 0.4 < replayed < 0.7


def test_taste_is_planted_in_the_audio(events, folder):
    audio = pl.read_parquet(folder / "embeddings.parquet").select("item_id", "normalized_embed")
    heard = events.head(30_000).select("uid", "item_id").unique(maintain_order=True)
    heard = heard.join(audio, on="item_id", maintain_order="left")
    vectors = heard["normalized_embed"].explode().to_numpy().reshape(-1, 128)
    same_user = (heard["uid"] == heard["uid"].shift(1)).fill_null(False).to_numpy()
    own = (vectors * np.roll(vectors, 1, axis=0)).sum(axis=1)[same_user]
    strangers = (vectors * np.roll(vectors, len(vectors) // 2, axis=0)).sum(axis=1)
    assert own.mean() > strangers.mean() + 0.05


@pytest.mark.parametrize("protocol", ["per_user", "global_temporal"])
def test_both_protocols_meet_cold_songs_and_find_cold_negatives(sample, protocol):
    platform = sample(protocol)
    songs = pl.read_parquet(platform.file("splits/songs", "sample"))
    cold = songs.filter(~pl.col("in_graph"))["song_id"].implode()
    parts = {part: pl.read_parquet(platform.file(f"splits/{part}", "sample")) for part in ("validation", "test")}
    for rows in parts.values():
        assert len(rows) > 500
        assert rows["song_id"].is_in(cold).sum() >= 5
    negatives = pl.read_parquet(platform.file("splits/negatives", "sample"))
    assert (~negatives["in_graph"]).sum() > 10
    assert negatives["in_graph"].sum() > 1_000
    assert len(pl.read_parquet(platform.file("splits/users", "sample"))) > 700
