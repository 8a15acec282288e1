"""Import of a log in CSV beside DuckDB's own reading of it: seconds, time of the processor, and memory."""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from ms_assets.defs.platform.resources import DuckDB, Environment
from ms_assets.raw.importing import import_events
from ms_assets.raw.logs import literal
from ms_assets_tests.benchmarks import report
from ms_assets_tests.benchmarks.data import GENERATED, events_file
from ms_assets_tests.benchmarks.measure import resident

SINCE = 1_700_000_000
"""Seconds since 1970 at which the made-up events begin."""


@dataclass(frozen=True)
class Took:
    """What one process took for the work, its start left out."""

    seconds: float
    processor: float
    """Seconds of all its threads."""
    peak_mib: int
    """Resident memory of the process, its start included."""


def scan(log: Path, connection: duckdb.DuckDBPyConnection, place: Path) -> None:
    """Read every value of a log by the type that DuckDB finds for it, and keep none."""
    connection.execute(f"SELECT max(COLUMNS(*)) FROM read_csv({literal(str(log))})").fetchall()


def store(log: Path, connection: duckdb.DuckDBPyConnection, place: Path) -> None:
    """Read a log into a table of a DuckDB file."""
    connection.execute(f"ATTACH {literal(str(place / 'log.duckdb'))} AS target")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"CREATE TABLE target.log AS FROM read_csv({literal(str(log))})")
    connection.execute("DETACH target")


def take_in(log: Path, connection: duckdb.DuckDBPyConnection, place: Path) -> None:
    """Import a log."""
    import_events(log, place / "own", connection=connection)


WAYS = {"DuckDB: every value read": scan, "DuckDB: read into a table": store, "import": take_in}
Times = dict[str, list[Took]]


def measure(folder: Path, repeat: int) -> tuple[int, float, Times]:
    """Read and import the events of a folder as a CSV file, in turns; rows, GiB, and what each way took.

    Args:
        folder: written by `generate`.
        repeat: how often; each time in a process of its own.
    """
    took: Times = {name: [] for name in WAYS}
    events = events_file(folder, GENERATED)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".benchmark-") as place:
        log = Path(place) / "log.csv"
        _write_log(events, log)
        for _ in range(repeat):
            for name, way in WAYS.items():
                with tempfile.TemporaryDirectory(dir=place) as written:
                    took[name].append(_in_own_process(way.__name__, log, written))
                logging.info("%s: %s", name, took[name][-1])
        return pq.read_metadata(events).num_rows, log.stat().st_size / 2**30, took


def section(n_rows: int, gib: float, took: Times) -> str:
    """Times of each way and the ratios of the import to DuckDB's, for the document."""
    middle = {name: sorted(runs, key=lambda run: run.processor)[len(runs) // 2] for name, runs in took.items()}
    own = middle["import"]
    rows = [
        (name, f"{run.seconds:.1f}", f"{run.processor:.1f}", f"{own.seconds / run.seconds:.1f}",
         f"{own.processor / run.processor:.1f}", str(run.peak_mib))
        for name, run in middle.items()
    ]  # fmt: skip
    names = ("", "seconds", "of the processor", "import ×", "by processor ×", "peak MiB")
    return "\n".join(
        [
            f"{n_rows:,} events as a CSV file of {gib:.1f} GiB: ids that are text, times as ISO 8601, rows in random "
            f"order. The middle one of {len(next(iter(took.values())))} runs, in turns, each in a process of its own; "
            f"DuckDB spills beyond {Environment.memory}. {report.machine()}.",
            "",
            report.table(names, rows),
        ]
    )


def _write_log(events: Path, log: Path) -> None:
    """Write events as a CSV file with ids that are text and times in ISO 8601, in an order that says nothing."""
    time_ = f"strftime(make_timestamp(({SINCE} + timestamp)::BIGINT * 1000000), '%Y-%m-%dT%H:%M:%S')"
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(log.parent)}) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"""
            COPY (
                SELECT 'user-' || uid AS user, 'song-' || item_id AS song, {time_} AS time, event_type AS type,
                    played_ratio_pct AS played_ratio, is_organic
                FROM {literal(str(events))} ORDER BY hash(uid, item_id, timestamp)
            ) TO {literal(str(log))} (HEADER)
        """)


def _in_own_process(way: str, log: Path, place: str) -> Took:
    program = f"from {__name__} import *; print_took({way}, Path({str(log)!r}), Path({place!r}))"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return Took(**json.loads(printed))


def print_took(way: Callable[[Path, duckdb.DuckDBPyConnection, Path], None], log: Path, place: Path) -> None:
    """Print what one way takes in this process, as JSON."""
    connection = DuckDB(temp_directory=str(place)).connection
    connection.execute("SET enable_progress_bar = false")
    started, before = time.monotonic(), time.process_time()
    way(log, connection, place)
    took = Took(time.monotonic() - started, time.process_time() - before, resident("VmHWM") >> 20)
    print(json.dumps(asdict(took)))
