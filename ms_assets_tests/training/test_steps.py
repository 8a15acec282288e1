"""One step: its pieces and its end; and every switch of the model, trained."""

import pytest
import torch
from torch.nn import functional

from ms_assets.training.network import Network, unit
from ms_assets.training.propagation import Adjacency
from ms_assets.training.steps import Steps
from ms_assets.training.trainer import fit
from ms_assets_tests.training.graphs import data_of, random_graph
from ms_assets_tests.training.tastes import (
    CPU,
    EXPLICIT,
    GRAPH,
    WANTED,
    gradients,
    one_thread,
    settings_of,
    share_of_own_block,
)

pytestmark = one_thread
DATA = data_of(GRAPH, EXPLICIT)


@pytest.mark.parametrize("changed", [{}, {"objective": "bpr"}], ids=str)
@pytest.mark.parametrize("n", [2, 5, 44, 1_000])
def test_a_step_in_pieces_is_the_same_step(n, changed):
    loss, wanted = gradients(accumulation=1, **changed)
    in_pieces, found = gradients(accumulation=n, **changed)
    assert in_pieces == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_by_default_a_piece_has_8_192_edges_at_most():
    assert settings_of(batch_size=None).n_pieces(6_000_000) == 262_144 // 8_192
    assert settings_of(batch_size=100_000).n_pieces(6_000_000) == 13
    assert settings_of(batch_size=None).n_pieces(500) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"audio": False},
        {"metadata": False, "song_residual": True, "epochs": 20},
        {"audio": False, "metadata": False, "song_residual": True},
        {"balance_scales": False},
        {"edge_weights": "uniform"},
        {"accumulation": 4},
        {"edge_weights": "heuristic", "layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("spectral_start", [True, False])
def test_every_switch_of_the_model_learns_the_planted_taste(changed, spectral_start):
    more = {} if spectral_start else {"epochs": 30, "patience": 30}
    data, settings = data_of(GRAPH, EXPLICIT, WANTED), settings_of(spectral_start=spectral_start, **{**changed, **more})
    users, songs = fit(data, settings, CPU).embeddings(data.graph)
    assert share_of_own_block((users @ songs.T).numpy(), 8) > 0.75


def test_what_is_switched_off_says_nothing_of_songs():
    graph, settings = data_of(random_graph(0)).graph, settings_of()
    with torch.no_grad():
        for switched_off, kept in (("audio", "metadata"), ("metadata", "audio")):
            torch.manual_seed(0)
            encoder = Network(graph, settings.model_copy(update={switched_off: False})).encoder
            assert encoder.projection.in_features == {"audio": 128, "metadata": 16}[kept]
            assert (len(encoder.owners) == 0) == (switched_off == "metadata")


def test_songs_of_which_nothing_is_known_share_one_vector():
    settings = settings_of(audio=False, metadata=False, song_residual=True)
    torch.manual_seed(0)
    graph = data_of(random_graph(0)).graph
    _, songs = Network(graph, settings).embed(graph.features)
    cold = songs[15:]
    torch.testing.assert_close(cold, cold[:1].expand(3, -1))


def test_the_encoder_is_the_projection_of_its_inputs():
    torch.manual_seed(0)
    graph = data_of(random_graph(0)).graph
    encoder = Network(graph, settings_of()).encoder
    with torch.no_grad():
        wanted = encoder.projection(encoder.inputs(graph.features))
        torch.testing.assert_close(encoder(graph.features), wanted)


def test_unit_has_the_gradient_of_normalize():
    x = torch.randn(7, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(unit(x), functional.normalize(x, dim=1))
    assert torch.autograd.gradcheck(unit, x)


def test_more_edges_than_offsets_can_count_are_refused():
    many = torch.empty(1, dtype=torch.long).expand(2**30)
    with pytest.raises(ValueError, match="1,073,741,824 edges, expected 1,073,741,823 at most"):
        Adjacency(many, many, 10, 10)


def test_a_loss_that_diverges_in_the_first_epoch_stops_with_epoch_step_and_settings():
    with pytest.raises(ValueError, match=r"diverged in epoch 1, step 2 of 6: the loss is nan.*learning_rate 1e\+38"):
        fit(DATA, settings_of(learning_rate=1e38, optimizer="sgd", warmup_epochs=0), CPU)


def test_a_loss_that_diverges_later_leaves_the_best_epoch(monkeypatch):
    unbroken, step = fit(DATA, settings_of(epochs=3), CPU), Steps._add_gradients

    def diverging(self, edges, propagation):
        loss = step(self, edges, propagation)
        return loss if self.n_done < 2 * 6 + 3 else float("inf")

    monkeypatch.setattr(Steps, "_add_gradients", diverging)
    result = fit(DATA, settings_of(epochs=3), CPU)
    assert "diverged in epoch 3, step 4 of 6: the loss is inf" in result.diverged
    assert result.history[-1].loss == unbroken.history[1].loss
    assert result.best.number == len(result.history) == 2
    assert all(bool(tensor.isfinite().all()) for tensor in result.state.values())
