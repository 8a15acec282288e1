"""The UI sends and announces no usage statistics, though nobody switched them off; test_commands.py asks commands."""

import json
import urllib.request

import pytest

from ms_assets_tests.observed import asked_for, left, observed_workplace
from ms_assets_tests.servers import eventually, serving

DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { healthy } } } }"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return observed_workplace(tmp_path_factory.mktemp("silence"))


def test_the_observer_sees_who_is_asked_for(place):
    place.run("python", "-c", "import socket; socket.getaddrinfo('nobody.invalid', 80)")
    assert asked_for(place).startswith("nobody.invalid ")
    (place.folder / "observed").unlink()


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
    assert asked_for(place) == ""
    assert left(place) == {".dagster", ".dagster/logs", ".dagster/logs/event.log"}
    assert waiting.read_text() == "{}"
