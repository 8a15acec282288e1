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

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch_geometric.data import HeteroData

from ms_assets.defs.evaluation import assets as evaluation_assets
from ms_assets.defs.graph import assets as graph_assets
from ms_assets.defs.platform.io_managers import CheckpointOnDisk, IndexOfOrigin
from ms_assets.defs.platform.resources import DuckDB
from ms_assets.defs.platform.scales import SCALE_DEFAULTS
from ms_assets.defs.reranking import assets as reranking_assets
from ms_assets.defs.retrieval import assets as retrieval_assets
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import passes
from ms_assets.graph import bipartite
from ms_assets.machine import refuse_beyond
from ms_assets.reranking import phases
from ms_assets.reranking import ranker as rankers
from ms_assets.retrieval import cold_start, dataset
from ms_assets.retrieval import index as indexing
from ms_assets.retrieval.index import SongIndex, fingerprint
from ms_assets.retrieval.methods import BASELINES, OURS
from ms_assets.settings import EvaluationSettings, TrainingSettings, validated
from ms_assets.streams import Relation, TableWriter, stored_table
from ms_assets.training import diagnostics, inputs, memory, race, spectral
from ms_assets.training.checkpoints import Checkpoint
from ms_assets.training.data import GraphTensors
from ms_assets.training.steps import Steps
from ms_assets.training.trained import TrainedModel
from ms_assets.vectors import dimensions, embedding_columns, embeddings
from ms_assets_tests.benchmarks.measure import resident

logger = logging.getLogger(__name__)

STEPS = ("learning step", "frozen step")
TRAINING = "training/lightgcn"
SEARCHING = (
    "item_knn", "session_knn", "ials", "bpr", "collaborative_filtering", "graph_filter", "ease", "content_based",
)  # fmt: skip
"""Baselines whose time is that of scoring songs for users."""
KS = EvaluationSettings().ks
REFUSING = (bipartite, memory, dataset, indexing, phases, rankers, passes, boards)
"""Modules that refuse what does not fit."""


def settings_of(scale: str, **changed: Any) -> TrainingSettings:
    """Settings of a scale's training: its defaults, but for those that are changed."""
    return validated(TrainingSettings, SCALE_DEFAULTS[scale].get(TrainingSettings, {}) | changed)


@dataclass
class Span:
    """Memory of a part of a stage."""

    estimated: int | None
    """Bytes that the product estimates beforehand, None where it estimates nothing."""
    held: int
    """Bytes that the process held when the part began."""
    peak: int = 0
    """Largest number of bytes that it held meanwhile."""


@dataclass
class Bench:
    """Folder of artefacts of a stage and settings of the training, and the notes of what the stage takes."""

    folder: Path
    trained: TrainingSettings
    seconds: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    """Spans of the stage, which begin with the refusals of what does not fit."""
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
            self.begin(sum(parts.values()))

        self.begin(None)
        with ExitStack() as stack:
            for module in REFUSING:
                stack.enter_context(patch.object(module, "refuse_beyond", noted))
            yield
        self.spans[-1].peak = resident("VmHWM")

    def begin(self, estimated: int | None) -> None:
        """Begin a span, for which the product estimates so many bytes, None for the first, which it does not."""
        for span in self.spans[-1:]:
            span.peak = resident("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")
        self.spans.append(Span(estimated, resident("VmRSS")))

    def given(self, asset: dg.AssetsDefinition) -> dict[str, Any]:
        """Inputs of an asset by name, read as in a run."""
        return {name: self.artefact(key.path[-1]) for name, key in asset.keys_by_input_name.items()}

    def artefact(self, name: str) -> Any:
        """Artefact by the name of its asset, read as in a run; None where no stage has left it."""
        match name:
            case "bipartite_graph":
                return self.graph
            case "song_index":
                return self.index
            case "ranker":
                return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}
        return self.table(name) if (self.folder / f"{name}.parquet").exists() else None

    @cached_property
    def graph(self) -> HeteroData:
        """Stored graph, loaded as in a run."""
        return HeteroData.from_dict(torch.load(self.folder / "graph.pt", weights_only=True))

    @property
    def index(self) -> IndexOfOrigin:
        """Stored index."""
        songs = self.table("songs").order("song_id").to_arrow_table()["item_id"].to_numpy()
        asked = embeddings(self.table("queries"), "user_id")
        made_from = {"device": "cpu", "id_map": fingerprint(songs), "queries": fingerprint(asked)}
        return IndexOfOrigin(SongIndex.load(self.folder / "index.faiss").index, made_from)

    @property
    def methods(self) -> passes.Methods:
        """Stored lists of all methods."""
        return self.tables(*OURS)

    @property
    def model(self) -> TrainedModel:
        """Stored model."""
        return TrainedModel.from_dict(torch.load(self.folder / "model.pt", weights_only=True))

    @property
    def settings(self) -> TrainingSettings:
        """Settings of the training, but one epoch, two steps at least, and no race that a large scale has not."""
        most = {"batch_size": min(self.trained.batch_size or 1, len(self.table("edges")) // 2)}
        few = {"epochs": 1, "checkpoint_seconds": 0, "temperature": 0.1}
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
    graph, model = bench.graph, bench.model
    tensors = GraphTensors.of(graph)
    memory.refuse_without_room_to_embed(memory.Sizes.of(tensors), model.settings, False)
    users, songs = (vectors.numpy() for vectors in model.embeddings(tensors))
    for name, vectors in (("user", users), ("song", songs)):
        ids = {f"{name}_id": np.arange(len(vectors), dtype=np.int32)}
        flags = {"cold": (~graph["song"].in_graph).numpy()} if name == "song" else {}
        bench.publish(f"{name}_embeddings", [pa.table({**ids, **flags, **embedding_columns(vectors, None)})])


def song_index(bench: Bench) -> None:
    """Build the index."""
    indexing.refuse_without_room(
        *(len(bench.table(name)) for name in ("songs", "queries")), dimensions(bench.table("song_embeddings"))
    )
    vectors = cold_start.indexed_vectors(bench.table("song_embeddings"), bench.table("cold_songs"))
    asked = embeddings(bench.table("queries"), "user_id")
    ids = bench.table("songs").order("song_id").to_arrow_table()["item_id"].to_numpy()
    SongIndex.build(vectors, ids, asked).save(bench.folder / "index.faiss")


def made(asset: dg.AssetsDefinition) -> Callable[[Bench], None]:
    """Work of an asset that makes one table of other artefacts: make it and store it."""

    def work(bench: Bench) -> None:
        result = asset(**bench.given(asset), **_resources(asset, bench))
        value = getattr(result, "value", result)
        if isinstance(value, pl.DataFrame):
            value = value.to_arrow()
        bench.publish(asset.key.path[-1], getattr(value, "tables", [value]))
        told = getattr(result, "metadata", None) or {}
        if "tuning_seconds" in told:
            bench.seconds["tuning"] = told["tuning_seconds"]

    return work


def _resources(asset: dg.AssetsDefinition, bench: Bench) -> dict[str, Any]:
    return {"duckdb": bench.duckdb} if "duckdb" in asset.required_resource_keys else {}


def ranker(bench: Bench) -> None:
    """Learn the rankers of the second stage."""
    files = reranking_assets.ranker(**bench.given(reranking_assets.ranker)).value
    (bench.folder / "ranker").mkdir()
    for name, content in files.items():
        (bench.folder / "ranker" / name).write_bytes(content)


def user_metrics(bench: Bench) -> None:
    """Measure every method for everybody."""
    given = bench.tables("users", "songs", "train", "ground_truth")
    bench.publish("user_metrics", passes.user_metrics(bench.methods, **given, ks=KS))


def official_user_metrics(bench: Bench) -> None:
    """Measure every method for everybody as Yambda's authors do."""
    given = bench.tables("users", "songs", "train", "test")
    bench.publish("official_user_metrics", passes.official_user_metrics(bench.methods, **given, ks=KS))


def slices(bench: Bench) -> None:
    """Measure every method over slices."""
    given = bench.tables("users", "songs", "train", "test", "ground_truth")
    bench.publish("slices", [passes.slices(bench.methods, **given, ks=KS).to_arrow()])


def recall_curve(bench: Bench) -> None:
    """Measure every method's recall at every length."""
    given = bench.tables("users", "songs", "train", "ground_truth")
    bench.publish("recall_curve", [passes.recall_curve(bench.methods, **given, longest=max(KS)).to_arrow()])


def exposure(bench: Bench) -> None:
    """Count how often every method shows each song."""
    given = bench.tables("users", "songs", "train")
    bench.publish("exposure", [passes.exposure(bench.methods, **given, is_global=True, ks=KS).to_arrow()])


def leaderboard(bench: Bench) -> None:
    """Compare all methods."""
    given = bench.tables("user_metrics", "official_user_metrics")
    board = boards.leaderboard(evaluation_assets._panes(**given), bench.table("exposure").pl())
    bench.publish("leaderboard", [board.to_arrow()])


@dataclass(frozen=True)
class Stage:
    """Stage: its work, the files that it leaves, and the power of the graph's size that its seconds grow with."""

    work: Callable[[Bench], None]
    files: tuple[str, ...] = ()
    power: float = 1.0


def _tables(room: Any, *names: str, power: float = 1.0) -> dict[str, Stage]:
    assets = [getattr(room, name) for name in names]
    return {
        asset.key.to_user_string(): Stage(made(asset), (f"{name}.parquet",), power)
        for name, asset in zip(names, assets, strict=True)
    }


# A user's search costs as many lists as there are roots of songs, an exact one all songs; so does building the lists.
STAGES = {
    "graph/edges": Stage(edges, ("edges.parquet",)),
    "graph/bipartite_graph": Stage(bipartite_graph, ("graph.pt",)),
    TRAINING: Stage(training, ("model.pt", "checkpoint")),
    "training/embeddings": Stage(embedded, ("user_embeddings.parquet", "song_embeddings.parquet")),
    **_tables(retrieval_assets, "queries", "cold_songs"),
    "retrieval/song_index": Stage(song_index, ("index.faiss",), 1.5),
    **_tables(retrieval_assets, "lightgcn", "lightgcn_replay", power=1.5),
    **_tables(retrieval_assets, *(name for name in BASELINES if name not in SEARCHING)),
    **_tables(retrieval_assets, *SEARCHING, power=2.0),
    **_tables(reranking_assets, "features", "pool"),
    "reranking/ranker": Stage(ranker, ("ranker",)),
    **_tables(reranking_assets, "ranked"),
    **{
        f"evaluation/{work.__name__}": Stage(work, (f"{work.__name__}.parquet",))
        for work in (user_metrics, official_user_metrics, slices, recall_curve, exposure)
    },
    **_tables(evaluation_assets, "differences"),
    "evaluation/leaderboard": Stage(leaderboard, ("leaderboard.parquet",)),
}


@dataclass(frozen=True)
class Found:
    """Measurements of a stage on a fraction."""

    seconds: dict[str, float]
    """Seconds by part; `all` of the stage as it ran."""
    peak: int
    """Largest number of bytes that its process held."""
    beyond: int
    """Those of them beyond what it held when it was estimated, or, where nothing was, when it began."""
    estimated: int | None
    """Bytes that the product estimates beforehand, None where it estimates nothing."""
    disk: int
    """Bytes of the files that it left."""


def found(stage: str, folder: Path, settings: TrainingSettings) -> Found:
    """Run a stage in this process; settings: of the training."""
    bench, chosen = Bench(folder, settings), STAGES[stage]
    with bench.noting_estimates(), bench.timed("all"):
        chosen.work(bench)
    peak = max(span.peak for span in bench.spans)
    # Reading what is given comes first; what a span refuses may follow at once.
    largest = max(bench.spans[1:] or bench.spans, key=lambda span: span.peak - span.held)
    disk = sum(size(folder / name) for name in chosen.files)
    return Found(bench.seconds, peak, largest.peak - largest.held, largest.estimated, disk)


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
