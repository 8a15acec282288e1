"""Edge weights: heuristic ones as given, or learned from the attributes of edges."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PLAYED_RATIO_STEPS = 20


class EdgeWeightMLP(nn.Module):
    """A weight in (0, 1) for each edge: Linear(4 → 8), ReLU, Linear(8 → 1), sigmoid, at least 1e-6.

    Edges are put in buckets (event type × half octave of the count × twentieth of the played ratio), so the
    network sees under a thousand rows however many edges there are.
    """

    rows: Tensor
    bucket: Tensor

    def __init__(self, edge_attributes: Tensor) -> None:
        """Take edge_attr float32 [n_edges, 4] = event type code, count, played ratio, heuristic weight."""
        super().__init__()
        rows, bucket = torch.unique(_quantised(edge_attributes), dim=0, return_inverse=True)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("bucket", bucket.int(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self) -> Tensor:
        """The weights of all edges, float32 [n_edges]."""
        table = self.layers(self.rows).sigmoid().clamp(min=1e-6)
        # `embedding` rather than indexing: its gradient adds up in a fixed order on the CPU.
        return functional.embedding(self.bucket, table).squeeze(1)


class HeuristicEdgeWeights(nn.Module):
    """The weight that each edge came with."""

    weights: Tensor

    def __init__(self, edge_attributes: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", edge_attributes[:, 3].clone(), persistent=False)

    def forward(self) -> Tensor:
        """The weights of all edges, float32 [n_edges]."""
        return self.weights


def _quantised(edge_attributes: Tensor) -> Tensor:
    kind, count, ratio, weight = edge_attributes.unbind(1)
    half_octaves = (count.clamp(min=1).log2() * 2).floor() / 2
    twentieths = (ratio * PLAYED_RATIO_STEPS).round() / PLAYED_RATIO_STEPS
    return torch.stack([kind / 5, half_octaves, twentieths, weight], dim=1)
