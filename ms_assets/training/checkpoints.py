"""Checkpoints of a training that is not over: their data and settings, and whether they may be used."""

import hashlib
from typing import Any, Protocol, Self

import numpy as np

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import TrainingData

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
    def open(cls, file: CheckpointFile, data: TrainingData, settings: TrainingSettings) -> Self:
        """Open for the training that `trainer.fit` would do of these.

        Raises:
            OtherTrainingError: the file is of another training; names what differs, on both sides.
        """
        wanted = identity(data, settings)
        return cls(file, wanted, _usable(file.load(), wanted, settings.replace_checkpoint))

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved."""
        self._file.save({"identity": self._identity, "notes": self.notes, "state": state})


def identity(data: TrainingData, settings: TrainingSettings) -> dict[str, str]:
    """Content of the data, settings and format of checkpoints, which determine a training."""
    graph = data.graph
    digest = hashlib.sha256(str(graph.n_graph_songs).encode())
    owners = [tensor for lists in graph.features.owners.values() for tensor in lists]
    tensors = [graph.user, graph.song, graph.attributes, graph.features.audio, graph.features.silent, *owners]
    judged = [data.disliked.keys, data.targets.keys, data.targets.values["relevance"]]
    for array in [*(tensor.numpy() for tensor in tensors), *judged]:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    sizes = f"{graph.n_users:,} users, {graph.n_songs:,} songs, {graph.n_edges:,} edges"
    return {
        "format": str(FORMAT),
        "data": f"{sizes}, sha256 {digest.hexdigest()[:16]}",
        **{name: str(value) for name, value in settings.model_dump(exclude=NOT_IDENTITY).items()},
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
