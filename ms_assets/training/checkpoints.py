"""Checkpoints of a training that is not over: of which data and settings they are, and whether they may be used."""

import hashlib
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from torch import Tensor

from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.training.steps import Pairs

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

FORMAT = 2
"""Raised when what a checkpoint holds, or what training makes of it, changes."""
NOT_IDENTITY = {"accumulation", "checkpoint_seconds", "replace_checkpoint", "refit", "use_study"}
"""Settings that change nothing about the course of a training, rounding apart."""


class CheckpointFile(Protocol):
    """Where a checkpoint is kept, whole or not at all."""

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None when nothing was."""

    def save(self, value: dict[str, Any]) -> None:
        """Replace what was saved."""


class OtherTrainingError(ValueError):
    """A checkpoint belongs to a training of other data or settings."""


class Checkpoint:
    """A file opened for one training: its state there, if it was cut off, and where to save how it goes on."""

    def __init__(self, file: CheckpointFile, identity: dict[str, str], saved: dict[str, Any] | None) -> None:
        self._file, self._identity = file, identity
        self.state: dict[str, Any] | None = saved["state"] if saved else None
        self.notes: dict[str, str] = dict(saved["notes"]) if saved else {}
        """Whatever else should outlive a killed process."""

    @classmethod
    def open(
        cls,
        file: CheckpointFile,
        graph: "HeteroData",
        explicit_negatives: Pairs,
        validation: Judgements,
        settings: TrainingSettings,
    ) -> Self:
        """Open for the training that `trainer.train` would do of these.

        Raises:
            OtherTrainingError: the file is of another training; names what differs, on both sides.
        """
        wanted = identity(graph, explicit_negatives, validation, settings)
        return cls(file, wanted, _usable(file.load(), wanted, settings.replace_checkpoint))

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved."""
        self._file.save({"identity": self._identity, "notes": self.notes, "state": state})


def identity(
    graph: "HeteroData", explicit_negatives: Pairs, validation: Judgements, settings: TrainingSettings
) -> dict[str, str]:
    """What a training is determined by: content of the data, settings, and the format of checkpoints."""
    data = {"users": graph["user"].num_nodes, "songs": graph["song"].num_nodes}
    digest = hashlib.sha256()
    for array in (*_tensors(graph), *explicit_negatives, validation.keys, validation.relevance):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    edges = sum(store.num_edges for store in graph.edge_stores)
    parts = settings.model_dump(exclude=NOT_IDENTITY)
    return {
        "format": str(FORMAT),
        "data": f"{data['users']:,} users, {data['songs']:,} songs, {edges:,} edges, sha256 {digest.hexdigest()[:16]}",
        **{name: str(value) for name, value in parts.items()},
    }


def _usable(saved: dict[str, Any] | None, wanted: dict[str, str], replace: bool) -> dict[str, Any] | None:
    if saved is None or saved["identity"] == wanted:
        return saved
    if replace:
        return None
    found = saved["identity"]
    differing = [
        f"{name}: the checkpoint's {found.get(name, 'none')}, this training's {wanted.get(name, 'none')}"
        for name in {**found, **wanted}
        if found.get(name) != wanted.get(name)
    ]
    raise OtherTrainingError(
        f"a training that was cut off left a checkpoint of other data or settings ({'; '.join(differing)}): train with "
        "those to go on from it, or set replace_checkpoint to throw it away"
    )


def _tensors(graph: "HeteroData") -> list[np.ndarray]:
    stores = [(str(store._key), store) for store in graph.stores if store._key is not None]
    return [
        value.numpy()
        for _, store in sorted(stores, key=lambda named: named[0])
        for _, value in sorted(store.items())
        if isinstance(value, Tensor)
    ]
