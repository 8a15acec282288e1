"""The README's pictures, taken of the real user interfaces: `make pictures`.

Run it at the repository's top after `make demo`; it looks at what Dagster and MLflow remember of the sample.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

import mlflow
from PIL import Image
from playwright.sync_api import FloatRect, Page

from ms_assets.defs.platform.resources import Environment
from ms_assets_tests.browser import looking, select_assets
from ms_assets_tests.servers import serving
from ms_assets_tests.workplace import PROGRAMS

SETTLED = 2_000
"""Milliseconds after which what has appeared no longer moves."""
CURVES = "^(loss|validation_ndcg|learning_rate)$"

MAIN_PATH = (
    "raw/multi_event",
    "splits/train",
    *(f"graph/{name}" for name in ("edges", "bipartite_graph")),
    *(f"training/{name}" for name in ("lightgcn", "user_embeddings", "song_embeddings")),
    *(f"retrieval/{name}" for name in ("song_index", "lightgcn")),
    "reranking/served_model",
    *(f"evaluation/{name}" for name in ("user_metrics", "leaderboard", "champion")),
)
"""What the picture of the lineage shows: with all assets nobody could read their names."""
GRAPH = FloatRect(x=500, y=225, width=1600, height=2770)
"""Where the lineage lies on its page."""


def take_pictures(folder: Path) -> None:
    """Write lineage.png, leaderboard.png and training.png."""
    here, environment = Path.cwd(), dict(os.environ)
    dagster = (str(PROGRAMS / "dagster-webserver"), "--read-only")
    store = (
        str(PROGRAMS / "mlflow"),
        "server",
        "--workers",
        "1",
        "--backend-store-uri",
        Environment.read().tracking_uri,
    )
    with tempfile.TemporaryDirectory() as logs:
        log = Path(logs) / "log"
        with serving(*dagster, folder=here, environment={"DAGSTER_HOME": str(here), **environment}, log=log) as server:
            with looking(width=2300, height=3200, sharpness=0.6) as page:
                _lineage(page, server.address)
                _save(page, folder / "lineage.png", clip=GRAPH)
            with looking(width=1520, height=1170) as page:
                _leaderboard(page, server.address)
                _save(page, folder / "leaderboard.png")
        with (
            serving(*store, folder=here, environment=environment, log=log) as server,
            looking(width=1400, height=640) as page,
        ):
            _training(page, server.address)
            _save(page, folder / "training.png")


def _save(page: Page, file: Path, clip: FloatRect | None = None) -> None:
    """What the page shows, in 128 colours, which takes a third of the space."""
    Image.open(io.BytesIO(page.screenshot(clip=clip))).quantize(128).save(file, optimize=True)


def _lineage(page: Page, address: str) -> None:
    """The main path, from top to bottom, the groups opened; loaded again, the graph fits the page."""
    select_assets(page, address, " or ".join(f'key:"{key}"' for key in MAIN_PATH))
    page.get_by_text("evaluation", exact=True).last.wait_for()
    page.wait_for_timeout(SETTLED)
    for item in ("Change graph to vertical orientation", "Expand all groups"):
        page.mouse.click(2100, 300, button="right")
        page.get_by_role("menuitem", name=item).click()
        page.wait_for_timeout(SETTLED)
    page.get_by_text("Hide navigation").click()
    page.reload()
    page.get_by_text("champion", exact=True).last.wait_for()
    page.get_by_text("Loading…").first.wait_for(state="detached")
    page.wait_for_timeout(SETTLED)


def _leaderboard(page: Page, address: str) -> None:
    """The picture of every method in the metadata of the leaderboard's materialisation."""
    page.goto(f"{address}/assets/evaluation/leaderboard?view=partitions&partition=sample")
    row = page.locator("tr", has=page.get_by_text("ndcg_by_method", exact=True))
    row.get_by_text("[Show Markdown]").click()
    page.get_by_role("dialog").locator("img").wait_for()
    page.wait_for_timeout(SETTLED)


def _training(page: Page, address: str) -> None:
    """The curves of the latest training on the sample."""
    client = mlflow.MlflowClient(address)
    [experiment] = client.search_experiments(filter_string="name = 'ms_assets'")
    [run] = client.search_runs([experiment.experiment_id], "attributes.run_name = 'lightgcn sample'", max_results=1)
    page.goto(address)
    page.get_by_text("Model training", exact=True).click()
    page.get_by_label("Close").last.click()
    page.goto(f"{address}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill(CURVES)
    page.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(SETTLED)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]).absolute())
