"""Data of a training as tensors and interactions: the graph, explicit negatives, validation targets."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ms_assets.events import POSITIVES
from ms_assets.graph.bipartite import INTERACTS, refuse_other_types
from ms_assets.interactions import Integers, Interactions

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from ms_assets.training.spectral import Spectrum


@dataclass(frozen=True, eq=False)
class SongFeatures:
    """Audio, artists and albums of songs, known before any listening."""

    audio: Tensor
    """Audio vectors, float32 [n_songs, n_dimensions]; zeros for songs in `silent`."""
    silent: Tensor
    """Songs whose audio is unknown, int64."""
    owners: dict[str, tuple[Tensor, Tensor]]
    """Ids of `artist` and of `album`, flat int64, and offsets [n_songs + 1].

    Owners of a single song are left out: they say no more than the song itself.
    """
    n_owners: dict[str, int]
    """Number of ids of each owner, 1 at least."""

    @classmethod
    def of(cls, graph: "HeteroData") -> Self:
        """Read the graph's song nodes."""
        songs, owners, sizes = graph["song"], {}, {}
        for owner in ("artist", "album"):
            ids, offsets = songs[f"{owner}_ids"], songs[f"{owner}_offsets"]
            owners[owner] = _of_several(ids, offsets)
            sizes[owner] = int(ids.max()) + 1 if len(ids) else 1
        return cls(songs.x, (~songs.has_audio).nonzero().squeeze(1), owners, sizes)

    def select(self, songs: Tensor) -> "SongFeatures":
        """Select the features of some songs, in their order."""
        owners = {}
        for owner, (ids, offsets) in self.owners.items():
            lengths = offsets.diff()[songs]
            starts = functional.pad(lengths.cumsum(0), (1, 0))
            within = torch.arange(int(starts[-1]), device=starts.device) - starts[:-1].repeat_interleave(lengths)
            owners[owner] = ids[offsets[songs].repeat_interleave(lengths) + within], starts
        silent = torch.isin(songs, self.silent).nonzero().squeeze(1)
        return SongFeatures(self.audio[songs], silent, owners, self.n_owners)

    def to(self, device: torch.device) -> "SongFeatures":
        """Move the features to a device."""
        owners = {name: (ids.to(device), offsets.to(device)) for name, (ids, offsets) in self.owners.items()}
        return SongFeatures(self.audio.to(device), self.silent.to(device), owners, self.n_owners)


@dataclass(frozen=True, eq=False)
class GraphTensors:
    """Tensors of the graph: edges between users and songs, and features of songs; songs with edges come first."""

    user: Tensor
    """User of each edge, int32 [n_edges]."""
    song: Tensor
    """Song of each edge, int32 [n_edges]."""
    attributes: Tensor
    """Edge attributes, float32 [n_edges, 4] = event type code, number of events, played ratio, heuristic weight."""
    features: SongFeatures
    """Features of all songs. They stay in main memory: a training moves those that it needs to its device."""
    n_users: int
    n_graph_songs: int
    spectra: "dict[str, Spectrum]" = field(default_factory=dict, init=False, repr=False)
    """Last spectrum of the graph (`spectral.py`), because trainings of one graph begin with the same."""

    @classmethod
    def of(cls, graph: "HeteroData") -> Self:
        """Read a graph as `graph.bipartite.bipartite_graph` builds it."""
        (user, song), attributes = graph[INTERACTS].edge_index, graph[INTERACTS].edge_attr
        refuse_other_types(attributes, POSITIVES)
        n_graph_songs = int(graph["song"].in_graph.sum())
        return cls(user, song, attributes, SongFeatures.of(graph), graph["user"].num_nodes, n_graph_songs)

    @property
    def n_edges(self) -> int:
        """Number of edges; a user and a song may share several, one for each event type."""
        return len(self.user)

    @property
    def n_songs(self) -> int:
        """Number of songs, cold ones included."""
        return len(self.features.audio)

    def pairs(self, user: Integers, song: Integers, **values: NDArray[Any]) -> Interactions:
        """Pairs of the graph's users and songs [n_users, n_songs], cold songs included; see `Interactions.of`."""
        return Interactions.of(user, song, self.n_users, self.n_songs, **values)

    @cached_property
    def heard(self) -> Interactions:
        """Pairs that share an edge, [n_users, n_songs]."""
        return self.pairs(self.user.numpy(), self.song.numpy())


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training data: a graph to learn from, songs to rank low, and targets to validate with."""

    graph: GraphTensors
    disliked: Interactions
    """Explicit negatives [n_users, n_songs]: dislikes and unlikes; songs may be cold."""
    targets: Interactions
    """Validation part [n_users, n_songs] with a value `relevance`, from which validation omits pairs with an edge."""


def _of_several(ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out ids that only one song has; flat ids and offsets [n_songs + 1] again."""
    kept = torch.bincount(ids)[ids] > 1
    return ids[kept], functional.pad(kept.cumsum(0), (1, 0))[offsets]
