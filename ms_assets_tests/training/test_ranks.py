"""Several ranks train the model of one process, resume on another number of them, and end together."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import psutil
import pytest
import torch

from ms_assets.defs.platform.io_managers import CheckpointOnDisk
from ms_assets.settings import TrainingSettings, validated
from ms_assets.training import devices, race, ranks, trainer
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.network import DIVIDED
from ms_assets.training.steps import Steps
from ms_assets_tests.training.ranked import BPR, DATA, FEW, LONGER, RACED, UNVALIDATED, everything, in_threads
from ms_assets_tests.training.tastes import CPU, EXPLICIT, one_thread, plant, plant_train, settings_of
from ms_assets_tests.workplace import ROOT, until


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks trained, the checkpoint that they left, and the error with which they ended."""
    file = CheckpointOnDisk(tmp_path_factory.mktemp("ranks") / "model.checkpoint")
    checkpoint, found = Checkpoint.open(file, UNVALIDATED, LONGER), {}
    with pytest.raises(ranks.RankError) as end:
        ranks.run(2, everything, CPU, {"data": DATA, "unvalidated": UNVALIDATED, "checkpoint": checkpoint}, found=found)
    return SimpleNamespace(**found, file=file, end=str(end.value))


def assert_same_model(found, wanted):
    for one, other in zip(found.history, wanted.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.validation_ndcg == pytest.approx(other.validation_ndcg, abs=5e-3)  # near equals may change places
    assert found.best.number == wanted.best.number
    assert found.race == pytest.approx(wanted.race, abs=5e-3)
    assert found.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(
            found.state[name], tensor, atol=2e-4, rtol=2e-3, msg=lambda said, name=name: name + said
        )
    for ours, theirs in zip(found.embeddings(DATA.graph), wanted.embeddings(DATA.graph), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "data", "settings"), [("raced", DATA, RACED), ("bpr", UNVALIDATED, BPR)])
@one_thread
def test_two_ranks_train_the_model_of_one_process(two, name, data, settings):
    assert_same_model(getattr(two, name), race.train(data, settings, CPU))


@one_thread
def test_a_training_goes_on_with_another_number_of_ranks(two, tmp_path):
    """Two ranks, then one process, then three ranks."""
    told = []

    def in_one(epoch):
        told.append(epoch.number)
        return epoch.number == 3

    trainer.fit(UNVALIDATED, LONGER, CPU, in_one, Checkpoint.open(two.file, UNVALIDATED, LONGER))
    assert told == [2, 3], "two ranks saved the last step of their second epoch"
    of_three = LONGER.model_copy(update={"ranks": 3})
    checkpoint = Checkpoint.open(two.file, UNVALIDATED, of_three)
    found = in_threads(
        3, lambda columns: trainer.fit(UNVALIDATED, of_three, CPU, told_by(columns, told), checkpoint, columns=columns)
    )
    assert told == [2, 3, 3, 4]
    assert_same_model(found[0], trainer.fit(UNVALIDATED, LONGER, CPU))
    assert [each.state["users"].shape[1] for each in found] == [12, 4, 4], "others hold their own columns alone"


def told_by(columns, told):
    return lambda epoch: told.append(epoch.number) if columns.first else None


def test_a_killed_rank_ends_the_training_by_name(two):
    assert two.end.startswith("rank 1 of 2 was killed (SIGKILL)")
    assert "resumes from the last checkpoint" in two.end


def test_a_rank_leaves_the_reason_why_it_fails(tmp_path):
    meeting, running = ranks._Meeting(tmp_path, 3, 1, CPU), SimpleNamespace(exitcode=None)
    threading.Timer(0.1, meeting.leave, (2, ValueError("found 3, expected 4"))).start()
    # The first of the others lost its connection to the one that failed.
    assert (
        meeting.reason([SimpleNamespace(exitcode=1), running]) == "rank 2 of 3 failed (ValueError: found 3, expected 4)"
    )


def test_a_reason_that_is_half_written_is_not_read(tmp_path, monkeypatch):
    whole = Path.write_text

    def slowly(path, *given, **named):
        path.touch()
        time.sleep(0.5)
        return whole(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", slowly)
    meeting = ranks._Meeting(tmp_path, 2, 1, CPU)
    threading.Timer(0.1, meeting.leave, (1, ValueError("no"))).start()
    assert meeting.reason([SimpleNamespace(exitcode=1)]) == "rank 1 of 2 failed (ValueError: no)"


def test_the_processors_threads_are_divided_and_given_back(two):
    assert two.threads == max(torch.get_num_threads() // 2, 1)


@one_thread
@pytest.mark.parametrize("learning", [False, True])
def test_a_step_sums_what_the_arithmetic_says_whatever_the_number_of_ranks(learning):
    settings = settings_of(**FEW, spectral_start=False)
    edges = torch.arange(0, 720, 3)

    def step(columns):
        steps = Steps(trainer.initial_network(DATA.graph, settings, False, columns=columns), DATA, settings)
        steps.n_done = 0 if learning else 1
        before = columns.n_bytes
        steps._step(edges)
        return columns.n_bytes - before, steps

    user = DATA.graph.user[edges]
    n_users, n_songs, dimensions = DATA.graph.n_users, DATA.graph.n_graph_songs, settings.embedding_dim
    n_hard = int(torch.isin(user, torch.from_numpy(EXPLICIT[0])).sum())
    n_cold_negatives = 2
    rows = (n_users + n_songs + n_cold_negatives) + (n_users + n_songs)
    scores = len(edges) * (1 + settings.neutral_negatives) + n_hard
    owners = sum(DATA.graph.features.n_owners.values()) * dimensions
    of_weights = 4 * 8 + 8 + 8 + 1
    # Squared lengths of rows forwards, and their gradients backwards; scores; gradients of what all ranks hold; a norm.
    wanted = 2 * rows + scores + owners + n_songs + learning * of_weights + 1
    for n in (2, 3):
        counted = {n_bytes for n_bytes, _ in in_threads(n, step)}
        assert counted == {4 * wanted}


@one_thread
def test_every_parameter_is_divided_by_columns_or_held_whole():
    settings = settings_of(**FEW, spectral_start=False)
    whole = dict(trainer.initial_network(DATA.graph, settings, False).named_parameters())
    networks = in_threads(2, lambda columns: trainer.initial_network(DATA.graph, settings, False, columns=columns))
    for parts in zip(*(network.named_parameters() for network in networks), strict=True):
        [name, other], (left, right) = zip(*parts, strict=True)
        assert name == other
        if name in DIVIDED:
            assert torch.cat([left, right], dim=DIVIDED[name]).shape == whole[name].shape
            assert left.numel() == right.numel()
        else:
            torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_ranks_that_cannot_divide_the_columns_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ranks: found 3, expected a divisor of embedding_dim \(128\)"):
        validated(TrainingSettings, {"ranks": 3})


@pytest.mark.parametrize(
    ("cards", "asked", "said"),
    [
        (0, (8, "cpu"), "ranks: found 8, but this machine has 4 cores"),
        (2, (4, "auto"), "ranks: found 4, but this machine has 2 CUDA cards"),
        (2, (2, "cuda:1"), "device: found 'cuda:1' with 2 ranks, expected cuda"),
    ],
)
def test_more_ranks_than_cores_or_cards_are_refused_by_name(cards, asked, said, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    with pytest.raises(ValueError, match=said):
        devices.refuse_too_many(asked[0], devices.resolve(asked[1]))
    devices.refuse_too_many(1, torch.device("cpu"))


FIRST = """
import pathlib, sys, torch
from ms_assets.training import ranks
from ms_assets_tests.training.ranked import endless
ranks.run(2, endless, torch.device("cpu"), {"folder": pathlib.Path(sys.argv[1])})
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_the_first_rank_is_that_of_the_others(end, tmp_path):
    first = subprocess.Popen([sys.executable, "-c", FIRST, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL)
    file = tmp_path / "1"
    until(lambda: file.exists() and file.read_text(), first)
    other = psutil.Process(int(file.read_text()))
    first.send_signal(end)
    assert other.wait(timeout=10) is None
    assert first.wait(timeout=10) != 0


QUICK = {"epochs": 2, "embedding_dim": 8, "temperature": 0.2, "race": False, "refit": True}
EMBEDDINGS = ("training/user_embeddings", "training/song_embeddings")


@pytest.mark.slow
def test_embeddings_do_not_tell_how_many_ranks_trained_them(platform_at, tmp_path, monkeypatch):
    platform, tables, run, asked = platform_at(tmp_path), [], ranks.run, []
    monkeypatch.setattr(ranks, "run", lambda n, *given, **more: asked.append(n) or run(n, *given, **more))
    plant(platform)
    plant_train(platform)
    for n in (1, 2):
        given = {"training__lightgcn": {**QUICK, "ranks": n}}
        platform.materialise("training/lightgcn", *EMBEDDINGS, alone=True, config=given)
        tables.append([pl.DataFrame(platform.rows(key)) for key in EMBEDDINGS])
    for one, two in zip(*tables, strict=True):
        assert one.columns == two.columns
        for name in ("embedding", "before_refit"):
            found, wanted = (np.stack(table[name].to_list()) for table in (two, one))
            np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert asked == [1, 1, 2, 2], "the training and its refit"
