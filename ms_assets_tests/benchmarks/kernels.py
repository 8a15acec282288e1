"""Propagation against PyG's LGConv: time forward and backward, memory, and what learned weights cost."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_geometric.nn import LGConv

from ms_assets.training.edge_weights import EdgeWeightMLP
from ms_assets.training.propagation import Adjacency, Propagation, propagate_learning
from ms_assets_tests.benchmarks.measure import resident
from ms_assets_tests.benchmarks.report import machine, table

LAYERS, INTERVAL = 3, 10


@dataclass(frozen=True)
class Size:
    """Of a random graph."""

    n_users: int = 30_000
    n_songs: int = 41_000
    n_edges: int = 810_000
    dimensions: int = 64


GOWALLA = Size()


class Case:
    """A random graph with skewed popularity, in the forms that either side takes."""

    def __init__(self, size: Size) -> None:
        draw = torch.Generator().manual_seed(0)
        n, n_nodes = size.n_edges, size.n_users + size.n_songs
        self.user = torch.randint(size.n_users, (n,), generator=draw)
        self.song = (size.n_songs * torch.rand(n, generator=draw) ** 3).long().clamp(max=size.n_songs - 1)
        kind = torch.randint(1, 3, (n,), generator=draw).float()
        count = torch.randint(1, 60, (n,), generator=draw).float()
        self.attributes = torch.stack([kind, count, torch.rand(n, generator=draw), 0.7 * torch.ones(n)], dim=1)
        self.x = torch.randn(n_nodes, size.dimensions, generator=draw).requires_grad_()
        self.gradient = torch.randn(n_nodes, size.dimensions, generator=draw)
        self.weights = torch.rand(n, generator=draw) + 0.05
        self.size, self.n_nodes = size, n_nodes

    def ours(self) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[], object]]:
        """Propagation with frozen weights, with learned ones, and the freezing of learned ones."""
        adjacency = Adjacency(self.user, self.song, self.size.n_users, self.size.n_songs)
        frozen, network = Propagation(adjacency, self.weights, LAYERS), EdgeWeightMLP(self.attributes)

        def freeze() -> Propagation:
            with torch.no_grad():
                return Propagation(adjacency, network(), LAYERS)

        return partial(frozen, self.x), lambda: propagate_learning(adjacency, network(), self.x, LAYERS), freeze

    def pyg(self) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """LGConv with the same frozen weights, and with a network's weight for every edge."""
        loops = torch.arange(self.n_nodes)
        song = self.song + self.size.n_users
        ends = torch.stack([torch.cat([self.user, song, loops]), torch.cat([song, self.user, loops])])
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
        convolution = LGConv()

        def propagated(weights: Tensor) -> Tensor:
            entries, layers = torch.cat([weights, weights, torch.ones(self.n_nodes)]), [self.x]
            for _ in range(LAYERS):
                layers.append(convolution(layers[-1], ends, entries))
            return torch.stack(layers).mean(dim=0)

        return lambda: propagated(self.weights), lambda: propagated(network(self.attributes).squeeze(1))

    def backward(self, forward: Callable[[], Tensor]) -> None:
        """Forward, and back to x and whatever else has parameters."""
        forward().backward(self.gradient)
        self.x.grad = None


def medians(repeat: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Seconds of each call, the median; the calls take turns, so that what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeat + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Kernels:
    """Seconds by what was computed, and memory by side as a multiple of nodes × dimensions × 4 bytes."""

    seconds: dict[str, float]
    products: dict[str, float]
    memory: dict[str, float]

    @property
    def frozen_ratio(self) -> float:
        """LGConv's time over ours, weights frozen."""
        return self.seconds["LGConv"] / self.seconds["frozen"]

    @property
    def learned_ratio(self) -> float:
        """The time of a network on every edge and LGConv over ours, weights learned."""
        return self.seconds["MLP and LGConv"] / self.seconds["learned"]

    @property
    def mean_step(self) -> float:
        """A step's propagation when weights are learned in every tenth, over that of a frozen step."""
        tenth = self.seconds["learned"] + self.seconds["freezing"] + (INTERVAL - 1) * self.seconds["frozen"]
        return tenth / INTERVAL / self.seconds["frozen"]


def measure(size: Size = GOWALLA, repeat: int = 7) -> Kernels:
    """All of it in one run."""
    case = Case(size)
    (frozen, learned, freeze), (plain, network) = case.ours(), case.pyg()
    seconds = medians(
        repeat,
        **{
            "frozen": lambda: case.backward(frozen),
            "LGConv": lambda: case.backward(plain),
            "learned": lambda: case.backward(learned),
            "MLP and LGConv": lambda: case.backward(network),
            "freezing": freeze,
        },
    )
    memory = {side: peak(side, size) for side in ("ours", "LGConv")}
    return Kernels(seconds, medians(repeat, **_products(case)), memory)


def _products(case: Case) -> dict[str, Callable[[], object]]:
    adjacency = Adjacency(case.user, case.song, case.size.n_users, case.size.n_songs)
    entries, x = case.weights[adjacency.edge], case.x.detach()
    offsets, neighbours, shape = adjacency.offsets, adjacency.neighbours, [case.n_nodes] * 2
    short = torch.sparse_csr_tensor(offsets, neighbours, entries, shape, check_invariants=False)
    long = torch.sparse_csr_tensor(offsets.long(), neighbours.long(), entries, shape, check_invariants=False)
    coo = long.to_sparse_coo()
    return {
        "embedding_bag": lambda: adjacency(entries, x),
        "CSR, int32": lambda: short @ x,
        "CSR, int64": lambda: long @ x,
        "COO": lambda: torch.sparse.mm(coo, x),
    }


def peak(side: str, size: Size) -> float:
    """What forward and backward hold at most in a new process: x, the gradient that comes in and that of x included."""
    program = f"from {__name__} import print_peak; print_peak({side!r}, {size.__dict__!r})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def print_peak(side: str, size: dict[str, int]) -> None:
    """Print the largest resident memory of a forward and backward pass, beyond graph and libraries."""
    small = Case(Size(n_users=50, n_songs=50, n_edges=500))
    (ours, *_), (pyg, _) = small.ours(), small.pyg()
    small.backward(ours), small.backward(pyg)
    case = Case(Size(**size))
    forward = case.ours()[0] if side == "ours" else case.pyg()[0]
    # Not ru_maxrss, which a new process inherits from the one that started it.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmHWM")
    forward().backward(case.gradient)
    # x and the gradient that comes in are there already.
    print(json.dumps((resident("VmHWM") - before) / (case.x.numel() * 4) + 2))


def section(found: Kernels) -> str:
    """What was measured, as Markdown."""
    size, seconds = GOWALLA, found.seconds
    fastest = min(found.products.values())
    products = [(name, f"{1e3 * s:.1f}", f"{s / fastest:.1f}") for name, s in found.products.items()]
    passes = [(name, f"{1e3 * s:.1f}", f"{s / seconds['frozen']:.2f}") for name, s in seconds.items()]
    return "\n".join(
        [
            f"A graph of Gowalla's size: {size.n_users:,} users, {size.n_songs:,} songs, {size.n_edges:,} edges, "
            f"{LAYERS} layers, d = {size.dimensions}, fp32. Medians of calls that take turns. {machine()}.",
            "",
            table(("forward and backward", "ms", "over frozen"), passes),
            "",
            table(("one sparse product, forward", "ms", "over the fastest"), products),
            "",
            f"**With frozen weights propagation is {found.frozen_ratio:.1f} × as fast as `LGConv(edge_index)`, with "
            f"learned ones {found.learned_ratio:.1f} × as fast as a network on every edge and `LGConv`.** Learning in "
            f"every tenth step makes the mean step's propagation {found.mean_step:.2f} × that of a frozen one. At its "
            f"peak a forward and backward pass holds {found.memory['ours']:.2f} × nodes × d × 4 bytes, "
            f"`LGConv` {found.memory['LGConv']:.1f} ×.",
        ]
    )
