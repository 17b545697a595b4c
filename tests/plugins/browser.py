"""A headless Chromium for the tests of pages: the one of the machine, nothing is downloaded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """The path of a Chromium: that of $EQT_CHROMIUM, or one on the path."""
    named = os.environ.get("EQT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A running browser of Playwright; skips the test where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip(f"no Chromium on this machine ({', '.join(NAMES)}; or name one by $EQT_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # As root there is no sandbox; the pages are our own.
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags, timeout=120_000)
        try:
            yield browser
        finally:
            browser.close()
