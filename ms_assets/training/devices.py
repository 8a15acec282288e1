"""Compute device of a training, and its free memory."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Folder of a container's limits; those of version 1 lie in `memory` below it."""
LIMITS = (
    ("memory.max", "memory.current", "memory.stat", ("active_file", "inactive_file")),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
     ("total_active_file", "total_inactive_file")),
)  # fmt: skip
"""Files of the limit, of what is used and of its parts, and names of the parts that are only a cache of files."""


def resolve(wanted: str) -> torch.device:
    """Device for `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: this machine has no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    here = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if device.type == "cuda" and f"cuda:{device.index or 0}" not in here:
        raise ValueError(f"device: found {wanted!r}, but this machine has {', '.join(here)}")
    return device


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU, or of this machine within the limit of its container, in bytes.

    What torch holds on a GPU for its next tensors is free, and so is what the system holds of files in a container.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    free = psutil.virtual_memory().available
    for limit, used, stat, cached in LIMITS:
        path = CGROUP / limit
        if path.exists() and (most := path.read_text().strip()) != "max":
            parts = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            cache = sum(int(parts[name]) for name in cached)
            free = min(free, int(most) - int((CGROUP / used).read_text()) + cache)
    return free
