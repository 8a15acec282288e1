"""Files that are there whole or not at all, and what tells their content apart."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; rename it to `path` when the body succeeds, remove it when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    former = path.with_name(f".{path.name}.{os.getpid()}.former.unfinished")
    remove(unfinished)
    try:
        yield unfinished
        if not unfinished.is_symlink():
            for written in (*unfinished.rglob("*"), unfinished):
                flush(written)
        if path.is_dir():  # A folder takes another's place only when that is empty or gone.
            path.replace(former)
        unfinished.replace(path)
        flush(path.parent)
    finally:
        remove(unfinished)
        remove(former)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The sha256 of a file's content; of a folder's, that of its files' names and sha256."""
    if path.is_dir():
        content = "".join(f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir()))
        return hashlib.sha256(content.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
