"""An epoch over a graph of a scale's size: seconds, memory, and what larger scales come to by arithmetic."""

import json
import logging
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch_geometric.data import HeteroData

from ms_assets.defs.platform import needs
from ms_assets.defs.platform.scales import SCALE_DEFAULTS
from ms_assets.graph.bipartite import INTERACTS
from ms_assets.settings import TrainingSettings
from ms_assets.training import memory
from ms_assets.training.data import GraphTensors, TrainingData
from ms_assets.training.inputs import fitted
from ms_assets.training.memory import Sizes
from ms_assets.training.network import Network
from ms_assets.training.spectral import start_from_spectrum
from ms_assets.training.steps import Steps
from ms_assets_tests.benchmarks.measure import resident
from ms_assets_tests.benchmarks.report import machine, table
from ms_assets_tests.benchmarks.shapes import GRAPHS
from ms_assets_tests.benchmarks.stages import settings_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """Seconds of the parts of a training, and bytes at its peak, of main memory beyond graph and libraries."""

    scale: str
    device: str
    dimensions: int
    n_edges: int
    n_steps: int
    model: float
    spectral: float
    first_step: float
    frozen_step: float
    learning_step: float
    peak: int
    estimated: int
    peak_there: int
    """Of the card; 0 on the CPU."""
    estimated_there: int

    @property
    def seconds(self) -> float:
        """Of an epoch: every tenth step learns edge weights."""
        n_learning = -(-self.n_steps // 10)
        return n_learning * self.learning_step + (self.n_steps - n_learning) * self.frozen_step


def data_like_yambda(n_users: int, n_songs: int, n_edges: int) -> TrainingData:
    """Data of a graph like Yambda's, in which nobody dislikes anything, and nobody validates."""
    graph, nobody = GraphTensors.of(graph_like_yambda(n_users, n_songs, n_edges)), np.empty(0, np.int64)
    nothing = graph.pairs(nobody, nobody, relevance=np.empty(0))
    return TrainingData(graph, nothing, nothing)


def graph_like_yambda(n_users: int, n_songs: int, n_edges: int) -> HeteroData:
    """Distinct edges; half of the songs have three or fewer, a few have nearly all users."""
    rng, graph = np.random.default_rng(0), HeteroData()
    # Every song once, the rest by popularity.
    popular = (n_songs * np.square(np.square(rng.random(int(1.4 * n_edges))))).astype(np.int64)
    song = np.concatenate([np.arange(n_songs), popular])
    keys = rng.integers(n_users, size=len(song)) * n_songs + song
    keys.sort()
    keys = keys[np.append(True, np.diff(keys) > 0)]
    place = np.empty(n_songs, np.int64)
    place[keys % n_songs] = np.arange(len(keys))
    drawn = rng.random(len(keys))
    drawn[place] = -1.0
    user, song = np.divmod(keys[drawn <= np.partition(drawn, n_edges - 1)[n_edges - 1]], n_songs)
    graph["user"].uid, graph["user"].num_nodes = torch.arange(n_users), n_users
    _describe_songs(graph, rng, n_songs)
    graph[INTERACTS].edge_index = torch.from_numpy(np.stack([user, song]).astype(np.int32))
    kind = rng.choice([1.0, 2.0], len(user), p=[0.95, 0.05])
    attributes = [kind, rng.geometric(0.4, len(user)), rng.random(len(user)), np.where(kind == 1, 0.7, 1.0)]
    graph[INTERACTS].edge_attr = torch.from_numpy(np.stack(attributes, axis=1).astype(np.float32))
    return graph


def _describe_songs(graph: HeteroData, rng: Generator, n_songs: int) -> None:
    audio = rng.standard_normal((n_songs, 128), dtype=np.float32)
    songs = graph["song"]
    songs.x = torch.from_numpy(audio / np.linalg.norm(audio, axis=1, keepdims=True))
    songs.has_audio = torch.ones(n_songs, dtype=torch.bool)
    songs.item_id, songs.in_graph = torch.arange(n_songs), torch.ones(n_songs, dtype=torch.bool)
    for owner, n_songs_each in (("artist", 10), ("album", 5)):
        songs[f"{owner}_ids"] = torch.from_numpy(rng.integers(max(n_songs // n_songs_each, 1), size=n_songs))
        songs[f"{owner}_offsets"] = torch.arange(n_songs + 1)


def measure(scale: str, device: str) -> Epoch:
    """In a process of its own, for its memory is measured."""
    # As in any run, resources come first: they choose the pages that tensors are allocated in.
    resources = "ms_assets.defs.platform.resources"
    program = f"import {resources}; from {__name__} import print_epoch; print_epoch{scale, device}"
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    logger.info("%s on %s: %s", scale, device, told := ran.stdout.splitlines()[-1])
    return Epoch(**json.loads(told))


def print_epoch(scale: str, device: str) -> None:
    """Print an `Epoch`: model, start, and the first eleven steps, of which two learn edge weights."""
    shape = needs.SHAPES[scale]
    data = data_like_yambda(shape.n_users, shape.n_graph_songs, shape.n_edges)
    graph = data.graph
    settings, _ = fitted(settings_of(scale, device=device), graph)
    on_card = device != "cpu"
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the training, not of making up its graph
    before, clock = resident("VmRSS"), time.perf_counter()
    network = Network(graph, settings)
    built = time.perf_counter()
    start_from_spectrum(network, graph.features, settings, device=torch.device(device))
    started = time.perf_counter()
    steps = Steps(network.to(device), data, settings)
    seconds, epoch = [], steps.epoch()
    for _ in range(min(11, steps.n_batches)):
        now = time.perf_counter()
        next(epoch)
        if on_card:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - now)
    sizes = Sizes.of(graph)
    in_memory = memory.estimate_beside(sizes, settings) if on_card else memory.estimate(sizes, settings)
    found = Epoch(
        scale=scale,
        device=device,
        dimensions=settings.embedding_dim,
        n_edges=graph.n_edges,
        n_steps=steps.n_batches,
        model=built - clock,
        spectral=started - built,
        first_step=seconds[0],
        frozen_step=float(np.median(seconds[1:10] or seconds)),
        learning_step=seconds[-1],
        peak=resident("VmHWM") - before,
        estimated=sum(in_memory.values()),
        peak_there=torch.cuda.max_memory_allocated() if on_card else 0,
        estimated_there=sum(memory.estimate_on(device, sizes, settings).values()) if on_card else 0,
    )
    print(json.dumps(asdict(found)))


def section(found: list[Epoch]) -> str:
    """What was measured, and what larger graphs come to by arithmetic, as Markdown."""
    rows = [
        (
            f"{epoch.n_edges:,}",
            str(epoch.n_steps),
            f"{epoch.model + epoch.spectral:.1f}",
            f"{epoch.frozen_step:.2f}",
            f"{epoch.learning_step:.2f}",
            f"{epoch.seconds:.0f}",
            f"{epoch.peak / 2**30:.2f}",
            f"{epoch.estimated / 2**30:.2f}",
        )
        for epoch in found
    ]
    names = ("edges", "steps", "model and start, s", "step, s", "learning step, s", "epoch, s", "peak, GiB")
    return "\n".join(
        [
            f"6,000 users, 600,000 songs, d = {found[-1].dimensions}, otherwise the defaults of `50m`. Steps: medians "
            f"of the first eleven; an epoch is all of its steps, every tenth of which learns weights. Peak is beyond "
            f"graph and libraries; estimated is what the training itself says beforehand. {machine()}.",
            "",
            table((*names, "estimated, GiB"), rows),
            "",
            "By arithmetic, with the defaults of their scales: steps × time of a step, which grows with edges × d, and "
            "memory as the training estimates it.",
            "",
            table(
                ("", "edges", "steps an epoch", "epoch on two cores, h", "memory, GiB"),
                [_larger(scale, sizes, found[-1]) for scale, sizes in GRAPHS.items()],
            ),
        ]
    )


def card_section(found: list[Epoch]) -> str:
    """What was measured on a card beside the CPU, as Markdown."""
    rows = [
        (
            epoch.scale,
            epoch.device,
            str(epoch.dimensions),
            str(epoch.n_steps),
            f"{epoch.model + epoch.spectral:.1f}",
            f"{1e3 * epoch.frozen_step:,.0f}",
            f"{1e3 * epoch.learning_step:,.0f}",
            f"{epoch.seconds:.1f}",
            _beside(epoch.peak_there, epoch.estimated_there) if epoch.peak_there else "",
            _beside(epoch.peak, epoch.estimated),
        )
        for epoch in found
    ]
    names = ("", "", "d", "steps", "model and start, s", "step, ms", "learning step, ms", "epoch, s")
    return "\n".join(
        [
            f"Graphs of `50m` (6 million edges) and `500m` (60 million), made up, with the settings of their scales. "
            f"Steps: medians of the first eleven; an epoch is all of its steps, every tenth of which learns weights. "
            f"Memory: GiB at the peak, of main memory beyond graph and libraries, and in brackets the estimate over "
            f"it. {torch.cuda.get_device_name()}. {machine()}.",
            "",
            table((*names, "on the card, GiB", "main memory, GiB"), rows),
        ]
    )


def _beside(peak: int, estimated: int) -> str:
    return f"{peak / 2**30:.2f} ({estimated / peak:.2f})"


def _larger(scale: str, sizes: Sizes, measured: Epoch) -> tuple[str, ...]:
    settings = TrainingSettings(**SCALE_DEFAULTS[scale][TrainingSettings])
    n_steps = math.ceil(sizes.n_edges / settings.step_size(sizes.n_edges))
    growth = sizes.n_edges * settings.embedding_dim / (measured.n_edges * measured.dimensions)
    seconds = n_steps * (0.9 * measured.frozen_step + 0.1 * measured.learning_step) * growth
    gib = sum(memory.estimate(sizes, settings).values()) / 2**30
    return scale, f"{sizes.n_edges:,}", str(n_steps), f"{seconds / 3600:.1f}", f"{gib:.0f}"
