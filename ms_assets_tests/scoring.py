"""MLflow's own server over a champion, in a process of its own, as the documentation starts it."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ms_assets.registry import Registry
from ms_assets_tests.workplace import PROGRAMS, ROOT, free_port

JSON = {"Content-Type": "application/json"}
STARTS_WITHIN = 300


@dataclass(frozen=True)
class Server:
    """Where it listens, and what it wrote."""

    port: int
    process: subprocess.Popen
    log: Path

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=STARTS_WITHIN)

    def post(self, body: str | bytes, headers: dict[str, str] = JSON) -> tuple[int, str]:
        """Status and text of the answer to a body."""
        connection = self.connect()
        try:
            connection.request("POST", "/invocations", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ask(self, *rows: dict) -> list[dict]:
        """The answers to rows of uid, k, exclude_heard."""
        status, text = self.post(json.dumps({"dataframe_records": rows}))
        assert status == 200, text
        return json.loads(text)["predictions"]


@contextmanager
def serving(registry: Registry, log: Path) -> Iterator[Server]:
    """`mlflow models serve` for the champion, ended with all its processes when the body ends."""
    port = free_port()
    model = ["-m", f"models:/{registry.name}@champion", "--env-manager", "local"]
    inherited = os.environ | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PROGRAMS / "mlflow"), "models", "serve", *model, "-h", "127.0.0.1", "-p", str(port)],
            env=inherited | {"MLFLOW_TRACKING_URI": registry.tracking_uri},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, process, log)
    try:
        _wait(server)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(server: Server) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.process.poll() is None:
        try:
            connection = server.connect()
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server does not answer:\n{server.log.read_text()[-3_000:]}")
