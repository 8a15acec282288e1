"""What training minimises: a weighted BPR with margin (Rendle et al., 2009, arXiv 1205.2618)."""

import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.graph.edges import TYPE_CODES


def positive_weights(edge_attributes: Tensor) -> Tensor:
    """How much an edge counts as a positive: listen 0.3 + 0.7 · played ratio, like 1, undislike 0.5; [n_edges]."""
    kind, ratio = edge_attributes[:, 0], edge_attributes[:, 2]
    weights = torch.where(kind == TYPE_CODES["like"], 1.0, 0.3 + 0.7 * ratio)
    return torch.where(kind == TYPE_CODES["undislike"], 0.5, weights)


def margin_bpr(positive: Tensor, negative: Tensor, margin: float, temperature: float) -> Tensor:
    """−τ log σ((positive − negative − margin) / τ), elementwise; scores broadcast."""
    return temperature * functional.softplus((negative + margin - positive) / temperature)
