"""Spectral initialisation by a truncated SVD of the graph, so that training refines a good solution."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import SongFeatures
from ms_assets.training.devices import CPU
from ms_assets.training.network import SHORTEST, Network
from ms_assets.training.regression import ridge
from ms_assets.training.svd import truncated_svd

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Spectrum = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Vectors U Σ of users and, by the kind of spectrum, V Σ or V of songs, float32 [·, rank]."""


@torch.no_grad()
def start_from_spectrum(
    network: Network, features: SongFeatures, settings: TrainingSettings, known: dict[str, Spectrum] | None = None,
    device: torch.device = CPU,
) -> None:  # fmt: skip
    """Initialise parameters so that layer 0 is near a truncated SVD of the graph.

    Users take their left singular vectors. Songs' right ones are explained step by step, each step by what is left:
    audio by a ridge regression; artists, then albums, by the mean over their songs and one more that is zero; a
    residual takes the rest. All have length 1. The encoder's scales are balanced, if the settings say so.

    Args:
        network: network on the CPU.
        features: features of the graph's songs, or of more.
        settings: kind of the spectrum, and seed.
        known: the last spectrum of this graph, by a hash of all that it depends on; another one is computed.
        device: where the spectrum is computed.
    """
    users, songs, lengths = _singular_vectors(network, settings, {} if known is None else known, device)
    graph_songs, encoder = features.select(torch.arange(network.n_graph_songs)), network.encoder
    network.users.copy_(users)
    if settings.spectrum == "plain":
        network.log_lengths.copy_(lengths.clamp(min=SHORTEST).log())
    if encoder.uses_audio:
        audio = encoder.filled(graph_songs)
        weight, bias = ridge(audio, songs, settings.seed)
        left = songs - audio @ weight - bias
    else:
        weight, bias = songs.new_empty(0, songs.shape[1]), songs.mean(dim=0)
        left = songs - bias
    for owner, embedding in encoder.owners.items():
        (ids, offsets), table = graph_songs.owners[owner], embedding.get_parameter("weight")
        song = torch.arange(network.n_graph_songs).repeat_interleave(offsets.diff())
        count = torch.bincount(ids, minlength=len(table))[:, None]
        table.copy_(torch.zeros_like(table).index_add(0, ids, left[song]) / (count + 1))
        left = left - embedding(ids, offsets[:-1])
    if settings.balance_scales:
        encoder.balance(graph_songs)
    metadata = torch.eye(songs.shape[1])[: songs.shape[1] if encoder.uses_metadata else 0]
    encoder.projection.weight.copy_(torch.cat([weight / encoder.audio_scale, metadata / encoder.metadata_scale]).T)
    encoder.projection.bias.copy_(bias)
    if network.residual is not None:
        network.residual.copy_(songs - encoder(graph_songs))


def _singular_vectors(
    network: Network, settings: TrainingSettings, known: dict[str, Spectrum], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors of the user × song matrix: unit rows of U Σ^p, V Σ^p, float32 [·, d], and lengths of V Σ's rows.

    The matrix holds the weights of edges over the roots of degrees. A plain one holds the sums of their weights as they
    are, 1 for every pair if they are uniform, and its p is 1.
    """
    from scipy.sparse import csr_matrix

    n_users, n_songs = network.n_users, network.n_graph_songs
    adjacency, weights = network.adjacency, network.edge_weights()
    # The rows of users come first: their entries are the first half.
    n_entries = len(adjacency.edge) // 2
    columns = adjacency.neighbours[:n_entries].numpy() - n_users
    # A copy: SciPy compresses a matrix in place, and these offsets are those of every propagation.
    offsets = adjacency.offsets[: n_users + 1].numpy().copy()
    values = weights[adjacency.edge[:n_entries]].numpy()
    if settings.spectrum == "normalised":
        roots = adjacency.inverse_root_degrees(weights).numpy()
        values = values * np.repeat(roots[:n_users], np.diff(offsets)) * roots[n_users + columns]
    matrix = csr_matrix((values, columns, offsets), shape=(n_users, n_songs))
    if settings.spectrum == "plain":
        matrix.sum_duplicates()
        if settings.edge_weights == "uniform":
            matrix.data[:] = 1.0
    dimensions = network.users.shape[1]
    rank = min(dimensions, n_users, n_songs)
    key = f"{settings.spectrum} {rank} {settings.seed} {hashlib.sha256(matrix.data).hexdigest()}"
    if key not in known:
        known.clear()
        known[key] = _spectrum(matrix, rank, settings, device)
    of_users, of_songs = known[key]
    power = settings.initial_spectrum_power if settings.spectrum == "normalised" else 1.0
    factors = _factors(of_songs, power)
    generator = torch.Generator().manual_seed(settings.seed)
    users, songs = (
        _unit_rows(torch.from_numpy(vectors), factors, dimensions, generator) for vectors in (of_users, of_songs)
    )
    return users, songs, torch.from_numpy(np.linalg.norm(of_songs, axis=1))


def _spectrum(matrix: "csr_matrix", rank: int, settings: TrainingSettings, device: torch.device) -> Spectrum:
    of_users, values, of_songs = truncated_svd(matrix, rank, settings.seed, device)
    if settings.spectrum == "plain":  # the product of users' and songs' rows is the reconstruction
        of_songs = of_songs / values.clamp(min=SHORTEST)
    return of_users.numpy(), of_songs.numpy()


def _factors(of_songs: NDArray[np.float32], power: float) -> Tensor:
    """Factors that make U Σ and V Σ columns of U Σ^p and V Σ^p, but for one scale, float32 [rank]; Σ from V Σ."""
    values = np.linalg.norm(of_songs, axis=0).clip(min=SHORTEST)
    return torch.from_numpy((values / values.max()) ** (power - 1))


def _unit_rows(vectors: Tensor, factors: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Multiply columns by factors, scale rows to length 1, and fill what the spectrum leaves undetermined at random.

    Undetermined are the direction of a row of zeros (a user without edges), and the dimensions beyond the rank of a
    small graph, where all vectors would otherwise lie in a few directions.
    """
    n, rank = vectors.shape
    empty = vectors.norm(dim=1) < 1e-12
    noise = torch.randn(n, dimensions - rank, generator=generator) * dimensions**-0.5
    vectors = torch.cat([functional.normalize(vectors * factors, dim=1), noise], dim=1)
    vectors[empty] = torch.randn(int(empty.sum()), dimensions, generator=generator)
    return functional.normalize(vectors, dim=1)
