"""Optimisers with a learning rate for each part of the network, and the course of the rates."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ms_assets.settings import TrainingSettings
from ms_assets.training.network import Network


def optimizer(network: Network, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Optimiser with a learning rate for each part; embeddings alone decay.

    Artists and albums × 2, edge weights × 0.5, users, residuals and the vector for unknown audio × 1. The projection
    × 0.1: all songs share it, so that what a batch's noise does to it moves every song.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    embeddings = [p for p in (network.users, network.residual, network.encoder.no_audio) if p is not None]
    groups: list[dict[str, Any]] = [
        {"params": list(network.encoder.owners.parameters()), "lr": 2 * rate, "weight_decay": decay},
        {"params": list(network.edge_weights.parameters()), "lr": rate / 2, "weight_decay": 0.0},
        {"params": list(network.encoder.projection.parameters()), "lr": rate / 10, "weight_decay": 0.0},
        {"params": embeddings, "lr": rate, "weight_decay": decay},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=rate)


def warm_cosine(warmup_steps: float, steps: int) -> Callable[[int], float]:
    """A step's learning rate as a share of the peak: a linear rise, times a cosine from 1 to 0 over all steps."""

    def factor(step: int) -> float:
        return min((step + 1) / (warmup_steps + 1), 1.0) * (1 + math.cos(math.pi * step / steps)) / 2

    return factor
