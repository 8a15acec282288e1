"""The real user interfaces: their servers on free ports of loopback, and headless Chromium that looks at them."""

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from ms_assets_tests.workplace import free_port

PATIENCE = 300
"""Seconds that a server may take to start, a page to show something, or a run to finish, on a busy machine."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The machine's own browser: none is downloaded."""


@contextmanager
def serving(*command: str, folder: Path, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Run a server, which is told its host and port, until the block ends; gives its address.

    Raises:
        TimeoutError: with what the server printed, if it does not answer.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        eventually(lambda: urllib.request.urlopen(address, timeout=5).status == 200, log)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def eventually(condition: Callable[[], bool], log: Path) -> None:
    """Wait until the condition holds; a refused connection counts as not yet."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


@contextmanager
def looking(width: int = 1400, height: int = 900, sharpness: float = 1) -> Iterator[Page]:
    """A page of headless Chromium, so many pixels large before it is magnified by `sharpness`."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM) as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=sharpness)
        page.set_default_timeout(1e3 * PATIENCE)
        yield page


def select_assets(page: Page, address: str, selection: str) -> None:
    """Open the lineage of Dagster's UI and type a selection of assets into its field."""
    page.goto(f"{address}/asset-groups")
    page.locator(".CodeMirror").click()
    page.keyboard.type(selection)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
