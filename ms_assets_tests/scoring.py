"""MLflow's own server over a champion, in a process of its own, as the documentation starts it."""

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ms_assets.registry import Registry
from ms_assets_tests import servers
from ms_assets_tests.workplace import PROGRAMS, ROOT

JSON = {"Content-Type": "application/json"}


class Server(servers.Server):
    """Answers questions about users."""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=servers.PATIENCE)

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
    command = (str(PROGRAMS / "mlflow"), "models", "serve", "--env-manager", "local")
    ours = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = os.environ | ours | {"MLFLOW_TRACKING_URI": registry.tracking_uri}
    model = ("-m", f"models:/{registry.name}@champion")
    with servers.serving(*command, *model, environment=environment, log=log, page="/ping") as server:
        yield Server(**vars(server))
