"""A disk that has no room left: a real one of a few megabytes, mounted for one process."""

import subprocess
import sys

import pytest

from ms_assets_tests.workplace import ROOT, answer_of

ON_A_SMALL_DISK = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
PROGRAM = """
import json, logging, subprocess, sys, tempfile
from pathlib import Path
import dagster as dg
import numpy as np
import torch
import faiss
from ms_assets.defs.platform.io_managers import CheckpointOnDisk, IndexOfOrigin
from ms_assets.files import temporary_folder
from ms_assets.streams import TableStream
from ms_assets_tests.shelf import Shelf

disk = Path(sys.argv[1])
rng = np.random.default_rng(0)

def table(shelf, n):
    return shelf.con.sql(f"SELECT i::INTEGER AS song_id, random() AS score FROM range({n}) t(i)")

def index(_, n):
    index = faiss.IndexFlatL2(8)
    index.add(rng.random((n // 4, 8), np.float32))
    return IndexOfOrigin(index, {"training_run": "0123"})

VALUES = {
    "relation": ("io_manager", table),
    "arrow": ("io_manager", lambda shelf, n: table(shelf, n).to_arrow_table()),
    "stream": ("io_manager", lambda shelf, n: TableStream([table(shelf, n).to_arrow_table()] * 3)),
    "checkpoint": ("torch", lambda shelf, n: {"weight": torch.rand(2 * n)}),
    "index": ("faiss", index),
    "json": ("json", table),
    "folder": ("folder", lambda shelf, n: {"page": b"?" * 4, "picture": rng.bytes(8 * n)}),
}

def attempt(act, *arguments):
    try:
        return act(*arguments) and None
    except Exception as error:
        return f"{type(error).__name__}: {error}"

found = {}
for name, (manager, value) in VALUES.items():
    shelf = Shelf(disk / name)
    assert attempt(shelf.put, value(shelf, 100), manager) is None
    former = shelf.files()
    error = attempt(shelf.put, value(shelf, 1_000_000), manager)
    same = shelf.files() == former
    healed = attempt(shelf.put, value(shelf, 200), manager)
    found[name] = [error, same, healed, shelf.files() != former]
    subprocess.run(["rm", "-r", disk / name], check=True)
checkpoint = CheckpointOnDisk(disk / ".sample.fit.checkpoint")
checkpoint.save({"epoch": 1})
error = attempt(checkpoint.save, {"epoch": 2, "weight": torch.rand(2_000_000)})
left = [path.name for path in disk.iterdir()]
found["while training"] = [error, checkpoint.load() == {"epoch": 1} and left == [checkpoint.path.name], None, True]
shelf = Shelf(disk / "drafts")
keys = {name: dg.AssetKey(["room", name]) for name in ("left", "right")}

def fill_drafts():
    with shelf.managers["io_manager"].drafts(keys, "50m") as drafts:
        for draft in drafts.values():
            draft.fill(table(shelf, 300_000).to_arrow_table() for _ in range(3))

found["drafts"] = [attempt(fill_drafts), shelf.files() == {}, None, True]
tempfile.tempdir = str(disk)

def fill_temporary_folder():
    with temporary_folder() as folder:
        (folder / "index.faiss").write_bytes(bytes(4 << 20))

before = {*disk.iterdir()}
found["temporary folder"] = [attempt(fill_temporary_folder), {*disk.iterdir()} == before, None, True]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By kind: the error, whether the former file is as it was and alone, a later error, whether it healed."""
    disk = tmp_path_factory.mktemp("disk")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", ON_A_SMALL_DISK, "sh"]
    if subprocess.run([*command, disk, "true", ""], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    program = [disk, sys.executable, PROGRAM]
    return answer_of(*command, *program, cwd=ROOT)


KINDS = (
    "relation",
    "arrow",
    "stream",
    "drafts",
    "checkpoint",
    "index",
    "json",
    "folder",
    "while training",
    "temporary folder",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_former_file_and_nothing_else_and_with_room_the_next_run_heals(found, kind):
    error, as_it_was, later_error, healed = found[kind]
    assert "No space left on device: make room, then run the same again" in error
    named = {"while training": ".sample.fit.checkpoint", "drafts": "drafts/data", "temporary folder": " (TMPDIR)"}
    assert named.get(kind, "/data/room/value/50m") in error
    assert (as_it_was, later_error, healed) == (True, None, True)
