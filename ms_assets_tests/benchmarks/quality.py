"""The ranking of the LightGCN authors' Last.fm split: theirs to converge, ours to get there and beyond."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_assets.defs.platform.scales import SCALE_DEFAULTS
from ms_assets.settings import TrainingSettings
from ms_assets.training import trainer
from ms_assets.training.data import GraphTensors, TrainingData
from ms_assets_tests.benchmarks.authors import BATCH, RATE, Positives, epochs
from ms_assets_tests.benchmarks.report import machine, table
from ms_assets_tests.conftest import Platform

CONFIG = {"split_events": {"protocol": "global_temporal"}, "splits__users": {"min_events": 1}}
K = 20
EPOCHS_BETWEEN_TESTS, MOST_EPOCHS, PATIENCE = 5, 1_000, 100

Quality = tuple[float, float]
"""NDCG and recall at K."""


@dataclass(frozen=True)
class HeldOut:
    """Users' songs to be found, and those that may not be recommended."""

    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def quality(self, users: Tensor, songs: Tensor) -> Quality:
        """Mean NDCG and recall at K over users with targets, each target equally relevant."""
        tested = self.targets.any(axis=1)
        scores = (users @ songs.T).numpy()
        scores[self.known] = -np.inf
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)
        hits, n = np.take_along_axis(self.targets, best, axis=1)[tested], self.targets[tested].sum(axis=1)
        gain = 1 / np.log2(np.arange(2, K + 2))
        ndcg = hits @ gain / np.cumsum(gain)[np.minimum(n, K) - 1]
        return float(ndcg.mean()), float((hits.sum(axis=1) / n).mean())


@dataclass(frozen=True)
class Split:
    """Data of a training, and the held-out songs of validation and test."""

    data: TrainingData
    validated: HeldOut
    tested: HeldOut

    @classmethod
    def of(cls, folder: Path) -> "Split":
        """Run the pipeline up to the graph over a folder in the hub's layout."""
        with tempfile.TemporaryDirectory() as home:
            platform = Platform(Path(home))
            platform.source.rmdir()
            platform.source.symlink_to(folder.absolute())
            platform.materialise("graph/bipartite_graph", "splits/ground_truth", config=CONFIG)
            graph = platform.graph()
            truth = pl.read_parquet(platform.file("splits/ground_truth"))
        tensors = GraphTensors.of(graph)
        shape = tensors.n_users, tensors.n_graph_songs
        train, validation, test = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
        train[tensors.heard.user, tensors.heard.song] = True
        for name, part in (("validation", validation), ("test", test)):
            rows = truth.filter((pl.col("split") == name) & (pl.col("song_id") < shape[1]))
            part[rows["user_id"], rows["song_id"]] = True
        rows = truth.filter(pl.col("split") == "validation")
        user, song, relevance = (rows[name].to_numpy() for name in ("user_id", "song_id", "adjusted_relevance"))
        nobody = np.empty(0, np.int64)
        targets = tensors.pairs(user, song, relevance=relevance)
        data = TrainingData(tensors, tensors.pairs(nobody, nobody), targets)
        known = train | validation
        return cls(data, HeldOut(validation & ~train, train), HeldOut(test & ~known, known))


@dataclass(frozen=True)
class Theirs:
    """The authors' algorithm: where it converged, and its seconds of training until it first was as good."""

    converged: Quality
    seconds: float
    n_epochs: int


def theirs(split: Split, seed: int = 0) -> Theirs:
    """Train until validation has not improved for long; the quality is that of the best validated epoch."""
    user, song = np.nonzero(split.tested.known & ~split.validated.targets)
    positives = Positives(user, song, *split.tested.known.shape)
    history, best = [], (0.0, 0, (0.0, 0.0))
    for number, (seconds, users, songs) in enumerate(epochs(positives, seed), start=1):
        if number % EPOCHS_BETWEEN_TESTS:
            continue
        quality = split.tested.quality(users, songs)
        history.append((seconds, quality))
        best = max(best, (split.validated.quality(users, songs)[0], number, quality))
        if number % 50 == 0:
            logging.info("authors' algorithm: epoch %d, %.0f s, test NDCG@%d %.4f", number, seconds, K, quality[0])
        if number - best[1] >= PATIENCE or number >= MOST_EPOCHS:
            break
    converged = best[2]
    reached = next(seconds for seconds, quality in history if quality[0] >= converged[0])
    return Theirs(converged, reached, number)


@dataclass(frozen=True)
class Ours:
    """The trainer with the scale's defaults: what validation chose, and the seconds until it was as good as theirs."""

    seed: int
    chosen: Quality
    seconds: float
    in_all: float


def ours(split: Split, goal: float, seed: int) -> Ours:
    """Train from the graph, model and start included, testing (outside the clock) after every epoch."""
    settings = TrainingSettings(**SCALE_DEFAULTS["50m"].get(TrainingSettings, {}), seed=seed)
    with _tested_epochs(split) as history:
        result = trainer.fit(split.data, settings, torch.device("cpu"))
    reached = next((seconds for seconds, quality in history if quality[0] >= goal), float("nan"))
    return Ours(seed, history[result.best.number - 1][1], reached, history[-1][0])


@contextmanager
def _tested_epochs(split: Split) -> Iterator[list[tuple[float, Quality]]]:
    """Seconds since now, without those of testing, and the quality on test, after every epoch of a training."""
    history: list[tuple[float, Quality]] = []
    started, testing = time.perf_counter(), 0.0

    class Tested(trainer.Steps):
        def embeddings(self) -> tuple[Tensor, Tensor]:
            nonlocal testing
            found = super().embeddings()
            now = time.perf_counter()
            history.append((now - started - testing, split.tested.quality(*found)))
            testing += time.perf_counter() - now
            return found

    steps, trainer.Steps = trainer.Steps, Tested
    try:
        yield history
    finally:
        trainer.Steps = steps


def section(split: Split, plain: Theirs, trained: list[Ours]) -> str:
    """Both sides, as Markdown."""
    n_users, n_songs = split.tested.known.shape
    rows = [
        ("authors' algorithm at convergence", *_shown(plain.converged), f"{plain.seconds:.1f}", "1"),
        *(
            (f"lightgcn, seed {o.seed}", *_shown(o.chosen), f"{o.seconds:.2f}", f"{plain.seconds / o.seconds:.0f}")
            for o in trained
        ),
    ]
    slowest = max(o.seconds for o in trained)
    return "\n".join(
        [
            f"{n_users:,} users, {n_songs:,} songs, {split.data.graph.n_edges:,} edges; test, songs of train and "
            f"validation excluded; the epoch is chosen on validation. {machine()}.",
            "",
            table(("", f"NDCG@{K}", f"Recall@{K}", "s to the authors' NDCG", "times as fast"), rows),
            "",
            f"The authors' algorithm (plain BPR, batch {BATCH:,}, rate {RATE:g}, one negative, sparse COO product with "
            f"autograd) ran for {plain.n_epochs} epochs. **From graph to its converged NDCG the trainer needs 1/"
            f"{plain.seconds / slowest:.0f} of its time**, model and spectral start included, with the slowest seed; a "
            f'whole training takes {max(o.in_all for o in trained):.1f} s, without the race, which "Recommenders" has.',
        ]
    )


def _shown(quality: Quality) -> tuple[str, str]:
    return f"{quality[0]:.4f}", f"{quality[1]:.4f}"
