"""Rehearsal of a scale: every large stage over fractions of its graph, and the line through what they take.

Each stage runs in a process of its own, as it does at the large scales, on the artefacts of the stages before.
"""

import logging
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_assets.defs.platform import needs
from ms_assets.settings import TrainingSettings
from ms_assets.training import memory, trainer
from ms_assets.training.memory import Sizes
from ms_assets_tests.benchmarks import fraction, stages
from ms_assets_tests.benchmarks.report import machine, table
from ms_assets_tests.benchmarks.shapes import EVENTS, GRAPHS
from ms_assets_tests.benchmarks.stages import STAGES, STEPS, TRAINING, Found

logger = logging.getLogger(__name__)

FRACTIONS = (0.01, 0.1)
ROOM = 0.8
"""Share of the free memory that the largest fraction may fill."""
TABLES = "raw tables, splits"
SECONDS, PEAK = 0.292e-6, 668 << 20
"""Seconds an event of raw tables and splits with their checks, and their largest process; `scaling` measured both."""
EPOCHS = 2
"""Epochs that a training is rehearsed with: its own, and one with cold songs hidden."""

Value = Callable[[Found], float]
"""Number that is read off a stage's measurements."""


def measured(names: Iterable[str], folder: Path, settings: TrainingSettings) -> Iterator[tuple[str, Found]]:
    """Run stages one after the other, each in a process of its own, which has imported the libraries and no more."""
    context = multiprocessing.get_context("forkserver")
    # As in any run, resources come first: they choose the pages that tensors are allocated in.
    context.set_forkserver_preload(["ms_assets.defs.platform.resources", stages.__name__])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        for stage in names:
            yield stage, processes.submit(stages.found, stage, folder, settings).result()


@dataclass(frozen=True)
class Run:
    """Measurements of all stages on one fraction of a scale."""

    fraction: float
    sizes: Sizes
    settings: TrainingSettings
    stages: dict[str, Found]
    disk: int
    """Bytes of the tables of `splits`, and of the audio."""


def run(scale: str, share: float, settings: TrainingSettings, place: Path | None) -> Run:
    """Generate a fraction of a scale below a folder, and measure every stage on it.

    A step of the training has the same fraction of its edges, so that both grow alike.
    """
    sizes = fraction.sizes_of(GRAPHS[scale], share)
    size = max(round(share * settings.step_size(GRAPHS[scale].n_edges)), 1)
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        fraction.write(folder, sizes)
        disk, found = stages.size(folder), {}
        for stage, taken in measured(STAGES, folder, settings.model_copy(update={"batch_size": size})):
            logger.info("%g of %s, %s: %.1f s, %d MiB", share, scale, stage, taken.seconds["all"], taken.peak >> 20)
            found[stage] = taken
    return Run(share, sizes, settings, found, disk)


def rehearse(
    scale: str, fractions: Sequence[float], settings: TrainingSettings, available: int, place: Path | None
) -> list[Run]:
    """Measure a scale on fractions, in ascending order, and, unless it is 0, on the largest that so many bytes hold.

    settings: of the training; place: folder in which a fraction's artefacts lie meanwhile.
    """
    runs = [run(scale, share, settings, place) for share in fractions]
    if not available:
        return runs
    lines = [line(runs, _peak, stage) for stage in STAGES]
    largest = min(1.0, *((ROOM * available - start) / slope for start, slope in lines if slope > 0))
    if largest > 1.5 * fractions[-1]:
        runs.append(run(scale, largest, settings, place))
    return runs


def line(runs: Sequence[Run], value: Value, stage: str, power: float = 1.0) -> tuple[float, float]:
    """Start and slope of the line through a value of a stage, by least squares over a power of the fractions."""
    x = [run.fraction**power for run in runs]
    slope, start = np.polyfit(x, [value(run.stages[stage]) for run in runs], 1)
    return float(start), float(slope)


def whole(runs: Sequence[Run], value: Value, stage: str, power: float = 1.0) -> float:
    """Value of a stage on the whole scale: as measured, if it was, or where the line through the fractions ends."""
    if runs[-1].fraction == 1:
        return value(runs[-1].stages[stage])
    return max(sum(line(runs, value, stage, power)), 0.0)


def _peak(found: Found) -> float:
    return found.peak


def beyond(runs: Sequence[Run], stage: str, estimated: int | None) -> float:
    """Bytes that a stage takes on the whole scale beyond what its process held, given what is estimated for it.

    The share of its estimate that the largest fraction took: unlike a line, an estimate knows what grows no further,
    such as blocks of users. Where there is no estimate, the line.
    """
    taken = runs[-1].stages[stage]
    if runs[-1].fraction == 1 or not (estimated and taken.estimated):
        return whole(runs, lambda found: found.beyond, stage)
    return estimated * taken.beyond / taken.estimated


def memory_of(runs: Sequence[Run], stage: str, estimated: int | None) -> float:
    """Bytes of a stage's process on the whole scale: what it held, and what it takes beyond."""
    held = whole(runs, lambda found: found.peak - found.beyond, stage)
    return held + beyond(runs, stage, estimated)


def estimates(scale: str, settings: TrainingSettings) -> dict[str, int]:
    """Bytes that the product's refusals estimate for the whole scale, by stage; settings: of the training."""
    of_steps = {op.replace("__", "/"): estimate(needs.SHAPES[scale]) for op, estimate in needs.ESTIMATES.items()}
    parts = of_steps | {
        TRAINING: memory.estimate(GRAPHS[scale], settings),
        "training/embeddings": memory.estimate_embedding(GRAPHS[scale], settings),
    }
    return {stage: sum(estimated.values()) for stage, estimated in parts.items() if stage in STAGES}


def hours(scale: str, runs: Sequence[Run], stage: str) -> float:
    """Hours of a stage on the whole scale; a training's are its number of steps times those of a step, and the rest."""

    def seconds(value: Value) -> float:
        return whole(runs, value, stage, STAGES[stage].power)

    if stage != TRAINING:
        # Settings are tried on as many users at any size.
        tuning = whole(runs, lambda found: found.seconds.get("tuning", 0.0), stage)
        return (tuning + seconds(lambda found: found.seconds["all"] - found.seconds.get("tuning", 0.0))) / 3600
    settings = runs[-1].settings
    n_steps = math.ceil(GRAPHS[scale].n_edges / settings.step_size(GRAPHS[scale].n_edges))
    n_epochs = settings.epochs + trainer.short(settings).epochs  # the latter with cold songs hidden
    learning, frozen = (seconds(lambda found, kind=kind: found.seconds[kind]) for kind in STEPS)
    share = 1 / settings.edge_weight_interval
    rest = seconds(lambda found: found.seconds["all"] - EPOCHS * sum(found.seconds[kind] for kind in STEPS))
    return (n_epochs * n_steps * (share * learning + (1 - share) * frozen) + rest) / 3600


def section(scale: str, runs: Sequence[Run]) -> str:
    """Measurements of the fractions, and what the whole scale needs by them, as Markdown."""
    estimated, is_whole = estimates(scale, runs[-1].settings), runs[-1].fraction == 1
    mark = "measured" if is_whole else "extrapolated"
    sizes, largest = GRAPHS[scale], runs[-1]
    needed = {stage: memory_of(runs, stage, estimated.get(stage)) for stage in STAGES}
    taken = {stage: hours(scale, runs, stage) for stage in STAGES}
    disk = {stage: whole(runs, lambda found: found.disk, stage) for stage in STAGES}
    of_tables, events = largest.disk / largest.fraction, EVENTS[scale] * SECONDS / 3600
    rows = [(TABLES, f"{_gib(PEAK)} e", "", f"{_gib(of_tables)} {mark[0]}", f"{events:.2f} e")]
    for stage in STAGES:
        need = beyond(runs, stage, estimated.get(stage))
        told = f"{_gib(estimated[stage])} c, {_gib(need)} {mark[0]}" if stage in estimated else ""
        time_mark = "c" if stage == TRAINING else mark[0]
        cells = f"{_gib(needed[stage])} {mark[0]}", told, f"{_gib(disk[stage])} {mark[0]}"
        rows.append((stage, *cells, f"{taken[stage]:.2f} {time_mark}"))
    most, together = max(needed, key=needed.__getitem__), (of_tables + sum(disk.values()), events + sum(taken.values()))
    rows.append(("**all**", f"**{_gib(needed[most])}**", "", f"**{_gib(together[0])}**", f"**{together[1]:.2f}**"))
    return "\n".join(
        [
            f"`{scale}`: {sizes.n_edges:,} edges, {sizes.n_users:,} users, {sizes.n_songs:,} songs, "
            f"{sizes.n_graph_songs:,} of them in the graph, made up with the degrees of Yambda; the training has "
            f"{runs[-1].settings.embedding_dim} dimensions, steps of {runs[-1].settings.batch_size:,} edges and "
            f"{runs[-1].settings.epochs} epochs. {machine()}.",
            "",
            table(("peak, GiB", *(f"{run.sizes.n_edges:,} edges" for run in runs)), _measured_rows(runs)),
            "",
            "Peaks are of a process for each stage, libraries included. In brackets: what the product estimates before "
            "the work, over what the process then takes beyond what it held.",
            "",
            table(("the whole scale", "memory, GiB", "estimate and need, GiB", "disk, GiB", "hours"), rows),
            "",
            f"m: measured, e: extrapolated by the line through the sizes above (searches of users among songs by a "
            f"higher power), memory as many times its estimate as at the largest of them; c: calculated. **The largest "
            f"process, {most}, needs {_gib(needed[most])} GiB ({mark})**. Hours are those of this machine at that "
            f"time. A step of a fraction's training has the same fraction of its edges. A training counts all its "
            f"epochs and those with cold songs hidden, the tuning of a method as many users at any size. Raw tables "
            f'and splits take what an event took in "Scaling"; the disk is without raw tables, copies of the source. '
            f"The served model, the champion, the report and the checks are not in the table. `graph/edges` is bounded "
            f"by `MS_ASSETS_MEMORY`, whatever the line says.",
        ]
    )


def _measured_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    return [
        (
            stage,
            *(_gib(taken.peak) + _share(taken) for taken in (run.stages[stage] for run in runs)),
        )
        for stage in STAGES
    ]


def _share(taken: Found) -> str:
    """Estimate over what was taken; nothing where a small stage took no more than the process held."""
    return f" ({taken.estimated / taken.beyond:.2f})" if taken.estimated and taken.beyond else ""


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f}"
