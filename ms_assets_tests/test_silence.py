"""Nothing that the README has people type sends or announces usage statistics, though nobody has switched them off."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import venv

import matplotlib as mpl
import pytest

from ms_assets_tests.servers import eventually, serving
from ms_assets_tests.workplace import FEW, PROGRAMS, ROOT, Workplace

OBSERVER = """
import os, sys

HERE = ("127.0.0.1", "localhost", "::1", "", None)

def observe(event, arguments):
    address = arguments[1] if event == "socket.connect" else arguments
    if event in ("socket.connect", "socket.getaddrinfo") and isinstance(address, tuple) and address[0] not in HERE:
        with open(os.environ["OBSERVED"], "a") as log:
            log.write(f"{address[0]} is asked for by {sys.argv}\\n")

sys.addaudithook(observe)
"""
"""Writes down whom any Python process asks for or talks to beyond this machine."""
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { healthy } } } }"
BRIEFLY = {**FEW, "training__lightgcn": {"epochs": 1, "neutral_negatives": 8, "embedding_dim": 16}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The programs of an environment finished by `make`, a user without settings, and an observer."""
    folder = tmp_path_factory.mktemp("silence")
    place = Workplace(folder, programs=folder / ".venv/bin")
    for name in ("Makefile", "constraints.txt", "quiet.pth"):
        shutil.copy(ROOT / name, folder)
    venv.create(folder / ".venv")
    [packages] = folder.glob(".venv/lib/*/site-packages")
    (packages / "packages.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    for name in ("dg", "dagster"):
        script = (PROGRAMS / name).read_text().split("\n", 1)[1]
        (place.programs / name).write_text(f"#!{place.programs}/python\n{script}")
        (place.programs / name).chmod(0o755)
    (folder / ".venv/.installed").touch()
    subprocess.run(["make", ".venv/.quiet"], cwd=folder, check=True)
    (folder / "sitecustomize.py").write_text(OBSERVER)
    (folder / "user").mkdir()
    # Under a name of pytest's or of continuous integration MLflow is silent of itself.
    place.environment = {
        "PATH": f"{place.programs}:{os.environ['PATH']}", "HOME": str(folder / "user"), "PYTHONPATH": str(folder),
        "MS_ASSETS_HOME": str(place.home), "MPLCONFIGDIR": mpl.get_cachedir(), "OMP_NUM_THREADS": "1",
        "OBSERVED": str(folder / "observed"),
    }  # fmt: skip
    return place


def observed(place):
    file = place.folder / "observed"
    return file.read_text() if file.exists() else ""


def left(place):
    """What lies in the user's home."""
    return {str(path.relative_to(place.folder / "user")) for path in (place.folder / "user").rglob("*")}


def test_the_observer_sees_who_is_asked_for(place):
    place.run("python", "-c", "import socket; socket.getaddrinfo('nobody.invalid', 80)")
    assert observed(place).startswith("nobody.invalid ")
    (place.folder / "observed").unlink()


def test_no_command_sends_or_announces_anything_or_leaves_it_to_be_sent(place):
    target = ("-m", "ms_assets.definitions", "--select", "raw/artist_item_mapping", "--partition", "sample")
    for run in (
        place.run("dg", "check", "defs"),
        place.launch("--assets", '+key:"training/lightgcn"', config=BRIEFLY),
        place.run("dagster", "asset", "materialize", *target),
        place.run("python", "-m", "ms_assets", "champion", "sample"),
    ):
        assert run.returncode == 0, run.stdout
        assert "telemetry" not in run.stdout.lower()
        assert "usage statistics" not in run.stdout.lower()
        assert "BetaWarning" not in run.stdout
    assert (observed(place), left(place)) == ("", set())


def test_the_ui_and_its_daemon_do_not_send_what_others_have_left(place):
    waiting = place.folder / "user/.dagster/logs/event.log"
    waiting.parent.mkdir(parents=True)
    waiting.write_text("{}")
    log = place.folder / "ui.log"

    def daemons_live():
        query = json.dumps({"query": DAEMONS}).encode()
        request = urllib.request.Request(f"{server.address}/graphql", query, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            statuses = json.load(answer)["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        return any(status["healthy"] for status in statuses)

    command = (str(place.programs / "dg"), "dev")
    with serving(*command, folder=place.folder, environment=place.environment, log=log) as server:
        eventually(daemons_live, log)
    assert "telemetry" not in log.read_text().lower()
    assert observed(place) == ""
    assert left(place) == {".dagster", ".dagster/logs", ".dagster/logs/event.log"}
    assert waiting.read_text() == "{}"
