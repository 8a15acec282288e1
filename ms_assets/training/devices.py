"""Compute device of a training, and its free memory."""

import torch

from ms_assets.machine import cores, free_memory

CPU = torch.device("cpu")


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


def refuse_too_many(ranks: int, device: torch.device) -> None:
    """Check that each of several ranks has a core of the CPU, or the card of its number.

    Raises:
        ValueError: the machine has fewer, or one card is wanted for all.
    """
    on_cards = device.type == "cuda"
    there, what = (torch.cuda.device_count(), "CUDA cards") if on_cards else (cores(), "cores")
    if ranks > there:
        raise ValueError(f"ranks: found {ranks}, but this machine has {there} {what}")
    if ranks > 1 and device.index is not None:
        raise ValueError(f"device: found '{device}' with {ranks} ranks, expected cuda, for they take cards from 0 on")


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU, or of this machine within the limit of its container, in bytes.

    What torch holds on a GPU for its next tensors is free, and so is what the system holds of files in a container.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_memory()
