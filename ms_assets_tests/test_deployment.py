"""The deployment in containers: its files checked without a daemon, its services started one by one as processes."""

import importlib.util
import json
import os
import re
import subprocess
import time
import urllib.request
from contextlib import ExitStack

import pytest
import yaml

from ms_assets_tests import postgres
from ms_assets_tests.homes import artefacts
from ms_assets_tests.servers import PATIENCE, eventually
from ms_assets_tests.workplace import PROGRAMS, ROOT, Workplace, free_port
from ms_assets_tests.worlds import World, listen

OURS = ("mlflow", "code", "webserver", "daemon")
"""Services of our own image, in the order in which they start."""
WORLD = World([listen(uid, 10 * i, 10 + (uid * i) % 7) for uid in range(1, 9) for i in range(12)], [*range(10, 17)])


COMPOSE = (ROOT / "compose.yaml").read_text()


def services(text=COMPOSE):
    return yaml.safe_load(text)["services"]


@pytest.mark.skipif(not (PROGRAMS / "hadolint").exists(), reason="needs hadolint: pip install '.[dev]'")
def test_the_linter_finds_nothing_in_the_dockerfile():
    linted = subprocess.run([PROGRAMS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_holds_what_its_build_copies_and_runs_as_somebody_without_rights():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source.split("/")[0] in let_in, source
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    bases = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases


@pytest.mark.parametrize("name", [*OURS, "postgres"])
def test_every_service_has_a_health_check_a_version_and_no_port_beyond_this_host(name):
    service = services()[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name == "postgres":
        assert re.fullmatch(r"postgres:\d+\.\d+-\w+", service["image"]) and service["user"] == "postgres"
    else:
        assert service["cap_drop"] == ["ALL"] and "user" not in service


def test_the_gpu_is_added_to_the_service_that_runs_are_processes_of():
    changed = services((ROOT / "compose.gpu.yaml").read_text())
    assert list(changed) == ["code"]
    assert changed["code"]["build"]["args"] == {"FAISS": "gpu"}


class Deployment:
    """Services of compose.yaml as processes of this host: other addresses, and no containers around them."""

    def __init__(self, server, folder):
        self.server, self.folder, self.home = server, folder, folder / "home"
        self.ports = {3000: free_port(), 4000: free_port(), 5000: free_port()}
        Workplace(folder)  # a copy of the package
        (folder / "workspace.yaml").write_text(self.of_this_host((ROOT / "deploy/workspace.yaml").read_text()))
        self.services = services(self.of_this_host(COMPOSE))
        [statement] = re.findall(r"^CREATE.*;", (ROOT / "deploy/mlflow.sql").read_text(), re.MULTILINE)
        server.ask("postgres", "CREATE DATABASE ms_assets")
        server.ask("postgres", statement)

    def of_this_host(self, text):
        to_server = self.server.address("").partition("://")[2]
        text = re.sub(r"ms_assets:\$\{[^}]+\}@postgres:5432/", lambda _: to_server, text)
        text = (
            text.replace("host: code", "host: 127.0.0.1")
            .replace("0.0.0.0", "127.0.0.1")
            .replace("/data", str(self.home))
        )
        for port, taken in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(taken), text)
        text = text.replace(f"http://mlflow:{self.ports[5000]}", f"http://localhost:{self.ports[5000]}")
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("yandex/yambda", str(self.folder / "world"))

    def environment(self, name):
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER", "MLFLOW", "MS_"))
        }
        ours = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "DAGSTER_HOME": str(self.folder),
        }
        # Compose gives an empty string where YAML has nothing.
        given = {variable: value or "" for variable, value in self.services[name]["environment"].items()}
        return inherited | ours | given

    def start(self, name, stack):
        """Start a service, and wait until its health check passes."""
        service, log = self.services[name], self.folder / f"{name}.log"
        process = subprocess.Popen(
            service["command"], cwd=self.folder, env=self.environment(name), stdout=log.open("w"),
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        check = service["healthcheck"]["test"][1:]
        asked = {"cwd": self.folder, "env": self.environment(name), "capture_output": True, "check": False}
        eventually(lambda: subprocess.run(check, **asked).returncode == 0, log, process)

    def ask(self, query, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        page = f"http://127.0.0.1:{self.ports[3000]}/graphql"
        request = urllib.request.Request(page, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)["data"]


LAUNCH = """mutation($run: ExecutionParams!) { launchRun(executionParams: $run) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    with postgres.running() as server, ExitStack() as stack:
        deployment = Deployment(server, tmp_path_factory.mktemp("deployment"))
        WORLD.write(deployment.folder / "world")
        for name in OURS:
            deployment.start(name, stack)
        yield deployment


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("dagster_postgres"), reason="needs the extra: pip install '.[postgres]'"
)
def test_all_services_become_healthy_and_a_run_from_the_ui_ends_with_its_artefacts_in_the_volume(deployment):
    job = {"repositoryLocationName": "ms_assets", "repositoryName": "__repository__", "pipelineName": "__ASSET_JOB"}
    tables = ("multi_event", "embeddings", "artist_item_mapping", "album_item_mapping")
    keys = [*(["raw", table] for table in tables), ["splits", "candidate_songs"], ["splits", "users"]]
    run = {
        "selector": {**job, "assetSelection": [{"path": key} for key in keys]},
        "runConfigData": {"ops": {"splits__users": {"config": {"min_events": 1}}}},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "50m"}]},
        "mode": "default",
    }
    launched = deployment.ask(LAUNCH, run=run)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id, deadline = launched["run"]["runId"], time.monotonic() + PATIENCE
    while (status := deployment.ask(STATUS, run=run_id)["runOrError"]["status"]) not in ("SUCCESS", "FAILURE"):
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status == "SUCCESS", (deployment.folder / "code.log").read_text()
    assert {f"{'/'.join(key)}/50m.parquet" for key in keys} <= set(artefacts(deployment.home))
    assert deployment.server.ask("ms_assets", "SELECT run_id FROM runs") == [run_id]
    assert list(deployment.home.rglob("*.db")) == []
