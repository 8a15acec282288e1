"""Runs the platform as people run it, and the floor below it: seconds, rows and memory of every step."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow.parquet as pq

import ms_assets
from ms_assets.raw.sample import SampleShape, generate
from ms_assets.raw.schema import ALWAYS, TABLES

ROOT = Path(ms_assets.__file__).parents[1]
REPORTS = ("raw/column_report", "raw/statistics_report")
TABLES_OF_SPLITS = ("candidate_songs", "users", "songs", "train", "validation", "test", "negatives", "ground_truth")
OUTPUTS = (*(f"splits/{name}" for name in TABLES_OF_SPLITS), "graph/edges")
NEXT_TO_NOTHING = SampleShape(n_users=20, n_songs=300, n_listens=40_000)
MIB = 1 << 20


@dataclass(frozen=True)
class Step:
    """One step of the run: its seconds, the rows it published (None: a check), and its peak memory."""

    name: str
    seconds: float
    n_rows: int | None
    peak_mib: int


@dataclass(frozen=True)
class Run:
    """One materialisation of the tables beside its floor."""

    n_events: int
    steps: list[Step]
    fixed: float
    """Seconds of the same assets' steps over next to no data: Dagster's bookkeeping, imports, connections."""
    wall: float
    """Seconds of the whole command, Dagster's start included."""
    read_floor: float
    """Seconds to scan every column of every source file once."""
    write_floor: float
    """Seconds to write every table once from memory."""

    @property
    def assets(self) -> list[Step]:
        """Steps that publish something."""
        return [step for step in self.steps if step.n_rows is not None]

    @property
    def checks(self) -> list[Step]:
        """The other steps."""
        return [step for step in self.steps if step.n_rows is None]

    @property
    def floor(self) -> float:
        """Seconds that nothing could save."""
        return self.read_floor + self.write_floor

    @property
    def ratio(self) -> float:
        """What the assets' work takes over its floor."""
        return (total(self.assets) - self.fixed) / self.floor

    @property
    def peak_mib(self) -> int:
        """The largest process."""
        return max(step.peak_mib for step in self.steps)


def total(steps: list[Step]) -> float:
    """Seconds of some steps."""
    return sum(step.seconds for step in steps)


def tables(folder: Path, scale: str, on_request: bool, repeat: int) -> Run:
    """Materialise raw tables, splits and edges of a source folder some times over; the run with the median ratio.

    Args:
        folder: in the hub's layout.
        scale: the partition.
        on_request: the single-event files too.
        repeat: how often; the floor and the fixed costs are measured each time.
    """
    names = [name for name in TABLES if on_request or name in ALWAYS]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".benchmark-") as place:
        next_to_nothing = Path(place) / "next_to_nothing"
        generate(next_to_nothing, NEXT_TO_NOTHING, scale)
        runs = []
        for number in range(repeat):
            home = Path(place) / str(number)
            _, small, _ = _materialise(next_to_nothing, scale, names, home / "small")
            read_floor = sum(_scan(folder / TABLES[name].file(scale)) for name in names)
            wall, steps, written = _materialise(folder, scale, names, home / "large")
            runs.append(
                Run(
                    n_events=pq.read_metadata(folder / TABLES["multi_event"].file(scale)).num_rows,
                    steps=steps,
                    fixed=total([step for step in small if step.n_rows is not None]),
                    wall=wall,
                    read_floor=read_floor,
                    write_floor=sum(_write(file, home) for file in written),
                )
            )
            shutil.rmtree(home)
    return sorted(runs, key=lambda run: run.ratio)[len(runs) // 2]


def _materialise(folder: Path, scale: str, names: list[str], home: Path) -> tuple[float, list[Step], list[Path]]:
    """Run the command; its seconds, its steps and the tables that it wrote."""
    keys = [*(f"raw/{name}" for name in names), *REPORTS, *OUTPUTS]
    environment = os.environ | {
        "DAGSTER_HOME": str(home / "dagster"),
        "MS_ASSETS_HOME": str(home),
        "MS_ASSETS_SOURCE": str(folder),
    }
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    selection = " or ".join(f'key:"{key}"' for key in keys)
    command = ["-m", "dagster", "asset", "materialize", "-m", "ms_assets.definitions"]
    started = time.monotonic()
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--select", selection, "--partition", scale],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        memory = Memory(process.pid)
        while process.poll() is None:
            memory.sample()
            time.sleep(0.02)
    wall = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"the run failed:\n{(home / 'output').read_text()[-3_000:]}")
    return wall, _steps(home / "dagster", memory), [home / "data" / key / f"{scale}.parquet" for key in OUTPUTS]


@dataclass
class Memory:
    """The resident memory of a process and its descendants over time."""

    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)
    """Time and the largest process's bytes."""

    def sample(self) -> None:
        """Look once."""
        page = os.sysconf("SC_PAGE_SIZE")
        largest = 0
        for pid in _family(self.pid):
            try:
                largest = max(largest, int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page)
            except OSError:  # it has ended meanwhile
                continue
        self.samples.append((time.time(), largest))

    def peak_mib(self, start: float, end: float) -> int:
        """The largest process between two times."""
        return max((bytes_ for at, bytes_ in self.samples if start - 0.02 <= at <= end + 0.02), default=0) // MIB


def resident(name: str) -> int:
    """Bytes that the process holds now (VmRSS), or held at most (VmHWM)."""
    [kib] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _steps(dagster_home: Path, memory: Memory) -> list[Step]:
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        [run] = instance.get_runs()
        rows: dict[str, int] = {}
        for log in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            event = log.get_dagster_event()
            count = event.materialization.metadata["dagster/row_count"].value
            rows[event.step_key] = rows.get(event.step_key, 0) + count
        stats = sorted(instance.get_run_step_stats(run.run_id), key=lambda step: step.start_time)
        return [
            Step(s.step_key, s.end_time - s.start_time, rows.get(s.step_key), memory.peak_mib(s.start_time, s.end_time))
            for s in stats
        ]


@contextmanager
def _clock() -> Iterator[list[float]]:
    seconds: list[float] = []
    started = time.monotonic()
    yield seconds
    seconds.append(time.monotonic() - started)


def _scan(file: Path) -> float:
    """Seconds to read every value of every column once; the file is read once before, so that it is in memory."""
    with duckdb.connect() as connection:
        table = connection.read_parquet(str(file))
        read = [_reading(name, str(type_)) for name, type_ in zip(table.columns, table.types, strict=True)]
        for _ in range(2):
            with _clock() as seconds:
                table.aggregate(", ".join(read)).fetchall()
    return seconds[0]


def _reading(column: str, type_: str) -> str:
    if type_.endswith("]"):
        return f'sum(len("{column}"))'
    return f'count("{column}")' if type_ == "VARCHAR" or type_.startswith("ENUM") else f'sum("{column}")'


def _write(file: Path, folder: Path) -> float:
    """Seconds to write a table from memory, compressed as it is."""
    target = folder / "floor.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE rows AS FROM '{file}'")
        with _clock() as seconds:
            connection.table("rows").write_parquet(str(target), compression="zstd")
    target.unlink()
    return seconds[0]
