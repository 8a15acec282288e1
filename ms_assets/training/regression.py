"""Ridge regression of vectors on features of songs, its penalty chosen by cross-validation."""

import torch
from torch import Tensor

FOLDS = 5
PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4)
"""Penalties of the ridge regression, in units of the mean variance of an input."""
SMALLEST = 1e-12


def ridge(inputs: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Ridge regression of targets [n, d] on inputs [n, k]: weights [k, d] and intercept [d].

    Its penalty is the one of `PENALTIES` that predicts held-out rows best, five folds in turn; with the largest, inputs
    that say nothing of the targets have weights near 0.
    """
    mean, centre = inputs.mean(dim=0), targets.mean(dim=0)
    fold = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)) % FOLDS
    parts = [(inputs[fold == k] - mean, targets[fold == k] - centre) for k in range(FOLDS)]
    moments = torch.stack([x.T @ torch.cat([x, y], dim=1) for x, y in parts])
    total, width = moments.sum(dim=0), inputs.shape[1]
    scale = float(total.diagonal().sum()) / width + SMALLEST

    def solve(these: Tensor, penalty: float) -> Tensor:
        return torch.linalg.solve(these[:, :width] + penalty * scale * torch.eye(width), these[:, width:])

    def missed(penalty: float) -> float:
        held_out = zip(parts, moments, strict=True)
        return sum(float((y - x @ solve(total - own, penalty)).square().sum()) for (x, y), own in held_out)

    weight = solve(total, min(PENALTIES, key=missed))
    return weight, centre - mean @ weight
