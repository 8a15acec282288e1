"""A trained model: parameters of the best epoch, how they were reached, and what was trained on."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ms_assets.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ms_assets.training.data import GraphTensors
    from ms_assets.training.network import Network

FORMAT = 2
"""Number of the stored form; files from before it was numbered are of format 1."""


@dataclass(frozen=True)
class Epoch:
    """Numbers of one pass over the edges."""

    number: int
    loss: float
    validation_ndcg: float
    learning_rate: float
    seconds: float
    """Since training began, times that it was cut off left out."""


@dataclass(frozen=True)
class TrainedModel:
    """The best state of a LightGCN, and its origin."""

    settings: TrainingSettings
    state: "dict[str, Tensor]"
    """Parameters on the CPU, as `Network.state_dict` names them."""
    best: Epoch
    history: list[Epoch]
    diverged: str = ""
    """Why training stopped before its time, if it did: epoch, step and settings."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Data version of each artefact that it was trained on, by key."""
    mlflow_run_id: str = ""

    def network(self, graph: "GraphTensors") -> "Network":
        """The network over a graph, with these parameters."""
        from ms_assets.training.network import Network

        network = Network(graph, self.settings)
        network.load_state_dict(self.state)
        return network

    def embeddings(self, graph: "GraphTensors") -> "tuple[Tensor, Tensor]":
        """Embeddings of users [n_users, d] and songs [n_songs, d], as `Network.embed` gives them."""
        return self.network(graph).embed(graph.features)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which `torch.save` stores and `torch.load` reads with `weights_only`."""
        epochs = {"best": asdict(self.best), "history": [asdict(epoch) for epoch in self.history]}
        return {"format": FORMAT, **vars(self), "settings": self.settings.model_dump(), **epochs}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Read what `to_dict` returned.

        Raises:
            ValueError: it is of another format.
        """
        values = dict(stored)
        if (found := values.pop("format", 1)) != FORMAT:
            raise ValueError(f"model: found format {found}, expected {FORMAT}: materialise training/lightgcn again")
        values["settings"] = TrainingSettings(**values["settings"])
        values["best"], values["history"] = Epoch(**values["best"]), [Epoch(**epoch) for epoch in values["history"]]
        return cls(**values)
