"""One step: its pieces, its noise, its end; and every switch of the model, trained."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ms_assets.training import propagation as propagations
from ms_assets.training.lightgcn import LightGCN, centred, unit
from ms_assets.training.objectives import info_nce
from ms_assets.training.propagation import Adjacency, Noise, Propagation, propagate_learning_noisy
from ms_assets.training.steps import Steps, n_pieces
from ms_assets.training.trainer import nothing_to_find, train
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, block_of, random_graph
from ms_assets_tests.training.tastes import (
    CPU,
    EXPLICIT,
    GRAPH,
    HELD_OUT,
    embeddings_of,
    judged,
    one_thread,
    settings_of,
)

pytestmark = one_thread


def gradients(device=CPU, **changed):
    """The mean loss of the first batch and the parameters' gradients, before any step."""
    settings = settings_of(spectral_start=False, **changed)
    torch.manual_seed(0)
    model = LightGCN(GRAPH, settings).move(device)
    steps = Steps(model, GRAPH, EXPLICIT, settings, device)
    edges = torch.arange(700, device=device)
    loss = steps._add_gradients(edges, steps.propagation)
    return loss, {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changed", [{}, {"objective": "bpr"}, {"contrast_weight": 0.1}], ids=str)
@pytest.mark.parametrize("n", [2, 5, 44, 1_000])
def test_a_step_in_pieces_is_the_same_step(n, changed):
    loss, wanted = gradients(accumulation=1, **changed)
    in_pieces, found = gradients(accumulation=n, **changed)
    assert in_pieces == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_by_default_a_piece_has_32_768_edges_at_most():
    assert n_pieces(settings_of(batch_size=None), 6_000_000) == 262_144 // 32_768
    assert n_pieces(settings_of(batch_size=100_000), 6_000_000) == 4
    assert n_pieces(settings_of(batch_size=None), 500) == 1


def share_of_own_block(**changed):
    settings = settings_of(**changed)
    users, songs = embeddings_of(GRAPH, settings, train(GRAPH, EXPLICIT, judged(HELD_OUT), settings, CPU))
    scores = users @ songs[:N_SONGS].T
    scores[tuple(GRAPH["user", "interacts", "song"].edge_index)] = -torch.inf
    found = block_of(scores.topk(8).indices.numpy(), N_SONGS)
    return (found == block_of(np.arange(N_USERS), N_USERS)[:, None]).mean()


@pytest.mark.parametrize(
    "changed",
    [
        {"audio": False},
        {"metadata": False, "song_residual": True, "epochs": 20},
        {"audio": False, "metadata": False, "song_residual": True},
        {"balance_scales": False},
        {"edge_weights": "uniform"},
        {"precision": "bf16"},
        {"accumulation": 4},
        {"contrast_weight": 0.02},
        {"contrast_weight": 0.02, "edge_weights": "heuristic", "layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("spectral_start", [True, False])
def test_every_switch_of_the_model_learns_the_planted_taste(changed, spectral_start):
    more = {} if spectral_start else {"epochs": 30, "patience": 30}
    assert share_of_own_block(spectral_start=spectral_start, **{**changed, **more}) > 0.75


def test_what_is_switched_off_says_nothing_of_songs():
    graph, settings = random_graph(0), settings_of()
    with torch.no_grad():
        for switched_off, kept in (("audio", "metadata"), ("metadata", "audio")):
            torch.manual_seed(0)
            encoder = LightGCN(graph, settings.model_copy(update={switched_off: False})).encoder
            assert encoder.projection.in_features == {"audio": 128, "metadata": 16}[kept]
            assert (len(encoder.owners) == 0) == (switched_off == "metadata")


def test_songs_of_which_nothing_is_known_share_one_vector():
    settings = settings_of(audio=False, metadata=False, song_residual=True)
    torch.manual_seed(0)
    _, songs = LightGCN(random_graph(0), settings).embed()
    cold = songs[15:]
    torch.testing.assert_close(cold, cold[:1].expand(3, -1))


def test_the_encoder_is_the_projection_of_its_inputs():
    torch.manual_seed(0)
    model = LightGCN(random_graph(0), settings_of())
    model.encoder.balance(model.features)
    with torch.no_grad():
        wanted = functional.normalize(model.encoder.projection(model.encoder.inputs(model.features)), dim=1)
        torch.testing.assert_close(model.encoder(model.features), wanted)


def test_unit_has_the_gradient_of_normalize():
    x = torch.randn(7, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(unit(x), functional.normalize(x, dim=1))
    assert torch.autograd.gradcheck(unit, x)


def test_centred_users_and_songs_have_the_gradient_of_the_same_in_single_operations():
    x = torch.randn(7, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    lengths = torch.arange(1.0, 8.0, dtype=torch.double)[:, None]
    users, songs = x[:3] - x[:3].sum(dim=0) / 4, x[3:] - x[3:].sum(dim=0) / 5
    wanted = functional.normalize(torch.cat([users, songs]), dim=1) * lengths
    torch.testing.assert_close(centred(x, 3, lengths), wanted)
    assert torch.autograd.gradcheck(lambda x: centred(x, 3, lengths), x)


@pytest.fixture
def frozen():
    user, song = random_graph(0)["user", "interacts", "song"].edge_index
    adjacency = Adjacency.of(user, song, 12, 15)
    weights = torch.rand(len(user), generator=torch.Generator().manual_seed(1)) + 0.05
    return Propagation(adjacency, weights, 3)


@pytest.fixture
def x():
    return unit(torch.randn(27, 6, generator=torch.Generator().manual_seed(2)))


def noise(size, seed=0):
    return Noise(size, torch.Generator().manual_seed(seed))


def test_noise_is_of_one_length_and_within_the_orthant_of_each_node(x):
    steps = noise(0.3)(x)
    torch.testing.assert_close(steps.norm(dim=1), torch.full((27,), 0.3))
    assert bool((steps * x >= 0).all())


def test_without_noise_the_noisy_propagation_is_the_propagation_and_its_first_layer(frozen, x):
    found, first = frozen.noisy(x, noise(0.0))
    torch.testing.assert_close(found, frozen(x))
    torch.testing.assert_close(first, frozen.step_(x.clone()))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_noisy_propagation_frozen_or_learning_has_the_same_values_and_gradients(frozen, x, n_layers):
    adjacency = frozen.adjacency
    weights = torch.rand(adjacency.edge.max() + 1, generator=torch.Generator().manual_seed(3)) + 0.05
    pulls = [torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5)]
    found = []
    for run in (
        lambda y: Propagation(adjacency, weights, n_layers).noisy(y, noise(0.2)),
        lambda y: propagate_learning_noisy(adjacency, weights, y, n_layers, noise(0.2)),
    ):
        y = x.clone().requires_grad_()
        outputs = run(y)
        torch.autograd.backward(outputs, pulls)
        found.append((*(output.detach() for output in outputs), y.grad))
    for frozen_one, learning_one in zip(*found, strict=True):
        torch.testing.assert_close(frozen_one, learning_one)


def test_info_nce_by_hand():
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = info_nce(one, one, temperature=0.5)
    torch.testing.assert_close(found, torch.full((2,), float(np.log(1 + np.exp(-2)))))


def test_bf16_propagation_is_the_same_within_its_precision(frozen, x):
    coarse = Propagation(frozen.adjacency, frozen.entries[frozen.adjacency.edge.argsort()[::2]], 3, torch.bfloat16)
    fine = Propagation(frozen.adjacency, frozen.entries[frozen.adjacency.edge.argsort()[::2]], 3)
    assert coarse(x).dtype == torch.float32
    torch.testing.assert_close(coarse(x), fine(x), atol=2e-2, rtol=2e-2)
    assert not torch.equal(coarse(x), fine(x))


def test_the_vendors_sparse_product_gives_the_same_numbers(frozen, x):
    ours = propagations.embedding_bag_product(frozen.adjacency, frozen.entries, x)
    torch.testing.assert_close(propagations.csr_product(frozen.adjacency, frozen.entries, x), ours)


def test_on_the_cpu_the_clock_does_not_choose_the_product(frozen, x):
    assert propagations.fastest_product(frozen.adjacency, x) is propagations.embedding_bag_product


def test_more_edges_than_offsets_can_count_are_refused():
    many = torch.empty(1, dtype=torch.long).expand(2**30)
    with pytest.raises(ValueError, match="1,073,741,824 edges, expected 1,073,741,823 at most"):
        Adjacency.of(many, many, 10, 10)


def test_a_loss_that_diverges_in_the_first_epoch_stops_with_epoch_step_and_settings():
    with pytest.raises(ValueError, match=r"diverged in epoch 1, step 2 of 6: the loss is nan.*learning_rate 1e\+38"):
        train(
            GRAPH,
            EXPLICIT,
            nothing_to_find(GRAPH),
            settings_of(learning_rate=1e38, optimizer="sgd", warmup_epochs=0),
            CPU,
        )


def test_a_loss_that_diverges_later_leaves_the_best_epoch(monkeypatch):
    unbroken, step = train(GRAPH, EXPLICIT, nothing_to_find(GRAPH), settings_of(epochs=3), CPU), Steps._add_gradients

    def diverging(self, edges, propagation):
        return step(self, edges, propagation) if self.n_done < 2 * 6 + 3 else float("inf")

    monkeypatch.setattr(Steps, "_add_gradients", diverging)
    result = train(GRAPH, EXPLICIT, nothing_to_find(GRAPH), settings_of(epochs=3), CPU)
    assert "diverged in epoch 3, step 4 of 6: the loss is inf" in result.diverged
    assert result.history[-1].loss == unbroken.history[1].loss
    assert result.best.number == len(result.history) == 2
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("product", [propagations.embedding_bag_product, propagations.csr_product])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_both_products_on_cuda_give_the_numbers_of_the_cpu(frozen, x, product, precision):
    adjacency = frozen.adjacency.to(torch.device("cuda"))
    found = product(adjacency, frozen.entries.cuda().to(precision), x.cuda().to(precision))
    wanted = frozen.adjacency.multiply(frozen.entries, x)
    tolerance = 1e-5 if precision == torch.float32 else 3e-2
    torch.testing.assert_close(found.float().cpu(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_one_of_the_products_is_chosen(frozen, x):
    adjacency = frozen.adjacency.to(torch.device("cuda"))
    chosen = propagations.fastest_product(adjacency, x.cuda())
    assert chosen in (propagations.embedding_bag_product, propagations.csr_product)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    "changed",
    [{}, {"objective": "bpr"}, {"edge_weights": "uniform"}, {"song_residual": True}, {"accumulation": 3}],
    ids=str,
)
def test_gradients_on_cuda_are_those_of_the_cpu(changed):
    loss, wanted = gradients(**changed)
    there, found = gradients(torch.device("cuda"), **changed)
    assert there == pytest.approx(loss, rel=1e-4)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)
