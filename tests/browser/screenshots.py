"""Walk through the product in Chromium and save pictures: `make screenshots`, into docs/screenshots/."""

import tempfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser import walk
from tests.browser.chromium import open_chromium
from tests.live_server import REPOSITORY, LiveServer
from tests.postgres import Databases, RunServer

FOLDER = REPOSITORY / "docs" / "screenshots"
SIZES = {1280: 900, 390: 844}
THEMES = ("light", "dark")


def main() -> None:
    """Take every picture in both sizes and both themes, each walk on an empty database."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with closing(RunServer()) as postgres, open_chromium() as browser, tempfile.TemporaryDirectory() as logs:
        databases = Databases(postgres)
        for width in SIZES:
            for theme in THEMES:
                with databases.clone() as url:
                    server = LiveServer(url, Path(logs))
                    try:
                        server.start()
                        take_pictures(browser, server, width, theme)
                    finally:
                        server.stop()


def take_pictures(browser: Browser, server: LiveServer, width: int, theme: str) -> None:
    """Walk once, photographing on the way."""
    context = browser.new_context(viewport={"width": width, "height": SIZES[width]}, color_scheme=theme)
    page = context.new_page()

    def shoot(name: str) -> None:
        page.wait_for_timeout(300)  # let transitions end
        page.screenshot(path=FOLDER / f"{name}-{width}-{theme}.png")
        print(f"{name}-{width}-{theme}.png")  # noqa: T201

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
    context.close()


if __name__ == "__main__":
    main()
