"""How values other than tables become files, and back."""

import os
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.platform.io_managers import IndexOfOrigin
from ms_assets.files import DamagedFileError
from ms_assets_tests.conftest import unchanged
from ms_assets_tests.shelf import Shelf
from ms_assets_tests.training.graphs import trained_model


def test_a_value_that_cannot_be_saved_leaves_the_earlier_checkpoint(shelf):
    shelf.put({"weight": torch.arange(3)}, "torch")
    with unchanged(shelf), pytest.raises(Exception, match="pickle"):
        shelf.put({"weight": torch.arange(10_000), "code": lambda: None}, "torch")


def test_a_checkpoint_comes_back_and_code_in_a_file_is_refused(shelf):
    shelf.put({"weight": torch.arange(3), "config": {"layers": 2, "name": "lightgcn"}}, "torch")
    loaded = shelf.get("torch")
    assert loaded["weight"].tolist() == [0, 1, 2]
    assert loaded["config"] == {"layers": 2, "name": "lightgcn"}
    shelf.put({"shelf": Shelf.put}, "torch")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        shelf.get("torch")


def test_a_checkpoint_has_the_same_bytes_whichever_process_writes_it(shelf):
    shelf.put({"weight": torch.arange(3)}, "torch")
    with ZipFile(shelf.folder / "data/room/value/50m.pt") as archive:
        assert not [name for name in archive.namelist() if str(os.getpid()) in name]


def test_a_trained_model_is_saved_as_tensors_and_plain_values_and_comes_back_as_it_was(shelf):
    state = {"users": torch.arange(6.0).reshape(3, 2)}
    model = replace(trained_model((0.5, 0.3), inputs={"splits/train": "abc"}, mlflow_run_id="run"), state=state)
    shelf.put(model, "model")
    stored = torch.load(shelf.folder / "data/room/value/50m.pt", weights_only=True)
    assert (stored["format"], stored["best"]["loss"], stored["settings"]["layers"]) == (4, 0.3, 3)
    loaded = shelf.get("model")
    assert torch.equal(loaded.state.pop("users"), state.pop("users"))
    assert loaded == model


@pytest.mark.parametrize(("change", "found"), [({"format": 2}, "format 2"), ({}, "format 1")])
def test_a_model_of_another_format_is_refused_with_what_to_do(shelf, change, found):
    shelf.put(trained_model(), "model")
    file = shelf.folder / "data/room/value/50m.pt"
    stored = torch.load(file, weights_only=True)
    del stored["format"]  # as files were before formats had numbers
    shelf.put({**stored, **change}, "torch")
    with pytest.raises(DamagedFileError, match=f"found {found}, expected 4: materialise training/lightgcn again"):
        shelf.get("model")


def test_a_graph_is_saved_as_tensors_and_comes_back_as_a_graph(shelf):
    graph = HeteroData()
    graph["user"].uid = torch.tensor([4, 9])
    graph["user", "interacts", "song"].edge_index = torch.tensor([[0, 1], [1, 0]])
    shelf.put(graph, "graph")
    assert isinstance(torch.load(shelf.folder / "data/room/value/50m.pt", weights_only=True), dict)
    loaded = shelf.get("graph")
    assert isinstance(loaded, HeteroData)
    assert loaded["user"].uid.tolist() == [4, 9]
    assert loaded["user", "interacts", "song"].edge_index.tolist() == [[0, 1], [1, 0]]


def test_an_index_comes_back_with_its_ids_and_its_origin(shelf):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(np.eye(4, dtype=np.float32), np.array([10, 20, 30, 40]))
    shelf.put(IndexOfOrigin(index, {"training_run": "héllo", "id_map": "1"}), "faiss")
    read = shelf.get("faiss")
    by_faiss_alone = faiss.read_index(str(shelf.folder / "data/room/value/50m.faiss"))
    for found in (read.index, by_faiss_alone):
        assert found.search(np.eye(4, dtype=np.float32), 1)[1].ravel().tolist() == [10, 20, 30, 40]
    assert read.origin == {"training_run": "héllo", "id_map": "1"}
    assert list(shelf.files()) == ["room/value/50m.faiss"]


def test_a_folder_is_replaced_whole(shelf):
    shelf.put({"a.md": b"one", "b.png": b"two"}, "folder")
    shelf.put({"a.md": b"three"}, "folder", scale="500m")
    event = shelf.put({"a.md": b"four", "c.svg": b"five"}, "folder")
    assert event.materialization.metadata["size_bytes"].value == len(b"four" + b"five")
    assert shelf.get("folder") == {"a.md": b"four", "c.svg": b"five"}
    assert shelf.files() == {
        "room/value/50m/a.md": b"four", "room/value/50m/c.svg": b"five", "room/value/500m/a.md": b"three",
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_whole_leaves_the_former_one(shelf):
    shelf.put({"a.md": b"one"}, "folder")
    with pytest.raises(TypeError):
        shelf.put({"a.md": b"two", "b.md": None}, "folder")
    assert shelf.files() == {"room/value/50m/a.md": b"one"}


def test_a_table_becomes_a_json_list_of_rows(shelf):
    rows = shelf.con.sql("SELECT * FROM (VALUES (1, 0.25), (2, NULL)) AS t (song_id, score)")
    shelf.put(rows, "json")
    assert shelf.get("json") == [{"song_id": 1, "score": 0.25}, {"song_id": 2, "score": None}]
    assert list(shelf.files()) == ["room/value/50m.json"]


AWKWARD = 'it\'s "100%" [ab]*? {c,d} #1; é'
"""A folder's name with what quotes, patterns and addresses are made of."""


@pytest.mark.parametrize("kind", ["io_manager", "json"])
def test_a_folder_may_have_any_name_and_a_name_is_no_pattern(tmp_path, kind):
    for name, score in ((AWKWARD, 0.25), (AWKWARD.replace("[ab]*?", "a"), 0.75)):
        shelf = Shelf(tmp_path / name)
        shelf.put(shelf.con.sql(f"SELECT 1::INTEGER AS song_id, {score}::DOUBLE AS score"), kind)
        found = shelf.get(kind)
        assert (found if kind == "json" else found.to_dicts()) == [{"song_id": 1, "score": score}]
        assert list(shelf.files()) == [f"room/value/50m.{'json' if kind == 'json' else 'parquet'}"]
