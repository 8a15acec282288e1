"""Writes what was measured into docs/benchmarks.md, a section for each benchmark."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from ms_assets_tests.benchmarks.measure import ROOT, Run

DOCUMENT = ROOT / "docs" / "benchmarks.md"
LIBRARIES = ("dagster", "duckdb", "pyarrow", "numpy", "polars")


def machine() -> str:
    """The processor, cores, memory and versions in a line."""
    processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor[1] if processor else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}"
    )


def tables_section(run: Run) -> str:
    """Every step of one size beside the floor."""
    assets = [step for step in run.steps if step.n_rows is not None]
    checks = [step for step in run.steps if step.n_rows is None]
    rows = [
        (step.name.replace("__", "/"), f"{step.seconds:.2f}", *_rows(step.n_rows, step.seconds), str(step.peak_mib))
        for step in assets
    ]
    rows.append(("**all assets**", f"**{_seconds(assets):.2f}**", "", "", f"**{max(s.peak_mib for s in assets)}**"))
    rows.append((f"{len(checks)} checks", f"{_seconds(checks):.2f}", "", "", str(max(s.peak_mib for s in checks))))
    rows.append(("Dagster around the steps", f"{run.wall - run.seconds:.2f}", "", "", ""))
    rows.append(("floor: reading", f"{run.read_floor:.2f}", "", "", ""))
    rows.append(("floor: writing", f"{run.write_floor:.2f}", "", "", ""))
    floor = run.read_floor + run.write_floor
    return "\n".join(
        [
            f"{run.n_events:,} events, partition `50m`, all nine files from a local folder. {machine()}.",
            "",
            _table(("step", "seconds", "rows", "rows/s", "peak MiB"), rows),
            "",
            f"**Assets take {_seconds(assets) / floor:.2f} × the floor**, with their checks "
            f"{run.seconds / floor:.2f} ×; no process holds more than {run.peak_mib} MiB.",
        ]
    )


def scaling_section(runs: list[Run]) -> str:
    """The same steps over growing data."""
    runs = sorted(runs, key=lambda run: run.n_events)
    rows, last = [], None
    for run in runs:
        per_million = 1e6 * run.seconds / run.n_events
        growth = "" if last is None else f"{(run.seconds / last.seconds) / (run.n_events / last.n_events):.2f}"
        floor = run.read_floor + run.write_floor
        rows.append(
            (
                f"{run.n_events:,}",
                f"{run.seconds:.1f}",
                f"{per_million:.3f}",
                growth,
                f"{run.seconds / floor:.2f}",
                f"{run.wall - run.seconds:.1f}",
                str(run.peak_mib),
            )
        )
        last = run
    names = ("events", "seconds", "per million", "growth", "× floor", "Dagster", "peak MiB")
    text = (
        f"Assets and checks, without the single-event files. {machine()}. Growth: time over events, each against "
        "the row above; 1 is a straight line."
    )
    return "\n".join([text, "", _table(names, rows)])


def publish(heading: str, text: str) -> None:
    """Replace a section of the document, or add it."""
    document = DOCUMENT.read_text()
    section = f"## {heading}\n\n{text}\n"
    found = re.search(rf"## {re.escape(heading)}\n.*?(?=\n## |\Z)", document, re.DOTALL)
    document = document.replace(found[0], section) if found else f"{document.rstrip()}\n\n{section}"
    DOCUMENT.write_text(document)


def _seconds(steps: list) -> float:
    return sum(step.seconds for step in steps)


def _rows(n_rows: int, seconds: float) -> tuple[str, str]:
    return f"{n_rows:,}", f"{n_rows / max(seconds, 1e-3):,.0f}"


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = ["---", *(["---:"] * (len(names) - 1))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rule, *rows))
