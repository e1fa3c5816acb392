"""Fixtures of the browser tests: one Chromium a process, one context a test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser.chromium import find_chromium, is_required, open_chromium

PATIENCE_MS = 20_000  # with a page that a busy machine shows late; what is wrong fails all the same


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Yield the browser; skip where there is none, unless it is required."""
    if find_chromium() is None and not is_required():
        pytest.skip("Chromium is not installed")
    expect.set_options(timeout=PATIENCE_MS)
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """Yield a fresh browser window's storage: no cookies, nothing kept."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()
