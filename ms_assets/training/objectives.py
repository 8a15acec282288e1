"""What training minimises: a weighted BPR with margin, or a sampled softmax."""

import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.graph.edges import TYPE_CODES

LEFT_OUT = -1e9
"""A logit that has no share, and unlike −∞ a gradient."""


def positive_weights(edge_attributes: Tensor) -> Tensor:
    """How much an edge counts as a positive: listen 0.3 + 0.7 · played ratio, like 1, undislike 0.5; [n_edges]."""
    kind, ratio = edge_attributes[:, 0], edge_attributes[:, 2]
    weights = torch.where(kind == TYPE_CODES["like"], 1.0, 0.3 + 0.7 * ratio)
    return torch.where(kind == TYPE_CODES["undislike"], 0.5, weights)


def margin_bpr(positive: Tensor, negative: Tensor, margin: float, temperature: float) -> Tensor:
    """−τ log σ((positive − negative − margin) / τ), elementwise; scores broadcast (Rendle et al., arXiv 1205.2618)."""
    return temperature * functional.softplus((negative + margin - positive) / temperature)


def sampled_softmax(
    positive: Tensor, negatives: Tensor, kept: Tensor, n_songs: int, margin: float, temperature: float
) -> Tensor:
    """−τ log of the positive's share among all songs, the others estimated from a uniform sample; [n].

    Each kept negative stands for n_songs / n_kept songs, which is the logQ correction of a uniform proposal
    (Bengio and Senécal, 2008; Yi et al., RecSys 2019). Without a kept negative the loss is 0.

    Args:
        positive: scores, [n].
        negatives: scores, [n, k].
        kept: which of them count, bool [n, k].
        n_songs: songs that they were drawn from.
        margin: by how much a positive should outscore them.
        temperature: τ.
    """
    difference = (negatives + margin - positive[:, None]) / temperature
    others = torch.logsumexp(difference.masked_fill(~kept, LEFT_OUT), dim=1)
    correction = torch.log(n_songs / kept.sum(dim=1).clamp(min=1))
    return temperature * functional.softplus(others + correction)
