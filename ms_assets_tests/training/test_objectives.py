"""The loss, and how much each positive counts in it."""

import math

import pytest
import torch

from ms_assets.training.objectives import margin_bpr, positive_weights, sampled_softmax


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


def test_a_sample_of_all_songs_gives_the_softmax_itself():
    scores = torch.tensor([[0.9, 0.1, -0.4, 0.3], [0.2, 0.2, 0.2, 0.2]], dtype=torch.float64)
    positive, others = scores[:, 0], scores[:, 1:]
    kept = torch.ones_like(others, dtype=torch.bool)
    found = sampled_softmax(positive, others, kept, n_songs=3, margin=0.0, temperature=0.5)
    shares = torch.softmax(scores / 0.5, dim=1)[:, 0]
    torch.testing.assert_close(found, -0.5 * shares.log())
    assert found[1].item() == pytest.approx(0.5 * math.log(4))


def test_a_kept_negative_stands_for_as_many_songs_as_the_sample_leaves_out():
    # Two of the four drawn are kept, of 100 songs: each counts fifty times. The margin lifts both.
    negatives, kept = torch.tensor([[0.2, 5.0, 0.4, 5.0]]), torch.tensor([[True, False, True, False]])
    found = sampled_softmax(torch.tensor([0.5]), negatives, kept, n_songs=100, margin=0.1, temperature=0.25)
    others = 50 * (math.exp((0.2 + 0.1 - 0.5) / 0.25) + math.exp((0.4 + 0.1 - 0.5) / 0.25))
    assert found.item() == pytest.approx(0.25 * math.log(1 + others), rel=1e-5)


def test_a_positive_whose_group_drew_only_heard_songs_costs_nothing_and_moves_nothing():
    negatives = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    kept = torch.tensor([[False, False], [True, True]])
    loss = sampled_softmax(torch.zeros(2), negatives, kept, 10, 0.0, 0.1)
    loss.sum().backward()
    assert loss[0].item() == 0
    assert negatives.grad[0].tolist() == [0, 0]
    assert torch.isfinite(negatives.grad).all() and negatives.grad[1].sum() > 0


def test_the_softmax_neither_overflows_nor_loses_its_gradient():
    negatives = torch.tensor([[2.0, 2.0], [-2.0, -2.0]], requires_grad=True)
    loss = sampled_softmax(torch.zeros(2), negatives, torch.ones(2, 2, dtype=torch.bool), 2, 0.0, 0.001)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([2.0 + 0.001 * math.log(2), 0.0], rel=1e-4)
    assert negatives.grad.flatten().tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], rel=1e-3)
