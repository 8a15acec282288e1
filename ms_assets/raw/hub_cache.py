"""Place of a file in the hub client's cache, and the lock that the client takes for its content.

This module holds everything that is used of the client without being in its API: the folders of its cache, which are
documented, and its locks, which are not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock


def folder_of(dataset: str) -> Path:
    """Folder of a dataset in the cache."""
    return (Path(constants.HF_HUB_CACHE) / "--".join(("datasets", *dataset.split("/")))).absolute()


def reference(dataset: str, revision: str) -> Path:
    """Path of the file that holds the commit which a branch or tag named when the client last asked the hub."""
    return folder_of(dataset) / "refs" / revision


def link_of(dataset: str, commit: str, file: str) -> Path:
    """Path by which a file of a commit is opened: a link to content that is named by its SHA-256."""
    return folder_of(dataset) / "snapshots" / commit / file


def content_of(dataset: str, sha256: str) -> Path:
    """Path of the content with a SHA-256, whether or not it exists."""
    return folder_of(dataset) / "blobs" / sha256


@contextmanager
def locked(dataset: str, sha256: str) -> Iterator[None]:
    """Lock a content, so that no other run or tool that uses the client fetches it meanwhile."""
    home = folder_of(dataset)
    lock = home.parent / ".locks" / home.name / f"{sha256}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        yield
