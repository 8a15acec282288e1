"""Fixtures of the tests of training."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Graphs this small take longer to share among threads than to compute."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
