"""What diagnostics say of a model is what its tensors say."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ms_assets import pictures
from ms_assets.graph.bipartite import INTERACTS
from ms_assets.training import diagnostics, figures
from ms_assets.training.trainer import fit
from ms_assets_tests.training.graphs import data_of, features_of, graph_of, network_of, random_graph, trained_model
from ms_assets_tests.training.tastes import CPU, settings_of


@pytest.fixture
def graph():
    return random_graph(0)


def model_of(graph, **changed):
    return network_of(graph, settings_of(**changed))


def diagnosis_of(graph, model):
    return diagnostics.diagnose(model, features_of(graph))


def test_norms_are_the_lengths_of_the_models_vectors(graph):
    model = model_of(graph, song_residual=True)
    with torch.no_grad():
        model.residual.normal_()
        found = diagnosis_of(graph, model)
        audio, metadata = model.encoder.projection.weight.split([128, 16], dim=1)
        wanted = {
            "user parameters": model.users,
            "artist embeddings": model.encoder.owners["artist"].weight,
            "album embeddings": model.encoder.owners["album"].weight,
            "audio in songs": model.encoder.audio_scale * graph["song"].x[:15] @ audio.T,
            "metadata in songs": model.encoder.metadata_scale
            * model.encoder.metadata(features_of(graph))[:15]
            @ metadata.T,
            "residuals of songs": model.residual,
        }
        lengths = {name: vectors.norm(dim=1).numpy() for name, vectors in wanted.items()}
    for name, wanted_lengths in lengths.items():
        np.testing.assert_allclose(found.norms.pop(name), wanted_lengths, rtol=1e-5)
    assert {name: lengths.shape for name, lengths in found.norms.items()} == {
        "propagated users": (12,),
        "propagated songs": (15,),
    }
    assert found.scales == {
        "audio": pytest.approx(float(model.encoder.audio_scale)),
        "metadata": pytest.approx(float(model.encoder.metadata_scale)),
    }


def test_propagated_norms_are_those_before_scaling_to_length_1(graph):
    model = model_of(graph, edge_weights="uniform", layers=1)
    found = diagnosis_of(graph, model)
    user, song = graph[INTERACTS].edge_index
    adjacency = torch.eye(27)
    adjacency.index_put_((user, song + 12), torch.ones(len(user)), accumulate=True)
    adjacency.index_put_((song + 12, user), torch.ones(len(user)), accumulate=True)
    roots = adjacency.sum(dim=1).rsqrt()
    with torch.no_grad():
        start = model.start(features_of(graph))[:27]
        layers = (start + roots[:, None] * adjacency @ (roots[:, None] * start)) / 2
    np.testing.assert_allclose(found.norms["propagated users"], layers[:12].norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(found.norms["propagated songs"], layers[12:].norm(dim=1), rtol=1e-5)


def test_learned_weights_are_the_networks_for_edges_of_that_kind_count_and_ratio(graph):
    model = model_of(graph)
    found = diagnosis_of(graph, model).weights
    assert set(found) == {f"{kind}, {n}" for kind in ("listen", "like", "undislike") for n in ("1 event", "10 events")}
    network = model.edge_weights.layers
    # A like is code 2 of 5 and weighs 1; ten events are 6 half octaves, which is 3 octaves; ratios in twentieths.
    rows = torch.tensor([[2 / 5, 3.0, ratio / 20, 1.0] for ratio in range(21)])
    with torch.no_grad():
        np.testing.assert_allclose(found["like, 10 events"], network(rows).sigmoid().squeeze(1), rtol=1e-5)


def test_weights_that_are_not_learned_and_parts_that_are_off_are_not_shown(graph):
    found = diagnosis_of(graph, model_of(graph, edge_weights="heuristic", audio=False))
    assert found.weights == {}
    assert set(found.scales) == {"metadata"}
    assert "audio in songs" not in found.norms


def test_pictures_and_numbers_name_everything(graph):
    found = diagnosis_of(graph, model_of(graph))
    numbers = found.numbers
    assert numbers["audio scale"] == found.scales["audio"]
    assert numbers["mean norm of propagated users"] == pytest.approx(found.norms["propagated users"].mean())
    norms, weights = figures.norms_picture(found), figures.weights_picture(found)
    shown = [text.get_text() for pane in norms.get_axes() for text in pane.get_legend().get_texts()]
    assert len(shown) == len(found.norms)
    assert len(weights.get_axes()[0].lines) == len(found.weights)


@pytest.mark.parametrize(
    "lengths",
    [[1.0], [1.0, 1.0 + 1e-7, 1.0 - 1e-7], [0.0, 0.0], [1e30, 1e30], [], [0.5, 2.0]],
    ids=["one", "nearly equal", "zero", "largest", "none", "different"],
)
def test_vectors_of_any_lengths_have_a_picture(lengths):
    norms = {"user parameters": np.array(lengths, np.float32), "propagated songs": np.array(lengths, np.float32)}
    picture = figures.norms_picture(diagnostics.Diagnosis(norms, {}, {}, {}))
    assert pictures.png(picture)


@pytest.mark.parametrize("changed", [{}, {"layers": 0}, {"audio": False, "metadata": False}], ids=str)
def test_a_catalogue_of_one_song_has_its_pictures(changed):
    tiny = graph_of([(0, 0, "like", 1, 1.0)], 1, 1)
    trained = fit(data_of(tiny), settings_of(epochs=1, **changed), CPU)
    found = diagnosis_of(tiny, trained.network(data_of(tiny).graph))
    assert set(figures.of_training(trained, found)) >= {"training curves", "embedding norms", "degrees"}


def test_a_picture_that_cannot_be_drawn_is_left_out_with_a_warning(graph, monkeypatch, caplog):
    def failing(diagnosis):
        raise ValueError("Too many bins for data range")

    monkeypatch.setattr(figures, "norms_picture", failing)
    drawn = figures.of_training(trained_model(), diagnosis_of(graph, model_of(graph)))
    assert set(drawn) == {"training curves", "edge weights", "degrees"}
    assert "embedding norms: no picture, Too many bins for data range" in caplog.text


def test_balanced_parts_weigh_the_same(graph):
    model = model_of(graph)
    with torch.no_grad():
        lengths = [float((scale * part).norm(dim=1).mean()) for scale, part in model.encoder.parts(features_of(graph))]
    assert lengths == pytest.approx([0.5**0.5] * 2)
    assert functional.normalize(torch.tensor(lengths), dim=0).tolist() == pytest.approx([0.5**0.5] * 2)
