"""Lists of other programs: read with the data's own ids, refused by name, user and rank, compared like our own."""

import polars as pl
import pytest

from ms_assets.files import DamagedFileError
from ms_assets.retrieval import own_lists
from ms_assets.splits.export import export

USERS, SONGS = ["ann", "bob", "cem"], ["s0", "s1", "s2", "s3"]


@pytest.fixture
def splits(con):
    """Three users and four songs with ids of their own; ann has heard s1."""
    number = {"user_id": pl.Int32, "song_id": pl.Int32, "uid": pl.Int64, "item_id": pl.Int64}
    events = [(0, 1, 60, "like", None), (0, 1, 5, "listen", 0.5), (1, 3, 70, "listen", None)]
    columns = ["user_id", "song_id", "timestamp", "event_type", "played_ratio"]
    frames = {
        "users": pl.DataFrame({"user_id": [0, 1, 2], "uid": [10, 11, 12]}),
        "songs": pl.DataFrame({"song_id": range(4), "item_id": range(20, 24)}),
        "train": pl.DataFrame(events, columns, orient="row"),
        "user_ids": pl.DataFrame({"uid": [10, 11, 12], "user": USERS}),
        "song_ids": pl.DataFrame({"item_id": range(20, 24), "song": SONGS}),
    }
    frames = {
        name: frame.cast({c: t for c, t in number.items() if c in frame.columns}) for name, frame in frames.items()
    }
    return {name: con.from_arrow(frame.to_arrow()) for name, frame in frames.items()}


def without_own_ids(splits):
    return {**splits, **{name: splits[name].filter("false") for name in ("user_ids", "song_ids")}}


def write(folder, rows, columns=("user", "song", "rank"), name="mine", scale="own"):
    file = folder / name / f"{scale}.parquet"
    file.parent.mkdir(exist_ok=True)
    pl.DataFrame(rows, columns, orient="row").write_parquet(file)
    return file


def read(con, folder, splits, scale="own"):
    return own_lists.read(con, own_lists.files_of(folder, scale), **splits)


LISTS = [("ann", "s1", 1), ("ann", "s2", 2), ("ann", "s0", 3), ("bob", "s0", 1)]


def test_a_list_is_one_of_both_views_and_heard_songs_are_no_discovery(con, splits, tmp_path):
    write(tmp_path, LISTS)
    found = read(con, tmp_path, splits).project("method, view, user_id, uid, rank, song_id, item_id").fetchall()
    assert found == [
        ("mine", "all", 0, 10, 1, 1, 21),
        ("mine", "all", 0, 10, 2, 2, 22),
        ("mine", "all", 0, 10, 3, 0, 20),
        ("mine", "all", 1, 11, 1, 0, 20),
        ("mine", "discovery", 0, 10, 1, 2, 22),
        ("mine", "discovery", 0, 10, 2, 0, 20),
        ("mine", "discovery", 1, 11, 1, 0, 20),
    ]


def test_scores_are_ranked_and_ranks_stand_for_scores(con, splits, tmp_path):
    write(tmp_path, [("ann", "s0", 0.5), ("ann", "s2", 2.5)], ("user_id", "item_id", "score"))
    write(tmp_path, LISTS[:2], name="other")
    found = read(con, tmp_path, splits).filter("view = 'all'").project("method, rank, song_id, score").fetchall()
    assert found == [("mine", 1, 2, 2.5), ("mine", 2, 0, 0.5), ("other", 1, 1, 1.0), ("other", 2, 2, 0.5)]


def test_without_own_ids_ids_are_those_of_the_data_and_dense_ones_are_not_read(con, splits, tmp_path):
    write(tmp_path, [(10, 0, 22, 9, 1)], ("uid", "user_id", "item_id", "song_id", "rank"), scale="50m")
    assert len(read(con, tmp_path, without_own_ids(splits), "50m")) == 2
    write(tmp_path, [(0, 2, 1)], ("user_id", "song_id", "rank"), scale="50m")
    with pytest.raises(ValueError, match="found columns user_id, song_id, rank, expected user, song, and rank"):
        read(con, tmp_path, without_own_ids(splits), "50m")


def test_lists_end_after_a_hundred_songs_that_count_in_the_view(con, splits, tmp_path):
    songs = pl.DataFrame({"song_id": range(150), "item_id": range(150)}, {"song_id": pl.Int32, "item_id": pl.Int64})
    given = {**splits, "songs": con.from_arrow(songs.to_arrow()), "song_ids": splits["song_ids"].filter("false")}
    write(tmp_path, [("ann", song, song + 1) for song in range(150)])
    found = read(con, tmp_path, given).filter("rank = 100").project("view, song_id").fetchall()
    assert found == [("all", 99), ("discovery", 100)]


def test_no_files_are_no_lists_and_files_of_other_scales_are_left_alone(con, splits, tmp_path):
    write(tmp_path, LISTS, scale="50m")
    (tmp_path / ".hidden").mkdir()
    found = read(con, tmp_path, splits)
    assert len(found) == 0
    assert len(read(con, tmp_path / "nowhere", splits)) == 0
    assert own_lists.of_methods(found) == {}


BAD = {
    "unknown user": ([*LISTS, ("dan", "s1", 1)], r"an unknown user, user dan, song s1 at rank 1 \(1 such rows\)"),
    "unknown song": ([*LISTS, ("bob", "x", 2)], "an unknown song, user bob, song x at rank 2"),
    "a song twice": ([*LISTS, ("bob", "s0", 2)], "a song that the list has already, user bob, song s0 at rank 2"),
    "a gap": ([*LISTS, ("bob", "s2", 3)], "a rank left out or given twice, user bob, song s2 at rank 3"),
    "from 2": ([("bob", "s2", 2)], "a rank left out or given twice, user bob, song s2 at rank 2"),
    "no rank": ([("bob", "s2", None)], "a score that is no number, user bob, song s2 at rank None"),
    "no rows": ([], "found no rows, expected lists"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_list_is_refused_by_its_file_user_and_rank(con, splits, tmp_path, case):
    rows, said = BAD[case]
    write(tmp_path, rows)
    with pytest.raises(ValueError, match=rf"mine/own\.parquet: {said}"):
        read(con, tmp_path, splits)


def test_a_score_that_is_no_number_is_refused(con, splits, tmp_path):
    write(tmp_path, [("ann", "s0", float("nan"))], ("user", "song", "score"))
    with pytest.raises(ValueError, match="a score that is no number, user ann, song s0 at rank 1"):
        read(con, tmp_path, splits)


@pytest.mark.parametrize("name", ["popular", "ranked", "it's"])
def test_a_name_that_is_taken_or_no_name_is_refused(tmp_path, name):
    write(tmp_path, LISTS, name=name)
    with pytest.raises(ValueError, match="expected a name of their own"):
        own_lists.files_of(tmp_path, "own")


def test_a_half_written_file_is_refused(con, splits, tmp_path):
    file = write(tmp_path, LISTS)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedFileError, match=r"mine/own\.parquet cannot be read"):
        read(con, tmp_path, splits)


def exported(con, folder, splits, form):
    parts = {"train": splits["train"], "validation": splits["train"].filter("user_id = 1")}
    others = {name: splits[name] for name in ("users", "songs", "user_ids", "song_ids")}
    return export(con, folder, form, "own", parts, **others)


def test_splits_are_exported_with_own_ids_in_the_form_of_each_library(con, splits, tmp_path):
    files = exported(con, tmp_path / "a", splits, "rectools")
    assert {file.name: n for file, n in files.items()} == {"train.parquet": 3, "validation.parquet": 1}
    train = pl.read_parquet(tmp_path / "a/train.parquet")
    assert train.select("user_id", "item_id", pl.col("weight").round(6), pl.col("datetime").dt.epoch("s")).rows() == [
        ("ann", "s1", 0.35, 5), ("ann", "s1", 1.0, 60), ("bob", "s3", 0.0, 70),
    ]  # fmt: skip
    exported(con, tmp_path / "b", splits, "lenskit")
    assert pl.read_parquet(tmp_path / "b/train.parquet").columns == ["user_id", "item_id", "rating", "timestamp"]
    exported(con, tmp_path / "c", splits, "recbole")
    head, first, *_ = (tmp_path / "c/own.train.inter").read_text().splitlines()
    assert head == "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    assert first.split("\t")[:2] == ["ann", "s1"]
    assert (tmp_path / "c/own.valid.inter").exists()


def test_numbers_are_exported_where_the_data_have_no_other_ids(con, splits, tmp_path):
    exported(con, tmp_path, without_own_ids(splits), "rectools")
    assert pl.read_parquet(tmp_path / "train.parquet")["user_id"].to_list() == [10, 10, 11]
