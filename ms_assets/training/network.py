"""Network of LightGCN over users and songs, with songs encoded from their audio, artists and albums.

    user   u_0 = normalise(e_u)
    song   s_0 = normalise(W [α · audio ; μ · (mean artist + mean album)] + b), with the parts that are switched on,
           and a learned vector for unknown audio;
           with a residual normalise(s_0 + r), graph songs only
    x      = P [u_0; s_0],  P as in `propagation.py`
    user   u = normalise(x_u − mean of users)
    song   s = normalise(x_s − mean of songs) · ((1 + n_s) / g)^γ,  n_s its edges, g the geometric mean of 1 + n_s

Propagation pulls all nodes towards one direction, which tells nothing about taste; without their mean, vectors differ
by taste alone (as word vectors do: Mu and Viswanath, 2018, arXiv 1702.01417). The length of a song's vector expresses
its popularity, which so counts in proportion to how near the song is to the user. A cold song has no edges, so
x_s = s_0: it lies in the same space as the rest. Its popularity is unknown, so its length is 1, the geometric mean.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors, SongFeatures
from ms_assets.training.edge_weights import edge_weights
from ms_assets.training.propagation import Adjacency, Propagation, propagate_learning

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class _Unit(torch.autograd.Function):
    """Unit rows x / ‖x‖; the gradient of `functional.normalize` takes several times as many passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        lengths = x.norm(dim=1, keepdim=True).clamp_(min=SHORTEST)
        y = x / lengths
        ctx.save_for_backward(y, lengths)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, lengths = ctx.saved_tensors
        along = (gradient * y).sum(dim=1, keepdim=True)
        return torch.addcmul(gradient, y, along, value=-1).div_(lengths)


class _Centred(torch.autograd.Function):
    """Users and songs, each minus their centre and scaled to the given lengths, in one output; see `centred`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_users: int, lengths: Tensor) -> Tensor:
        y = torch.empty_like(x)
        for part, kind in zip(y.tensor_split([n_users]), x.tensor_split([n_users]), strict=True):
            torch.sub(kind, centre(kind), out=part)
        scales = lengths / y.norm(dim=1, keepdim=True).clamp_(min=SHORTEST)
        y.mul_(scales)
        ctx.save_for_backward(y, scales, lengths)
        ctx.n_users = n_users
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        y, scales, lengths = ctx.saved_tensors
        along = (gradient * y).sum(dim=1, keepdim=True) / lengths.square()
        of_x = torch.addcmul(gradient, y, along, value=-1).mul_(scales)
        for part in of_x.tensor_split([ctx.n_users]):
            part.sub_(centre(part))
        return of_x, None, None


SHORTEST = 1e-12


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1; [n, d]."""
    return _Unit.apply(x)


def centre(x: Tensor) -> Tensor:
    """Mean of the rows of x [n, d] and of one more row at the origin, without which a lone row would vanish; [d]."""
    return x.sum(dim=0) / (len(x) + 1)


def centred(x: Tensor, n_users: int, lengths: Tensor) -> Tensor:
    """Centre users x[:n_users] and songs x[n_users:], each by their own mean, and scale to `lengths` [n, 1]; [n, d]."""
    return _Centred.apply(x, n_users, lengths)


class SongEncoder(nn.Module):
    """Encoder of a song's audio and metadata into one vector of length 1.

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
        parts = [(self.audio_scale, self._filled(features))] if self.uses_audio else []
        return parts + ([(self.metadata_scale, self.metadata(features))] if self.uses_metadata else [])

    def _filled(self, features: SongFeatures) -> Tensor:
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
        """Encode songs as unit vectors, float32 [n_songs, d]."""
        parts = self.parts(features)
        weights = self.projection.weight.split([part.shape[1] for _, part in parts], dim=1)
        # Weights are scaled and parts stay separate, so that no copy of all inputs is made, unless audio is missing.
        total = self.projection.bias.expand(len(features.audio), -1)
        for (scale, part), weight in zip(parts, weights, strict=True):
            total = torch.addmm(total, part, scale * weight.T)
        return unit(total)


class Network(nn.Module):
    """Network over one graph: users first, then graph songs, then the cold songs that a call gives.

    `to(device)` moves parameters and graph. Features of songs are not part of the network: `GraphTensors` holds all of
    them, and each call takes those that it needs.
    """

    residual: nn.Parameter | None
    lengths: Tensor

    def __init__(self, graph: GraphTensors, settings: TrainingSettings) -> None:
        super().__init__()
        self.n_users, self.n_graph_songs = graph.n_users, graph.n_graph_songs
        self.n_layers, self.precision = settings.layers, PRECISIONS[settings.precision]
        self.users = nn.Parameter(torch.randn(self.n_users, settings.embedding_dim))
        self.encoder = SongEncoder(graph.features, settings)
        self.residual = None
        if settings.song_residual:
            # Songs of which nothing else is known must differ from the beginning.
            size = 0.0 if settings.audio or settings.metadata else 1.0
            self.residual = nn.Parameter(size * torch.randn(self.n_graph_songs, settings.embedding_dim))
        self.edge_weights = edge_weights(graph.attributes, settings)
        self.adjacency = Adjacency(graph.user, graph.song, self.n_users, self.n_graph_songs)
        n_edges = self.adjacency.offsets[self.n_users :].diff()
        popularity = settings.popularity * torch.log1p(n_edges.float())[:, None]
        of_songs = (popularity - popularity.mean()).exp()
        self.register_buffer("lengths", torch.cat([torch.ones(self.n_users, 1), of_songs]), persistent=False)

    def start(self, features: SongFeatures) -> Tensor:
        """Layer 0: users, graph songs, then cold songs, float32 [n_users + n_songs, d]."""
        songs = self.encoder(features)
        if self.residual is not None:
            n = self.n_graph_songs
            songs = torch.cat([unit(songs[:n] + self.residual), songs[n:]])
        return torch.cat([unit(self.users), songs])

    def frozen_propagation(self) -> Propagation:
        """Propagation P with the current edge weights, frozen."""
        with torch.no_grad():
            return Propagation(self.adjacency, self.edge_weights(), self.n_layers, self.precision)

    def forward(self, features: SongFeatures, propagation: Propagation | None = None) -> Tensor:
        """Embeddings of users, of length 1, and of the songs in `features`, [n_users + n_songs, d].

        features: graph songs first. With a frozen propagation the edge weights get no gradient.
        """
        start, n_nodes = self.start(features), self.n_users + self.n_graph_songs
        if propagation is None:
            warm = propagate_learning(self.adjacency, self.edge_weights(), start[:n_nodes], self.n_layers)
        else:
            warm = propagation(start[:n_nodes])
        finished, cold = centred(warm, self.n_users, self.lengths), start[n_nodes:]
        if not len(cold):
            return finished
        # A few cold songs must not send a gradient into the centre of all others.
        return torch.cat([finished, unit(cold - centre(warm[self.n_users :]).detach())])

    @torch.no_grad()
    def embed(self, features: SongFeatures) -> tuple[Tensor, Tensor]:
        """Embeddings of users [n_users, d] and of songs in `features` [n_songs, d], cold ones by the encoder alone."""
        embeddings = self(features, self.frozen_propagation())
        return embeddings[: self.n_users], embeddings[self.n_users :]
