"""Device beside the CPU that any machine has: tensors of another type, which compute on the CPU.

It refuses what a card refuses: tensors of two devices in one operation, a generator of the other device, NumPy's view
of its memory. Numbers are the CPU's. Limits of kernels, memory and the order of sums on a card are not seen. Beside a
card there is none, for autograd would take it for the accelerator and fail on the card.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "emulated"
COPIES = ("_to_copy", "copy_")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that take indices of the CPU for a tensor of the card, but not the reverse."""


class MixedDevicesError(RuntimeError):
    """An operation was given tensors, or a tensor and a generator, of two devices."""


class EmulatedTensor(torch.Tensor):
    """Tensor on the emulated device; `held` is its content on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    def __repr__(self, *, tensor_contents=None):
        return f"emulated({self.held})"

    def __reduce_ex__(self, protocol):
        # As `torch.load(map_location="cpu")` reads the file of any other device.
        return self.held.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class _Emulation(TorchDispatchMode):
    """Mode that sees what no emulated tensor takes part in, such as a copy to the device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


IS_POSSIBLE = not torch.cuda.is_available()
# On import, because autograd counts the devices of a process when it first runs, be it for another test.
if IS_POSSIBLE:
    _setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0) if IS_POSSIBLE else None


@contextmanager
def emulation() -> Iterator[torch.device]:
    """Context in which tensors may be on the emulated device, which it gives."""
    with _Emulation():
        yield DEVICE


def _computed(operation, args, kwargs):
    found, _ = tree_flatten((args, kwargs))
    tensors = [value for value in found if isinstance(value, torch.Tensor)]
    name = operation._schema.name.removeprefix("aten::")
    there = any(isinstance(tensor, EmulatedTensor) for tensor in tensors)
    asked = kwargs.get("device")
    takes_indices = name in INDEXED and isinstance(args[0], EmulatedTensor)
    if there and name not in COPIES and not takes_indices:
        mixed = [t for t in tensors if not isinstance(t, EmulatedTensor) and t.dim()]
        if mixed:
            raise MixedDevicesError(f"{name}: found tensors on {NAME} and on the CPU, {tuple(mixed[0].shape)}")
    goes = there if asked is None else torch.device(asked).type == NAME
    generators = [value for value in found if isinstance(value, torch.Generator)]
    if goes and generators:
        raise MixedDevicesError(f"{name}: found a generator of {generators[0].device}, expected one of {NAME}")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "_to_copy":
        result = result.clone()  # even where the CPU would give the same tensor
    if _is_in_place(operation):
        return None if result is None else args[0]
    return tree_map(_wrapped, result) if goes else result


def _is_in_place(operation):
    first = operation._schema.arguments[0] if operation._schema.arguments else None
    return first is not None and first.alias_info is not None and first.alias_info.is_write


def _wrapped(value):
    return EmulatedTensor(value) if isinstance(value, torch.Tensor) else value


def _held(value):
    return value.held if isinstance(value, EmulatedTensor) else value
