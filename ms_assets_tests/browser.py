"""Headless Chromium, which looks at the real user interfaces."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from ms_assets_tests.servers import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The machine's own browser: none is downloaded."""


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
