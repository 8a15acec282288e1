"""Files that are there whole or not at all, and what tells their content apart."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = os.strerror(errno.ENOSPC)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the path and what to do when the disk is full, in whatever words a library says so."""
    try:
        yield
    except Exception as error:
        if _is_of_a_full_disk(error):
            raise OSError(errno.ENOSPC, f"{FULL}: make room, then run the same again", str(path)) from error
        raise


def _is_of_a_full_disk(error: BaseException | None) -> bool:
    return error is not None and (FULL in str(error) or _is_of_a_full_disk(error.__cause__ or error.__context__))


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a path to write a file or folder to; rename it to `path` when the body succeeds, remove it when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    former = path.with_name(f".{path.name}.{os.getpid()}.former.unfinished")
    remove(unfinished)
    try:
        with writing(path):
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
        _put_back(former, path)


class DamagedFileError(RuntimeError):
    """A file is there but cannot be read."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Name the file and what to do, whatever a library says when it cannot read it."""
    try:
        yield
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        found = f"{type(error).__name__}: {first_line}"
        raise DamagedFileError(f"{path} cannot be read ({found}); if it is damaged, {remedy}") from error


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left below a folder of files and folders with this name, whatever their ending.

    Nobody may be writing them. A folder that was about to be replaced gets its place back.
    """
    # The second pattern is of files that are hidden themselves, such as checkpoints.
    for left in [*folder.rglob(f".{name}.*.unfinished"), *folder.rglob(f"..{name}.*.unfinished")]:
        if left.name.endswith(".former.unfinished"):
            _put_back(left, left.with_name(left.name[1:].rsplit(".", 3)[0]))
        remove(left)


def _put_back(former: Path, place: Path) -> None:
    """Give a folder its place back, unless another has it; then it goes."""
    if former.is_dir() and not place.exists():
        former.replace(place)
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
    """The sha256 of a file's content; of a folder's, that of all its files."""
    if path.is_dir():
        return sha256_of_all(path.iterdir())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(files: Iterable[Path]) -> str:
    """The sha256 of the names and contents of some files, in whichever order they are given."""
    content = "".join(f"{file.name} {sha256(file)}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256(content.encode()).hexdigest()
