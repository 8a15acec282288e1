"""The model: what a song is before any listening, and what the graph makes of it."""

import pytest
import torch
from torch.nn import functional

from ms_assets.settings import TrainingSettings
from ms_assets.training.data import GraphTensors, SongFeatures
from ms_assets.training.edge_weights import EdgeWeightMLP
from ms_assets.training.network import Network
from ms_assets.training.regression import ridge
from ms_assets_tests.training.graphs import features_of, graph_of, network_of, random_graph

ARTISTS = [[0], [1], [0, 1], [], [1, 2, 0]]
ALBUMS = [[3], [], [0], [1, 2], [3]]
EDGES = [(0, 0, "listen", 1, 0.5), (0, 1, "like", 1, 0), (1, 2, "listen", 3, 1.0), (1, 3, "undislike", 1, 0)]


@pytest.fixture
def graph():
    """Two users, four graph songs, and song 4, which is cold."""
    return graph_of(EDGES, n_users=2, n_graph_songs=4, n_cold=1, artists=ARTISTS, albums=ALBUMS)


def model_of(graph, **settings):
    return network_of(graph, TrainingSettings(**{"embedding_dim": 8, "layers": 2, **settings}))


def embeddings(graph, **settings):
    return model_of(graph, **settings).embed(features_of(graph))


def owner_lists(features, owner):
    ids, offsets = features.owners[owner]
    return [part.tolist() for part in ids.tensor_split(offsets[1:-1])]


@pytest.mark.parametrize("weights", ["learned", "heuristic", "uniform"])
@pytest.mark.parametrize("residual", [True, False])
def test_users_have_length_1_graph_songs_their_own_and_cold_songs_a_common_one(weights, residual):
    graph = random_graph(0)
    model = model_of(graph, edge_weights=weights, song_residual=residual)
    n_graph_songs = int(graph["song"].in_graph.sum())
    with torch.no_grad():
        model.log_lengths.copy_(torch.linspace(-1, 2, n_graph_songs))
        model.cold_length.fill_(1.7)
    users, songs = model.embed(features_of(graph))
    assert (users.shape, songs.shape) == ((graph["user"].num_nodes, 8), (graph["song"].num_nodes, 8))
    torch.testing.assert_close(users.norm(dim=1), torch.ones(len(users)))
    torch.testing.assert_close(songs[:n_graph_songs].norm(dim=1), torch.linspace(-1, 2, n_graph_songs).exp())
    torch.testing.assert_close(songs[n_graph_songs:].norm(dim=1), torch.full((len(songs) - n_graph_songs,), 1.7))


@pytest.mark.parametrize("learned", [True, False])
def test_songs_begin_at_length_1_and_lengths_are_learned_unless_switched_off(learned):
    model = model_of(random_graph(0), song_lengths=learned, length_power=0.0)
    for vectors in model.embed(features_of(random_graph(0))):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    assert model.log_lengths.requires_grad == learned


def test_a_song_takes_the_mean_of_its_artists_and_the_mean_of_its_albums_that_have_several_songs(graph):
    model = model_of(graph)
    artist, album = (model.encoder.owners[owner].weight for owner in ("artist", "album"))
    assert (len(artist), len(album)) == (3, 4)
    found = model.encoder.metadata(features_of(graph))
    # Artist 2 and albums 0, 1 and 2 have a single song each.
    wanted = [artist[0] + album[3], artist[1], (artist[0] + artist[1]) / 2, 0 * artist[0]]
    torch.testing.assert_close(found, torch.stack([*wanted, (artist[0] + artist[1]) / 2 + album[3]]))


def test_songs_without_artists_and_albums_have_metadata_of_zeros():
    features = SongFeatures.of(graph_of(EDGES, 2, 4, artists=[[]] * 4, albums=[[]] * 4))
    assert features.n_owners == {"artist": 1, "album": 1}
    assert owner_lists(features, "artist") == [[]] * 4
    model = model_of(graph_of(EDGES, 2, 4, artists=[[]] * 4, albums=[[]] * 4))
    assert not model.encoder.metadata(features).any()


def test_selected_songs_keep_their_features_in_the_order_asked_for(graph):
    features, order = SongFeatures.of(graph), [4, 0, 3, 3]
    chosen = features.select(torch.tensor(order))
    torch.testing.assert_close(chosen.audio, features.audio[order])
    for owner in ("artist", "album"):
        lists = owner_lists(features, owner)
        assert owner_lists(chosen, owner) == [lists[song] for song in order]
    assert chosen.n_owners == features.n_owners


def test_features_are_selected_on_the_device_where_they_are(graph):
    features, songs = SongFeatures.of(graph), torch.tensor([4, 0, 3])
    wanted = features.select(songs)
    with torch.device("meta"):  # what is made without naming a device lands on another one
        found = features.select(songs)
    for owner in ("artist", "album"):
        torch.testing.assert_close(found.owners[owner], wanted.owners[owner])


def test_selecting_no_song_gives_no_features(graph):
    chosen = SongFeatures.of(graph).select(torch.tensor([], dtype=torch.long))
    assert len(chosen.audio) == 0
    assert [len(ids) for ids, _ in chosen.owners.values()] == [0, 0]


def propagated(model, start):
    """One hop of propagation over `graph` by dense matrices, heuristic weights."""
    weights = torch.zeros(2, 4)
    weights[[0, 0, 1, 1], [0, 1, 2, 3]] = torch.tensor([0.7, 1.0, 0.7, 0.3])
    matrix = torch.eye(6)
    matrix[:2, 2:], matrix[2:, :2] = weights, weights.T
    roots = matrix.sum(dim=1).rsqrt()
    return (start + (roots[:, None] * matrix * roots) @ start) / 2


def test_a_cold_song_is_what_the_encoder_says_of_it_in_training(graph):
    model = model_of(graph, layers=1, edge_weights="heuristic")
    with torch.no_grad():
        direction = functional.normalize(model.encoder(features_of(graph))[4], dim=0)
        torch.testing.assert_close(model(features_of(graph))[-1], direction)


def test_a_cold_song_is_embedded_halfway_from_what_the_encoder_says_to_the_regression_on_content():
    n = 200
    graph = graph_of([(song % 2, song, "listen", 1, 0.9) for song in range(n)], n_users=2, n_graph_songs=n, n_cold=1)
    model, features = model_of(graph, layers=1, edge_weights="heuristic", metadata=False), features_of(graph)
    songs = model.embed(features)[1]
    with torch.no_grad():
        encoded, inputs = functional.normalize(model.encoder(features)[n], dim=0), model.encoder.inputs(features)
        weight, bias = ridge(inputs[:n], functional.normalize(songs[:n], dim=1), seed=0)
        predicted = functional.normalize(inputs[n] @ weight + bias, dim=0)
    torch.testing.assert_close(songs[n], functional.normalize(encoded + predicted, dim=0))


@pytest.mark.parametrize("known", [{}, {"audio": False, "metadata": False}], ids=["few songs", "nothing known"])
def test_a_cold_song_is_what_the_encoder_says_where_songs_are_too_few_for_a_regression_or_nothing_is_known(
    graph, known
):
    model = model_of(graph, layers=1, edge_weights="heuristic", **known)
    with torch.no_grad():
        direction = functional.normalize(model.encoder(features_of(graph))[4], dim=0)
    torch.testing.assert_close(model.embed(features_of(graph))[1][4], direction)


def test_embeddings_are_the_formula_of_the_docstring(graph):
    model = model_of(graph, layers=1, edge_weights="heuristic", song_residual=True)
    with torch.no_grad():
        model.residual.normal_(generator=torch.Generator().manual_seed(1))
        model.log_lengths.normal_(generator=torch.Generator().manual_seed(2))
        song = functional.normalize(model.encoder(features_of(graph))[:4] + model.residual, dim=1)
        start = torch.cat([functional.normalize(model.users, dim=1), song])
        wanted = functional.normalize(propagated(model, start), dim=1)
        lengths = model.log_lengths.exp()[:, None]
    users, songs = model.embed(features_of(graph))
    torch.testing.assert_close(users, wanted[:2])
    torch.testing.assert_close(songs[:4], lengths * wanted[2:])


def test_balance_gives_audio_and_metadata_half_each():
    graph = random_graph(1)
    encoder = model_of(graph).encoder
    with torch.no_grad():
        audio, metadata = encoder.inputs(features_of(graph)).split([128, 8], dim=1)
    assert audio.norm(dim=1).mean().item() == pytest.approx(0.5**0.5, rel=1e-5)
    assert metadata.norm(dim=1).mean().item() == pytest.approx(0.5**0.5, rel=1e-5)


def test_frozen_and_learning_propagation_give_the_same_embeddings():
    graph = random_graph(2)
    model, features = model_of(graph), features_of(graph)
    with torch.no_grad():
        frozen = model(features, model.frozen_propagation())
        learning = model(features)
    torch.testing.assert_close(frozen, learning)


def test_a_saved_state_gives_the_same_embeddings_in_a_new_model():
    graph = random_graph(3)
    model, features = model_of(graph), features_of(graph)
    other = Network(GraphTensors.of(graph), TrainingSettings(embedding_dim=8, layers=2))
    other.load_state_dict(model.state_dict())
    for ours, theirs in zip(model.embed(features), other.embed(features), strict=True):
        assert torch.equal(ours, theirs)


def test_moving_a_model_moves_its_graph_too(graph):
    model = model_of(graph).to("meta")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
    adjacency = model.adjacency
    assert {tensor.device.type for tensor in (adjacency.neighbours, adjacency.offsets, adjacency.edge)} == {"meta"}


def test_a_saved_state_holds_nothing_of_the_graph(graph):
    assert not [name for name in model_of(graph).state_dict() if "adjacency" in name or "bucket" in name]


def test_the_gradient_of_learned_weights_is_the_same_however_threads_meet_the_edges():
    n_edges = 1_000_000
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randint(0, 21, (n_edges,), generator=generator) / 20
    attributes = torch.stack([torch.ones(n_edges), torch.ones(n_edges), ratio, torch.ones(n_edges)], dim=1)
    weights, pull = EdgeWeightMLP(attributes), torch.randn(n_edges, generator=generator)
    gradients = []
    for _ in range(6):
        weights.zero_grad()
        (weights() * pull).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in weights.parameters()]))
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


LISTENS = [(0, 0, "listen", 1, 0.9), (0, 1, "listen", 1, 0.4), (1, 2, "like", 1, 1.0), (2, 3, "listen", 2, 0.7)]


def test_songs_without_audio_share_a_learned_vector_in_its_place():
    graph = graph_of(LISTENS, 3, 4, n_cold=2, silent=[1, 5])
    encoder = model_of(graph).encoder
    features = SongFeatures.of(graph)
    known = [0, 2, 3, 4]
    torch.testing.assert_close(encoder.no_audio.detach(), graph["song"].x[known].mean(dim=0))
    with torch.no_grad():
        encoder.no_audio.copy_(torch.arange(128) / 128)
        encoder.audio_scale.fill_(2.0)
        wanted = encoder.inputs(features)
        wanted[[1, 5], :128] = 2 * encoder.no_audio
        wanted = encoder.projection(wanted)
    found = encoder(features)
    torch.testing.assert_close(found.detach(), wanted)
    found[1].sum().backward()
    assert encoder.no_audio.grad.abs().sum() > 0


def test_selected_songs_without_audio_stay_without():
    features = SongFeatures.of(graph_of(LISTENS, 3, 4, n_cold=2, silent=[1, 5]))
    assert features.select(torch.tensor([5, 0, 1])).silent.tolist() == [0, 2]
    assert features.select(torch.tensor([0, 4])).silent.tolist() == []


def test_where_every_song_has_audio_there_is_nothing_to_learn_for_those_without():
    assert model_of(graph_of(LISTENS, 3, 4)).encoder.no_audio is None
    assert model_of(graph_of(LISTENS, 3, 4, silent=[0]), audio=False).encoder.no_audio is None
