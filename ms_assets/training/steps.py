"""The steps of one training: batches, what they are ranked against, gradients, and a state to go on from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.training.lightgcn import LightGCN, SongFeatures
from ms_assets.training.negatives import NegativeSampler
from ms_assets.training.objectives import margin_bpr, positive_weights, sampled_softmax
from ms_assets.training.optimisers import optimiser, warm_cosine
from ms_assets.training.propagation import Propagation

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

SMALLEST_BATCH, LARGEST_BATCH = 8_192, 262_144
LARGEST_PIECE = 32_768

Pairs = tuple[NDArray[np.integer], NDArray[np.integer]]
"""User ids and song ids."""


class NotFiniteError(ArithmeticError):
    """The loss, or the length of its gradient, is no longer a number."""


def step_size(settings: TrainingSettings, n_edges: int) -> int:
    """Positive edges in a step."""
    return settings.batch_size or min(max(n_edges // 8, SMALLEST_BATCH), LARGEST_BATCH)


def n_pieces(settings: TrainingSettings, n_edges: int) -> int:
    """In how many pieces a step is computed."""
    return settings.accumulation or math.ceil(min(step_size(settings, n_edges), n_edges) / LARGEST_PIECE)


@dataclass(frozen=True)
class Batch:
    """Positives in groups, and what was drawn for them; a piece of a batch is a batch."""

    edges: Tensor
    """int64 [n], in groups of `group_size`, the last of which may be short."""
    hard: Tensor
    """int64 [n], an explicit negative of each edge's user."""
    has_hard: Tensor
    """bool [n], whether the user has any."""
    neutral: Tensor
    """int64 [n_groups, k], the neutral negatives that a group shares."""

    def pieces(self, n: int, group_size: int) -> Iterator["Batch"]:
        """About n pieces of whole groups."""
        n_groups = math.ceil(len(self.neutral) / n)
        size = n_groups * group_size
        parts = (self.edges.split(size), self.hard.split(size), self.has_hard.split(size), self.neutral.split(n_groups))
        yield from map(Batch, *parts)


class Steps:
    """The moving parts of one training: data on the device, optimiser, random numbers."""

    def __init__(
        self,
        model: LightGCN,
        graph: "HeteroData",
        explicit_negatives: Pairs,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.user, self.song = (ids.to(device) for ids in graph[INTERACTS].edge_index)
        self.weight = positive_weights(graph[INTERACTS].edge_attr).to(device)
        self.heard = self._heard()
        self.features, self.sampler = self._negatives(*explicit_negatives)
        n_edges = len(self.user)
        self.batch_size, self.n_pieces = step_size(settings, n_edges), n_pieces(settings, n_edges)
        self.n_batches = math.ceil(n_edges / self.batch_size)
        self.optimiser = optimiser(model, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            warm_cosine(settings.warmup_epochs * self.n_batches, settings.epochs * self.n_batches),
        )
        self.n_done = 0
        self._epoch_start = self.generator.get_state()
        self._position, self._loss = 0, 0.0
        self.propagation = model.frozen_propagation()

    def _heard(self) -> Judgements:
        """The positives of every user, over graph songs."""
        model = self.model
        keys = torch.unique(self.user * model.n_graph_songs + self.song).cpu().numpy()
        return Judgements(keys, np.ones(len(keys)), model.n_users, model.n_graph_songs)

    def _negatives(self, user: NDArray[np.integer], song: NDArray[np.integer]) -> tuple[SongFeatures, NegativeSampler]:
        """Features of the graph songs and the cold negatives after them, and a sampler that speaks their positions."""
        n = self.model.n_graph_songs
        cold = np.unique(song[song >= n])
        positions = np.where(song < n, song, n + np.searchsorted(cold, song))
        encoded = torch.from_numpy(np.concatenate([np.arange(n), cold]))
        # Keys count positions up to the last cold negative, where graph songs keep their ids.
        width = len(encoded)
        heard_user, heard_song = np.divmod(self.heard.keys, self.heard.n_songs)
        keys = heard_user * width + heard_song
        sampler = NegativeSampler.of(keys, user, positions, self.model.n_users, width, n, self.device)
        return self.model.features.select(encoded).to(self.device), sampler

    @property
    def learning_rate(self) -> float:
        """Of users."""
        return float(self.schedule.get_last_lr()[-1])

    def epoch(self) -> Iterator[None]:
        """Visit every edge once in random order, pausing after each step; goes on where a loaded state was.

        Raises:
            NotFiniteError: before a step that would spoil the parameters.
        """
        self.model.train()
        if self._position == 0:
            self._epoch_start = self.generator.get_state()
            order = torch.randperm(len(self.user), generator=self.generator)
        else:
            order = torch.randperm(len(self.user), generator=_generator(self._epoch_start))
        for edges in order.to(self.device).split(self.batch_size)[self._position :]:
            self._loss += self._step(edges) * len(edges)
            self._position += 1
            yield

    def finish_epoch(self) -> float:
        """The mean loss of an edge in the epoch that is over."""
        loss = self._loss / len(self.user)
        self._position, self._loss = 0, 0.0
        return loss

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Users and graph songs as of now, without a graph for autograd."""
        self.model.eval()
        with torch.no_grad():
            found = self.model(self.features, self.model.frozen_propagation())
        users, songs, _ = found.tensor_split([self.model.n_users, self.model.n_users + self.model.n_graph_songs])
        return users, songs

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, beside data and settings."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generators": [self.generator.get_state(), self._epoch_start],
            "position": self._position,
            "loss": self._loss,
            "n_done": self.n_done,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, of the same data and settings."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        mine, self._epoch_start = state["generators"]
        self.generator.set_state(mine)
        self._position, self._loss, self.n_done = state["position"], state["loss"], state["n_done"]
        # Edge weights have not changed since the propagation was last frozen.
        self.propagation = self.model.frozen_propagation()

    def _step(self, edges: Tensor) -> float:
        """One step of the optimiser; the mean loss of its edges."""
        # Edge weights move slowly: most steps propagate with frozen ones, which is several times cheaper.
        learning = self.settings.edge_weights == "learned" and self.n_done % self.settings.edge_weight_interval == 0
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._add_gradients(edges, None if learning else self.propagation)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise NotFiniteError(
                f"step {self._position + 1} of {self.n_batches}: the loss is {loss}, its gradient {norm} long"
            )
        self.optimiser.step()
        self.schedule.step()
        self.n_done += 1
        if learning:
            self.propagation = self.model.frozen_propagation()
        return loss

    def _add_gradients(self, edges: Tensor, propagation: Propagation | None) -> float:
        """Leave the gradient of the mean loss with the parameters; returns that loss.

        Embeddings are propagated once. The pieces of the batch each add to the gradient of the embeddings, which
        then goes back through the propagation, once as well: a piece costs next to nothing but its own loss.
        """
        embeddings = self.model(self.features, propagation)
        gradient, total = torch.zeros_like(embeddings), torch.zeros((), device=self.device)
        for piece in self._draw(edges).pieces(self.n_pieces, self.settings.group_size):
            total += self._ranking_loss(piece, embeddings.detach(), gradient, len(edges))
        embeddings.backward(gradient)
        return float(total)

    def _draw(self, edges: Tensor) -> Batch:
        hard, has_hard = self.sampler.hard(self.user[edges], self.generator)
        n_groups = math.ceil(len(edges) / self.settings.group_size)
        neutral = self.sampler.neutral(n_groups, self.settings.neutral_negatives, self.generator)
        return Batch(edges, hard, has_hard, neutral)

    def _ranking_loss(self, batch: Batch, embeddings: Tensor, gradient: Tensor, n: int) -> Tensor:
        """The piece's share of the mean loss of n edges; adds its gradient to that of the embeddings."""
        settings, first_song = self.settings, self.model.n_users
        user, song = self.user[batch.edges], self.song[batch.edges]
        disliking = batch.has_hard.nonzero().squeeze(1)
        songs = torch.cat([song, batch.hard[disliking], batch.neutral.flatten()])
        with _rows(embeddings, gradient, torch.cat([user, first_song + songs])) as rows:
            wanting, positive, hard, neutral = rows.split([len(user), len(song), len(disliking), batch.neutral.numel()])
            positive = (wanting * positive).sum(dim=1)
            weight = self.weight[batch.edges]
            losses = settings.neutral_weight * self._neutral_loss(batch, user, wanting, positive, neutral)
            loss = (weight * losses).sum()
            if len(disliking):
                # `index_select` rather than indexing: its gradient adds up in a fixed order on the CPU.
                wanting, positive = wanting.index_select(0, disliking), positive.index_select(0, disliking)
                losses = margin_bpr(positive, (wanting * hard).sum(dim=1), settings.margin, settings.temperature)
                loss = loss + settings.hard_weight * (weight[disliking] * losses).sum()
            loss = loss / n
            loss.backward()
        return loss.detach()

    def _neutral_loss(self, batch: Batch, user: Tensor, wanting: Tensor, positive: Tensor, neutral: Tensor) -> Tensor:
        """Loss of each positive against the neutral negatives of its group, heard songs left out."""
        settings, n = self.settings, len(user)
        n_groups, k = batch.neutral.shape
        # The last group may be short: pad it, and drop the padding after the batched product.
        grouped = functional.pad(wanting, (0, 0, 0, n_groups * settings.group_size - n)).unflatten(0, (n_groups, -1))
        scores = torch.bmm(grouped, neutral.unflatten(0, (n_groups, k)).transpose(1, 2)).flatten(0, 1)[:n]
        drawn = batch.neutral.repeat_interleave(settings.group_size, dim=0)[:n]
        kept = ~self.sampler.is_heard(user[:, None], drawn)
        if settings.objective == "softmax":
            n_songs = self.sampler.n_graph_songs
            return sampled_softmax(positive, scores, kept, n_songs, settings.margin, settings.temperature)
        loss = margin_bpr(positive[:, None], scores, settings.margin, settings.temperature) * kept
        return loss.sum(dim=1) / kept.sum(dim=1).clamp(min=1)


@contextmanager
def _rows(embeddings: Tensor, gradient: Tensor, nodes: Tensor) -> Iterator[Tensor]:
    """Rows of the embeddings to compute a loss of; after its backward pass theirs is added to the whole gradient.

    `index_add_` adds up in a fixed order on the CPU, and is several times faster there than what `embedding` does.
    """
    rows = embeddings.index_select(0, nodes).requires_grad_()
    yield rows
    if rows.grad is not None:
        gradient.index_add_(0, nodes, rows.grad)


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator
