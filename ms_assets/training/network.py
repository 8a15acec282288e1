"""Network of LightGCN over users and songs, with songs encoded from their audio, artists and albums.

    user   u_0 = unit(e_u)
    song   c_s = W [α · audio ; μ · (mean artist + mean album)] + b, with the parts that are switched on, and a learned
           vector for unknown audio;  s_0 = unit(c_s + r_s), the residual r_s if switched on and for graph songs alone
    x      = P [u_0; s_0],  P as in `propagation.py`
    user   u = unit(x_u)
    song   s = unit(x_s) · exp(b_s),  b_s learned, from γ times the logarithm of the song's number of edges

The direction of a song's vector says who likes it, its length how much is to be expected of it whoever listens. A cold
song has no edges, so x_s = unit(c_s) in training: it lies in the same space as the rest. `embed` draws it halfway to
what a ridge regression predicts from the same content, which fits the graph songs' directions after propagation, where
the encoder serves the start of it. All cold songs have one length, which `rehearsal.py` fits.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ms_assets.settings import TrainingSettings
from ms_assets.training.columns import WHOLE, Columns
from ms_assets.training.data import GraphTensors, SongFeatures
from ms_assets.training.edge_weights import edge_weights
from ms_assets.training.propagation import Adjacency, Propagation, propagate_learning
from ms_assets.training.regression import ridge


class _Unit(torch.autograd.Function):
    """Unit rows x / ‖x‖; the gradient of `functional.normalize` takes several times as many passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Columns) -> Tensor:
        lengths = columns.norm(x.norm(dim=1, keepdim=True)).clamp_(min=SHORTEST)
        y = x / lengths
        ctx.save_for_backward(y, lengths)
        ctx.columns = columns
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, lengths = ctx.saved_tensors
        along = ctx.columns.sum((gradient * y).sum(dim=1, keepdim=True))
        return torch.addcmul(gradient, y, along, value=-1).div_(lengths), None


SHORTEST = 1e-12
MOST_REGRESSED = 200_000
"""Largest number of graph songs to which directions of cold songs are regressed."""
DIVIDED = {"users": 1, "residual": 1, "encoder.projection.weight": 0, "encoder.projection.bias": 0}
"""Parameters that are divided by columns, and the dimension of the columns; all others are held whole."""


def unit(x: Tensor, columns: Columns = WHOLE) -> Tensor:
    """Scale rows to length 1; [n, d], or own columns of it."""
    return _Unit.apply(x, columns)


def _rows(warm: Tensor, cold: Tensor) -> Tensor:
    """Join rows of warm and cold nodes; most trainings have no cold ones, and then nothing is copied."""
    return torch.cat([warm, cold]) if len(cold) else warm


def log_lengths(degrees: Tensor, power: float) -> Tensor:
    """Logarithms of lengths that are a power of songs' numbers of edges, float32 [n_songs], with a mean of 0."""
    logarithms = degrees.clamp(min=1).float().log()
    return power * (logarithms - logarithms.mean())


class SongEncoder(nn.Module):
    """Encoder of a song's audio and metadata into one vector.

    Songs without audio, if any take part, share a learned vector in place of their audio.
    """

    audio_scale: Tensor
    metadata_scale: Tensor

    def __init__(self, features: SongFeatures, settings: TrainingSettings) -> None:
        super().__init__()
        dimensions, self.uses_audio, self.uses_metadata = settings.embedding_dim, settings.audio, settings.metadata
        sizes = features.n_owners if settings.metadata else {}
        owners = {owner: nn.EmbeddingBag(n, dimensions, mode="mean") for owner, n in sizes.items()}
        for embedding in owners.values():
            nn.init.normal_(embedding.weight, std=dimensions**-0.5)
        self.owners = nn.ModuleDict(owners)
        width = settings.audio * features.audio.shape[1] + settings.metadata * dimensions
        # Without audio and metadata only the bias is left, the encoding of a song of which nothing is known.
        with warnings.catch_warnings(action="ignore"):
            self.projection = nn.Linear(width, dimensions)
        if not width:
            nn.init.normal_(self.projection.bias)
        mean = features.audio.sum(dim=0) / max(len(features.audio) - len(features.silent), 1)
        self.no_audio = nn.Parameter(mean) if self.uses_audio and len(features.silent) else None
        self.register_buffer("audio_scale", torch.tensor(1.0))
        self.register_buffer("metadata_scale", torch.tensor(1.0))
        if settings.balance_scales:
            self.balance(features)

    def parts(self, features: SongFeatures) -> list[tuple[Tensor, Tensor]]:
        """Parts of the input with their scales: audio [n_songs, n] and metadata [n_songs, d], if switched on."""
        parts = [(self.audio_scale, self.filled(features))] if self.uses_audio else []
        return parts + ([(self.metadata_scale, self.metadata(features))] if self.uses_metadata else [])

    def filled(self, features: SongFeatures) -> Tensor:
        """Audio of songs, with the learned vector where it is unknown, float32 [n_songs, 128]."""
        if self.no_audio is None or not len(features.silent):
            return features.audio
        return features.audio.index_copy(0, features.silent, self.no_audio.expand(len(features.silent), -1))

    def inputs(self, features: SongFeatures) -> Tensor:
        """Input [scaled audio; scaled metadata], the parts that are switched on, float32 [n_songs, 0 to n + d]."""
        empty = features.audio.new_empty(len(features.audio), 0)
        return torch.cat([empty, *(scale * part for scale, part in self.parts(features))], dim=1)

    def metadata(self, features: SongFeatures) -> Tensor:
        """Mean artist plus mean album embedding, float32 [n_songs, d]."""
        parts = [self.owners[owner](ids, offsets[:-1]) for owner, (ids, offsets) in features.owners.items()]
        return torch.stack(parts).sum(dim=0)

    @torch.no_grad()
    def balance(self, features: SongFeatures) -> None:
        """Set the scales so that audio and metadata have the same mean norm, √½ each; 1 if there is only one."""
        parts = self.parts(features)
        for scale, part in parts:
            scale.fill_(len(parts) ** -0.5 / float(part.norm(dim=1).mean().clamp(min=1e-6)))

    def forward(self, features: SongFeatures) -> Tensor:
        """Encode songs, float32 [n_songs, d]; the length of a vector says how much is known of its direction."""
        parts = self.parts(features)
        weights = self.projection.weight.split([part.shape[1] for _, part in parts], dim=1)
        # Weights are scaled and parts stay separate, so that no copy of all inputs is made, unless audio is missing.
        total = self.projection.bias.expand(len(features.audio), -1)
        for (scale, part), weight in zip(parts, weights, strict=True):
            total = torch.addmm(total, part, scale * weight.T)
        return total


class Network(nn.Module):
    """Network over one graph: users first, then graph songs, then the cold songs that a call gives.

    `to(device)` moves parameters and graph. Features of songs are not part of the network: `GraphTensors` holds all of
    them, and each call takes those that it needs.
    """

    residual: nn.Parameter | None
    cold_length: Tensor
    columns = WHOLE

    def __init__(self, graph: GraphTensors, settings: TrainingSettings) -> None:
        super().__init__()
        self.n_users, self.n_graph_songs = graph.n_users, graph.n_graph_songs
        self.n_layers, self.seed = settings.layers, settings.seed
        self.users = nn.Parameter(torch.randn(self.n_users, settings.embedding_dim))
        self.encoder = SongEncoder(graph.features, settings)
        self.residual = None
        if settings.song_residual:
            # Songs of which nothing else is known must differ from the beginning.
            size = 0.0 if settings.audio or settings.metadata else 1.0
            self.residual = nn.Parameter(size * torch.randn(self.n_graph_songs, settings.embedding_dim))
        self.edge_weights = edge_weights(graph.attributes, settings)
        self.adjacency = Adjacency(graph.user, graph.song, self.n_users, self.n_graph_songs)
        degrees = torch.bincount(graph.song, minlength=self.n_graph_songs)
        lengths = log_lengths(degrees, settings.initial_length_power)
        self.log_lengths = nn.Parameter(lengths, requires_grad=settings.song_lengths)
        self.register_buffer("cold_length", torch.tensor(1.0))

    @torch.no_grad()
    def divide(self, columns: Columns) -> None:
        """Take over the parameters of the first process's network, own columns alone of those that are divided."""
        for tensor in self.state_dict().values():
            columns.copy_first(tensor)
        self.columns = columns
        for name, parameter in self.named_parameters():
            parameter.data = self.own(name, parameter.data)

    def own(self, name: str, x: Tensor) -> Tensor:
        """Own columns of a parameter, or of what an optimiser keeps of it, by the parameter's name."""
        return self.columns.own(x, DIVIDED.get(name) if x.dim() else None)

    def whole(self, name: str, x: Tensor) -> Tensor:
        """Make in the first process the whole of what `own` divides; all processes have to ask for it."""
        return self.columns.all_in_first(x, DIVIDED[name]) if name in DIVIDED and x.dim() else x

    def start(self, features: SongFeatures) -> Tensor:
        """Layer 0: users, graph songs, then cold songs, float32 [n_users + n_songs, d]."""
        songs = self.encoder(features)
        if self.residual is not None:
            warm, cold = songs.tensor_split([self.n_graph_songs])
            songs = _rows(warm + self.residual, cold)
        return unit(torch.cat([self.users, songs]), self.columns)

    def frozen_propagation(self) -> Propagation:
        """Propagation P with the current edge weights, frozen."""
        with torch.no_grad():
            return Propagation(self.adjacency, self.edge_weights(), self.n_layers)

    def forward(self, features: SongFeatures, propagation: Propagation | None = None) -> Tensor:
        """Embeddings of users, of length 1, and of the songs in `features`, own columns, [n_users + n_songs, d].

        features: graph songs first. With a frozen propagation the edge weights get no gradient.
        """
        start, n_nodes = self.start(features), self.n_users + self.n_graph_songs
        if propagation is None:
            warm = propagate_learning(self.adjacency, self.edge_weights(), start[:n_nodes], self.n_layers)
        else:
            warm = propagation(start[:n_nodes])
        directions = _rows(unit(warm, self.columns), start[n_nodes:])
        of_users, of_cold = self.cold_length.new_ones(self.n_users), self.cold_length.expand(len(start) - n_nodes)
        return directions * torch.cat([of_users, self.log_lengths.exp(), of_cold])[:, None]

    @torch.no_grad()
    def of_graph(self, features: SongFeatures, propagation: Propagation) -> tuple[Tensor, Tensor]:
        """Embeddings of users [n_users, d] and graph songs [n_graph_songs, d], the columns of all processes.

        features: graph songs first, as in `forward`; embeddings of cold songs are left out.
        """
        whole = self.columns.all(self(features, propagation), dim=1)
        users, songs, _ = whole.tensor_split([self.n_users, self.adjacency.n_nodes])
        return users, songs

    @torch.no_grad()
    def embed(self, features: SongFeatures) -> tuple[Tensor, Tensor]:
        """Embeddings of users [n_users, d] and of songs in `features` [n_songs, d], cold ones by content alone."""
        found = self(features, self.frozen_propagation())
        users, warm, cold = found.tensor_split([self.n_users, self.adjacency.n_nodes])
        # Fewer songs than numbers known of each would leave a regression undetermined.
        if len(cold) and 0 < self.encoder.projection.in_features < self.n_graph_songs:
            cold = unit(unit(cold) + self._regressed(features, unit(warm))) * self.cold_length
        return users, torch.cat([warm, cold])

    def _regressed(self, features: SongFeatures, directions: Tensor) -> Tensor:
        """Directions of the cold songs in `features` [n_cold, d], by a regression of graph songs' on their content."""
        n, generator = self.n_graph_songs, torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(n, generator=generator)[:MOST_REGRESSED].sort().values
        weight, bias = ridge(self.encoder.inputs(features.select(drawn)), directions[drawn], self.seed)
        cold = features.select(torch.arange(n, len(features.audio)))
        return unit(self.encoder.inputs(cold) @ weight + bias)
