"""What a page shows, and where: on a phone, in a low window, in high contrast, and beside a mistake."""

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import walk
from tests.live_server import LiveServer

pytestmark = pytest.mark.browser
LIVE_SERVER = {"worker": False, "WEB_CONCURRENCY": "1"}
STAFF = "look@example.com"
WIDE, PHONE, LOW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}, {"width": 1280, "height": 400}


@pytest.fixture(scope="module")
def staff(live_server: LiveServer) -> str:
    """Open the account of an administrator and return its address."""
    walk.make_administrator(live_server, STAFF)
    return STAFF


def style(page: Page, selector: str, name: str, pseudo: str | None = None) -> str:
    """Return a property as the browser computed it."""
    return page.locator(selector).first.evaluate(
        "(element, [name, pseudo]) => getComputedStyle(element, pseudo).getPropertyValue(name)", [name, pseudo]
    )


@pytest.mark.parametrize("size", [WIDE, PHONE, LOW], ids=["wide", "phone", "low"])
def test_what_a_summary_leads_to_stands_there_with_its_label(
    context: BrowserContext, live_server: LiveServer, size: dict[str, int]
) -> None:
    page = context.new_page()
    page.set_viewport_size(size)
    page.goto(f"{live_server.url}/register")
    page.get_by_role("button", name="Open my account").click()
    for field in ("full_name", "email", "password", "terms"):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator(f"[data-error-summary] a[href='#{field}']").evaluate("link => link.click()")
        page.wait_for_timeout(100)
        for seen in (f"label[for={field}]", f"#{field}"):
            box = page.locator(seen).bounding_box()
            assert box is not None
            assert box["y"] >= 0, f"{seen} is above the window"
            assert box["y"] + box["height"] <= size["height"], f"{seen} is below the window"


def test_what_is_to_come_looks_like_nothing_to_choose(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    step = "[data-step=secure] .steps__dot"
    assert style(page, step, "border-top-color") == "rgba(0, 0, 0, 0)"
    assert style(page, step, "width", "::before") == "10px"
    password, meter = page.get_by_label("Password", exact=True), page.locator(".strength__meter")
    expect(meter).to_be_hidden()
    password.fill("a")
    expect(meter).to_be_visible()
    password.fill("")
    expect(meter).to_be_hidden()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_ready_made_searches_are_folded_up_on_a_phone(
    chromium: Browser, live_server: LiveServer, staff: str, size: dict[str, int]
) -> None:
    with chromium.new_context(viewport=size) as context:
        page = context.new_page()
        walk.sign_in(page, live_server.url, staff, lambda _name: None)
        page.goto(f"{live_server.url}/audit")
        search, fold = page.get_by_role("link", name="Access denied"), page.get_by_text("Ready-made searches")
        if size is PHONE:
            expect(search).to_have_count(0)
            fold.click()
        else:
            expect(fold).to_be_hidden()
        expect(search).to_have_count(1)
        search.click()
        expect(page.get_by_label("Search the audit log")).to_have_value("event:access_denied")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_help_page_is_read_in_the_order_it_is_seen_in(
    context: BrowserContext, live_server: LiveServer, size: dict[str, int]
) -> None:
    page = context.new_page()
    page.set_viewport_size(size)
    page.goto(f"{live_server.url}/help/passwords")
    link = page.get_by_role("link", name="Changing your password")
    if size is PHONE:
        expect(link).to_have_count(0)
        page.get_by_text("On this page").locator("visible=true").click()
        title, entry = page.get_by_role("heading", level=1).bounding_box(), link.bounding_box()
        assert title is not None
        assert entry is not None
        assert title["y"] < entry["y"] < 844, "the title comes first, then the list"
    expect(link).to_have_count(1)
    assert page.evaluate("getComputedStyle(document.querySelector('.reading__contents')).order") == "0", (
        "the eye and a screen reader meet the same things in the same order"
    )
    link.click()
    expect(page).to_have_url(f"{live_server.url}/help/passwords#changing-your-password")


def test_high_contrast_keeps_what_colour_alone_tells(chromium: Browser, live_server: LiveServer, staff: str) -> None:
    with chromium.new_context(forced_colors="active") as context:
        page = context.new_page()
        page.goto(f"{live_server.url}/register")
        page.get_by_label("Password", exact=True).fill("a few words in a row")
        page.evaluate("document.querySelector('[data-step=secure]').dataset.state = 'now'")
        ground = style(page, "body", "background-color")
        assert style(page, "[data-step=secure] .steps__dot", "background-color", "::before") != ground
        assert style(page, ".strength__meter", "forced-color-adjust") == "none"
        walk.sign_in(page, live_server.url, staff, lambda _name: None)
        page.goto(f"{live_server.url}/audit/statistics")
        assert style(page, ".shelves a[aria-current]", "border-bottom-color") != ground
        assert style(page, ".shelves a:not([aria-current])", "border-bottom-color") == ground
        done, refused = (style(page, f".chart__swatch--{name}", "background-color") for name in ("done", "refused"))
        assert len({done, refused, ground}) == 3
