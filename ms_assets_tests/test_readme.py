"""The README's statements about the library, run as they stand there."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import ms_assets

README = (Path(ms_assets.__file__).parents[1] / "README.md").read_text()
SECTION = README.split("## Use it as a library")[1].split("\n## ")[0]
N_SCENES, N_SONGS, N_EVENTS = 4, 30, 25


def planted_events():
    """Listens of 80 users, ann the first: nine in ten are of the 30 songs of the user's own scene."""
    rng = np.random.default_rng(0)
    names = ["ann", *(f"user {n}" for n in range(1, 80))]
    rows = [
        (name, f"song {scene * N_SONGS + rng.integers(N_SONGS)}", 60 * time, rng.random())
        for number, name in enumerate(names)
        for time in range(N_EVENTS)
        for scene in [number % N_SCENES if rng.random() < 0.9 else rng.integers(N_SCENES)]
    ]
    return pl.DataFrame(rows, ["user", "song", "time", "played_ratio"], orient="row")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the code blocks of the section define, run in their order in a folder with events.parquet."""
    folder = tmp_path_factory.mktemp("readme")
    planted_events().write_parquet(folder / "events.parquet")
    names = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL):
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_five_statements_lead_from_string_ids_to_recommendations_and_ndcg(said):
    first = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1].strip().splitlines()
    assert len([line for line in first if line and not line.startswith("import")]) == 5
    assert said["top"].columns == ["user", "rank", "song", "score"]
    assert said["top"].filter(user="ann")["rank"].to_list() == list(range(1, 11))
    heard = said["train"].select("user", "song")
    assert said["top"].join(heard, on=["user", "song"], how="semi").is_empty()


def test_their_ndcg_is_far_above_that_of_chance(said):
    [lightgcn] = said["board"].filter(metric="ndcg").iter_rows(named=True)
    drawn = ms_assets.Random().fit(said["train"]).recommend(k=10)
    chance = ms_assets.evaluate(drawn, said["test"], said["train"], ks=[10])
    [random] = chance.filter(metric="ndcg").iter_rows(named=True)
    assert lightgcn["ci_low"] > 2 * random["mean"]


def test_a_saved_model_recommends_what_it_did(said):
    again = said["model"].recommend(k=10)
    assert again.equals(said["top"])


@pytest.mark.parametrize("name", ["split", "evaluate", "SongIndex"])
def test_the_section_names_functions_of_the_library(name):
    assert name in SECTION
    assert name in ms_assets.__all__


def test_the_section_names_every_recommender_and_column():
    named = set(re.findall(r"`(\w+)`", SECTION))
    recommenders = set(ms_assets.__all__) - {"split", "evaluate", "SongIndex", "import_events"}
    from ms_assets.splits.frames import OPTIONAL

    assert recommenders | {"user", "song", *OPTIONAL} <= named
