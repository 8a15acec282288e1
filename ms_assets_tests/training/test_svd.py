"""Truncated SVD against the exact one of a dense matrix."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random

from ms_assets.training.svd import truncated_svd
from ms_assets_tests.training.tastes import CPU, one_thread

pytestmark = one_thread


def planted(n, m, values, seed=0):
    """A matrix [n, m] with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (n, m))
    return csr_matrix(((left * values) @ right.T).astype(np.float32))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (70, 70)], ids=str)
@pytest.mark.parametrize("rank", [1, 8, 60])
def test_the_largest_values_and_their_vectors_are_those_of_the_exact_one(shape, rank):
    values = 2.0 * 0.9 ** np.arange(60)
    matrix = planted(*shape, values)
    rows, found, columns = truncated_svd(matrix, rank, 3, CPU)
    left, exact, right = np.linalg.svd(matrix.toarray().astype(float), full_matrices=False)
    np.testing.assert_allclose(found, exact[:rank], rtol=1e-3)
    wanted = (left[:, :rank] * exact[:rank]) @ right[:rank]
    np.testing.assert_allclose((rows / found) @ columns.T, wanted, atol=5e-3)
    np.testing.assert_allclose(rows.norm(dim=0), found, rtol=1e-3)
    np.testing.assert_allclose(columns.norm(dim=0), found, rtol=1e-3)


def test_small_values_beside_a_large_one_are_found():
    values = np.array([1_000.0, *np.linspace(10, 1, 20)])
    _, found, _ = truncated_svd(planted(400, 300, values), 10, 0, CPU)
    np.testing.assert_allclose(found, values[:10], rtol=0.01)


def test_a_matrix_of_fewer_dimensions_has_zeros_for_the_rest_and_no_vectors():
    rows, found, columns = truncated_svd(planted(30, 50, [3.0, 2.0]), 6, 0, CPU)
    np.testing.assert_allclose(found[:2], [3, 2], rtol=1e-4)
    assert float(found[2:].max()) < 1e-3
    assert float(rows[:, 2:].abs().max()) < 1e-3 > float(columns[:, 2:].abs().max())


def test_the_same_seed_gives_the_same_bits_and_another_nearly_the_same():
    matrix = random(200, 300, 0.2, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    one, again, other = (truncated_svd(matrix, 5, seed, CPU) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    np.testing.assert_allclose(one[1], other[1], rtol=0.01)
