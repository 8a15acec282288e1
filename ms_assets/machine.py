"""Memory and cores of this machine: what is free, what this process took, and the error for what does not fit."""

import os
import platform
import resource
from collections.abc import Mapping
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Folder of a container's limits; those of version 1 lie in `memory` below it."""
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     ("total_active_file", "total_inactive_file")),
)  # fmt: skip
"""Files of the limit, of what is used and of its parts, and names of the parts that are only a cache of files."""

CORES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files of a container's share of the processors: the time that it may take, and of how much."""

IN_FLIGHT = 56 << 20
"""Bytes of tables that are read a batch at a time, whatever their size."""
LARGEST_KEPT = 32 << 20
"""Bytes of the largest block that the C library keeps when it is freed, up to which glibc's threshold grows."""


class NotEnoughMemoryError(ValueError):
    """Something does not fit into memory."""


def free_memory() -> int:
    """Free main memory within the limit of the container, in bytes; what the system caches of files counts as free."""
    free = psutil.virtual_memory().available
    for limit, used, stat, cached in LIMITS:
        path = CGROUP / limit
        if path.exists() and (most := path.read_text().strip()) != "max":
            parts = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            cache = sum(int(parts[name]) for name in cached)
            free = min(free, int(most) - int((CGROUP / used).read_text()) + cache)
    return free


def cores() -> int:
    """Number of cores that this process may use, within the limit of the container."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in CORES:
        if (CGROUP / files[0]).exists():
            time, period = " ".join((CGROUP / file).read_text() for file in files).split()
            if time not in ("max", "-1"):
                ours = min(ours, max(int(time) // int(period), 1))
    return ours


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak << 10  # Linux counts KiB, macOS bytes


def refuse_beyond(available: int, what: str, parts: Mapping[str, int], way_out: str, room: str = "") -> None:
    """Check that the parts of something, bytes by purpose, fit into the available bytes together.

    Raises:
        NotEnoughMemoryError: they do not; names what, the parts' sizes, `room` (what would fit) and the way out.
    """
    if (needed := sum(parts.values())) > available:
        raise NotEnoughMemoryError(
            f"{what} needs about {text(needed)} ({described(parts)}), but only {text(available)} are free{room}: "
            f"{way_out}"
        )


def described(parts: Mapping[str, int]) -> str:
    """Format the parts of an estimate in one line, largest first."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {text(n_bytes)}" for name, n_bytes in ordered)


def text(n_bytes: int) -> str:
    """Format bytes in MiB or GiB."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
