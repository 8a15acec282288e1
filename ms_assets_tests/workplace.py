"""A copy of what stands at the repository's top, in a folder of its own: where tests run the command lines."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import dagster as dg
import pytest

import ms_assets

ROOT = Path(ms_assets.__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
OURS = ("DAGSTER", "MLFLOW", "MS_ASSETS", "HF_")
FEW = {"splits__users": {"min_events": 500}}
"""The sample's 147 busiest users: everything is there in a third of the time."""
EPOCHS, K = 2, 10
SHORTLY = {
    **FEW,
    "training__lightgcn": {"epochs": EPOCHS, "neutral_negatives": 16, "embedding_dim": 32},
    "evaluation__user_metrics": {"ks": [K]},
}
"""Settings of the whole pipeline, shortly trained."""

HELD = """
import itertools, os, sys, time
from pathlib import Path
from dagster_dg_cli.cli import main

file, wanted, mark, *sys.argv[1:] = sys.argv[1:]
mark, replaced, replace, parent = Path(mark), itertools.count(1), os.replace, os.getppid()

def held(source, target):
    replace(source, target)
    if os.fspath(target) == file and next(replaced) == int(wanted) and not mark.exists():
        mark.touch()
        while not mark.read_text() and os.getppid() == parent:
            time.sleep(0.05)

os.replace = held
main()
"""
"""`dg`, which waits once a file has been replaced so often: the first process of those that share a mark."""

RUN = """
import sys, time
from pathlib import Path
place, run_id, what = sys.argv[1:]
if "://" in place:
    from ms_assets.defs.platform.sessions import SessionLocks
    locks = SessionLocks(place)
else:
    from ms_assets.defs.platform.locks import FileLocks
    locks = FileLocks(Path(place))
with locks.alive(run_id), locks.turn(what, run_id) as ask:
    while other := ask():
        print("waits for", other, flush=True)
        time.sleep(0.5)
    print("has the turn", flush=True)
    sys.stdin.readline()
"""
"""A run by home or database, id and lock, in a process of its own: says when it has the lock; holds it until told."""


@contextlib.contextmanager
def talking_processes(*within: str) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start processes, within a command if one is given, that speak up and wait for a line; killed in the end."""
    with contextlib.ExitStack() as stack:

        def start(program: str, *arguments: object) -> subprocess.Popen:
            command = [*within, sys.executable, "-c", program, *map(str, arguments)]
            started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(started)
            stack.callback(started.kill)
            return started

        yield start


class Workplace:
    """The package with its configuration files, a home, and the programs as a user types them."""

    def __init__(self, folder: Path, origin: Path = ROOT, programs: Path = PROGRAMS) -> None:
        self.folder, self.home, self.programs = folder, folder / "home", programs
        if not (folder / "ms_assets").exists():  # otherwise another process made the place
            for name in ("workspace.yaml", "dagster.yaml", "pyproject.toml"):
                shutil.copy(origin / name, folder)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin / "ms_assets", folder / "ms_assets", ignore=ignored)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = {**inherited, "PYTHONPATH": str(folder), "MS_ASSETS_HOME": str(self.home)}

    def start(
        self, program: str, *arguments: str, home: Path | str | None = None, stdout: int | IO = subprocess.PIPE
    ) -> subprocess.Popen:
        """Start a program of this Python's environment, in a session of its own; `stdout` has errors too."""
        return subprocess.Popen(
            [str(self.programs / program), *arguments],
            cwd=self.folder,
            env={**self.environment, "MS_ASSETS_HOME": str(home or self.home)},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start_held(self, file: Path, times: int, mark: Path, *arguments: str, **how: Any) -> subprocess.Popen:
        """Start `dg`, which makes the mark and waits, for ever or for a word in it, when the file is there so often."""
        return self.start("python", "-c", HELD, str(file), str(times), str(mark), *arguments, **how)

    def run(self, *command: str, **how: Any) -> subprocess.CompletedProcess:
        """Run a program to its end; what it prints is in `stdout`, errors included."""
        process = self.start(*command, **how)
        said, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, said)

    def launch(self, *what: str, config: dict | None = None, scale: str = "sample", **how: Any) -> Any:
        """`dg launch` for one scale; config: settings by op."""
        return self.run("dg", *launching(*what, config=config, scale=scale), **how)

    def materialise(self, key: str, scale: str = "sample", home: Path | None = None) -> subprocess.CompletedProcess:
        """`dagster asset materialize` for one asset and scale."""
        target = ("-m", "ms_assets.definitions", "--select", key, "--partition", scale)
        return self.run("dagster", "asset", "materialize", *target, home=home)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """What Dagster remembers of the runs here."""
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            patch.setenv("MS_ASSETS_HOME", str(self.home))
            with dg.DagsterInstance.from_config(str(self.folder)) as instance:
                yield instance

    def state(self) -> dict[str, tuple[int, int]]:
        """Every artefact's inode and time of change: a file that was replaced differs."""
        entries = {str(path): path.lstat() for path in (self.home / "data").rglob("*")}
        return {path: (entry.st_ino, entry.st_mtime_ns) for path, entry in entries.items()}


def launching(*what: str, config: dict | None = None, scale: str = "sample") -> list[str]:
    """Arguments of `dg` that launch a run of one scale; config: settings by op."""
    return ["launch", *what, "--partition", scale, *(("--config-json", run_config(config)) if config else ())]


def kill(process: subprocess.Popen) -> None:
    """`kill -9` a process and its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def until(condition: Callable[[], Any], *processes: subprocess.Popen) -> None:
    """Wait for what these processes bring about, for as long as they live."""
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def answer_of(*command: str | Path, **how: Any) -> Any:
    """The JSON that a command prints in its last line; it must not fail."""
    done = subprocess.run([*command], capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def run_config(settings: dict) -> str:
    """Run config as JSON, from settings by op."""
    return json.dumps({"ops": {op: {"config": values} for op, values in settings.items()}})
