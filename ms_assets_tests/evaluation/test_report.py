"""The report: what it says, where its pictures are, and when the published table stands in it."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from ms_assets import pictures
from ms_assets.evaluation import charts, leaderboard, report
from ms_assets.evaluation.protocol import TEST_START, Protocol
from ms_assets.evaluation.slices import SCHEMA as SLICES
from ms_assets_tests.evaluation.boards import frames, panes

SPANS = {"train": (0, TEST_START - 90_001), "validation": (TEST_START - 87_000, TEST_START - 2_000),
         "test": (TEST_START, TEST_START + 86_395)}  # fmt: skip


@pytest.fixture(scope="module")
def findings():
    per_user, shown = frames(n_users=8)
    measured = panes(per_user)
    board = leaderboard.leaderboard(measured, shown)
    views = ("official_listen_plus", "official_like")
    official = [("lightgcn", view, k, name, 0.05, 0.04, 0.06, 8) for view in views for k in (10, 100)
                for name in ("ndcg", "recall", "coverage")]  # fmt: skip
    board = pl.concat([board, pl.DataFrame(official, leaderboard.SCHEMA, orient="row")])
    keys = [(m, v, k) for m in ("lightgcn", "popular") for v in ("all", "discovery") for k in (10, 100)]
    cut = [(*key, "history length", f"quarter {q}: {q} to {q} events", "ndcg", 0.1 * q, 0.0, 0.5, 2)
           for key in keys for q in (1, 2)]  # fmt: skip
    curves = [(m, v, k, k / 100) for m, v, longest in keys if longest == 100 for k in range(1, 101)]
    exposed = [(*key, 0.1, 0.9, 0.5, 0.4, 0.1) for key in keys]
    names = ["method", "view", "k", "coverage", "exposure_gini", "head_share", "tail_share", "cold_share"]
    slices = pl.DataFrame(cut, SLICES, orient="row")
    drawn = charts.charts(
        board,
        pl.DataFrame(curves, ["method", "view", "k", "recall"], orient="row"),
        slices,
        pl.DataFrame(exposed, names, orient="row"),
    )
    return report.Findings(
        protocol=Protocol("50m", SPANS, 10_000, 10_000, 934_057, 934_057, {}),
        n_events={"train": 5, "validation": 6, "test": 7},
        n_cold_songs=1_234,
        board=board,
        compared=leaderboard.differences(measured),
        slices=slices,
        settings={"epochs": 17},
        provenance=[("retrieval/lightgcn", "run abc")],
        charts=drawn,
    )


@pytest.fixture(scope="module")
def files(findings):
    return report.files(findings)


class Page(HTMLParser):
    """What a page shows and where it looks for pictures."""

    def __init__(self):
        super().__init__()
        self.headings, self.sources, self.n_tables, self.asks, self.last = [], [], 0, [], None

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.n_tables += tag == "table"
        if tag == "img":
            self.sources.append(found["src"])
        if tag in ("link", "script", "iframe"):
            self.asks.append(tag)
        self.last = tag

    def handle_data(self, data):
        if self.last == "h2" and data.strip():
            self.headings.append(data)


HEADINGS = ["Data", "Protocol", "Results", "Beside the published table", "Pictures",
            "Who and what a method is good for", "Every metric", "Settings of LightGCN", "Provenance"]  # fmt: skip


def test_the_html_needs_nothing_beside_it(files):
    page = Page()
    page.feed(files["report.html"].decode())
    assert page.headings == HEADINGS
    assert page.n_tables > 8
    assert page.asks == []
    assert len(page.sources) == len(report.TITLES)
    for source in page.sources:
        kind, content = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")


def test_the_markdown_names_pictures_that_lie_beside_it(files):
    text = files["report.md"].decode()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    named = re.findall(r"!\[.*\]\((.*)\)", text)
    assert named == [f"{name}.png" for name in report.TITLES]
    assert all(files[name].startswith(b"\x89PNG") for name in named)
    assert all(b"<svg" in files[f"{name}.svg"] for name in report.TITLES)


def test_the_report_tells_data_settings_and_provenance(files):
    text = files["report.md"].decode()
    for said in ("| users | 10,000 of 10,000 |", "1,234", "| events of test | 7 |", "`global_temporal`",
                 "| epochs | 17 |", "| retrieval/lightgcn | run abc |", "By ndcg, lightgcn is"):  # fmt: skip
        assert said in text


def test_the_published_table_stands_beside_figures_by_the_same_protocol(findings, files):
    text = files["report.md"].decode()
    assert "Official figures are comparable" in text
    listened = text.split("**official_listen_plus**")[1].split("**official_like**")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in listened.splitlines() if line.startswith("| ")]
    assert [row for row in rows[2:] if row[1] == "here"] == [["lightgcn", "here"]]
    assert ["ItemKNN", "published"] in rows
    assert "| ItemKNN | published | 0.0781 | 0.0934 | 0.0373 | 0.1297 | 0.0874 |" in listened
    assert "| lightgcn | here | 0.0500 | 0.0500 | 0.0500 | 0.0500 | 0.0500 |" in listened


def test_figures_by_another_protocol_stand_alone_with_the_reason(findings):
    other = replace(findings, protocol=replace(findings.protocol, n_users=5_000))
    text = report.markdown(other, lambda name: name)
    assert "5,000 of 10,000 users take part" in text
    assert "ItemKNN" not in text


def test_a_figure_gives_the_same_bytes_each_time_it_is_drawn():
    def drawn():
        figure = pictures.figure()
        figure.subplots().plot([1, 2, 3])
        return pictures.png(figure), pictures.svg(figure)

    assert drawn() == drawn()
