"""Optimiser steps of one training: gradients of batches, and a state to resume from."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import TrainingData
from ms_assets.training.negatives import NegativeSampler, Piece
from ms_assets.training.network import DIVIDED, Network
from ms_assets.training.objectives import positive_weights, ranking_loss
from ms_assets.training.optimizers import optimizer, warm_cosine
from ms_assets.training.propagation import Propagation


class NotFiniteError(ArithmeticError):
    """The loss or the norm of its gradient is not finite."""


class Steps:
    """State of one training: data on the network's device, optimiser, learning-rate schedule, random numbers."""

    def __init__(self, network: Network, data: TrainingData, settings: TrainingSettings) -> None:
        """Prepare the training of a network that is on its device already, and perhaps divided by columns."""
        graph, device = data.graph, network.users.device
        self.network, self.settings = network, settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.user, self.song = network.adjacency.user, network.adjacency.song
        self.weight = positive_weights(graph.attributes).to(device)
        self.sampler = NegativeSampler.of(graph.heard, data.disliked, graph.n_graph_songs, device)
        self.features = graph.features.select(self.sampler.songs).to(device)
        self.batch_size, self.n_pieces = settings.step_size(graph.n_edges), settings.n_pieces(graph.n_edges)
        self.n_batches = math.ceil(graph.n_edges / self.batch_size)
        self.optimizer = optimizer(network, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            warm_cosine(settings.warmup_epochs * self.n_batches, settings.epochs * self.n_batches),
        )
        self.n_done = 0
        self._epoch_start = self.generator.get_state()
        self._position, self._loss = 0, 0.0
        self._frozen: Propagation | None = None

    @property
    def learning_rate(self) -> float:
        """Learning rate of the user embeddings."""
        return float(self.schedule.get_last_lr()[-1])

    @property
    def propagation(self) -> Propagation:
        """Propagation with the current edge weights, which change only in steps that learn them."""
        if self._frozen is None:
            self._frozen = self.network.frozen_propagation()
        return self._frozen

    def epoch(self) -> Iterator[None]:
        """Visit every edge once in random order, yielding after each step; a loaded state resumes within its epoch.

        Raises:
            NotFiniteError: the loss or gradient is not finite; raised before the step would spoil the parameters.
        """
        if self._position == 0:
            self._epoch_start = self.generator.get_state()
            order = torch.randperm(len(self.user), generator=self.generator)
        else:
            order = torch.randperm(len(self.user), generator=_generator(self._epoch_start))
        for edges in order.to(self.user.device).split(self.batch_size)[self._position :]:
            self._loss += self._step(edges) * len(edges)
            self._position += 1
            yield

    def finish_epoch(self) -> float:
        """End an epoch; returns its mean loss per edge."""
        loss = self._loss / len(self.user)
        self._position, self._loss = 0, 0.0
        return loss

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Current embeddings of users and graph songs, without a graph for autograd."""
        return self.network.of_graph(self.features, self.propagation)

    def state_dict(self) -> dict[str, Any]:
        """State that the rest of the training depends on, beside data and settings, whole in the first process."""
        whole = self.network.whole
        return {
            "network": {name: whole(name, x) for name, x in self.network.state_dict().items()},
            "optimizer": self._of_optimizer(self.optimizer.state_dict(), whole),
            "schedule": self.schedule.state_dict(),
            "generators": [self.generator.get_state(), self._epoch_start],
            "position": self._position,
            "loss": self._loss,
            "n_done": self.n_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a whole `state_dict` of the same data and settings."""
        own = self.network.own
        self.network.load_state_dict({name: own(name, x) for name, x in state["network"].items()})
        self.optimizer.load_state_dict(self._of_optimizer(state["optimizer"], own))
        self.schedule.load_state_dict(state["schedule"])
        mine, self._epoch_start = state["generators"]
        self.generator.set_state(mine)
        self._position, self._loss, self.n_done = state["position"], state["loss"], state["n_done"]
        self._frozen = None

    def _of_optimizer(self, state: dict[str, Any], change: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        """Change each tensor of the optimiser's state, given the name of its parameter."""
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        ordered = [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]
        changed = {
            number: {what: change(ordered[number], x) for what, x in moments.items()}
            for number, moments in state["state"].items()
        }
        return {**state, "state": changed}

    def _step(self, edges: Tensor) -> float:
        """Take one step of the optimiser; returns the mean loss of its edges."""
        # Edge weights move slowly: most steps propagate with frozen ones, which is several times cheaper.
        learning = self.settings.edge_weights == "learned" and self.n_done % self.settings.edge_weight_interval == 0
        if learning:
            self._frozen = None  # before the step rather than after: two kinds of entries are never held at once
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._add_gradients(edges, None if learning else self.propagation)
        norm = self._clip()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise NotFiniteError(
                f"step {self._position + 1} of {self.n_batches}: the loss is {loss}, its gradient {norm} long"
            )
        self.optimizer.step()
        self.schedule.step()
        self.n_done += 1
        return loss

    def _clip(self) -> float:
        """Complete the gradients, and clip them together; returns the norm of all before."""
        columns, norms = self.network.columns, []
        for name, parameter in self.network.named_parameters():
            if (gradient := parameter.grad) is None:
                continue
            if name in DIVIDED:
                norms.append(gradient.norm())
            else:  # Each process knows what its columns add to the gradient, and all count its norm together.
                parameter.grad = gradient = columns.sum(gradient)
                norms.append(gradient.norm() / columns.of**0.5)
        norm = columns.norm(torch.stack(norms).norm())
        clip_grads_with_norm_(self.network.parameters(), self.settings.max_gradient_norm, norm)
        return float(norm)

    def _add_gradients(self, edges: Tensor, propagation: Propagation | None) -> float:
        """Add the gradient of the mean loss to the parameters; returns that loss.

        Embeddings are propagated once. Each piece of the batch adds to the gradient of the embeddings, which is then
        propagated back once: a piece costs little more than its own loss.
        """
        propagated, first_song = self.network(self.features, propagation), self.network.n_users
        embeddings, gradient = propagated.detach(), torch.zeros_like(propagated)
        total = gradient.new_zeros(())
        for piece in self.sampler.pieces(edges, self.user[edges], self.n_pieces, self.settings, self.generator):
            songs = torch.cat([self.song[piece.edges], piece.hard, piece.neutral.flatten()])
            nodes = torch.cat([piece.user, first_song + songs])
            total += self._add_gradient_of_rows(piece, nodes, embeddings, gradient, len(edges))
        propagated.backward(gradient)
        return float(total)

    def _add_gradient_of_rows(
        self, piece: Piece, nodes: Tensor, embeddings: Tensor, gradient: Tensor, n_edges: int
    ) -> Tensor:
        """Add the gradient of a piece's loss, which counts for a step of n_edges, to that of the embeddings.

        Returns the loss, a scalar. Its rows are gone before the next piece is drawn.
        """
        rows = embeddings.index_select(0, nodes).requires_grad_()
        weight, n_songs = self.weight[piece.edges], self.sampler.n_graph_songs
        loss = ranking_loss(piece, weight, rows, n_songs, self.settings, self.network.columns) / n_edges
        (gradient_of_rows,) = torch.autograd.grad(loss, rows)
        # `index_add_` adds up in a fixed order on the CPU, several times faster than the gradient of `embedding`.
        gradient.index_add_(0, nodes, gradient_of_rows)
        return loss.detach()


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator
