"""Stages of a rehearsal: the product's code over a folder of made-up artefacts, and what its process takes."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch_geometric.data import HeteroData

from ms_assets.defs.graph import assets as graph_assets
from ms_assets.defs.platform.io_managers import CheckpointOnDisk, IndexOfOrigin
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALE_DEFAULTS
from ms_assets.defs.retrieval import assets as retrieval_assets
from ms_assets.evaluation import passes
from ms_assets.graph import bipartite
from ms_assets.machine import refuse_beyond
from ms_assets.retrieval import cold_start, dataset, exact
from ms_assets.retrieval.index import SongIndex, fingerprint
from ms_assets.retrieval.recommender import TOP_K
from ms_assets.settings import EvaluationSettings, TrainingSettings, validated
from ms_assets.streams import Relation, TableWriter, stored_table
from ms_assets.training import diagnostics, inputs, memory, race, spectral
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.data import GraphTensors
from ms_assets.training.steps import Steps
from ms_assets.training.trained import TrainedModel
from ms_assets.vectors import embedding_columns, embeddings
from ms_assets_tests.benchmarks.kernels import resident

logger = logging.getLogger(__name__)

STEPS = ("learning step", "frozen step")
EXACT_QUERIES = 500
TRAINING, EXACT = "training/lightgcn", "exact search, a baseline"
REFUSING = (bipartite, memory, dataset)
"""Modules that refuse what does not fit."""


def settings_of(scale: str, **changed: Any) -> TrainingSettings:
    """Settings of a scale's training: its defaults, but for those that are changed."""
    return validated(TrainingSettings, SCALE_DEFAULTS[scale][TrainingSettings] | changed)


@dataclass
class Bench:
    """Folder of artefacts of a stage and settings of the training, and the notes of what the stage takes."""

    folder: Path
    trained: TrainingSettings
    seconds: dict[str, float] = field(default_factory=dict)
    estimated: int | None = None
    """Bytes that the product estimates beforehand, None where it estimates nothing."""
    held: int = 0
    """Bytes that the process held when it was estimated."""
    loaded: int = 0
    """Largest number of bytes that it held before."""
    n_epochs: int = 0
    """Epochs of a training so far."""

    @cached_property
    def duckdb(self) -> DuckDB:
        """Resource as in a run."""
        return DuckDB(temp_directory=str(self.folder / "tmp"))

    def table(self, name: str) -> Relation:
        """Stored table."""
        return stored_table(self.duckdb.connection, self.folder / f"{name}.parquet")

    def tables(self, *names: str) -> dict[str, Relation]:
        """Stored tables by name."""
        return {name: self.table(name) for name in names}

    def publish(self, name: str, rows: Iterator[pa.Table] | list[pa.Table]) -> None:
        """Store a table as the I/O manager does."""
        with TableWriter(self.folder / f"{name}.parquet") as writer:
            writer.fill(rows)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds within to those of a part."""
        started = time.monotonic()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - started

    @contextmanager
    def noting_estimates(self) -> Iterator[None]:
        """Note the estimate of each refusal; what the process takes from then on is compared with it."""

        def noted(available: int, what: str, parts: Mapping[str, int], *told: str) -> None:
            refuse_beyond(available, what, parts, *told)
            self.estimated, self.held, self.loaded = sum(parts.values()), resident("VmRSS"), resident("VmHWM")
            Path("/proc/self/clear_refs").write_text("5")

        with ExitStack() as stack:
            for module in REFUSING:
                stack.enter_context(patch.object(module, "refuse_beyond", noted))
            yield

    @cached_property
    def graph(self) -> HeteroData:
        """Stored graph, loaded as in a run."""
        return HeteroData.from_dict(torch.load(self.folder / "graph.pt", weights_only=True))

    @property
    def model(self) -> TrainedModel:
        """Stored model."""
        return TrainedModel.from_dict(torch.load(self.folder / "model.pt", weights_only=True))

    @cached_property
    def song_ids(self) -> NDArray[np.int64]:
        """Yambda's id of each song, int64 [n_songs]."""
        return self.table("songs").order("song_id").to_arrow_table()["item_id"].to_numpy()

    @cached_property
    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors of songs as indexed, and queries of users, float32 [n, d] each."""
        songs = cold_start.indexed_vectors(self.table("song_embeddings"), self.table("cold_songs"))
        return songs, embeddings(self.table("queries"), "user_id")

    @property
    def settings(self) -> TrainingSettings:
        """Settings of the training, but one epoch, two steps at least, and no race that a large scale has not."""
        most = {"batch_size": min(self.trained.batch_size or 1, len(self.table("edges")) // 2)}
        few = {"epochs": 1, "checkpoint_seconds": 0, "temperature": 0.15}
        return self.trained.model_copy(update=most | few)


def edges(bench: Bench) -> None:
    """Count events into weighted edges."""
    bench.publish("edges", graph_assets.edges(duckdb=bench.duckdb, train=bench.table("train")).tables)


def bipartite_graph(bench: Bench) -> None:
    """Build the graph and store it."""
    given = bench.tables("users", "songs", "embeddings", "edges")
    graph = graph_assets.bipartite_graph(**given).value
    torch.save(graph.to_dict(), bench.folder / "graph.pt")


def training(bench: Bench) -> None:
    """Train with a step of every kind in each epoch, with race, checkpoints, cold songs and diagnosis."""
    data = inputs.training_data(bench.graph, **bench.tables("negatives", "ground_truth"))
    settings, device = inputs.fitted(bench.settings, data.graph)
    checkpoint = Checkpoint.open(CheckpointOnDisk(bench.folder / "checkpoint"), data, settings)
    with _few_steps(bench):
        trained = race.train(data, settings, device, checkpoint=checkpoint)
    for kind in STEPS:
        bench.seconds[kind] /= bench.n_epochs
    diagnostics.diagnose(trained.network(data.graph), data.graph.features)
    torch.save(trained.to_dict(), bench.folder / "model.pt")


@contextmanager
def _few_steps(bench: Bench) -> Iterator[None]:
    """Let every epoch end after a step of each kind, and cold songs be rehearsed with an epoch; time the parts."""
    whole, spectrum, with_cold_length = Steps.epoch, spectral._spectrum, race.with_cold_length

    def some(steps: Steps) -> Iterator[None]:
        epoch = whole(steps)
        for kind in STEPS:
            with bench.timed(kind):
                next(epoch)
            yield
        bench.n_epochs += 1

    def timed(*arguments: Any) -> Any:
        with bench.timed("spectra"):
            return spectrum(*arguments)

    def rehearsed(data: Any, trained: TrainedModel, *where: Any) -> TrainedModel:
        return with_cold_length(data, replace(trained, best=replace(trained.best, number=1)), *where)

    with ExitStack() as stack:
        stack.enter_context(patch.object(Steps, "epoch", some))
        stack.enter_context(patch.object(spectral, "_spectrum", timed))
        stack.enter_context(patch.object(race, "with_cold_length", rehearsed))
        yield


def embedded(bench: Bench) -> None:
    """Propagate the trained parameters to embeddings of all users and songs."""
    graph = bench.graph
    users, songs = (vectors.numpy() for vectors in bench.model.embeddings(GraphTensors.of(graph)))
    for name, vectors in (("user", users), ("song", songs)):
        ids = {f"{name}_id": np.arange(len(vectors), dtype=np.int32)}
        flags = {"cold": (~graph["song"].in_graph).numpy()} if name == "song" else {}
        bench.publish(f"{name}_embeddings", [pa.table({**ids, **flags, **embedding_columns(vectors, None)})])


def queries(bench: Bench) -> None:
    """Choose on validation how far users' vectors are drawn to their latest songs."""
    given = bench.tables("users", "songs", "train", "ground_truth", "user_embeddings", "song_embeddings")
    bench.publish("queries", [retrieval_assets.queries(**given).value])


def cold_songs(bench: Bench) -> None:
    """Place cold songs."""
    given = bench.tables("users", "songs", "train", "ground_truth", "queries", "song_embeddings")
    bench.publish("cold_songs", [retrieval_assets.cold_songs(**given).value])


def song_index(bench: Bench) -> None:
    """Build the index."""
    vectors, asked = bench.vectors
    SongIndex.build(vectors, bench.song_ids, asked).save(bench.folder / "index.faiss")


def lightgcn(bench: Bench) -> None:
    """Recommend to everybody by the index."""
    made_from = {"device": "cpu", "id_map": fingerprint(bench.song_ids), "queries": fingerprint(bench.vectors[1])}
    index = IndexOfOrigin(SongIndex.load(bench.folder / "index.faiss").index, made_from)
    given = bench.tables("users", "songs", "train", "queries")
    bench.publish("lightgcn", retrieval_assets.lightgcn(**given, song_index=index).value.tables)


def popular(bench: Bench) -> None:
    """Recommend the same songs to everybody, which is what every baseline takes at least."""
    bench.publish("popular", retrieval_assets.popular(**bench.tables("users", "songs", "train")).value.tables)


def exact_search(bench: Bench) -> None:
    """Search for some users exactly, as baselines that learn vectors do for all."""
    (vectors, users), heard = bench.vectors, len(bench.table("edges"))
    asked = users[:EXACT_QUERIES]
    with bench.timed("asked"):
        exact.search(asked, vectors, min(TOP_K + heard // len(users), len(vectors)))
    bench.seconds["all"] = bench.seconds.pop("asked") * len(users) / len(asked)


def user_metrics(bench: Bench) -> None:
    """Measure two methods for everybody."""
    methods, given = bench.tables("lightgcn", "popular"), bench.tables("users", "songs", "train", "ground_truth")
    bench.publish("user_metrics", passes.user_metrics(methods, **given, ks=EvaluationSettings().ks))


@dataclass(frozen=True)
class Stage:
    """Stage: its work, the files that it leaves, and the power of the graph's size that its seconds grow with."""

    work: Callable[[Bench], None]
    files: tuple[str, ...] = ()
    power: float = 1.0


# A user's search costs as many lists as there are roots of songs, an exact one all songs; so does building the lists.
STAGES = {
    "graph/edges": Stage(edges, ("edges.parquet",)),
    "graph/bipartite_graph": Stage(bipartite_graph, ("graph.pt",)),
    TRAINING: Stage(training, ("model.pt", "checkpoint")),
    "training/embeddings": Stage(embedded, ("user_embeddings.parquet", "song_embeddings.parquet")),
    "retrieval/queries": Stage(queries, ("queries.parquet",)),
    "retrieval/cold_songs": Stage(cold_songs, ("cold_songs.parquet",)),
    "retrieval/song_index": Stage(song_index, ("index.faiss",), 1.5),
    "retrieval/lightgcn": Stage(lightgcn, ("lightgcn.parquet",), 1.5),
    "retrieval/popular": Stage(popular, ("popular.parquet",)),
    EXACT: Stage(exact_search, (), 2.0),
    "evaluation/user_metrics": Stage(user_metrics, ("user_metrics.parquet",)),
}


@dataclass(frozen=True)
class Found:
    """Measurements of a stage on a fraction."""

    seconds: dict[str, float]
    """Seconds by part; `all` of the stage as it ran."""
    peak: int
    """Largest number of bytes that its process held."""
    beyond: int
    """Those of them beyond what it held when it was estimated."""
    estimated: int | None
    disk: int
    """Bytes of the files that it left."""


def found(stage: str, folder: Path, settings: TrainingSettings) -> Found:
    """Run a stage in this process; settings: of the training."""
    bench, chosen = Bench(folder, settings), STAGES[stage]
    with bench.noting_estimates(), bench.timed("all"):
        chosen.work(bench)
    last, files = resident("VmHWM"), (folder / name for name in chosen.files)
    disk = sum(file.stat().st_size for file in files)
    return Found(bench.seconds, max(last, bench.loaded), last - bench.held, bench.estimated, disk)
