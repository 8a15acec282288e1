"""Servers on free ports of loopback, in processes of their own, which end with their block."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ms_assets_tests.workplace import free_port

PATIENCE = 300
"""Seconds that a server may take to start or to answer, a page to show something, or a run to finish."""


@dataclass(frozen=True)
class Server:
    """A running server: its port, its process and the file that it writes to."""

    port: int
    process: subprocess.Popen
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(
    *command: str, environment: Mapping[str, str], log: Path, folder: Path | None = None, page: str = ""
) -> Iterator[Server]:
    """Run a server, which is told its host and port, until the block ends; `page` answers when it has started.

    Raises:
        TimeoutError: with what the server printed, if it does not answer.
    """
    port = free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, process, log)
    try:
        eventually(lambda: urllib.request.urlopen(f"{server.address}{page}", timeout=5).status == 200, log, process)
        yield server
    finally:
        # To all of its processes, for it may wait for its children; and not by SIGINT, which is ignored by whatever a
        # shell runs in the background.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def eventually(condition: Callable[[], bool], log: Path, process: subprocess.Popen | None = None) -> None:
    """Wait until the condition holds; a refused connection counts as not yet."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(log.read_text())
