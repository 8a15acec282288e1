"""Trained model: parameters of the best epoch, history of the training, and versions of its inputs."""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from ms_assets.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ms_assets.training.data import GraphTensors
    from ms_assets.training.network import Network

FORMAT = 4
"""Version of the file format; files without a version are of format 1."""


@dataclass(frozen=True)
class Epoch:
    """Epoch, one pass over the edges, and what was measured after it; number 0 is the start, with a loss of 0."""

    number: int
    loss: float
    validation_ndcg: float
    learning_rate: float
    seconds: float
    """Seconds since training began, without interruptions."""


@dataclass(frozen=True)
class TrainedModel:
    """Best state of a LightGCN training, and its origin."""

    settings: TrainingSettings
    state: "dict[str, Tensor]"
    """Parameters on the CPU, by their names in `Network.state_dict`."""
    best: Epoch
    history: list[Epoch]
    diverged: str = ""
    """Reason if training diverged: epoch, step and settings; otherwise empty."""
    race: dict[str, float] = field(default_factory=dict)
    """Validation NDCG of what was compared, by name; empty if nothing was."""
    unrefitted: "dict[str, Tensor]" = field(default_factory=dict)
    """State before a refit, which alone has not seen the validation part; empty without a refit."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Data version of each artefact that the model was trained on, by asset key."""
    mlflow_run_id: str = ""
    nodes: dict[str, Any] = field(default_factory=dict)
    """Users and songs, as `warm.nodes` describes them, for a later training to begin with this one."""

    def network(self, graph: "GraphTensors") -> "Network":
        """Build the network over a graph with these parameters."""
        from ms_assets.training.network import Network

        network = Network(graph, self.settings)
        network.load_state_dict(self.state)
        return network

    @property
    def validated(self) -> Self:
        """Model whose training has not seen the validation part, for all tuning: itself, unless it was refitted."""
        return replace(self, state=self.unrefitted or self.state)

    def embeddings(self, graph: "GraphTensors") -> "tuple[Tensor, Tensor]":
        """Embeddings of users [n_users, d] and songs [n_songs, d], from `Network.embed`."""
        return self.network(graph).embed(graph.features)

    def to_dict(self) -> dict[str, Any]:
        """Convert to tensors and plain values, which `torch.load` can read with `weights_only`."""
        epochs = {"best": asdict(self.best), "history": [asdict(epoch) for epoch in self.history]}
        return {"format": FORMAT, **vars(self), "settings": self.settings.model_dump(), **epochs}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Build a model from the result of `to_dict`.

        Raises:
            ValueError: the stored values are of another format.
        """
        values = dict(stored)
        if (found := values.pop("format", 1)) != FORMAT:
            raise ValueError(f"model: found format {found}, expected {FORMAT}: materialise training/lightgcn again")
        values["settings"] = TrainingSettings(**values["settings"])
        values["best"], values["history"] = Epoch(**values["best"]), [Epoch(**epoch) for epoch in values["history"]]
        return cls(**values)
