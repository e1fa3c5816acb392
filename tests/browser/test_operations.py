"""The operations page in Chromium: well and in trouble, wide and narrow, by day and by night."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from capecontrol import create_app
from capecontrol.audit import alerts
from capecontrol.audit.alert_rules import BRUTE_FORCE, STAFF_READS, Sign
from capecontrol.clock import now
from capecontrol.extensions import db
from capecontrol.mail import letters, outgoing
from tests.browser import walk
from tests.browser.chromium import complaints_of
from tests.browser.test_walk import RULES, check_access, check_width, nothing
from tests.conftest import dispose, settings_for
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
PLACE = "/admin/operations"
AXE = Axe()
WIDTHS = (320, 390, 1280)


def trouble(server: LiveServer) -> None:
    """Open alerts of each length, and order a mail."""
    app = create_app(settings_for(server.database_url))
    with app.app_context():
        long_one = f"{'a' * 60}@{'long.' * 8}example.com"
        for rule, who in ((BRUTE_FORCE, "thandi@example.com"), (STAFF_READS, long_one)):
            alerts.open_alert([Sign(rule, who, who, now(), str(number)) for number in range(12)])
        alerts.report_degraded("Events cannot be written (55P03)")
        fields = {"name": "Thandi", "device": "Firefox on Linux", "ip_address": "192.0.2.7", "at": "today"}
        outgoing.order(letters.NEW_DEVICE, to="thandi@example.com", fields=fields, user_id=None)
        db.session.commit()
    dispose(app)


def check_bar(page: Page, text: str = "100%") -> None:
    """Fail when a place of the phones' bottom bar is cut off or runs into the next, with text of this size."""
    page.evaluate("size => document.documentElement.style.fontSize = size", text)
    boxes = page.locator(".rail__places li").evaluate_all(
        """items => items.map(item => {
            const words = [...item.querySelectorAll("span")].find(span => span.offsetWidth > 0);
            const [place, name] = [item.getBoundingClientRect(), words.getBoundingClientRect()];
            return [place.left, place.right, name.left, name.right];
        })"""
    )
    assert len(boxes) == 6
    wide = page.evaluate("document.documentElement.clientWidth")
    for left, right, words_left, words_right in boxes:
        assert left >= -0.5
        assert right <= wide + 0.5, (boxes, wide)
        assert words_left >= left - 0.5
        assert words_right <= right + 0.5, "a name of the bar runs into the next"
    page.evaluate("document.documentElement.style.fontSize = ''")


def test_the_page_fits_and_can_be_read_well_and_in_trouble(chromium: Browser, live_server: LiveServer) -> None:
    walk.make_administrator(live_server, "ayanda@example.com")
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        complaints = complaints_of(page)
        walk.sign_in(page, live_server.url, "ayanda@example.com", nothing)
        page.get_by_role("link", name="Operations").click()
        expect(page.get_by_role("heading", name="Operations", exact=True)).to_be_visible()
        expect(page.get_by_text("No alert is open.")).to_be_visible()
        check_access(page)
        trouble(live_server)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 844})
                for path in (PLACE, f"{PLACE}/outbox"):
                    page.goto(f"{live_server.url}{path}")
                    check_width(page)
                    if width < 500:
                        check_bar(page)
                        check_bar(page, text="200%")
                    assert AXE.run(page, options=RULES).response["violations"] == []
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"{live_server.url}{PLACE}")
        cards = page.locator(".card:has(> h3)").evaluate_all("cards => cards.map(card => card.offsetWidth)")
        assert min(cards) > 300, "a card of figures has no room for its words"
        first = page.get_by_role("button", name="Acknowledge").first
        first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("Acknowledged.")).to_be_visible()
        expect(page.get_by_text("Seen by Administrator").first).to_be_visible()
        assert complaints == []
    finally:
        context.close()
