"""Report of a scale for people to send: a Markdown file with pictures beside it, and one self-contained HTML file."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import polars as pl

from ms_assets import pictures
from ms_assets.evaluation import leaderboard as boards
from ms_assets.evaluation import metrics, official, published
from ms_assets.evaluation.exposure import METRICS as EXPOSURE
from ms_assets.evaluation.protocol import Protocol
from ms_assets.pictures import table_to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "ndcg_by_method": "NDCG of every method, with 95 % intervals",
    "recall_by_k": "Recall by the length of the list",
    "ndcg_by_history_length": "NDCG by how much the user has listened before",
    "exposure_of_head_and_tail": "What is recommended: the head, the tail, and songs nobody has trained on",
}
VIEWS = {
    "all": "Any song may be recommended; most listens are replays of songs heard before.",
    "discovery": "Songs that the user has heard in train are neither recommended nor wanted.",
    "official_listen_plus": "Lists of the view all by the arithmetic of Yambda's authors: targets are listens of at "
    "least half the track.",
    "official_like": "Lists of the view all by the arithmetic of Yambda's authors: targets are likes.",
}
SOFTWARE = ("ms_assets", "dagster", "duckdb", "numpy", "polars", "torch", "torch-geometric")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #212529 }
table { border-collapse: collapse; font-size: 0.9rem }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #dee2e6 }
td:not(:first-child), th:not(:first-child) { text-align: right } img { max-width: 100% } h2 { margin-top: 2.5rem }
"""


@dataclass(frozen=True)
class Findings:
    """Content of the report."""

    protocol: Protocol
    n_events: dict[str, int]
    """Number of events in train, validation and test."""
    n_cold_songs: int
    board: pl.DataFrame
    """Table evaluation/leaderboard."""
    compared: pl.DataFrame
    """Table evaluation/differences."""
    slices: pl.DataFrame
    """Table evaluation/slices."""
    settings: Mapping[str, Any]
    """Settings of the training."""
    provenance: list[tuple[str, str]]
    """Tables and software behind the figures, with what made them and when."""
    charts: "dict[str, Figure]"


def files(findings: Findings) -> dict[str, bytes]:
    """Files of the report by name: report.md, report.html, and the pictures as PNG and SVG."""
    drawn = {name: pictures.png(figure) for name, figure in findings.charts.items()}
    text = markdown(findings, lambda name: f"{name}.png")
    alone = markdown(findings, lambda name: pictures.data_uri(drawn[name]))
    return {
        "report.md": text.encode(),
        "report.html": html(f"{findings.protocol.scale}: recommenders compared", alone).encode(),
        **{f"{name}.png": image for name, image in drawn.items()},
        **{f"{name}.svg": pictures.svg(figure) for name, figure in findings.charts.items()},
    }


def software() -> list[tuple[str, str]]:
    """Versions of the software that computed the figures."""
    return [("Python", platform.python_version()), *((name, version(name)) for name in SOFTWARE)]


def html(title: str, text: str) -> str:
    """Convert Markdown to a self-contained HTML page."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )


def markdown(findings: Findings, source: Callable[[str], str]) -> str:
    """Report as Markdown; source: function from a picture's name to its address."""
    sections = {
        "Data": _data(findings),
        "Protocol": _protocol(findings),
        "Results": boards.to_markdown(findings.board, findings.compared),
        "Beside the published table": _published(findings),
        "Pictures": "\n\n".join(f"![{TITLES[name]}]({source(name)})\n\n{TITLES[name]}." for name in findings.charts),
        "Who and what a method is good for": _slices(findings),
        "Every metric": _every_metric(findings),
        "Settings of LightGCN": _table(["setting", "value"], [(k, str(v)) for k, v in findings.settings.items()]),
        "Provenance": _table(["what", "made by"], findings.provenance),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    return f"# Recommenders compared on {findings.protocol.scale}\n\n{body}\n"


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    return table_to_markdown(pl.DataFrame(rows, names, orient="row"))


def _data(findings: Findings) -> str:
    protocol = findings.protocol
    rows = [
        ("users", f"{protocol.n_users:,} of {protocol.n_raw_users:,}"),
        ("songs that may be recommended", f"{protocol.n_songs:,} of {protocol.n_raw_songs:,}"),
        ("of them cold, without a positive train event", f"{findings.n_cold_songs:,}"),
        *((f"events of {name}", f"{n:,}") for name, n in findings.n_events.items()),
    ]
    return _table(["what", "number"], rows)


def _protocol(findings: Findings) -> str:
    spans = [
        (name, *(f"{second:,}" for second in span)) if span else (name, "–", "–")
        for name, span in findings.protocol.spans.items()
    ]
    shown = findings.board["view"].unique().sort()
    views = "\n".join(f"- `{view}`: {VIEWS[view]}" for view in shown)
    return (
        f"Events are divided by the protocol `{findings.protocol.name}`; seconds of each part:\n\n"
        f"{_table(['part', 'from', 'to'], spans)}\n\nViews:\n\n{views}\n\n"
        "Intervals hold the mean with 95 % confidence: percentiles of 1,000 bootstrap resamples of users, the same for "
        "every method. A difference is called real when its paired interval does not hold 0; no correction is made for "
        "how many are looked at."
    )


def _published(findings: Findings) -> str:
    protocol = findings.protocol
    said = [protocol.verdict()]
    if protocol.matches:
        said += [
            f"**{view}**: {VIEWS[view]}\n\n{table_to_markdown(published.beside(findings.board, protocol.scale, view))}"
            for view in official.VIEWS
        ]
        said.append(
            "Published models train on the validation day too; those here do not, unless their settings say so (refit)."
        )
    return "\n\n".join(said)


def _slices(findings: Findings) -> str:
    rows = findings.slices.filter(metric="ndcg")
    said = []
    for (view, k), of_k in rows.group_by("view", "k", maintain_order=True):
        chosen = of_k.drop_nulls("mean")
        users = chosen.group_by("slice", "value").agg(pl.col("n_users").max().alias("users"))
        wide = chosen.pivot("method", index=["slice", "value"], values="mean").join(users, on=["slice", "value"])
        said.append(f"**NDCG, {view}, K = {k}**\n\n{table_to_markdown(wide.sort('slice', 'value'))}")
    return "\n\n".join(said)


def _every_metric(findings: Findings) -> str:
    described = {**metrics.METRICS, **EXPOSURE}
    said = []
    for (view, k), rows in findings.board.group_by("view", "k", maintain_order=True):
        wide = rows.pivot("method", index="metric", values="mean")
        said.append(f"**{view}, K = {k}**\n\n{table_to_markdown(wide)}")
    names = findings.board["metric"].unique().sort()
    said.append("\n".join(f"- `{name}`: {described[name]}" for name in names))
    return "\n\n".join(said)
