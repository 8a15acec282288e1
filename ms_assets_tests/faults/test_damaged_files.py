"""Files that are cut short, or full of something else: never read as if whole, and the error says what to do."""

import contextlib
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.platform.io_managers import CheckpointOnDisk, IndexOfOrigin
from ms_assets.files import DamagedFileError, published, remove, sweep
from ms_assets_tests.interruptions import at_change, cancelled, disk_is_full


def graph(_):
    graph = HeteroData()
    graph["user"].uid = torch.arange(100)
    return graph


def index(_):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    return IndexOfOrigin(index, {"training_run": "0123"})


def table(shelf):
    return shelf.con.sql("SELECT i::INTEGER AS song_id, i / 2::DOUBLE AS score FROM range(1000) t(i)")


VALUES = {
    "io_manager": (table, ".parquet"),
    "torch": (lambda _: {"weight": torch.arange(1000)}, ".pt"),
    "graph": (graph, ".pt"),
    "faiss": (index, ".faiss"),
    "json": (table, ".json"),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("left", ["nothing", "a byte", "half", "all but two bytes"])
def test_a_file_cut_short_is_refused_by_its_name_with_what_to_materialise(shelf, kind, left):
    value, extension = VALUES[kind]
    shelf.put(value(shelf), kind)
    file = shelf.folder / f"data/room/value/50m{extension}"
    content = file.read_bytes()
    end = {"nothing": 0, "a byte": 1, "half": len(content) // 2, "all but two bytes": len(content) - 2}[left]
    file.write_bytes(content[:end])
    with pytest.raises(DamagedFileError) as refused:
        shelf.get(kind)
    assert str(refused.value) == (
        f"{file}: the file has changed since room/value was materialised for 50m ({end:,} bytes found, "
        f"{len(content):,} recorded); materialise it again"
    )
    shelf.put(value(shelf), kind)
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", VALUES)
def test_a_file_of_another_kind_is_refused_by_its_name(shelf, kind):
    value, extension = VALUES[kind]
    shelf.put(value(shelf), kind)
    file = shelf.folder / f"data/room/value/50m{extension}"
    pl.DataFrame({"a": [1]}).write_csv(file)
    with pytest.raises(DamagedFileError, match=r"room/value was materialised for 50m .*; materialise it again"):
        shelf.get(kind)


@pytest.mark.parametrize("kind", VALUES)
def test_a_file_that_no_library_can_read_though_it_is_the_published_one_is_refused_by_its_name(shelf, kind):
    value, extension = VALUES[kind]
    shelf.put(value(shelf), kind)
    file = shelf.folder / f"data/room/value/50m{extension}"
    file.write_bytes(content := file.read_bytes()[: file.stat().st_size // 2])
    record = file.with_name("50m.origin.json")
    [made] = json.loads(record.read_text())
    record.write_text(json.dumps([made | {"version": hashlib.sha256(content).hexdigest()}]))
    with pytest.raises(DamagedFileError) as refused:
        shelf.get(kind)
    assert str(refused.value).startswith(f"{file} cannot be read (")
    assert str(refused.value).endswith("); if it is damaged, materialise room/value for 50m again")
    assert "weights_only=False" not in str(refused.value)


RECORDS = {
    "nothing": b"",
    "the beginning": b'[{"version": "0',
    "no text": b"\xff",
    "no field": b"[{}]",
    "no list": b"null",
}


@pytest.mark.parametrize("content", RECORDS.values(), ids=RECORDS)
def test_a_record_that_cannot_be_read_is_refused_by_its_name_and_materialising_again_heals(shelf, content):
    shelf.put(table(shelf))
    record = shelf.folder / "data/room/value/50m.origin.json"
    record.write_bytes(content)
    with pytest.raises(DamagedFileError) as refused:
        shelf.get()
    assert str(refused.value).startswith(f"{record} cannot be read (")
    assert str(refused.value).endswith("); if it is damaged, materialise room/value for 50m again")
    shelf.put(table(shelf))
    assert len(shelf.get()) == 1000


def test_a_checkpoint_cut_short_is_refused_by_its_name_with_the_way_out(tmp_path):
    checkpoint = CheckpointOnDisk(tmp_path / ".sample.fit.checkpoint")
    checkpoint.save({"state": torch.arange(100)})
    content = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DamagedFileError, match=r"\.sample\.fit\.checkpoint cannot .* remove it, and the training begins"
    ):
        checkpoint.load()


def test_what_killed_processes_left_of_one_scale_is_swept_and_nothing_else(tmp_path):
    room = tmp_path / "room/value"
    room.mkdir(parents=True)
    left = [
        ".50m.parquet.12.unfinished", ".50m.draft.12.unfinished", "..50m.fit.checkpoint.12.unfinished"
    ]  # fmt: skip
    kept = ["50m.parquet", ".50m.fit.checkpoint", ".500m.parquet.12.unfinished", ".5b.draft.12.unfinished"]
    for name in (*left, *kept):
        (room / name).write_text(name)
    (room / ".50m.12.unfinished").mkdir()
    (room / ".50m.12.unfinished/half").touch()
    sweep(tmp_path, "50m")
    assert sorted(path.name for path in room.rglob("*")) == sorted(kept)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_whose_replacement_was_killed_half_way_gets_its_place_back(tmp_path, replaced):
    (tmp_path / ".50m.12.former.unfinished").mkdir()
    (tmp_path / ".50m.12.former.unfinished/page").write_text("former")
    if replaced:
        (tmp_path / "50m").mkdir()
        (tmp_path / "50m/page").write_text("new")
    sweep(tmp_path, "50m")
    assert [path.name for path in tmp_path.iterdir()] == ["50m"]
    assert (tmp_path / "50m/page").read_text() == ("new" if replaced else "former")


def test_a_folder_whose_replacement_was_interrupted_half_way_keeps_its_place(tmp_path, monkeypatch):
    place = tmp_path / "50m"
    place.mkdir()
    (place / "page").write_text("former")
    replace = Path.replace

    def interrupted(self, target):
        if target == place and not self.name.endswith(".former.unfinished"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), published(place) as unfinished:
        unfinished.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["50m"]
    assert (place / "page").read_text() == "former"


@pytest.mark.parametrize("page", ["", "page"], ids=["file", "folder"])
@pytest.mark.parametrize("why", [cancelled, disk_is_full])
def test_whichever_change_of_the_disk_ends_a_replacement_one_version_is_whole_and_nothing_else_is_left(
    tmp_path, page, why
):
    """The change may be one of the tidying, too."""
    place, happened = tmp_path / "50m", []

    def write(path: Path, text: str) -> None:
        if page:
            path.mkdir()
        (path / page).write_text(text)

    for number in itertools.count(1):
        remove(place)
        write(place, "former")
        happened.clear()
        with (
            contextlib.suppress(KeyboardInterrupt, OSError),
            at_change(number, lambda: (happened.append(why), why())),
            published(place) as unfinished,
        ):
            write(unfinished, "new")
        if not happened:
            break
        assert [path.name for path in tmp_path.iterdir()] == ["50m"], f"ended at change {number}"
        assert (place / page).read_text() in ("former", "new")
    assert number > 4
