"""Cancelled runs and full disks at a chosen change of the disk."""

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHANGES = [
    *((Path, name) for name in ("replace", "rename", "unlink", "symlink_to", "mkdir")),
    (os, "fsync"),
    (shutil, "rmtree"),
]


@contextlib.contextmanager
def at_change(number: int, happens: Callable[[], None]) -> Iterator[None]:
    """Let something happen in place of the k-th change of the disk."""
    count = itertools.count(1)

    def instead(real):
        return lambda *args, **given: happens() if next(count) == number else real(*args, **given)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, instead(getattr(owner, name)))
        yield


def cancelled() -> None:
    raise KeyboardInterrupt


def disk_is_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
