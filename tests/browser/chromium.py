"""The machine's own Chromium, driven by Playwright, with nothing reaching beyond loopback."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

# The shell first: the same engine without a browser around it, and a window costs half as much.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Each window would prepare the address bar's own pages, in a process of their own: half of what a test's window costs,
# for a bar nobody sees. What follows is Playwright's list, which ours replaces.
SWITCHED_OFF = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)
ARGUMENTS = [
    "--no-sandbox",  # root, in a container, has no sandbox to use
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    f"--disable-features={','.join(SWITCHED_OFF)}",
]


def find_chromium() -> str | None:
    """Return where Chromium is, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def is_required() -> bool:
    """Say whether a missing Chromium is a failure: in continuous integration it is."""
    return os.environ.get("CI") == "true"


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Yield a headless browser, closed at the end."""
    path = find_chromium()
    if path is None:
        raise RuntimeError("Chromium is not installed; on Debian: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def complaints_of(page: Page) -> list[str]:
    """Return a list that fills with everything the page complains of: errors, and breaches of the policy."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda line: found.append(line.text) if _is_complaint(line.type, line.text) else None)
    return found


def _is_complaint(kind: str, text: str) -> bool:
    # A refused answer (422, 503) is also written to the console, and is not the page's fault.
    return kind == "error" and "Failed to load resource" not in text
