"""Walk through the product in Chromium and save pictures: `make screenshots`, into docs/screenshots/."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.browser import walk
from tests.browser.chromium import open_chromium
from tests.live_server import REPOSITORY, LiveServer
from tests.postgres import Databases, RunServer

FOLDER = REPOSITORY / "docs" / "screenshots"
SIZES = {1280: 900, 390: 844}
THEMES = ("light", "dark")
PAGES = {
    "audit-statistics": "/audit/statistics?days=30",
    "audit-security": "/audit/security",
    "audit-failed-sign-ins": "/audit/failed-sign-ins",
    "audit-timeline": "/audit/people/fatima.adams@example.com",
    "audit-export": "/audit/export",
    "operations": "/admin/operations",
}
"""What the pictures of the administrators' pages are called."""


def main() -> None:
    """Take every picture in both sizes and both themes, each walk on an empty database."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with closing(RunServer()) as postgres, open_chromium() as browser, tempfile.TemporaryDirectory() as logs:
        databases = Databases(postgres)
        for width in SIZES:
            for theme in THEMES:
                for walked in (take_pictures, take_administrators_pictures):
                    with databases.clone() as url:
                        server = LiveServer(url, Path(logs))
                        try:
                            server.start()
                            take(walked, browser, server, width, theme)
                        finally:
                            server.stop()


def take(walked: Callable[..., None], browser: Browser, server: LiveServer, width: int, theme: str) -> None:
    """Open a window of this size and theme for a walk that is photographed."""
    context = browser.new_context(viewport={"width": width, "height": SIZES[width]}, color_scheme=theme)
    page = context.new_page()

    def shoot(name: str) -> None:
        page.wait_for_timeout(300)  # let transitions end
        page.screenshot(path=FOLDER / f"{name}-{width}-{theme}.png")
        print(f"{name}-{width}-{theme}.png")  # noqa: T201

    walked(page, server, shoot)
    context.close()


def take_pictures(page: Page, server: LiveServer, shoot: walk.Shoot) -> None:
    """Walk once as a newcomer and as an administrator."""
    walk.register(page, server.url, "thandi@example.com", "Thandi Nkosi", shoot)
    walk.sign_out(page)
    walk.sign_in(page, server.url, "thandi@example.com", shoot)
    walk.converse(page, server.url, shoot)
    walk.find_oneself(page, server.url, shoot)
    for name, path in (("help", "/help"), ("help-page", "/help/passwords"), ("help-api", "/help/api")):
        page.goto(f"{server.url}{path}")
        shoot(name)
    page.goto(f"{server.url}/nothing")
    shoot("not-found")
    walk.sign_out(page)
    walk.make_administrator(server, "ayanda@example.com")
    walk.sign_in(page, server.url, "ayanda@example.com", lambda _name: None)
    walk.find_everything(page, server.url, "thandi@example.com", shoot)


def take_administrators_pictures(page: Page, server: LiveServer, shoot: walk.Shoot) -> None:
    """Look at what only administrators see, with the demonstration's people and history."""
    demo = [sys.executable, "-m", "flask", "--app", "wsgi", "demo"]
    subprocess.run(demo, cwd=REPOSITORY, env=server.environment, capture_output=True, check=True)
    walk.make_administrator(server, "staff@example.com")
    walk.sign_in(page, server.url, "staff@example.com", lambda _name: None)
    page.goto(f"{server.url}/audit?q=outcome%3Arefused")
    shoot("audit-search")
    page.locator("a.events__link").first.click()
    shoot("audit-event")
    walk.read_as_staff(page, server.url, shoot)
    for name, path in PAGES.items():
        page.goto(f"{server.url}{path}")
        shoot(name)


if __name__ == "__main__":
    main()
