"""Writes what was measured into docs/benchmarks.md, a section for each benchmark."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from ms_assets_tests.benchmarks.measure import ROOT, Run, total

DOCUMENT = ROOT / "docs" / "benchmarks.md"
LIBRARIES = ("dagster", "duckdb", "pyarrow", "numpy", "polars", "torch", "torch-geometric", "implicit")


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
    rows = [
        (step.name.replace("__", "/"), f"{step.seconds:.2f}", *_rows(step.n_rows, step.seconds), str(step.peak_mib))
        for step in run.assets
    ]
    rows.append(("**all assets**", f"**{total(run.assets):.2f}**", "", "", f"**{run.peak_mib}**"))
    rows += [
        (name, f"{seconds:.2f}", "", "", "")
        for name, seconds in (
            ("of which the same steps take over next to no data", run.fixed),
            ("floor: reading", run.read_floor),
            ("floor: writing", run.write_floor),
            (f"{len(run.checks)} checks", total(run.checks)),
            ("Dagster around the steps", run.wall - total(run.steps)),
        )
    ]
    return "\n".join(
        [
            f"{run.n_events:,} events, partition `50m`, all nine files from a local folder. {machine()}.",
            "",
            table(("step", "seconds", "rows", "rows/s", "peak MiB"), rows),
            "",
            f"**The assets' work takes {run.ratio:.2f} × the floor** "
            f"({total(run.assets) / run.floor:.2f} × with the fixed "
            f"costs of their steps, {total(run.steps) / run.floor:.2f} × with all checks); "
            f"no process holds more than {run.peak_mib} MiB.",
        ]
    )


def scaling_section(runs: list[Run]) -> str:
    """The same steps over growing data."""
    rows, last = [], None
    for run in sorted(runs, key=lambda run: run.n_events):
        seconds = total(run.steps)
        growth = "" if last is None else f"{seconds / total(last.steps) * last.n_events / run.n_events:.2f}"
        numbers = (seconds, 1e6 * seconds / run.n_events, run.floor, run.ratio)
        cells = [f"{number:.{digits}f}" for number, digits in zip(numbers, (1, 3, 1, 2), strict=True)]
        rows.append((f"{run.n_events:,}", *cells, growth, str(run.peak_mib)))
        last = run
    names = ("events", "assets and checks, s", "per million", "floor, s", "× floor", "growth", "peak MiB")
    text = (
        f"Without the single-event files. {machine()}. Growth: time over events, each against the row above; "
        "1 is a straight line."
    )
    return "\n".join([text, "", table(names, rows)])


def publish(heading: str, text: str) -> None:
    """Replace a section of the document, or add it."""
    document = DOCUMENT.read_text()
    section = f"## {heading}\n\n{text}\n"
    found = re.search(rf"## {re.escape(heading)}\n.*?(?=\n## |\Z)", document, re.DOTALL)
    document = document.replace(found[0], section) if found else f"{document.rstrip()}\n\n{section}"
    DOCUMENT.write_text(document)


def _rows(n_rows: int, seconds: float) -> tuple[str, str]:
    return f"{n_rows:,}", f"{n_rows / max(seconds, 1e-3):,.0f}"


def table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    rule = ["---", *(["---:"] * (len(names) - 1))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (names, rule, *rows))
