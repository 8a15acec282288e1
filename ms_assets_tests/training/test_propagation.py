"""Propagation against dense matrices, against PyG's LGConv, and in its gradients."""

import pytest
import torch
from torch_geometric.nn import LGConv

from ms_assets.graph.bipartite import INTERACTS
from ms_assets.settings import TrainingSettings
from ms_assets.training.edge_weights import EdgeWeightMLP, edge_weights
from ms_assets.training.propagation import Adjacency, Propagation, propagate_learning
from ms_assets_tests.training.graphs import graph_of, random_graph

N_USERS, N_SONGS = 12, 15
N_NODES = N_USERS + N_SONGS


@pytest.fixture(params=range(3), ids=lambda seed: f"seed{seed}")
def graph(request):
    return random_graph(request.param, N_USERS, N_SONGS)


@pytest.fixture
def adjacency(graph):
    return Adjacency(*graph[INTERACTS].edge_index, N_USERS, N_SONGS)


@pytest.fixture
def weights(graph):
    return torch.rand(graph[INTERACTS].num_edges, generator=torch.Generator().manual_seed(1)) + 0.05


@pytest.fixture
def x():
    return torch.randn(N_NODES, 6, generator=torch.Generator().manual_seed(2))


def dense_propagation(graph, weights, x, n_layers):
    """The formula of the docstring, with matrices [n_nodes, n_nodes]; differentiable in weights and x."""
    user, song = graph[INTERACTS].edge_index
    matrix = torch.eye(N_NODES)
    matrix = matrix.index_put((user, song + N_USERS), weights, accumulate=True)
    matrix = matrix.index_put((song + N_USERS, user), weights, accumulate=True)
    roots = matrix.sum(dim=1) ** -0.5
    normalised = roots[:, None] * matrix * roots
    layers = [x]
    for _ in range(n_layers):
        layers.append(normalised @ layers[-1])
    return sum(layers) / len(layers)


def pyg_propagation(graph, weights, x, n_layers):
    user, song = graph[INTERACTS].edge_index
    loops = torch.arange(N_NODES)
    source, target = torch.cat([user, song + N_USERS, loops]), torch.cat([song + N_USERS, user, loops])
    entries = torch.cat([weights, weights, torch.ones(N_NODES)])
    convolution, layers = LGConv(normalize=True), [x]
    for _ in range(n_layers):
        layers.append(convolution(layers[-1], torch.stack([source, target]), entries))
    return torch.stack(layers).mean(dim=0)


REFERENCES = pytest.mark.parametrize("reference", [dense_propagation, pyg_propagation])


def gradients(output, *inputs):
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((output * upstream).sum(), inputs)


@REFERENCES
@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_frozen_propagation_equals_the_references_in_values_and_gradients(
    graph, adjacency, weights, x, n_layers, reference
):
    x.requires_grad_()
    found = Propagation(adjacency, weights, n_layers)(x)
    wanted = reference(graph, weights, x, n_layers)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, x), gradients(wanted, x))


@REFERENCES
def test_learning_propagation_equals_the_references_in_gradients_of_the_weights_too(
    graph, adjacency, weights, x, reference
):
    x.requires_grad_(), weights.requires_grad_()
    found = propagate_learning(adjacency, weights, x, 3)
    wanted = reference(graph, weights, x, 3)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(gradients(found, x, weights), gradients(wanted, x, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@REFERENCES
def test_the_edge_weight_network_gets_the_gradients_of_a_weight_per_edge(graph, adjacency, x, reference):
    attributes = graph[INTERACTS].edge_attr
    torch.manual_seed(4)
    network = EdgeWeightMLP(attributes)
    parameters = list(network.parameters())
    kind, count, ratio, weight = attributes.T
    per_edge = torch.stack(
        [kind / 5, (2 * count.log2()).floor() / 2, (20 * ratio).round() / 20, weight], dim=1
    )  # fmt: skip
    plain = network.layers(per_edge).sigmoid().squeeze(1)
    torch.testing.assert_close(network(), plain)
    found = gradients(propagate_learning(adjacency, network(), x, 2), *parameters)
    wanted = gradients(reference(graph, plain, x, 2), *parameters)
    assert all(gradient.abs().sum() > 0 for gradient in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_propagation_is_self_adjoint(adjacency, weights, x):
    propagation = Propagation(adjacency, weights, 3)
    y = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close((propagation(x) * y).sum(), (x * propagation(y)).sum())


def test_a_frozen_propagation_gives_the_weights_no_gradient(adjacency, weights, x):
    weights.requires_grad_(), x.requires_grad_()
    Propagation(adjacency, weights, 2)(x).sum().backward()
    assert weights.grad is None
    assert x.grad is not None


def test_one_hop_by_hand():
    # One edge of weight 1: both degrees are 2, so Â is ½ everywhere, and P = (I + Â) / 2.
    adjacency = Adjacency(torch.tensor([0]), torch.tensor([0]), 1, 1)
    found = Propagation(adjacency, torch.ones(1), 1)(torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(found, torch.tensor([[3 / 4], [1 / 4]]))


def test_a_node_without_edges_keeps_its_vector():
    adjacency = Adjacency(torch.tensor([0]), torch.tensor([1]), 2, 2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(Propagation(adjacency, torch.tensor([0.7]), 3)(x)[[1, 2]], x[[1, 2]])


def test_rows_hold_the_neighbours_in_their_order_with_their_edges():
    user, song = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([2, 1, 0, 1, 2])
    adjacency = Adjacency(user, song, 2, 3)
    # Users 0 and 1, songs 2 to 4; the edges of a pair stay in their order.
    assert adjacency.neighbours.tolist() == [3, 3, 2, 4, 4, 1, 0, 0, 1, 1]
    assert adjacency.edge.tolist() == [1, 3, 2, 0, 4, 2, 1, 3, 0, 4]
    assert adjacency.offsets.tolist() == [0, 2, 5, 6, 8, 10]
    assert {array.dtype for array in (adjacency.neighbours, adjacency.edge, adjacency.offsets)} == {torch.int32}


def test_the_gradient_of_degrees_keeps_no_tensor_of_the_edges(adjacency, weights):
    weights.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        roots = adjacency.inverse_root_degrees(weights)
    assert sum(kept) <= 2 * N_NODES
    roots.sum().backward()
    assert weights.grad.abs().sum() > 0


def test_the_order_of_edges_changes_nothing(graph, weights, x):
    order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(6))
    user, song = graph[INTERACTS].edge_index
    one = Propagation(Adjacency(user, song, N_USERS, N_SONGS), weights, 2)(x)
    other = Propagation(Adjacency(user[order], song[order], N_USERS, N_SONGS), weights[order], 2)(x)
    torch.testing.assert_close(one, other)


def test_heuristic_weights_are_those_of_the_edges():
    graph = graph_of([(0, 0, "listen", 2, 0.5), (0, 1, "like", 1, 0), (1, 1, "undislike", 1, 0)], 2, 2)
    found = edge_weights(graph[INTERACTS].edge_attr, TrainingSettings(edge_weights="heuristic"))()
    torch.testing.assert_close(found, torch.tensor([0.7, 1.0, 0.3]))


def test_learned_weights_lie_between_0_and_1_and_see_few_distinct_rows(graph):
    attributes = graph[INTERACTS].edge_attr.repeat(50, 1)
    attributes[:, 1] = torch.randint(1, 100_000, (len(attributes),))
    network = EdgeWeightMLP(attributes)
    weights = network()
    assert weights.shape == (len(attributes),)
    assert bool((weights > 0).all() and (weights < 1).all())
    assert len(network.rows) < 1_000
