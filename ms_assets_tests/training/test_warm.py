"""Trainings that begin where a former one ended: what is found again, what is new, and what is refused."""

from dataclasses import replace

import dagster as dg
import numpy as np
import pytest
import torch

from ms_assets.defs.platform.io_managers import CheckpointOnDisk
from ms_assets.training import inputs, race, trainer, warm
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.trained import TrainedModel
from ms_assets.training.validation import Validator
from ms_assets_tests.training.graphs import (
    N_SONGS,
    N_USERS,
    data_of,
    graph_of,
    network_of,
    random_graph,
    unit_rows,
)
from ms_assets_tests.training.tastes import CPU, GRAPH, WANTED, Killed, KilledAfter, one_thread, plant, settings_of

pytestmark = one_thread
DATA = data_of(GRAPH, wanted=WANTED)


def nodes_of(graph, last=0, user=None, song=None):
    user = graph["user"].uid.numpy() if user is None else np.array(user)
    song = graph["song"].item_id.numpy() if song is None else np.array(song)
    return warm.nodes(graph, user, song, np.full(len(user), last) if np.isscalar(last) else np.array(last))


def model_of(graph, **changed):
    """A model with drawn parameters in place of trained ones, so that none has the value of any start."""
    settings = settings_of(**changed)
    network = network_of(graph, settings)
    state = {name: tensor.clone() + 0.3 * torch.randn(tensor.shape) for name, tensor in network.state_dict().items()}
    epoch = trainer.Epoch(1, 0.5, 0.1, 0.1, 1.0)
    return TrainedModel(settings, state, epoch, [epoch], nodes=nodes_of(graph))


FORMS = [{}, {"song_residual": False}, {"audio": False, "metadata": False}, {"edge_weights": "uniform", "layers": 0}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_on_the_same_graph_it_begins_with_the_former_embeddings(form):
    graph = random_graph(0)
    data, former = data_of(graph), model_of(graph, **form)
    found = warm.Former.of(former, nodes_of(graph), former.settings)
    started = trainer.fit(data, former.settings, CPU, last_epoch=0, former=found)
    for ours, theirs in zip(started.embeddings(data.graph), former.embeddings(data.graph), strict=True):
        # The length of cold songs is fitted anew.
        ours, theirs = (torch.nn.functional.normalize(vectors, dim=1) for vectors in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def larger():
    """Two tastes with other dense ids: an artist and a song before all others, a user before and one after them."""
    shifted = [(user + 1, song + 1) for user, song in GRAPH["user", "interacts", "song"].edge_index.T.tolist()]
    first, last = (
        [(0, song) for song in range(1, 11)],
        [(N_USERS + 1, song) for song in range(N_SONGS - 9, N_SONGS + 1)],
    )
    new_song = [(user, 0) for user in range(1, 9)]
    edges = sorted((*pair, "listen", 1, 0.9) for pair in [*shifted, *first, *last, *new_song])
    n = N_SONGS + 2
    audio = GRAPH["song"].x.numpy()
    audio = np.concatenate([unit_rows(np.random.default_rng(5), 1), audio]).astype(np.float32)
    owners = {name: [[0], *([song % size + 1] for song in range(n))] for name, size in (("artists", 5), ("albums", 7))}
    graph = graph_of(edges, N_USERS + 2, N_SONGS + 1, n_cold=2, audio=audio, **owners)
    graph["user"].uid = torch.tensor([-10, *(10 * user for user in range(N_USERS)), 10 * N_USERS])
    graph["song"].item_id = torch.tensor([1, *(1_000 + 3 * song for song in range(n))])
    return graph


def test_users_songs_and_owners_are_found_by_their_own_ids_and_new_ones_lie_among_their_like():
    former = replace(trainer.fit(DATA, settings_of(), CPU), nodes=nodes_of(GRAPH))
    graph = larger()
    data = data_of(graph)
    found = warm.Former.of(former, nodes_of(graph), former.settings)
    assert found.rows["user"].tolist() == [-1, *range(N_USERS), -1]
    assert found.rows["song"].tolist() == [-1, *range(N_SONGS), -1, -1]  # the cold ones have no parameters
    assert found.rows["artist"].tolist() == [-1, *range(5)] and found.rows["album"].tolist() == [-1, *range(7)]
    state = trainer.fit(data, former.settings, CPU, last_epoch=0, former=found).state
    for name in ("users", "residual", "log_lengths"):
        known = state[name][1 : 1 + len(former.state[name])]
        torch.testing.assert_close(known, former.state[name], rtol=1e-4, atol=1e-5)
    for owner in ("artist", "album"):
        name = f"encoder.owners.{owner}.weight"
        assert torch.equal(state[name][1:], former.state[name])
    users = torch.nn.functional.normalize(state["users"], dim=1)
    near = users[[0, -1]] @ users[1:-1].T
    half = N_USERS // 2
    closer = near[:, :half].mean(dim=1) - near[:, half:].mean(dim=1)
    assert closer[0] > 0.1 and closer[1] < -0.1  # the first has the taste of the first half, the last of the second


def test_ids_are_compared_as_they_are_and_text_is_no_number():
    graph, text = random_graph(0), [f"u{n}" for n in range(12)]
    former = replace(model_of(graph), nodes=nodes_of(graph, user=text))
    found = warm.Former.of(former, nodes_of(graph, user=[*text[::-1][:11], "new"]), former.settings)
    assert found.rows["user"].tolist() == [*range(11, 0, -1), -1]
    with pytest.raises(warm.ColdStartNeededError, match="0 users and 18 songs of it are known here"):
        warm.Former.of(former, nodes_of(graph), former.settings)


REFUSED = {
    "other dimensions": ({"embedding_dim": 8}, {}, "its embedding_dim is 16, expected 8"),
    "another form of songs": ({"song_residual": False}, {}, "its song_residual is True, expected False"),
    "other edge weights": ({"edge_weights": "uniform"}, {}, "its edge_weights is learned, expected uniform"),
    "other audio": ({}, {"audio": 64}, "its audio vectors have 64 numbers, expected 128"),
    "no ids": ({}, None, "a version that kept no ids"),
    "later events": ({}, {"last": torch.full((12,), 7)}, "12 of 12 users have later events in its train part"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_former_training_that_does_not_fit_is_refused_by_what_differs(case):
    changed, nodes, said = REFUSED[case]
    graph = random_graph(0)
    former = model_of(graph)
    former = replace(former, nodes={} if nodes is None else former.nodes | nodes)
    with pytest.raises(warm.ColdStartNeededError, match=f"warm_start: .*{said}.*; train without warm_start"):
        warm.Former.of(former, nodes_of(graph, last=6), settings_of(**changed))


def test_a_user_with_a_former_event_that_is_held_out_now_is_new_as_long_as_they_are_few():
    edges = [(user, user % 7, "listen", 1, 0.5) for user in range(200)]
    graph = graph_of(edges, 200, 7)
    former = replace(model_of(graph), nodes=nodes_of(graph, last=[*[5] * 198, 9, 9]))
    found = warm.Former.of(former, nodes_of(graph, last=5), former.settings)
    assert found.rows["user"].tolist() == [*range(198), -1, -1]


def test_the_start_is_that_of_before_a_refit_which_has_seen_the_validation_part():
    graph = random_graph(0)
    refitted = replace(model_of(graph), unrefitted=model_of(graph).state)
    assert warm.Former.of(refitted, nodes_of(graph), refitted.settings).state is refitted.unrefitted


def test_last_train_events_are_the_users_own_and_an_unknown_time_is_the_latest(table):
    train = table("user_id song_id timestamp", (0, 1, 30), (0, 2, 70), (2, 1, 5), (3, 1, 9), (3, 1, None))
    assert inputs.last_train_events(train, 4).tolist() == [70, -1, 5, np.iinfo(np.int64).max]


CHOSEN = {"temperature": 0.33, "length_power": 0.2, "spectrum_power": 4.0}


def better():
    """A former training that is better than its start."""
    return replace(trainer.fit(DATA, settings_of(epochs=3, **CHOSEN), CPU), nodes=nodes_of(GRAPH))


def worse():
    """A former training that is worse than any start."""
    return model_of(GRAPH, **CHOSEN)


def test_the_race_is_not_run_again_and_what_is_given_goes_before_what_it_chose():
    former, wanted = better(), settings_of(temperature=None, epochs=1)
    found = race.train(DATA, wanted, CPU, former=warm.Former.of(former, nodes_of(GRAPH), wanted))
    assert found.race[race.FORMER] > found.race[race.SPECTRAL]
    assert {name: getattr(found.settings, name) for name in CHOSEN} == CHOSEN
    assert {name.split(" ")[0] for name in found.race} == {"former", "spectral", "trained", "plain"}
    given = settings_of(temperature=0.2, length_power=0.1)
    chosen = warm.Former.of(former, nodes_of(GRAPH), given).chosen(given)
    assert (chosen.temperature, chosen.length_power) == (0.2, 0.1)


def test_of_a_former_training_that_the_spectral_start_beats_the_temperature_is_left():
    wanted = settings_of(temperature=None, epochs=1)
    former = warm.Former.of(worse(), nodes_of(GRAPH), wanted)
    found = race.train(DATA, wanted, CPU, former=former)
    cold = race.train(DATA, settings_of(temperature=0.33, epochs=1), CPU)
    assert found.race[race.FORMER] < found.race[race.SPECTRAL]
    assert found.settings == cold.settings
    assert all(torch.equal(tensor, cold.state[name]) for name, tensor in found.state.items())
    assert race.begun_with(former, found.race) is None


@pytest.mark.parametrize("before", [better, worse])
def test_a_warm_start_that_was_killed_goes_on_from_what_it_began_with(before, tmp_path):
    wanted = settings_of(temperature=None, epochs=2, checkpoint_seconds=0)
    former = warm.Former.of(before(), nodes_of(GRAPH), wanted)
    unbroken = race.train(DATA, wanted, CPU, former=former)
    killed = KilledAfter.open(CheckpointOnDisk(tmp_path / "killed"), DATA, wanted, "a version")
    killed.n_left = 1
    with pytest.raises(Killed):
        race.train(DATA, wanted, CPU, checkpoint=killed, former=former)
    saved = Checkpoint.open(CheckpointOnDisk(tmp_path / "killed"), DATA, wanted, "a version")
    resumed = race.train(DATA, wanted, CPU, checkpoint=saved, former=former)
    assert (resumed.settings, resumed.race) == (unbroken.settings, unbroken.race)
    assert all(torch.equal(tensor, unbroken.state[name]) for name, tensor in resumed.state.items())


def test_what_a_plain_svd_has_beaten_begins_no_refit():
    former = warm.Former.of(model_of(GRAPH), nodes_of(GRAPH), settings_of())
    reached = {race.FORMER: 0.2, race.SPECTRAL: 0.1, race.TRAINED: 0.3, race.PLAIN: 0.2}
    assert race.begun_with(former, reached) is former
    assert race.begun_with(former, {**reached, f"{race.PLAIN} of edge weights": 0.4}) is None
    assert race.begun_with(former, {}) is former  # no race, nothing has beaten it


def test_epochs_have_to_beat_a_former_training_from_the_first_on(monkeypatch):
    former = model_of(GRAPH)
    found = warm.Former.of(former, nodes_of(GRAPH), former.settings)
    told = iter([1.0, 0.5, 0.6, 0.7, 0.8, 0.9])
    monkeypatch.setattr(Validator, "ndcg", lambda *of: next(told))
    again = trainer.fit(DATA, former.settings.model_copy(update={"patience": 3}), CPU, former=found)
    assert (len(again.history), again.best.number) == (3, 0)


def test_a_refit_begins_with_the_former_training_too():
    former = model_of(GRAPH)
    found = warm.Former.of(former, nodes_of(GRAPH), former.settings)
    fitted = trainer.fit(DATA, former.settings, CPU, last_epoch=0, former=found)
    again = trainer.refit(data_of(GRAPH), fitted, CPU, former=found)
    assert torch.equal(again.state["users"], former.state["users"])


def test_the_asset_begins_with_the_stored_training_which_is_an_origin_of_what_follows(platform_at, tmp_path):
    platform, key = platform_at(tmp_path), "training/lightgcn"
    plant(platform)
    file = platform.file(key, extension=".pt")

    def trained(**changed):
        config = {"embedding_dim": 16, "layers": 2, "epochs": 1, "temperature": 0.2, "race": False, "warm_start": True}
        config = {"training__lightgcn": {**config, **changed}}
        platform.materialise(key, "training/user_embeddings", alone=True, config=config)

    with pytest.raises(ValueError, match="training/lightgcn of 50m has no former training; train without warm_start"):
        trained()
    file.parent.mkdir(parents=True)
    torch.save(replace(model_of(GRAPH), nodes=nodes_of(GRAPH, last=-1)).to_dict(), file)  # nobody has train events
    platform.record(key, extension=".pt")
    with pytest.raises(warm.ColdStartNeededError, match="its embedding_dim is 16, expected 8"):
        trained(embedding_dim=8)
    trained()
    for name in ("lightgcn", "user_embeddings"):
        made = platform.lineage.history(dg.AssetKey(["training", name]), "50m")[0]
        assert made.origins["former training"] == "by a test"
    nodes = TrainedModel.from_dict(torch.load(file, weights_only=True)).nodes
    assert nodes["user"].tolist() == GRAPH["user"].uid.tolist()
