"""Objectives that training minimises: a weighted BPR with margin, or a sampled softmax."""

import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.events import POSITIVES, UnknownEventTypeError, name_of
from ms_assets.settings import TrainingSettings
from ms_assets.training.columns import WHOLE, Columns
from ms_assets.training.negatives import Piece

LEFT_OUT = -1e9
"""Logit of a negative that is left out: its share is 0, and unlike −∞ it has a gradient."""


def positive_weights(edge_attributes: Tensor) -> Tensor:
    """Weight of each edge in the loss, by its event type and played ratio (`EventType.loss`), float32 [n_edges].

    Raises:
        UnknownEventTypeError: an edge is of a type that is not positive.
    """
    code, ratio = edge_attributes[:, 0], edge_attributes[:, 2]
    weights = torch.full_like(ratio, torch.nan)
    for kind in POSITIVES.values():
        intercept, slope = kind.loss
        weights = torch.where(code == kind.code, intercept + slope * ratio, weights)
    if len(unknown := code[weights.isnan()]):
        raise UnknownEventTypeError(name_of(float(unknown[0])), POSITIVES)
    return weights


def ranking_loss(
    piece: Piece, weight: Tensor, rows: Tensor, n_songs: int, settings: TrainingSettings, columns: Columns = WHOLE
) -> Tensor:
    """Sum of the weighted losses of a piece's positives, a scalar.

    Args:
        piece: positives and their negatives.
        weight: weight of each positive, [n].
        rows: embeddings of the n users, their n positive songs, `piece.hard` and `piece.neutral`, in this order.
        n_songs: songs that the neutral negatives were drawn from.
        settings: objective, margin, temperature and weights.
        columns: columns of the embeddings that `rows` has.
    """
    n = len(piece.edges)
    users, positive, hard, neutral = rows.split([n, n, len(piece.hard), piece.neutral.numel()])
    positive = columns.sum((users * positive).sum(dim=1))
    scores = columns.sum(_neutral_scores(piece, users, neutral, settings.group_size))
    losses = settings.neutral_weight * _neutral_losses(piece, positive, scores, n_songs, settings)
    loss = (weight * losses).sum()
    if len(piece.hard):
        # `index_select` rather than indexing: its gradient adds up in a fixed order on the CPU.
        users, positive = (tensor.index_select(0, piece.disliking) for tensor in (users, positive))
        losses = margin_bpr(positive, columns.sum((users * hard).sum(dim=1)), settings.margin, settings.sharpness)
        loss = loss + settings.hard_weight * (weight[piece.disliking] * losses).sum()
    return loss


def _neutral_scores(piece: Piece, users: Tensor, neutral: Tensor, group_size: int) -> Tensor:
    """Scores of each positive's user for the neutral negatives of its group, [n, k]."""
    n, (n_groups, k) = len(users), piece.neutral.shape
    # The last group may be short: pad it, and drop the padding after the batched product.
    grouped = functional.pad(users, (0, 0, 0, n_groups * group_size - n)).unflatten(0, (n_groups, -1))
    return torch.bmm(grouped, neutral.unflatten(0, (n_groups, k)).transpose(1, 2)).flatten(0, 1)[:n]


def _neutral_losses(piece: Piece, positive: Tensor, scores: Tensor, n_songs: int, settings: TrainingSettings) -> Tensor:
    """Loss of each positive against the neutral negatives of its group, heard songs left out, [n]."""
    if settings.objective == "softmax":
        return sampled_softmax(positive, scores, piece.unheard, n_songs, settings.margin, settings.sharpness)
    losses = margin_bpr(positive[:, None], scores, settings.margin, settings.sharpness) * piece.unheard
    return losses.sum(dim=1) / piece.unheard.sum(dim=1).clamp(min=1)


def margin_bpr(positive: Tensor, negative: Tensor, margin: float, temperature: float) -> Tensor:
    """BPR loss with margin, −τ log σ((positive − negative − margin) / τ), elementwise; scores broadcast.

    Rendle et al., arXiv 1205.2618.
    """
    return temperature * functional.softplus((negative + margin - positive) / temperature)


def sampled_softmax(
    positive: Tensor, negatives: Tensor, kept: Tensor, n_songs: int, margin: float, temperature: float
) -> Tensor:
    """Sampled softmax loss, −τ log of the positive's share among all songs, estimated from a uniform sample; [n].

    Each kept negative stands for n_songs / n_kept songs, which is the logQ correction of a uniform proposal
    (Bengio and Senécal, 2008; Yi et al., RecSys 2019). Without a kept negative the loss is 0.

    Args:
        positive: scores, [n].
        negatives: scores, [n, k].
        kept: flags of the negatives that count, bool [n, k].
        n_songs: number of songs that the negatives were drawn from.
        margin: difference by which a positive should outscore them.
        temperature: τ.
    """
    # In place, for nothing of these steps is kept for the gradient but what is left out.
    difference = (negatives + margin).sub_(positive[:, None]).div_(temperature)
    others = torch.logsumexp(difference.masked_fill_(~kept, LEFT_OUT), dim=1)
    correction = torch.log(n_songs / kept.sum(dim=1).clamp(min=1))
    return temperature * functional.softplus(others + correction)
