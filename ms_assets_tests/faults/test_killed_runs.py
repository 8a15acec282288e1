"""`kill -9` in the middle of a run, then the same again, in real processes from the command line.

The short way is tried in every run of the tests, on a tiny world; fifty kills at random moments of the whole
pipeline of the sample have a mark of their own.
"""

import logging
import random
import shutil
import subprocess
import time

import mlflow
import pytest

from ms_assets.defs.platform import runs
from ms_assets_tests.homes import FRESH, artefacts, comparable, latest, sha256, statuses
from ms_assets_tests.workplace import FEW, Workplace, kill, launching, until
from ms_assets_tests.worlds import World, listen, reaction

logger = logging.getLogger(__name__)

SETTINGS = {
    **FEW,
    "training__lightgcn": {"epochs": 2, "neutral_negatives": 8, "embedding_dim": 32, "checkpoint_seconds": 0},
    "evaluation__user_metrics": {"ks": [10]},
}
N_KILLS = 50
WORLD = World(
    [listen(uid, 10 * i, 10 + (uid * i) % 7) for uid in range(1, 9) for i in range(12)]
    + [reaction("dislike", 9, 5, 11)],
    [*range(10, 17)],
)
EVERYBODY = {"splits__users": {"min_events": 1}}
SPLITS = launching("--assets", '+key:"graph/edges"', config=EVERYBODY, scale="50m")
PIPELINE = ("--job", "pipeline")


def hidden(home):
    """Files that somebody left in the middle of writing, and checkpoints of trainings that are not over."""
    return [str(path) for folder in ("data", "source") for path in (home / folder).rglob(".*")]


def mistaken(place, scale):
    """Assets of which Dagster says something else than what lies there: another version, or that they are stale."""
    tables = {
        "/".join(path.relative_to(place.home / "data").parent.parts): path
        for path in (place.home / "data").rglob(f"{scale}.parquet")
        if not path.is_symlink()
    }
    with place.instance() as instance:
        said = {key: latest(instance, key, scale).data_version for key in tables}
        stale = [
            key for key, status in zip(tables, statuses(instance, *tables, scale=scale), strict=True) if status != FRESH
        ]
    return stale, {key for key, path in tables.items() if said[key] != sha256(path)}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A place in which a run was killed once its first tables were there, and then two were started at once.

    Gives the place, the two's output, and the artefacts of an unbroken run in a home of its own. The first of the two
    waits for the other where the killed one was killed, or on a busy machine it may be over before the other begins.
    """
    place = Workplace(tmp_path_factory.mktemp("broken"))
    WORLD.write(place.folder / "world")
    place.environment["MS_ASSETS_SOURCE"] = str(place.folder / "world")
    # Dagster's SQLite stores, made by two processes at the same moment, would have two versions for ever after.
    with place.instance():
        pass
    unbroken = place.start("dg", *SPLITS, home=place.folder / "unbroken")
    users = place.home / "data/splits/users/50m.parquet"
    killed_is_held, one_is_held = place.folder / "killed", place.folder / "one"
    killed = place.start_held(users, 1, killed_is_held, *SPLITS)
    until(killed_is_held.exists, killed)
    kill(killed)
    users.with_name(".50m.parquet.12345.unfinished").touch()
    logs = [place.folder / f"{number}.log" for number in range(2)]
    both = [place.start_held(users, 1, one_is_held, *SPLITS, stdout=log.open("w")) for log in logs]
    until(lambda: one_is_held.exists() and any("waiting for 50m" in log.read_text() for log in logs), *both)
    one_is_held.write_text("go on")
    codes, said = [process.wait() for process in both], [log.read_text() for log in logs]
    text = unbroken.communicate()[0]
    assert (unbroken.returncode, *codes) == (0, 0, 0), (text, *said)
    return place, said, artefacts(place.folder / "unbroken")


def test_after_a_kill_the_same_command_makes_what_an_unbroken_run_makes_and_leaves_nothing_else(broken):
    place, _, expected = broken
    assert artefacts(place.home) == expected
    assert hidden(place.home) == []


def test_after_a_kill_and_another_run_dagster_knows_every_artefact_as_it_is(broken):
    place, _, _ = broken
    assert mistaken(place, "50m") == ([], set())


def test_of_two_runs_of_a_scale_at_once_one_waits_and_says_for_whom(broken):
    place, said, _ = broken
    with place.instance() as instance:
        later, earlier = instance.get_run_records(limit=2)
        if later.start_time < earlier.start_time:
            later, earlier = earlier, later
        steps = {
            record.dagster_run.run_id: [
                entry.timestamp
                for entry in instance.all_logs(record.dagster_run.run_id)
                if entry.is_dagster_event and entry.dagster_event.is_step_event
            ]
            for record in (later, earlier)
        }
    first, second = sorted(steps, key=lambda run_id: steps[run_id][0])
    assert steps[first][-1] <= steps[second][0]
    assert sum(f"waiting for 50m: it is the turn of run {first}" in text for text in said) == 1


def test_the_killed_run_counts_as_failed_and_no_run_as_under_way(broken):
    place, _, _ = broken
    with place.instance() as instance:
        statuses = sorted(run.status.value for run in instance.get_runs())
    assert statuses == ["FAILURE", "SUCCESS", "SUCCESS"], "the unbroken run stands in its own home's history"


def before_the_decision(home):
    """What is comparable but for the champion's table: its decision depends on who was champion before."""
    found = comparable(home)
    del found["evaluation/champion/sample.parquet"]
    return found


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_the_pipeline_are_healed_by_the_next_run(tmp_path):
    place, rng = Workplace(tmp_path), random.Random(0)
    started = time.monotonic()
    unbroken = place.launch(*PIPELINE, config=SETTINGS, home=tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stdout
    seconds, expected = time.monotonic() - started, before_the_decision(tmp_path / "unbroken")
    logger.info("an unbroken run takes %.0f s", seconds)
    n = 0
    while n < N_KILLS:
        if n % 2:  # otherwise there are artefacts of the run before, which the killed one replaces
            shutil.rmtree(place.home, ignore_errors=True)
        process, moment = place.start("dg", *launching(*PIPELINE, config=SETTINGS)), rng.uniform(0, seconds)
        try:
            said = process.communicate(timeout=moment)[0]
        except subprocess.TimeoutExpired:
            kill(process)
        else:
            assert process.returncode == 0, said
            continue  # it was over before its moment
        n_made = len(artefacts(place.home))
        again = place.launch(*PIPELINE, config=SETTINGS)
        assert again.returncode == 0, (n, again.stdout)
        found = before_the_decision(place.home)
        differing = {name for name, content in found.items() if content != expected.get(name)}
        assert differing == set(), n
        assert found.keys() == expected.keys(), n
        assert hidden(place.home) == [], n
        mlflow.set_tracking_uri(f"sqlite:///{place.home}/mlflow/mlflow.db")
        trainings = mlflow.search_runs(search_all_experiments=True, output_format="list")
        assert {run.info.status for run in trainings} <= {"FINISHED", "KILLED", "FAILED"}, n
        assert mistaken(place, "sample") == ([], set()), n
        n += 1
        logger.info("%d of %d: killed after %.1f s with %d files, and healed", n, N_KILLS, moment, n_made)
    time.sleep(runs.SECONDS_TO_START)  # for a run that was killed before it began
    assert place.materialise("raw/artist_item_mapping").returncode == 0
    with place.instance() as instance:
        assert {run.status.value for run in instance.get_runs() if not run.is_finished} == set()
