"""Compute device of a training, and its free memory."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


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
    """Free memory of the GPU, or of this machine within the limit of its container, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = (CGROUP / f"memory.{name}" for name in ("max", "current"))
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free
