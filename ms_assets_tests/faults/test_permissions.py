"""Folders that may not be written and files that may not be read, as somebody who is not root meets them."""

import os
import shutil
import sys

import pytest

from ms_assets_tests.workplace import ROOT, answer_of

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from ms_assets_tests.shelf import Shelf

shelf = Shelf(Path(sys.argv[1]))

def attempt(act):
    try:
        return act() and None
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def table(n):
    return shelf.con.sql(f"SELECT i::INTEGER AS song_id, 0.5::DOUBLE AS score FROM range({n}) t(i)")

VALUES = {
    "io_manager": (table, "parquet"),
    "torch": (lambda n: {"weight": torch.arange(n)}, "pt"),
    "json": (table, "json"),
}
found = {}
for kind, (value, ending) in VALUES.items():
    shelf.put(value(10), kind)
    folder, file = shelf.folder / "data/room/value", shelf.folder / f"data/room/value/50m.{ending}"
    former = shelf.files()
    folder.chmod(0o555)
    written = attempt(lambda: shelf.put(value(20), kind))
    same = shelf.files() == former
    folder.chmod(0o755)
    file.chmod(0)
    read = attempt(lambda: shelf.get(kind))
    healed = attempt(lambda: shelf.put(value(20), kind)) or attempt(lambda: shelf.get(kind))
    found[kind] = [str(file), written, same, read, healed]
print(json.dumps(found))
"""


WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Root, too, is then told what it may not."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By kind: the file, the error of writing, whether the former file is as it was, of reading, of a new attempt."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("shelf"))]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything, and there is no setpriv to take that away")
        command = [*WITHOUT_PRIVILEGES, *command]
    return answer_of(*command, cwd=ROOT)


@pytest.mark.parametrize("kind", ["io_manager", "torch", "json"])
def test_without_permission_the_error_names_the_file_and_nothing_changes(found, kind):
    file, written, same, read, healed = found[kind]
    assert "Permission denied" in written
    assert file.rsplit("/", 1)[0] in written
    assert same
    assert read.startswith(f"DamagedFileError: {file} cannot be read (")
    assert "Permission denied" in read
    assert healed is None
