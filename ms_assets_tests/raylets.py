"""A Ray cluster of two raylets on this host, one CPU each; the second may be lost like a machine."""

import contextlib
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ms_assets_tests.servers import eventually
from ms_assets_tests.workplace import free_port

PATIENT = {
    "RAY_raylet_start_wait_time_s": "600", "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_initial_delay_ms": "60000", "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_JOB_START_TIMEOUT_SECONDS": "3600", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_agent_register_timeout_ms": "600000",
}  # fmt: skip
"""Settings of Ray for a host that has little time for it."""
START = ("-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--object-store-memory=80000000", "--block",
         "--disable-usage-stats")  # fmt: skip

NODES = ("first", "second")
"""Machines by name; each keeps its copies of a home in a bucket in a folder of its own."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its dashboard's address, and the process that holds the second raylet."""

    address: str
    second: psutil.Process

    def steps_on_the_second(self) -> list[psutil.Process]:
        """Processes of steps that the second raylet has."""
        return [process for process in family(self.second) if "execute_step" in " ".join(commands(process))]

    def lose_the_second(self) -> None:
        """Kill everything of the second raylet."""
        for process in family(self.second):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    return [process, *process.children(recursive=True)]


def commands(process: psutil.Process) -> list[str]:
    """Command line of a process; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@contextlib.contextmanager
def running(environment: Mapping[str, str], folder: Path) -> Iterator[Cluster]:
    """Run the cluster until the block ends; its machines have the environment, and caches below the folder."""
    port, page = free_port(), free_port()
    address = f"http://127.0.0.1:{page}"
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True))
        first = ("--head", f"--port={port}", f"--dashboard-port={page}", f"--temp-dir={temporary}")
        nodes = []
        for name, arguments in zip(NODES, (first, (f"--address=127.0.0.1:{port}",)), strict=True):
            log, cache = folder / f"{name}.log", {"MS_ASSETS_CACHE": str(folder / name)}
            node = subprocess.Popen(
                [sys.executable, *START, *arguments], env={**environment, **PATIENT, **cache}, cwd=folder,
                stdout=stack.enter_context(log.open("w")), stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            stack.callback(end, psutil.Process(node.pid))
            nodes.append(node)
            eventually(lambda: "Ray runtime started" in log.read_text(), log, node)  # noqa: B023
        eventually(lambda: urllib.request.urlopen(f"{address}/api/version", timeout=5).status == 200, log, node)
        yield Cluster(address, psutil.Process(nodes[1].pid))


def end(process: psutil.Process) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
