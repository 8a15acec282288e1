"""Checkpoints of an unfinished training, and the check that they belong to the same data and settings."""

import hashlib
from typing import Any, Protocol, Self

import numpy as np

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import TrainingData

FORMAT = 6
"""Version of checkpoints; it is raised when their content, or its use in training, changes."""
NOT_IDENTITY = {
    "accumulation", "checkpoint_seconds", "ranks", "replace_checkpoint", "refit", "use_study", "warm_start",
}  # fmt: skip
"""Settings that do not change the course of a training, apart from rounding."""


class CheckpointFile(Protocol):
    """File of a checkpoint, which is whole or absent."""

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint; None if there is none."""

    def save(self, value: dict[str, Any]) -> None:
        """Replace the checkpoint."""


class OtherTrainingError(ValueError):
    """A checkpoint belongs to a training on different data or settings."""


class Checkpoint:
    """Checkpoint of one training: the saved state if it was interrupted, and the file for its next states."""

    def __init__(self, file: CheckpointFile, identity: dict[str, str], saved: dict[str, Any] | None) -> None:
        self._file, self._identity = file, identity
        self.state: dict[str, Any] | None = saved["state"] if saved else None
        self.notes: dict[str, str] = dict(saved["notes"]) if saved else {}
        """Notes that should outlive a killed process."""

    @classmethod
    def open(cls, file: CheckpointFile, data: TrainingData, settings: TrainingSettings, former: str = "") -> Self:
        """Open the checkpoint of a training on some data with some settings, and with the version of a former training.

        Raises:
            OtherTrainingError: the file is of another training; names the differences, with both values.
        """
        wanted = {**identity(data, settings), **({"former training": former} if former else {})}
        return cls(file, wanted, _usable(file.load(), wanted, settings.replace_checkpoint))

    def __getstate__(self) -> dict[str, Any]:
        """State for other ranks, which resume from what was saved, and save nothing."""
        return vars(self) | {"_file": None}

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        self._file.save({"identity": self._identity, "notes": self.notes, "state": state})

    def finish(self) -> None:
        """Mark the last saved state, if there is one, as that of a finished training, which blocks no other."""
        if saved := self._file.load():
            self._file.save({**saved, "finished": True})


def identity(data: TrainingData, settings: TrainingSettings) -> dict[str, str]:
    """Identity of a training: content of its data, settings, and format of checkpoints, by name."""
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
    if replace or saved.get("finished"):
        return None
    found = saved["identity"]
    differing = [
        f"{name}: the checkpoint's {found.get(name, 'none')}, this training's {wanted.get(name, 'none')}"
        for name in {**found, **wanted}
        if found.get(name) != wanted.get(name)
    ]
    raise OtherTrainingError(
        f"an interrupted training left a checkpoint of different data or settings ({'; '.join(differing)}): train with "
        "those to resume it, or set replace_checkpoint to discard it"
    )
