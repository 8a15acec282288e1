"""Spectral initialisation by a truncated SVD of the graph, so that training refines a good solution."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import SongFeatures
from ms_assets.training.network import Network


@torch.no_grad()
def start_from_spectrum(network: Network, features: SongFeatures, settings: TrainingSettings) -> None:
    """Initialise users, metadata embeddings and projection so that layer 0 is near a truncated SVD of the graph.

    Users take their left singular vectors; artists and albums take the mean of their songs' right ones; a ridge
    regression fits the projection to the songs' right ones; a residual takes the remainder. All have length 1. The
    encoder's scales are balanced before the projection is fitted, if the settings say so.
    """
    users, songs = _singular_vectors(network, settings.seed)
    graph_songs = features.select(torch.arange(network.n_graph_songs))
    network.users.copy_(users)
    for owner, embedding in network.encoder.owners.items():
        (ids, offsets), weight = graph_songs.owners[owner], embedding.get_parameter("weight")
        song = torch.arange(network.n_graph_songs).repeat_interleave(offsets.diff())
        total = torch.zeros_like(weight).index_add(0, ids, songs[song])
        count = torch.bincount(ids, minlength=len(weight))[:, None]
        weight.copy_(torch.where(count > 0, total / count.clamp(min=1), total))
    if settings.balance_scales:
        network.encoder.balance(graph_songs)
    _fit_projection(network, graph_songs, songs)
    if network.residual is not None:
        network.residual.copy_(songs - network.encoder(graph_songs))


def _singular_vectors(network: Network, seed: int) -> tuple[Tensor, Tensor]:
    """Singular vectors of the degree-normalised weighted user × song matrix: unit rows of U Σ, V Σ, float32 [·, d]."""
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    n_users, n_songs = network.n_users, network.n_graph_songs
    adjacency, weights = network.adjacency, network.edge_weights()
    roots = adjacency.inverse_root_degrees(weights).numpy()
    # The rows of users come first: their entries are the first half.
    n_entries = len(adjacency.edge) // 2
    columns = adjacency.neighbours[:n_entries].numpy() - n_users
    offsets = adjacency.offsets[: n_users + 1].numpy()
    rows = np.repeat(np.arange(n_users), np.diff(offsets))
    values = weights[adjacency.edge[:n_entries]].numpy() * roots[rows] * roots[n_users + columns]
    matrix = csr_matrix((values, columns, offsets), shape=(n_users, n_songs))
    dimensions = network.users.shape[1]
    rank = min(dimensions, n_users, n_songs)
    left, singular, right = randomized_svd(matrix, rank, random_state=seed)
    generator = torch.Generator().manual_seed(seed)
    users, songs = (
        _unit_rows(torch.from_numpy((vectors * singular).astype(np.float32)), dimensions, generator)
        for vectors in (left, right.T)
    )
    return users, songs


def _unit_rows(vectors: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Scale rows to length 1, and fill what the spectrum leaves undetermined at random.

    Undetermined are the direction of a row of zeros (a user without edges), and the dimensions beyond the rank of a
    small graph, where all vectors would otherwise lie in a few directions.
    """
    n, rank = vectors.shape
    empty = vectors.norm(dim=1) < 1e-12
    noise = torch.randn(n, dimensions - rank, generator=generator) * dimensions**-0.5
    vectors = torch.cat([functional.normalize(vectors, dim=1), noise], dim=1)
    vectors[empty] = torch.randn(int(empty.sum()), dimensions, generator=generator)
    return functional.normalize(vectors, dim=1)


def _fit_projection(network: Network, features: SongFeatures, targets: Tensor, ridge: float = 1e-2) -> None:
    inputs = functional.pad(network.encoder.inputs(features), (0, 1), value=1.0)
    gram = inputs.T @ inputs / len(inputs) + ridge * torch.eye(inputs.shape[1])
    solution = torch.linalg.solve(gram, inputs.T @ targets / len(inputs))
    network.encoder.projection.weight.copy_(solution[:-1].T)
    network.encoder.projection.bias.copy_(solution[-1])
