"""Atomic files, which exist whole or not at all, and hashes of their content."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkdtemp
from typing import IO
from uuid import uuid4

FULL = os.strerror(errno.ENOSPC)
LOCK = "lock"
_kept_open: list[IO[str]] = []
"""Files whose locks this process holds until it ends."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any library's error about a full disk into one that names the path and the remedy."""
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
    """Yield a path to write a file or folder to; rename it to `path` if the body succeeds, remove it if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id, which another container may have too.
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.unfinished")
    former = unfinished.with_suffix(".former.unfinished")
    with ExitStack() as stack:
        always(stack, remove, unfinished)
        always(stack, _put_back, former, path)
        with writing(path):
            yield unfinished
            if not unfinished.is_symlink():
                for written in (*unfinished.rglob("*"), unfinished):
                    flush(written)
            if path.is_dir():  # A folder can replace another one only if that is empty or gone.
                path.replace(former)
            unfinished.replace(path)
            flush(path.parent)


def always(stack: ExitStack, tidy: Callable[..., None], *paths: Path) -> None:
    """Call a function on paths when a block ends: twice, for an interruption or a fault may end one call half way."""
    stack.callback(tidy, *paths)
    stack.callback(tidy, *paths)


class DamagedFileError(RuntimeError):
    """A file exists but cannot be read."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn any library's error while reading a file into one that names the file and the remedy."""
    try:
        yield
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        found = f"{type(error).__name__}: {first_line}"
        raise DamagedFileError(f"{path} cannot be read ({found}); if it is damaged, {remedy}") from error


def sweep(folder: Path, name: str = "*") -> None:
    """Remove unfinished files and folders of this name, with any ending, that killed processes left below a folder.

    No process may be writing them. A folder that was about to be replaced is put back.
    """
    # The second pattern finds files that are hidden themselves, such as checkpoints.
    for left in [*folder.rglob(f".{name}.*.unfinished"), *folder.rglob(f"..{name}.*.unfinished")]:
        if left.name.endswith(".former.unfinished"):
            _put_back(left, left.with_name(left.name[1:].rsplit(".", 3)[0]))
        remove(left)


def _put_back(former: Path, place: Path) -> None:
    """Put a folder back in its place; remove it if the place is taken."""
    if former.is_dir() and not place.exists():
        former.replace(place)
    remove(former)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder below the system's one for temporary files (TMPDIR), and remove it after the block."""
    with writing(Path(f"{gettempdir()} (TMPDIR)")), TemporaryDirectory() as folder:
        yield Path(folder)


def own_folder(parent: Path) -> Path:
    """Create a folder that this process alone uses until it ends; remove those of processes that have ended.

    Process ids would not do: containers that share a disk have equal ones.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.iterdir():
        with suppress(BlockingIOError, FileNotFoundError, NotADirectoryError), (other / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(mkdtemp(dir=parent, prefix="."))
    hold((folder / LOCK).open("a+"), fcntl.LOCK_EX)
    return folder.rename(folder.with_name(folder.name[1:]))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is new, until the end of the block; other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold(file: IO[str], how: int) -> None:
    """Lock a file until this process ends, as `flock` does it."""
    fcntl.flock(file, how)
    _kept_open.append(file)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 if it does not exist."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def flush(path: Path) -> None:
    """Force what was written to a file or folder onto the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content; for a folder, of all its files."""
    if path.is_dir():
        return sha256_of_all(path.iterdir())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files below a folder by name, without those that writers hide by a point or an underscore in front."""
    inside = {file: file.relative_to(folder).parts for file in folder.rglob(pattern) if file.is_file()}
    return sorted(file for file, names in inside.items() if not any(name[0] in "._" for name in names))


def state(files: Iterable[Path]) -> str:
    """Hash of the names, sizes and times of some files: another one once a file is added, written or removed."""
    found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def sha256_of_all(files: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of some files, whatever their order."""
    content = "".join(f"{file.name} {sha256(file)}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256(content.encode()).hexdigest()
