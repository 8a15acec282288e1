"""A copy of what stands at the repository's top, in a folder of its own: where tests run the command lines."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

import ms_assets

ROOT = Path(ms_assets.__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
OURS = ("DAGSTER", "MLFLOW", "MS_ASSETS", "HF_")
FEW = {"splits__users": {"min_events": 500}}
"""The sample's 147 busiest users: everything is there in a third of the time."""


class Workplace:
    """The package with its configuration files, a home, and the programs as a user types them."""

    def __init__(self, folder: Path, origin: Path = ROOT) -> None:
        self.folder, self.home = folder, folder / "home"
        for name in ("workspace.yaml", "dagster.yaml", "pyproject.toml"):
            shutil.copy(origin / name, folder)
        shutil.copytree(origin / "ms_assets", folder / "ms_assets", ignore=shutil.ignore_patterns("__pycache__"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment = {**inherited, "PYTHONPATH": str(folder), "MS_ASSETS_HOME": str(self.home)}

    def run(self, program: str, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess:
        """Run a program of this Python's environment to its end; what it prints is in `stdout`, errors included."""
        environment = {**self.environment, "MS_ASSETS_HOME": str(home or self.home)}
        return subprocess.run(
            [str(PROGRAMS / program), *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def launch(
        self, *what: str, config: dict | None = None, scale: str = "sample", home: Path | None = None
    ) -> subprocess.CompletedProcess:
        """`dg launch` for one scale; config: settings by op."""
        options = ["--partition", scale]
        if config:
            options += ["--config-json", run_config(config)]
        return self.run("dg", "launch", *what, *options, home=home)

    def materialise(self, key: str, scale: str = "sample", home: Path | None = None) -> subprocess.CompletedProcess:
        """`dagster asset materialize` for one asset and scale."""
        target = ("-m", "ms_assets.definitions", "--select", key, "--partition", scale)
        return self.run("dagster", "asset", "materialize", *target, home=home)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """What Dagster remembers of the runs here."""
        with contextlib.chdir(self.folder), dg.DagsterInstance.from_config(str(self.folder)) as instance:
            yield instance

    def state(self) -> dict[str, tuple[int, int]]:
        """Every artefact's inode and time of change: a file that was replaced differs."""
        entries = {str(path): path.lstat() for path in (self.home / "data").rglob("*")}
        return {path: (entry.st_ino, entry.st_mtime_ns) for path, entry in entries.items()}


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def run_config(settings: dict) -> str:
    """Run config as JSON, from settings by op."""
    return json.dumps({"ops": {op: {"config": values} for op, values in settings.items()}})
