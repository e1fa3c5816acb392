"""Reading somebody's conversation as staff, in Chromium: by keyboard, wide and narrow, by day and by night."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import walk
from tests.browser.chromium import complaints_of
from tests.browser.test_walk import check_access, check_large_text, check_width, nothing
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
WIDTHS = (320, 390, 1280)


def look_everywhere(page: Page) -> None:
    """Look at the page in every width and both themes, as it stands: another visit could be another reading."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 844})
            check_width(page)
            check_access(page)
            check_large_text(page)


def test_staff_give_a_reason_by_keyboard_and_the_owner_sees_it(chromium: Browser, live_server: LiveServer) -> None:
    home, office = chromium.new_context(), chromium.new_context(viewport={"width": 1280, "height": 900})
    try:
        owner = home.new_page()
        walk.register(owner, live_server.url, "thandi@example.com", "Thandi Nkosi", nothing)
        walk.converse(owner, live_server.url, nothing)
        walk.make_administrator(live_server, "ayanda@example.com")
        page = office.new_page()
        complaints = complaints_of(page)
        walk.sign_in(page, live_server.url, "ayanda@example.com", nothing)
        walk.read_as_staff(page, live_server.url, lambda _name: look_everywhere(page))
        expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        assert complaints == []
        owner.goto(f"{live_server.url}/account/activity")
        told = f"A member of staff read your conversation. Reason: {walk.REASON}"
        expect(owner.get_by_text(told)).to_have_count(1)
        expect(owner.get_by_text(re.compile("ayanda", re.IGNORECASE))).to_have_count(0)
        look_everywhere(owner)
    finally:
        home.close()
        office.close()
