"""Edge weights: learned from the edges' attributes, heuristic as given, or uniform."""

import torch
from torch import Tensor, nn

from ms_assets.events import LARGEST_CODE
from ms_assets.settings import TrainingSettings

PLAYED_RATIO_STEPS = 20
COUNT, PLAYED_RATIO = 1, 2
"""Columns of the network's input for log2 of the count and for the played ratio."""
MOST_HALF_OCTAVES = 64
"""Largest count in half octaves: 2^32 events of one type between one user and one song."""


class EdgeWeightMLP(nn.Module):
    """MLP for edge weights in (0, 1): Linear(4 → 8), ReLU, Linear(8 → 1), sigmoid, at least 1e-6.

    It starts near σ(log2(count) / 2 + 1.2 · played ratio − 2.5), because users like what they play again and to its
    end. That is about proportional to the logarithm of the count: 0.1 for a first listen, 0.2 if it was complete.

    Edges are grouped into buckets (event type × half octave of the count × twentieth of the played ratio), so the
    network sees fewer than a thousand rows however many edges there are.
    """

    rows: Tensor
    bucket: Tensor

    def __init__(self, edge_attributes: Tensor) -> None:
        """Group edges by edge_attr float32 [n_edges, 4] = event type code, count, played ratio, heuristic weight."""
        super().__init__()
        rows, bucket = _buckets(edge_attributes)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("bucket", bucket, persistent=False)
        hidden, out = nn.Linear(4, 8), nn.Linear(8, 1)
        with torch.no_grad():
            for unit, (column, worth) in enumerate(((COUNT, 0.5), (PLAYED_RATIO, 1.2))):
                hidden.weight[unit] = 0.0
                hidden.weight[unit, column], hidden.bias[unit], out.weight[0, unit] = 1.0, 0.0, worth
            out.weight[0, 2:] *= 0.1
            out.bias.fill_(-2.5)
        self.layers = nn.Sequential(hidden, nn.ReLU(), out)

    def forward(self) -> Tensor:
        """The weights of all edges, float32 [n_edges]."""
        # `index_select` rather than indexing: its gradient adds up in a fixed order on the CPU.
        return self._table(self.rows).index_select(0, self.bucket)

    def weights_of(self, edge_attributes: Tensor) -> Tensor:
        """Weights of edges with these attributes, [n]; the edges need not occur in the graph."""
        rows, bucket = _buckets(edge_attributes)
        return self._table(rows)[bucket]

    def _table(self, rows: Tensor) -> Tensor:
        return self.layers(rows).sigmoid().clamp(min=1e-6).squeeze(1)


class FixedEdgeWeights(nn.Module):
    """Edge weights that training does not change."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self) -> Tensor:
        """The weights of all edges, float32 [n_edges]."""
        return self.weights


def edge_weights(edge_attributes: Tensor, settings: TrainingSettings) -> EdgeWeightMLP | FixedEdgeWeights:
    """Module for the edge weights that the settings ask for, given the edges' attributes."""
    if settings.edge_weights == "learned":
        return EdgeWeightMLP(edge_attributes)
    heuristic = edge_attributes[:, 3].clone()
    return FixedEdgeWeights(heuristic if settings.edge_weights == "heuristic" else torch.ones_like(heuristic))


def _buckets(edge_attributes: Tensor) -> tuple[Tensor, Tensor]:
    """Input of the network for each bucket that occurs, [n_buckets, 4], and the bucket of each edge, int32."""
    kind, count, ratio, weight = edge_attributes.unbind(1)
    half_octave = (count.clamp(min=1).log2() * 2).floor().clamp(max=MOST_HALF_OCTAVES - 1)
    twentieth = (ratio * PLAYED_RATIO_STEPS).round()
    # Counted rather than sorted, because keys are small numbers and edges are many.
    key = ((kind * MOST_HALF_OCTAVES + half_octave) * (PLAYED_RATIO_STEPS + 1) + twentieth).long()
    n_edges = torch.bincount(key)
    occurring = n_edges.nonzero().squeeze(1)
    place = torch.zeros_like(n_edges).index_put((occurring,), torch.arange(len(occurring)))
    rest, twentieths = occurring // (PLAYED_RATIO_STEPS + 1), occurring % (PLAYED_RATIO_STEPS + 1)
    kinds, half_octaves = rest // MOST_HALF_OCTAVES, rest % MOST_HALF_OCTAVES
    weights = torch.bincount(key, weights=weight.double())[occurring] / n_edges[occurring]
    rows = [kinds / LARGEST_CODE, half_octaves / 2, twentieths / PLAYED_RATIO_STEPS, weights]
    return torch.stack([row.float() for row in rows], dim=1), place[key].int()
