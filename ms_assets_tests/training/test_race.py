"""The race on the validation part: what is compared, and that its winner is what is kept."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ms_assets.settings import TrainingSettings
from ms_assets.training import race, trainer
from ms_assets.training.columns import WHOLE
from ms_assets.training.steps import NotFiniteError, Steps
from ms_assets.training.validation import Validator
from ms_assets_tests.training.graphs import N_SONGS, N_USERS, block_of, data_of, graph_of, pairs_of, random_graph
from ms_assets_tests.training.tastes import CPU, EXPLICIT, GRAPH, WANTED, one_thread, settings_of

pytestmark = one_thread
DATA = data_of(GRAPH, EXPLICIT, WANTED)
SPECTRA, POWERS, TEMPERATURES = race.CANDIDATES.values()
NAMES = [f"temperature {temperature:g}" for temperature in TEMPERATURES]
PLAIN = ["plain SVD", "plain SVD of edge weights"]


def test_the_temperature_that_validates_best_is_trained_with():
    found = race.train(DATA, settings_of(spectrum_power=1.0, length_power=0.1), CPU)
    assert list(found.race) == [*NAMES, "trained", *PLAIN]
    best = max(TEMPERATURES, key=lambda temperature: found.race[f"temperature {temperature:g}"])
    assert found.settings.temperature == best
    wanted = trainer.fit(DATA, settings_of(temperature=best, length_power=0.1), CPU)
    assert found.race["trained"] == wanted.best.validation_ndcg
    if wanted.best.validation_ndcg >= max(found.race[name] for name in PLAIN):
        same = set(wanted.state) - {"cold_length"}
        assert all(torch.equal(found.state[name], wanted.state[name]) for name in same)


def test_what_a_temperature_reaches_is_what_a_short_training_with_it_reaches():
    raced = race.train(DATA, settings_of(spectral_start=True), CPU)
    for temperature, name in zip(TEMPERATURES, NAMES, strict=True):
        tried = raced.settings.model_copy(update={"temperature": temperature, "epochs": trainer.SHORT, "patience": 9})
        short = trainer.fit(DATA, tried, CPU)
        assert raced.race[name] == max(epoch.validation_ndcg for epoch in short.history)


def test_short_trainings_of_a_graph_with_many_edges_have_fewer_epochs(monkeypatch):
    n_epochs, finish = [], Steps.finish_epoch

    def counted(self):
        n_epochs.append(self.settings.epochs)
        return finish(self)

    monkeypatch.setattr(Steps, "finish_epoch", counted)
    monkeypatch.setattr(race, "LARGEST_RACE", 3 * DATA.graph.n_edges - 1)
    network = trainer.initial_network(DATA.graph, settings_of(), start=False)
    reached = race._temperatures(network, DATA, settings_of(), Validator.of(DATA, settings_of()))
    assert list(reached) == NAMES
    assert n_epochs == [2] * 2 * len(NAMES)


def started(**changed):
    return trainer.fit(DATA, settings_of(spectral_start=True, **changed), CPU, last_epoch=0).best.validation_ndcg


def test_spectrum_and_lengths_begin_at_the_powers_whose_start_validates_best():
    reached = race.compared(
        DATA, settings_of(spectral_start=True, temperature=0.2), CPU, Validator.of(DATA, settings_of())
    )
    starts = {
        (spectrum, power): started(spectrum_power=spectrum, length_power=power)
        for spectrum in SPECTRA
        for power in POWERS
    }
    of_spectra = [max(starts[spectrum, power] for power in POWERS) for spectrum in SPECTRA]
    n_rising = next((n for n in range(1, len(SPECTRA)) if of_spectra[n] <= of_spectra[n - 1]), len(SPECTRA))
    n_tried, best = min(n_rising + 1, len(SPECTRA)), SPECTRA[n_rising - 1]
    assert list(reached) == [
        *(f"spectrum power {spectrum:g}" for spectrum in SPECTRA[:n_tried]),
        *(f"length power {power:g}" for power in POWERS),
    ]
    assert list(reached.values()) == pytest.approx(of_spectra[:n_tried] + [starts[best, power] for power in POWERS])
    chosen = race._winners(reached)
    assert chosen["spectrum_power"] == best
    assert starts[best, chosen["length_power"]] == pytest.approx(max(starts[best, power] for power in POWERS))


def test_a_power_of_the_spectrum_that_leaves_users_alike_is_not_tried_however_well_it_would_validate(monkeypatch):
    risen = itertools.count()
    monkeypatch.setattr(Validator, "ndcg", lambda *of: float(next(risen)))
    # Everybody hears the first songs, and each half of the users has some of its own.
    heard = [(user, song) for user in range(40) for song in (*range(12), *range(12 + user % 2 * 6, 18 + user % 2 * 6))]
    data = data_of(graph_of([(*pair, "listen", 1, 0.9) for pair in heard], 40, 24))
    settings = settings_of(spectral_start=True, temperature=0.2)

    def mean_direction(power):
        start = trainer.fit(data, settings.model_copy(update={"spectrum_power": power}), CPU, last_epoch=0)
        return start.embeddings(data.graph)[0].mean(dim=0).norm()

    spread = [power for power in SPECTRA if mean_direction(power) < 0.95]
    assert 0 < len(spread) < len(SPECTRA)
    reached = race.compared(data, settings, CPU, Validator.of(data, settings))
    assert [name for name in reached if "spectrum" in name] == [f"spectrum power {power:g}" for power in spread]
    assert race._winners(reached)["spectrum_power"] == spread[-1]


@pytest.mark.parametrize("given", ["spectrum_power", "length_power"])
def test_a_given_power_is_taken_and_the_other_compared(given):
    settings = settings_of(spectral_start=True, temperature=0.2, **{given: 0.5})
    reached = race.compared(DATA, settings, CPU, Validator.of(DATA, settings))
    [other] = {"spectrum_power", "length_power"} - {given}
    assert set(race._winners(reached)) == {other}
    powers = {given: 0.5, other: race._winners(reached)[other]}
    assert max(reached.values()) == pytest.approx(started(**powers))


def test_the_lengths_of_songs_begin_at_the_power_of_their_number_of_edges_with_a_geometric_mean_of_1():
    network = trainer.initial_network(DATA.graph, settings_of(length_power=0.5), start=False)
    degrees = np.array([max((DATA.graph.song == song).sum(), 1) for song in range(DATA.graph.n_graph_songs)])
    lengths = network.log_lengths.detach().exp().numpy()
    assert lengths / lengths[0] == pytest.approx((degrees / degrees[0]) ** 0.5, rel=1e-4)
    assert np.log(lengths).mean() == pytest.approx(0, abs=1e-5)
    same = trainer.initial_network(DATA.graph, settings_of(length_power=0.5, song_lengths=False), start=False)
    assert same.log_lengths.abs().max() == 0


@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_dimensions_of_the_start_weigh_by_the_power_of_their_singular_values(power):
    settings = settings_of(edge_weights="uniform", spectral_start=True, spectrum_power=power)
    network, graph = trainer.initial_network(DATA.graph, settings, start=True), DATA.graph
    roots = network.adjacency.inverse_root_degrees(network.edge_weights()).numpy()
    matrix = np.zeros((graph.n_users, graph.n_graph_songs))
    np.add.at(matrix, (graph.user, graph.song), roots[graph.user] * roots[graph.n_users + graph.song])
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    wanted = (left * values**power)[:, : settings.embedding_dim]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = network.users.detach().numpy()
    assert np.abs(found @ found.T - wanted @ wanted.T).max() < 0.05, "products, for vectors may be turned"


@pytest.mark.parametrize("spectrum", ["normalised", "plain"])
def test_the_spectral_start_leaves_the_propagation_as_it_was(spectrum):
    started = trainer.initial_network(DATA.graph, settings_of(spectral_start=True, spectrum=spectrum), start=True)
    fresh = trainer.initial_network(DATA.graph, settings_of(), start=False)
    for name, array in fresh.adjacency.named_buffers():
        assert torch.equal(started.adjacency.get_buffer(name), array), name


def test_a_given_temperature_is_taken_and_without_race_or_validation_nothing_is_compared():
    given = race.train(DATA, settings_of(temperature=0.3, epochs=1), CPU)
    assert given.settings.sharpness == 0.3
    assert not set(given.race) & set(NAMES)
    for data, changed in ((DATA, {"race": False}), (data_of(GRAPH, EXPLICIT), {})):
        found = race.train(data, settings_of(epochs=1, **changed), CPU)
        assert (found.settings.sharpness, found.race) == (0.1, {})


def test_training_that_is_worse_than_a_plain_svd_gives_way_to_it():
    harmful = {"learning_rate": 1.0, "warmup_epochs": 0, "spectral_start": True, "layers": 8, "epochs": 1}
    found = race.train(DATA, settings_of(**harmful), CPU)
    if max(found.race[name] for name in PLAIN) > found.race["trained"]:
        assert (found.settings.layers, found.settings.spectrum, found.best.number) == (0, "plain", 0)
    assert found.best.validation_ndcg == max(found.race[name] for name in ("trained", *PLAIN))


def test_where_only_counts_tell_tastes_apart_the_plain_svd_of_edge_weights_wins():
    """Users hear as many songs of the other block as of their own, but those of their own over and over."""
    rng, edges, held_out = np.random.default_rng(0), [], []
    for user in range(N_USERS):
        own = block_of(range(N_SONGS), N_SONGS) == block_of(user, N_USERS)
        drawn = rng.permutation(N_SONGS)
        liked, met = drawn[own[drawn]], drawn[~own[drawn]]
        edges += [(user, song, "listen", 40, 0.9) for song in liked[:12].tolist()]
        edges += [(user, song, "listen", 1, 0.1) for song in met[:12].tolist()]
        held_out.append(liked[12:20])
    data = data_of(graph_of(edges, N_USERS, N_SONGS), wanted=pairs_of(held_out))
    useless = trainer.fit(data, settings_of(spectral_start=False), CPU, last_epoch=0)
    trained = replace(useless, settings=settings_of(spectral_start=True))
    found = race._or_plain_svds(data, trained, CPU, WHOLE)
    assert found.best.validation_ndcg == found.race["plain SVD of edge weights"] > found.race["plain SVD"] + 0.1
    assert (found.settings.layers, found.settings.spectrum, found.settings.edge_weights) == (0, "plain", "learned")


def test_uniform_edges_have_one_plain_svd():
    assert list(race.plain_svds(settings_of(edge_weights="uniform"))) == ["plain SVD"]


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_start_scores_as_a_truncated_svd_of_the_pairs_or_their_weights_does(name):
    graph = random_graph(0, n_users=40, n_graph_songs=50)
    settings = race.plain_svds(settings_of())[name]
    data = data_of(graph)
    start = trainer.fit(data, settings, CPU, last_epoch=0)
    users, songs = start.embeddings(data.graph)
    n = data.graph.n_graph_songs
    matrix = np.zeros((data.graph.n_users, n))
    weights = trainer.initial_network(data.graph, settings, start=True).edge_weights().detach().numpy()
    np.add.at(matrix, (data.graph.user, data.graph.song), weights)
    if name == "plain SVD":
        matrix = (matrix > 0).astype(float)
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    wanted = (left * singular)[:, :16] @ right[:16]
    found = (users @ songs[:n].T).numpy()
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.97, "randomised, and its users have length 1"


def test_no_epoch_that_is_worse_than_the_start_is_kept():
    found = trainer.fit(DATA, settings_of(learning_rate=1.0, warmup_epochs=0, epochs=2), CPU)
    start = trainer.fit(DATA, settings_of(), CPU, last_epoch=0)
    assert found.best.validation_ndcg == max(e.validation_ndcg for e in [start.best, *found.history])
    assert start.history == []


def test_a_temperature_that_diverges_loses(monkeypatch):
    step = Steps._step

    def diverging(self, edges):
        if self.settings.temperature == 0.15:
            raise NotFiniteError("the loss is nan")
        return step(self, edges)

    monkeypatch.setattr(Steps, "_step", diverging)
    found = race.train(DATA, settings_of(), CPU)
    assert found.race["temperature 0.15"] == 0
    assert found.settings.temperature in (0.1, 0.2)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_the_same_seed_gives_the_same_race(temperature):
    one, other = (race.train(DATA, settings_of(temperature=temperature, epochs=2), CPU) for _ in range(2))
    assert one.race == other.race
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_large_graphs_take_the_default_temperature(monkeypatch):
    monkeypatch.setattr(race, "LARGEST_RACE", 2 * DATA.graph.n_edges - 1)
    assert race.train(DATA, settings_of(epochs=1), CPU).settings.sharpness == TrainingSettings().sharpness
