"""LightGCN's network over users and songs, where a song is what its audio, artists and albums say of it.

    user   u_0 = normalise(e_u)
    song   s_0 = normalise(W [α · audio ; μ · (mean artist + mean album)] + b), the parts that are switched on, and
           a learned vector for audio that is unknown;
           with a residual normalise(s_0 + r), graph songs only
    x      = P [u_0; s_0],  P as in `propagation.py`
    user   u = normalise(x_u − mean of users)
    song   s = normalise(x_s − mean of songs) · ((1 + n_s) / g)^γ,  n_s its edges, g the geometric mean of 1 + n_s

Propagation draws all nodes towards one direction, which says nothing of taste; less their mean, vectors differ by
taste alone (as word vectors do: Mu and Viswanath, 2018, arXiv 1702.01417). How often a song is heard is its length, so
that popularity counts in proportion to how near the song is to the user. A cold song has no edges, so x_s = s_0: it
lies in the same space as the rest. Nobody knows how popular it will be: its length is 1, the geometric mean.
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
    """x / ‖x‖ by row; the gradient of `functional.normalize` makes several times as many passes over memory."""

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
    """Users, and songs, less their centre and scaled to the given lengths, in one output; see `centred`."""

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
    """Rows scaled to length 1; [n, d]."""
    return _Unit.apply(x)


def centre(x: Tensor) -> Tensor:
    """The mean of the rows of x [n, d] and of one more at the origin, without which a lone row would vanish; [d]."""
    return x.sum(dim=0) / (len(x) + 1)


def centred(x: Tensor, n_users: int, lengths: Tensor) -> Tensor:
    """Users x[:n_users] and songs x[n_users:], each less their centre, scaled to `lengths` [n, 1]; [n, d]."""
    return _Centred.apply(x, n_users, lengths)


class SongEncoder(nn.Module):
    """Audio and metadata of a song as one vector of length 1.

    Where songs without audio take part they share a learned vector in place of one.
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
        # Without audio and metadata only the bias is left: what the model thinks of a song it knows nothing of.
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
        """What a song is known by, and its scale: audio [n_songs, 128] and metadata [n_songs, d], if switched on."""
        parts = [(self.audio_scale, self._filled(features))] if self.uses_audio else []
        return parts + ([(self.metadata_scale, self.metadata(features))] if self.uses_metadata else [])

    def _filled(self, features: SongFeatures) -> Tensor:
        if self.no_audio is None or not len(features.silent):
            return features.audio
        return features.audio.index_copy(0, features.silent, self.no_audio.expand(len(features.silent), -1))

    def inputs(self, features: SongFeatures) -> Tensor:
        """[scaled audio; scaled metadata], what is switched on of it, float32 [n_songs, 0 to 128 + d]."""
        empty = features.audio.new_empty(len(features.audio), 0)
        return torch.cat([empty, *(scale * part for scale, part in self.parts(features))], dim=1)

    def metadata(self, features: SongFeatures) -> Tensor:
        """Mean artist plus mean album embedding, float32 [n_songs, d]."""
        parts = [self.owners[owner](ids, offsets[:-1]) for owner, (ids, offsets) in features.owners.items()]
        return torch.stack(parts).sum(dim=0)

    @torch.no_grad()
    def balance(self, features: SongFeatures) -> None:
        """Set the scales so that audio and metadata have the same mean norm, √½ each; 1 for one alone."""
        parts = self.parts(features)
        for scale, part in parts:
            scale.fill_(len(parts) ** -0.5 / float(part.norm(dim=1).mean().clamp(min=1e-6)))

    def forward(self, features: SongFeatures) -> Tensor:
        """Unit vectors float32 [n_songs, d]."""
        parts = self.parts(features)
        weights = self.projection.weight.split([part.shape[1] for _, part in parts], dim=1)
        # Scales go to the weights and parts stay apart: nothing as large as all inputs is copied unless audio lacks.
        total = self.projection.bias.expand(len(features.audio), -1)
        for (scale, part), weight in zip(parts, weights, strict=True):
            total = torch.addmm(total, part, scale * weight.T)
        return unit(total)


class Network(nn.Module):
    """The whole network over one graph: users first, then graph songs, then whichever cold songs are asked for.

    `to(device)` moves parameters and graph. Features of songs are no part of it: the graph that it was built from holds
    all of them, and each call takes those that it needs.
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
            # Songs of which nothing else is known must differ from the start.
            size = 0.0 if settings.audio or settings.metadata else 1.0
            self.residual = nn.Parameter(size * torch.randn(self.n_graph_songs, settings.embedding_dim))
        self.edge_weights = edge_weights(graph.attributes, settings)
        self.adjacency = Adjacency(graph.user, graph.song, self.n_users, self.n_graph_songs)
        n_edges = self.adjacency.offsets[self.n_users :].diff()
        popularity = settings.popularity * torch.log1p(n_edges.float())[:, None]
        of_songs = (popularity - popularity.mean()).exp()
        self.register_buffer("lengths", torch.cat([torch.ones(self.n_users, 1), of_songs]), persistent=False)

    def start(self, features: SongFeatures) -> Tensor:
        """Layer 0: users, graph songs, then the songs beyond them, float32 [n_users + n_songs, d]."""
        songs = self.encoder(features)
        if self.residual is not None:
            n = self.n_graph_songs
            songs = torch.cat([unit(songs[:n] + self.residual), songs[n:]])
        return torch.cat([unit(self.users), songs])

    def frozen_propagation(self) -> Propagation:
        """P with today's edge weights."""
        with torch.no_grad():
            return Propagation(self.adjacency, self.edge_weights(), self.n_layers, self.precision)

    def forward(self, features: SongFeatures, propagation: Propagation | None = None) -> Tensor:
        """Embeddings of users, of length 1, and of the features' songs, [n_users + n_songs, d].

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
        # Of a handful of cold songs no gradient goes into the centre of all the others.
        return torch.cat([finished, unit(cold - centre(warm[self.n_users :]).detach())])

    @torch.no_grad()
    def embed(self, features: SongFeatures) -> tuple[Tensor, Tensor]:
        """Embeddings of users [n_users, d] and the features' songs [n_songs, d], cold ones by the encoder alone."""
        embeddings = self(features, self.frozen_propagation())
        return embeddings[: self.n_users], embeddings[self.n_users :]
