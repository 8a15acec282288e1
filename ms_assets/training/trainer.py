"""Training LightGCN: epochs over every positive edge, validation, early stopping, the best state kept."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ms_assets import ranking
from ms_assets.graph.bipartite import INTERACTS
from ms_assets.ranking import Judgements
from ms_assets.settings import TrainingSettings
from ms_assets.training.lightgcn import LightGCN, SongFeatures
from ms_assets.training.negatives import NegativeSampler
from ms_assets.training.objectives import margin_bpr, positive_weights, sampled_softmax
from ms_assets.training.propagation import Propagation
from ms_assets.training.spectral import start_from_spectrum

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

logger = logging.getLogger(__name__)

VALIDATION_K = 10
SCORES_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Epoch:
    """What one pass over the edges came to."""

    number: int
    loss: float
    validation_ndcg: float
    learning_rate: float
    seconds: float
    """Since training began."""


@dataclass(frozen=True)
class Trained:
    """The best state of a model, and how it was reached."""

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch]


def train(
    graph: "HeteroData",
    explicit_negatives: tuple[NDArray[np.integer], NDArray[np.integer]],
    validation: Judgements,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train on the graph's edges until validation no longer improves.

    Args:
        graph: as `graph.bipartite.bipartite_graph` builds it.
        explicit_negatives: (user ids, song ids) of dislikes and unlikes; songs may be cold.
        validation: relevance of songs to users; what a user has an edge to is left out (the view `discovery`).
        settings: sizes, loss and optimiser.
        device: where to compute; the CPU gives the same numbers again for the same seed.
        on_epoch: told of every epoch as it ends.
    """
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = LightGCN(graph, settings)
    if settings.spectral_start:
        start_from_spectrum(model, settings.seed)
    else:
        model.encoder.balance(model.features)
    run = _Run(model.move(device), graph, explicit_negatives, validation, settings, device)
    best, best_state = Epoch(0, math.inf, -math.inf, 0.0, 0.0), {}
    history, started = [], time.monotonic()
    for number in range(1, settings.epochs + 1):
        loss = run.epoch()
        seconds = time.monotonic() - started
        epoch = Epoch(number, loss, run.validation_ndcg(), run.learning_rate, seconds)
        history.append(epoch)
        if epoch.validation_ndcg >= best.validation_ndcg:
            best, best_state = epoch, {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        logger.info(
            "epoch %d of %d: loss %.4f, validation NDCG@%d %.4f (best %.4f in epoch %d), %.0f s, at most %.0f s left",
            number, settings.epochs, loss, VALIDATION_K, epoch.validation_ndcg, best.validation_ndcg, best.number,
            seconds, seconds / number * (settings.epochs - number),
        )  # fmt: skip
        on_epoch(epoch)
        if number - best.number >= settings.patience:
            logger.info("no better validation in %d epochs: stopping", settings.patience)
            break
    return Trained(best_state, best, history)


class _Run:
    """The moving parts of one training: data on the device, optimiser, random numbers."""

    def __init__(
        self,
        model: LightGCN,
        graph: "HeteroData",
        explicit_negatives: tuple[NDArray[np.integer], NDArray[np.integer]],
        validation: Judgements,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.user, self.song = (ids.to(device) for ids in graph[INTERACTS].edge_index)
        self.weight = positive_weights(graph[INTERACTS].edge_attr).to(device)
        heard = self._heard()
        self.features, self.sampler = self._negatives(heard, *explicit_negatives)
        self.batch_size = settings.batch_size or min(max(len(self.user) // 8, 8_192), 262_144)
        self.optimizer = _optimizer(model, settings)
        steps = math.ceil(len(self.user) / self.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _warm_cosine(settings.warmup_epochs * steps, settings.epochs * steps)
        )
        self.step, self.propagation = 0, model.frozen_propagation()
        self.validator = Validator.of(validation, heard, settings, model.n_graph_songs)

    def _heard(self) -> Judgements:
        """The positives of every user, over graph songs."""
        model = self.model
        keys = torch.unique(self.user * model.n_graph_songs + self.song).cpu().numpy()
        return Judgements(keys, np.ones(len(keys)), model.n_users, model.n_graph_songs)

    def _negatives(
        self, heard: Judgements, user: NDArray[np.integer], song: NDArray[np.integer]
    ) -> tuple[SongFeatures, NegativeSampler]:
        """Features of the graph songs and the cold negatives after them, and a sampler that speaks their positions."""
        n = self.model.n_graph_songs
        cold = np.unique(song[song >= n])
        positions = np.where(song < n, song, n + np.searchsorted(cold, song))
        encoded = torch.from_numpy(np.concatenate([np.arange(n), cold]))
        # Keys count positions up to the last cold negative, where graph songs keep their ids.
        width = len(encoded)
        heard_user, heard_song = np.divmod(heard.keys, heard.n_songs)
        keys = heard_user * width + heard_song
        sampler = NegativeSampler.of(keys, user, positions, self.model.n_users, width, n, self.device)
        return self.model.features.select(encoded.to(self.device)), sampler

    @property
    def learning_rate(self) -> float:
        return float(self.schedule.get_last_lr()[-1])

    def epoch(self) -> float:
        """Visit every edge once in random order; the mean loss of an edge."""
        self.model.train()
        total = 0.0
        order = torch.randperm(len(self.user), generator=self.generator).to(self.device)
        for batch in order.split(self.batch_size):
            # Edge weights move slowly: most steps propagate with frozen ones, which is several times cheaper.
            learning = self.settings.learned_edge_weights and self.step % self.settings.edge_weight_interval == 0
            loss = self._loss(batch, None if learning else self.propagation)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
            self.optimizer.step()
            self.schedule.step()
            if learning:
                self.propagation = self.model.frozen_propagation()
            self.step += 1
            total += loss.item() * len(batch)
        return total / len(order)

    def _loss(self, batch: Tensor, propagation: Propagation | None) -> Tensor:
        settings = self.settings
        users, songs = self.model(self.features, propagation)
        user, song = self.user[batch], self.song[batch]
        # `embedding` rather than indexing: its gradient adds up in a fixed order on the CPU.
        wanting = functional.embedding(user, users)
        positive = (wanting * functional.embedding(song, songs)).sum(dim=1)
        hard_song, has_hard = self.sampler.hard(user, self.generator)
        hard = margin_bpr(
            positive,
            (wanting * functional.embedding(hard_song, songs)).sum(dim=1),
            settings.margin,
            settings.temperature,
        )
        loss = settings.hard_weight * hard * has_hard
        loss = loss + settings.neutral_weight * self._neutral_loss(user, wanting, positive, songs)
        return (self.weight[batch] * loss).mean()

    def _neutral_loss(self, user: Tensor, wanting: Tensor, positive: Tensor, songs: Tensor) -> Tensor:
        """Loss of each positive against the neutral negatives of its group, heard songs left out."""
        settings, n = self.settings, len(user)
        n_groups = math.ceil(n / settings.group_size)
        negatives = self.sampler.neutral(n_groups, settings.neutral_negatives, self.generator)
        # The last group may be short: pad it, and drop the padding after the batched product.
        grouped = functional.pad(wanting, (0, 0, 0, n_groups * settings.group_size - n)).unflatten(
            0, (n_groups, settings.group_size)
        )
        scores = torch.bmm(grouped, functional.embedding(negatives, songs).transpose(1, 2)).flatten(0, 1)[:n]
        drawn = negatives.repeat_interleave(settings.group_size, dim=0)[:n]
        kept = ~self.sampler.is_heard(user[:, None], drawn)
        if settings.objective == "softmax":
            n_songs = self.sampler.n_graph_songs
            return sampled_softmax(positive, scores, kept, n_songs, settings.margin, settings.temperature)
        loss = margin_bpr(positive[:, None], scores, settings.margin, settings.temperature) * kept
        return loss.sum(dim=1) / kept.sum(dim=1).clamp(min=1)

    def validation_ndcg(self) -> float:
        """Mean NDCG over the validation users, with the edge weights that the state of this epoch has."""
        self.model.eval()
        with torch.no_grad():
            users, songs = self.model(self.features, self.model.frozen_propagation())
        return self.validator.ndcg(users, songs[: self.model.n_graph_songs])


@dataclass(frozen=True)
class Validator:
    """Ranks graph songs for a draw of validation users, songs heard in train left out."""

    users: NDArray[np.int64]
    targets: Judgements
    heard: Judgements

    @classmethod
    def of(
        cls, validation: Judgements, heard: Judgements, settings: TrainingSettings, n_graph_songs: int
    ) -> "Validator":
        """Draw the users among those with something new to find in the graph."""
        user, song = np.divmod(validation.keys, validation.n_songs)
        reachable = song < n_graph_songs
        targets = Judgements.of(
            user[reachable],
            song[reachable],
            validation.relevance[reachable],
            validation.n_users,
            n_graph_songs,
        ).without(heard)
        users = np.flatnonzero(targets.counts)
        if len(users) > settings.validation_users:
            drawn = np.random.default_rng(settings.seed).choice(users, settings.validation_users, replace=False)
            users = np.sort(drawn)
        return cls(users, _rows(targets, users), _rows(heard, users))

    def ndcg(self, user_embeddings: Tensor, song_embeddings: Tensor) -> float:
        """Mean NDCG; 0 when there is nothing to validate with: then all epochs tie, and the last is kept."""
        if not len(self.users):
            return 0.0
        recommended = np.concatenate(list(self._recommend(user_embeddings, song_embeddings)))
        per_user = ranking.ndcg(self.targets.gains(recommended), self.targets.ideal(recommended.shape[1]))
        return float(np.nanmean(per_user))

    def _recommend(self, users: Tensor, songs: Tensor) -> Iterator[NDArray[np.int64]]:
        wanting = users[torch.from_numpy(self.users).to(users.device)]
        heard_user, heard_song = np.divmod(self.heard.keys, self.heard.n_songs)
        chunk = max(SCORES_AT_ONCE // len(songs), 1)
        for begin in range(0, len(wanting), chunk):
            scores = wanting[begin : begin + chunk] @ songs.T
            here = slice(*np.searchsorted(heard_user, [begin, begin + chunk]))
            rows = torch.from_numpy(heard_user[here] - begin).to(users.device)
            scores[rows, torch.from_numpy(heard_song[here]).to(users.device)] = -torch.inf
            yield scores.topk(min(VALIDATION_K, len(songs)), dim=1).indices.cpu().numpy()


def _rows(judgements: Judgements, users: NDArray[np.int64]) -> Judgements:
    """The judgements of these users alone, renumbered in this order (ascending)."""
    user, song = np.divmod(judgements.keys, judgements.n_songs)
    chosen = np.isin(user, users)
    return Judgements.of(
        np.searchsorted(users, user[chosen]),
        song[chosen],
        judgements.relevance[chosen],
        len(users),
        judgements.n_songs,
    )


def _optimizer(model: LightGCN, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Learning-rate groups; embeddings alone decay.

    Artists and albums × 2, edge weights × 0.5, users and residuals × 1. The projection × 0.1: all songs share it,
    so that what a batch's noise does to it moves every song.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    embeddings = [p for p in (model.users, model.residual) if p is not None]
    groups: list[dict[str, Any]] = [
        {"params": list(model.encoder.owners.parameters()), "lr": 2 * rate, "weight_decay": decay},
        {"params": list(model.edge_weights.parameters()), "lr": rate / 2, "weight_decay": 0.0},
        {"params": list(model.encoder.projection.parameters()), "lr": rate / 10, "weight_decay": 0.0},
        {"params": embeddings, "lr": rate, "weight_decay": decay},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=rate)


def _warm_cosine(warmup_steps: float, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        return min((step + 1) / (warmup_steps + 1), 1.0) * (1 + math.cos(math.pi * step / steps)) / 2

    return factor
