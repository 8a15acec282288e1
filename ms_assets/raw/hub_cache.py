"""Place of a file in the hub client's cache, and the lock that the client takes for its content.

This module holds everything that is used of the client without being in its API: the folders of its cache, which are
documented, and its locks, which are not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock


def folder_of(dataset: str) -> Path:
    """Folder of a dataset in the cache."""
    return (Path(constants.HF_HUB_CACHE) / "--".join(("datasets", *dataset.split("/")))).absolute()


def reference(dataset: str, revision: str) -> Path:
    """Path of the file that holds the commit which a branch or tag named when the client last asked the hub."""
    return folder_of(dataset) / "refs" / revision


@dataclass(frozen=True)
class CachedFile:
    """Cached file of a dataset at a commit: a link with the file's name to content that is named by its SHA-256."""

    dataset: str
    commit: str
    file: str

    @property
    def link(self) -> Path:
        """Path by which the file is opened."""
        return folder_of(self.dataset) / "snapshots" / self.commit / self.file

    @property
    def linked(self) -> Path | None:
        """Path of the content that the link points to; None if there is no link."""
        return self.content(self.link.readlink().name) if self.link.is_symlink() else None

    def content(self, sha256: str) -> Path:
        """Path of the content with a SHA-256, whether or not it exists."""
        return folder_of(self.dataset) / "blobs" / sha256

    @contextmanager
    def locked(self, content: Path) -> Iterator[None]:
        """Lock a content, so that no other run or tool that uses the client fetches it meanwhile."""
        home = folder_of(self.dataset)
        lock = home.parent / ".locks" / home.name / f"{content.name}.lock"
        for folder in (content.parent, self.link.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            yield

    def point_to(self, content: Path) -> None:
        """Link the file's name to a content."""
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(os.path.relpath(content, self.link.parent))
