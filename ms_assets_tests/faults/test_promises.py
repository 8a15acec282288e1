"""Promises of the platform, tried by random steps: what is read together belongs together, or is refused by name.

A home of small artefacts lives through runs of any selection, other settings and sources, other processes, kills,
cancelled runs, full disks, two runs at once, damaged, lost and restored files, failed checks and moves. The platform's
own I/O managers, records and locks write and read them. Dagster's engine, which would take most of the time, is
replaced by a loop. The content of an artefact lists everything that it was made of, so this module tells from the
contents alone what belongs together, and asks nothing of the records.

`pytest -m slow ms_assets_tests/faults/test_promises.py` tries thousands of steps.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import dagster as dg
import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ms_assets.defs.platform import io_managers, lineage, runs
from ms_assets.defs.platform.locks import FileLocks
from ms_assets.defs.platform.resources import DuckDB, YambdaSource
from ms_assets.defs.platform.scales import PARTITION_TAG
from ms_assets.defs.platform.schemas import as_metadata
from ms_assets.files import DamagedFileError, remove, sweep
from ms_assets.raw.source import SourceFile
from ms_assets_tests.interruptions import at_change, cancelled, disk_is_full

logger = logging.getLogger(__name__)
SCALE = "50m"
COLUMNS = as_metadata({"origin": ("VARCHAR", "artefact behind this one"), "token": ("VARCHAR", "its identity")})
REFUSALS = (lineage.InconsistentInputsError, DamagedFileError, io_managers.MissingPartitionError)
EVENTS, USERS, DIVISION = "raw/events", "splits/users", "split_events"
MODEL, INDEX = "training/model", "retrieval/index"
PARTS = SONGS, TRAIN, VALIDATION, TEST, NEGATIVES = [
    f"splits/{name}" for name in ("songs", "train", "validation", "test", "negatives")
]
BEFORE = {
    EVENTS: [],
    USERS: [EVENTS],
    **{key: [EVENTS, USERS] for key in PARTS},
    MODEL: [TRAIN, SONGS, VALIDATION],
    "training/user_embeddings": [MODEL, USERS],
    "training/song_embeddings": [MODEL, SONGS],
    INDEX: ["training/song_embeddings", SONGS],
    "retrieval/lists": [INDEX, "training/user_embeddings", TRAIN],
    "evaluation/report": ["retrieval/lists", TEST, NEGATIVES],
}
"""Inputs of each artefact."""
KEYS, CHECKED, SETTINGS = list(BEFORE), (TRAIN, MODEL), (USERS, DIVISION, MODEL)
ASSET = {key: dg.AssetKey(key.split("/")) for key in KEYS}
SPEC = {key: dg.AssetSpec(ASSET[key], deps=[ASSET[before] for before in BEFORE[key]]) for key in KEYS}
CUT, FORGED = "cut short", "forged"


class CheckFailedError(Exception):
    """A blocking check failed, so that the run goes no further."""


@dataclass
class Now:
    """Settings of the next run, and notes of what steps met in all runs of an example."""

    settings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SETTINGS, 0))
    bad: str = ""
    """Artefact that is made so that its check finds it wanting."""
    number: Iterator[int] = field(default_factory=itertools.count)
    condemned: set[str] = field(default_factory=set)
    """Tokens of artefacts that failed their check."""
    steps: list[str] = field(default_factory=list)
    """Run of each step, in the order in which they ran."""
    wrong: list[str] = field(default_factory=list)
    """Broken promises."""


now = Now()
counted: Counter[str] = Counter()


def own(key: str, before: dict[str, str]) -> str:
    """Token of an artefact that is made now; every bad one has its own."""
    stated = json.dumps([key, sorted(before.items()), now.settings.get(key)])
    return hashlib.sha1(stated.encode()).hexdigest()[:8] + (f" bad {next(now.number)}" if now.bad == key else "")


def tokens_of(stored) -> dict[str, str]:
    """Tokens of an artefact and of all behind it, by key; a folder whose files differ in length was cut short."""
    if not isinstance(stored, dict):
        return dict(stored.project("origin, token").fetchall())
    return json.loads(stored["tokens"]) if len(stored["tokens"]) == len(stored["tail"]) else {INDEX: CUT}


def met(reader: str, stored: dict[str, object]) -> dict[str, str]:
    """Tokens that a reader was given; what should have been refused is noted."""
    contents = {key: tokens_of(value) for key, value in stored.items()}
    known: dict[str, set[str]] = {}
    for origin, token in itertools.chain.from_iterable(found.items() for found in contents.values()):
        known.setdefault(origin, set()).add(token)
    for origin, tokens in known.items():
        if len(tokens) > 1 or tokens & {CUT, FORGED, *now.condemned}:
            now.wrong.append(f"{reader} read {', '.join(contents)} with {origin}: {', '.join(tokens)}")
    return {origin: token for found in contents.values() for origin, token in found.items()}


class Home:
    """One of two places for the home, with the I/O managers of its artefacts."""

    def __init__(self, place: Path) -> None:
        self.path, data = place / "home", str(place / "home/data")
        # A process that is forked has none of its parent's threads.
        duckdb = DuckDB(temp_directory=str(place / "tmp"), threads=1)
        self.tables = io_managers.TableIOManager(base_dir=data, duckdb=duckdb)
        yambda = YambdaSource(location=data, revision="main", source_home=data)
        linked = io_managers.LinkedTableIOManager(base_dir=data, duckdb=duckdb, yambda=yambda)
        self.managers = {EVENTS: linked, INDEX: io_managers.FolderIOManager(base_dir=data)}
        self.source = place.parent / "source.parquet"

    def manager(self, key: str) -> io_managers.ArtefactIOManager:
        return self.managers.get(key, self.tables)

    def file(self, key: str, extension: str | None = None) -> Path:
        return self.path / "data" / key / f"{SCALE}{self.manager(key).extension if extension is None else extension}"

    def read(self, keys) -> dict[str, object]:
        """Read some artefacts as a step reads its inputs."""
        step = SimpleNamespace(
            assets_def=SimpleNamespace(check_keys=[], keys_by_input_name={k: ASSET[k] for k in keys})
        )
        told = {"partition_key": SCALE, "has_partition_key": True, "step_context": step, "definition_metadata": {}}
        return {key: self.manager(key).load_input(SimpleNamespace(asset_key=ASSET[key], **told)) for key in keys}

    def run(self, keys, pause: float = 0) -> None:
        """Materialise some artefacts as a run does, without the platform's executor."""
        run = SimpleNamespace(run_id=uuid4().hex, tags={PARTITION_TAG: SCALE})
        with self.tables.yield_for_execution(SimpleNamespace(run=run)):
            for step, outputs in itertools.groupby(KEYS, lambda key: DIVISION if key in PARTS else key):
                if chosen := [key for key in outputs if key in keys]:
                    self.step(step, chosen, run.run_id, pause)

    def step(self, step: str, outputs: list[str], run_id: str, pause: float) -> None:
        now.steps.append(run_id)
        time.sleep(pause)
        before, together = met(step, self.read(BEFORE[outputs[0]])), {}
        if step == DIVISION:
            inputs = self.tables.inputs_of(SPEC[TRAIN], SCALE)
            versions = {key: made.version for key, made in inputs.items()}
            together = {lineage.MADE_TOGETHER: {DIVISION: lineage.identity(now.settings[DIVISION], versions)}}
            before[DIVISION] = own(DIVISION, before)
        for key in outputs:
            told = {"asset_spec": SPEC[key], "output_metadata": together, "definition_metadata": COLUMNS}
            self.manager(key).handle_output(
                SimpleNamespace(
                    asset_key=ASSET[key], partition_key=SCALE, run_id=run_id, add_output_metadata=lambda known: None,
                    step_context=SimpleNamespace(
                        set_data_version=lambda key, version: None, run_id=run_id, step=SimpleNamespace(key=step),
                        instance=SimpleNamespace(get_run_step_stats=lambda run_id, keys: []),
                    ),
                    **told,
                ),
                self.value(key, before | {key: (token := own(key, before))}),
            )  # fmt: skip
            if key in CHECKED:
                is_bad = "bad" in token
                lineage.of_run(run_id).note_check(ASSET[key], SCALE, "is_good", "found wanting" if is_bad else None)
                if is_bad:
                    now.condemned.add(token)
                    raise CheckFailedError

    def value(self, key: str, tokens: dict[str, str]):
        if key == EVENTS:
            status = self.source.stat()
            content = f"{status.st_size} bytes of {status.st_mtime_ns} ns"
            return SourceFile(self.source, "folder", "none", content)
        if key == INDEX:
            return {"tokens": (text := json.dumps(tokens).encode()), "tail": bytes(len(text))}
        return pa.table({"origin": list(tokens), "token": list(tokens.values())})


def expected(world: int) -> dict[str, str]:
    """Token of each artefact, if all are made of this source with the settings of now."""
    found = {EVENTS: {EVENTS: f"world {world}"}}
    for key in KEYS[1:]:
        tokens = {origin: token for before in BEFORE[key] for origin, token in found[before].items()}
        if key in PARTS:
            tokens[DIVISION] = own(DIVISION, tokens)
        found[key] = {**tokens, key: own(key, tokens)}
    return {key: tokens[key] for key, tokens in found.items()}


homes: list[Home]
some = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True) | st.sampled_from(
    [KEYS, PARTS, *(KEYS[n:] for n in range(1, len(KEYS)))]
)
choices = st.dictionaries(st.sampled_from(SETTINGS), st.integers(0, 1), max_size=2)


class Promises(RuleBasedStateMachine):
    """Home and the steps that it lives through."""

    @initialize(full=st.sampled_from([True, True, True, False]))
    def begin(self, full):
        global now
        now, self.copies, self.home = Now(), {}, homes[0]
        for home in homes:
            shutil.rmtree(home.path, ignore_errors=True)
        self.publish_another_source(0)
        counted["examples"] += 1
        if full:
            self.run(KEYS)

    def run(self, keys, **how) -> None:
        try:
            self.home.run(keys, **how)
            counted["runs"] += 1
        except REFUSALS as error:
            names_what_to_do(error)
            counted[f"runs refused: {type(error).__name__}"] += 1
        except CheckFailedError:
            counted["runs ended by a check"] += 1

    # steps

    @rule(keys=some, chosen=choices)
    def materialise(self, keys, chosen):
        now.settings |= chosen
        self.run(keys)

    @rule(bad=st.sampled_from(CHECKED), more=some)
    def fail_a_check(self, bad, more):
        now.bad = bad
        self.run({bad, *more})
        now.bad = ""

    @rule(world=st.integers(0, 2))
    def publish_another_source(self, world):
        self.world = world
        tokens = pa.table({"origin": [EVENTS], "token": [f"world {world}"]})
        pq.write_table(tokens, self.home.source)

    @rule(keys=some, chosen=choices, at=st.integers(1, 60))
    def run_in_another_process_that_may_be_killed(self, keys, chosen, at):
        now.settings |= chosen
        if not (child := os.fork()):
            signal.alarm(60)  # a process that hangs is killed as well
            try:
                with at_change(at, partial(os.kill, os.getpid(), signal.SIGKILL)):
                    self.run(keys)
            finally:
                os._exit(len(now.wrong))
        _, status = os.waitpid(child, 0)
        counted["killed" if os.WIFSIGNALED(status) else "other processes"] += 1
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0

    @rule(keys=some, chosen=choices, at=st.integers(1, 60), why=st.sampled_from([cancelled, disk_is_full]))
    def end_half_way(self, keys, chosen, at, why):
        now.settings |= chosen
        left = set(self.home.path.rglob("*.unfinished"))
        with contextlib.suppress(KeyboardInterrupt, OSError), at_change(at, why):
            self.run(keys)
        assert set(self.home.path.rglob("*.unfinished")) <= left

    @rule(keys=st.tuples(some, some))
    def run_two_at_once(self, keys):
        """One waits for the other: their steps do not alternate."""
        before = len(now.steps)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(partial(self.run, pause=0.002), keys))
        turns = [run for run, _ in itertools.groupby(now.steps[before:])]
        assert len(turns) == len(set(turns)), "two runs wrote by turns"

    @rule(key=st.sampled_from(KEYS), lost=st.sampled_from([[None], [lineage.RECORD], [None, lineage.RECORD]]))
    def lose(self, key, lost):
        for extension in lost:
            remove(self.home.file(key, extension))

    @rule(
        key=st.sampled_from(KEYS[1:]), how=st.sampled_from(["half", "longer", FORGED]),
        extension=st.sampled_from([None, None, lineage.RECORD]),
    )  # fmt: skip
    def damage(self, key, how, extension):
        """Cut a file or its record short, lengthen it, or put another whole one in its place."""
        file = self.home.file(key, extension)
        if not file.exists():
            return
        if how == FORGED and key != INDEX:
            pq.write_table(pa.table({"origin": [key], "token": [FORGED]}), file)
            return
        file = file / "tail" if file.is_dir() else file
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if how == "half" else content + b"?")

    @rule(key=st.sampled_from([USERS, TRAIN, MODEL]), with_record=st.booleans(), with_time=st.booleans())
    def restore(self, key, with_record, with_time):
        """Put back a copy that was taken before, or take one."""
        files = [self.home.file(key, extension) for extension in ([None, lineage.RECORD] if with_record else [None])]
        if all(file.exists() for file in files):
            for file in files:
                kept = homes[0].path.with_name(f"{key.replace('/', ' ')} {file.name}")
                now_and_then = (kept, file) if file in self.copies else (file, kept)
                (shutil.copy2 if with_time else shutil.copy)(*now_and_then)
                self.copies[file] = kept

    @rule(with_times=st.booleans(), swept=st.booleans())
    def move(self, with_times, swept):
        """Copy the home to another place and remove it here; what unfinished runs left is removed, or not."""
        before, self.home = self.home, homes[1 - homes.index(self.home)]
        if before.path.exists():
            copy = shutil.copy2 if with_times else shutil.copy
            shutil.copytree(before.path, self.home.path, symlinks=True, copy_function=copy)
            shutil.rmtree(before.path)
        if swept:  # as the executor does before it runs
            sweep(self.home.path / "data", SCALE)

    # promises

    @invariant()
    def whatever_is_read_belongs_together(self):
        counted["steps"] += 1
        for key in KEYS:
            try:
                met(key, self.home.read(BEFORE[key]))
                counted["read"] += 1
            except REFUSALS as error:
                names_what_to_do(error)
                counted["refused"] += 1
        assert not now.wrong, now.wrong

    def teardown(self):
        """A plain run of everything heals everything."""
        if hasattr(self, "home") and not now.wrong:
            self.home.run(KEYS)
            wanted = expected(self.world)
            for key in KEYS:
                assert tokens_of(self.home.read([key])[key])[key] == wanted[key]
                self.home.read(BEFORE[key])


def names_what_to_do(error) -> None:
    """Assert that an error names an artefact, or its file, and the next step."""
    assert "materialise" in str(error) and any(key in str(error) for key in KEYS), error


@pytest.fixture
def two_places(tmp_path, monkeypatch):
    global homes
    homes = [Home(tmp_path / name) for name in ("here", "there")]
    monkeypatch.setattr(runs, "SECONDS_BETWEEN_LOOKS", 0.001)
    counted.clear()
    yield
    logger.warning("%s", dict(counted))


def try_promises(**how) -> None:
    settings = hypothesis.settings(
        **how,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],  # to explain a failure, hypothesis would trace every line of every step
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(Promises, settings=settings)


@pytest.mark.usefixtures("two_places")
def test_whatever_happens_what_is_read_belongs_together_and_a_plain_run_heals_the_rest():
    try_promises(derandomize=True, max_examples=15, stateful_step_count=12)
    assert counted["runs"] and counted["refused"] and counted["read"] and counted["killed"]


@pytest.mark.slow
@pytest.mark.usefixtures("two_places")
def test_thousands_of_steps_read_nothing_that_does_not_belong_together():
    try_promises(max_examples=600, stateful_step_count=20)
    assert counted["examples"] >= 500


@contextlib.contextmanager
def always_free(locks, what, run_id):
    """Take a turn that nobody has to wait for."""
    yield lambda: None


def of_no_origin(path, inputs, scale, metadata, of=lineage.Made.of, **told):
    return of(path, inputs, scale, {name: it for name, it in metadata.items() if name != lineage.MADE_TOGETHER}, **told)


PLANTED = {
    "contradicting origins are accepted": (
        lineage,
        "origins_of",
        lambda inputs, _: {origin: version for key, made in inputs.items()
                           for origin, version in {**made.origins, key: made.version}.items()},
    ),
    "changed files are accepted": (lineage.Made, "describes", lambda made, path: True),
    "failed checks are forgotten": (lineage.Lineage, "note_check", lambda *_: None),
    "a torn division is accepted": (lineage.Made, "of", of_no_origin),
    "locks are ignored": (FileLocks, "turn", always_free),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.usefixtures("two_places")
def test_a_planted_fault_is_found(monkeypatch, fault):
    monkeypatch.setattr(*PLANTED[fault])
    with pytest.raises(AssertionError, match=r" read .* with |two runs wrote by turns"):
        try_promises(derandomize=True, max_examples=200, stateful_step_count=12)
