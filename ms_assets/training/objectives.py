"""What training minimises: a weighted BPR with margin, or a sampled softmax."""

import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.events import POSITIVES
from ms_assets.graph.bipartite import refuse_other_types

LEFT_OUT = -1e9
"""A logit that has no share, and unlike −∞ a gradient."""


def positive_weights(edge_attributes: Tensor) -> Tensor:
    """Weight of each edge in the loss, by its event type and played ratio (`EventType.loss`), float32 [n_edges].

    Raises:
        UnknownEventTypeError: an edge is of a type that is not positive.
    """
    refuse_other_types(edge_attributes, POSITIVES)
    code, ratio = edge_attributes[:, 0], edge_attributes[:, 2]
    weights = torch.zeros_like(ratio)
    for kind in POSITIVES.values():
        intercept, slope = kind.loss
        weights = torch.where(code == kind.code, intercept + slope * ratio, weights)
    return weights


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


def info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """−log of a node's share, in its row of similarities, of its own other view; [n] (van den Oord et al., 1807.03748).

    one, other: unit vectors [n, d], two views of the same n nodes.
    """
    similarities = one @ other.T / temperature
    return functional.cross_entropy(similarities, torch.arange(len(one), device=one.device), reduction="none")
