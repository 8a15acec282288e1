"""Optimisers with a learning rate for each part of the network, and the learning-rate schedule."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ms_assets.settings import TrainingSettings
from ms_assets.training.network import Network

EPS = 1e-12


def optimizer(network: Network, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Optimiser with a learning rate for each part of the network; weight decay for embeddings alone.

    Rates: artists and albums × 2, edge weights × 0.5, everything else × 1. Adam's eps is far below the gradients of
    rare songs, near 1e-8 in a mean over a million edges; torch's default would halve their steps.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    embeddings = [p for p in (network.users, network.residual, network.encoder.no_audio) if p is not None]
    groups: list[dict[str, Any]] = [
        {"params": list(network.encoder.owners.parameters()), "lr": 2 * rate, "weight_decay": decay},
        {"params": list(network.edge_weights.parameters()), "lr": rate / 2, "weight_decay": 0.0},
        {"params": [*network.encoder.projection.parameters(), network.log_lengths], "lr": rate, "weight_decay": 0.0},
        {"params": embeddings, "lr": rate, "weight_decay": decay},
    ]
    groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=rate, eps=EPS)


def warm_cosine(warmup_steps: float, steps: int) -> Callable[[int], float]:
    """Learning-rate schedule, a share of the peak by step: a linear rise, times a cosine from 1 to 0 over all steps."""

    def factor(step: int) -> float:
        return min((step + 1) / (warmup_steps + 1), 1.0) * (1 + math.cos(math.pi * step / steps)) / 2

    return factor
