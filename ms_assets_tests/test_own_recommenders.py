"""Lists of other programs on the leaderboard: the worked examples of the documentation, and lists equal to our own.

The examples run in the Python that the variable RECTOOLS_PYTHON names, by default this one, if RecTools is there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from ms_assets.__main__ import main
from ms_assets_tests.conftest import Platform
from ms_assets_tests.workplace import ROOT, K

PYTHON = os.environ.get("RECTOOLS_PYTHON", sys.executable)
NEEDED = "import rectools, implicit, pytorch_lightning"
HAS_RECTOOLS = subprocess.run([PYTHON, "-c", NEEDED], capture_output=True).returncode == 0
EXAMPLES = (ROOT / "docs/own_recommenders.md").read_text()
SCALE, COPIED, OTHERS = "sample", "counted_elsewhere", ("rectools_bm25", "sasrec")
JUDGED = ("user_metrics", "official_user_metrics", "slices", "recall_curve", "exposure", "differences", "leaderboard",
          "report")  # fmt: skip


@pytest.fixture(scope="module")
def judged(sample_home, tmp_path_factory):
    """A copy of the sample's home, judged with a copy of `popular`'s lists and, if they can run, the examples'."""
    folder = tmp_path_factory.mktemp("judged")
    for part in ("data", "source"):
        shutil.copytree(sample_home / part, folder / "home" / part, symlinks=True)
    platform = Platform(folder)
    popular = pl.read_parquet(platform.file("retrieval/popular", SCALE)).filter(view="all")
    file = platform.home / "recommendations" / COPIED / f"{SCALE}.parquet"
    file.parent.mkdir(parents=True)
    popular.select("uid", "item_id", "rank").write_parquet(file)
    if HAS_RECTOOLS:
        recommend_as_documented(folder)
    platform.materialise("retrieval/own_lists", scale=SCALE, alone=True)
    platform.materialise(*(f"evaluation/{name}" for name in JUDGED), scale=SCALE, alone=True)
    return platform


def recommend_as_documented(folder: Path) -> None:
    """Run the export and the examples' code, the home being called as the documentation calls it."""
    (folder / "var").symlink_to(folder / "home")
    [export] = re.findall(r"python -m ms_assets (export .*?) +#", EXAMPLES)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setenv("MS_ASSETS_HOME", str(folder / "home"))
        patched.chdir(folder)
        main(export.split())
    assert ended.value.code == 0
    for code in re.findall(r"```python\n(.*?)```", EXAMPLES, re.DOTALL):
        subprocess.run([PYTHON, "-c", code], cwd=folder, check=True)


def metrics(platform, method):
    of_users = pl.read_parquet(platform.file("evaluation/user_metrics", SCALE)).filter(method=method, k=K)
    return of_users.sort("view", "uid").drop("method")


def test_equal_lists_have_equal_metrics_whoever_made_them(judged):
    assert len(metrics(judged, "popular")) > 0
    assert metrics(judged, "popular").equals(metrics(judged, COPIED))


def test_lists_of_another_program_stand_on_the_leaderboard_with_intervals_and_in_slices_curves_and_report(judged):
    board = pl.read_parquet(judged.file("evaluation/leaderboard", SCALE)).filter(method=COPIED)
    assert set(board["view"]) == {"all", "discovery"}
    assert board.filter(metric="ndcg")["ci_low"].null_count() == 0
    for table in ("slices", "recall_curve", "exposure"):
        assert COPIED in pl.read_parquet(judged.file(f"evaluation/{table}", SCALE))["method"].to_list()
    assert COPIED in pl.read_parquet(judged.file("evaluation/differences", SCALE))["other"].to_list()
    assert COPIED in (judged.home / f"data/evaluation/report/{SCALE}/report.md").read_text()


@pytest.mark.skipif(not HAS_RECTOOLS, reason="RECTOOLS_PYTHON names no Python that has RecTools")
@pytest.mark.parametrize("other", OTHERS)
def test_a_documented_model_of_rectools_is_judged_here_and_is_better_than_popular_songs(judged, other):
    board = pl.read_parquet(judged.file("evaluation/leaderboard", SCALE)).filter(metric="ndcg", view="all", k=K)
    mean, low = (dict(board.select("method", column).iter_rows()) for column in ("mean", "ci_low"))
    assert low[other] > mean["popular"] > mean["random"]
    assert len(metrics(judged, other)) == len(metrics(judged, "popular"))
