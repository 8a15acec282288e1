"""The loss, and how much each positive counts in it."""

import math

import pytest
import torch

from ms_assets.training.objectives import margin_bpr, positive_weights


@pytest.mark.parametrize(
    ("positive", "negative", "margin", "temperature", "loss"),
    [
        (0.3, 0.3, 0.0, 1.0, math.log(2)),
        (0.5, 0.3, 0.2, 0.1, 0.1 * math.log(2)),
        (1.0, 0.0, 0.0, 1.0, math.log(1 + 1 / math.e)),
        (0.0, 1.0, 0.0, 1.0, math.log(1 + math.e)),
        (0.4, 0.1, 0.1, 0.2, 0.2 * math.log(1 + math.exp(-1))),
    ],
)
def test_the_loss_is_the_scaled_logarithm_of_a_sigmoid(positive, negative, margin, temperature, loss):
    found = margin_bpr(torch.tensor(positive), torch.tensor(negative), margin, temperature)
    assert found.item() == pytest.approx(loss, rel=1e-5)


def test_scores_far_apart_neither_overflow_nor_lose_their_gradient():
    negative = torch.tensor([2.0, -2.0], requires_grad=True)
    loss = margin_bpr(torch.zeros(2), negative, 0.0, 0.001)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([2.0, 0.0])
    assert negative.grad.tolist() == pytest.approx([1.0, 0.0])


def test_scores_broadcast_over_negatives():
    positive, negative = torch.rand(3, 1), torch.rand(3, 5)
    found = margin_bpr(positive, negative, 0.1, 0.2)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found[2, 4], margin_bpr(positive[2, 0], negative[2, 4], 0.1, 0.2))


def test_a_positive_counts_by_its_type_and_played_ratio():
    attributes = torch.tensor(
        [[1, 5, 0.0, 0.7], [1, 1, 1.0, 0.7], [1, 2, 0.5, 0.7], [2, 1, 1.0, 1.0], [5, 1, 0.5, 0.3]]
    )  # fmt: skip
    assert positive_weights(attributes).tolist() == pytest.approx([0.3, 1.0, 0.65, 1.0, 0.5])
