"""The audit log in Chromium: every page fits and can be used by everybody, and the newest page follows the log."""

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from capecontrol import clock
from capecontrol.web import template_filters
from tests.browser import walk
from tests.browser.chromium import complaints_of
from tests.browser.test_walk import check_access, check_large_text, check_width, nothing
from tests.live_server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
ADDRESSES = (
    "/audit",
    "/audit?q=event:user_login_failed outcome:refused after:7d",
    "/audit?q=actor:nobody@example.com",
    "/audit?q=colour:red outcome:perhaps actor:thandi@example.com",
    "/audit?event=no_such_event",
    "/audit/security?hours=168",
    "/audit/failed-sign-ins",
    "/audit/statistics",
    "/audit/statistics?days=1",
    "/audit/statistics?days=90",
    "/audit/people/office@example.com",
    "/audit/export",
)


@pytest.fixture(scope="module")
def office(live_server: LiveServer) -> str:
    """Make an administrator and return the address they sign in with."""
    walk.make_administrator(live_server, "office@example.com")
    return "office@example.com"


def open_office(page: Page, server: LiveServer, email: str) -> None:
    walk.sign_in(page, server.url, email, nothing)  # fails once on the way, so there is something to show


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark"), (320, "light")])
def test_every_audit_page_fits_and_is_accessible(
    chromium: Browser, live_server: LiveServer, office: str, width: int, theme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    try:
        page = context.new_page()
        complaints = complaints_of(page)
        open_office(page, live_server, office)
        for path in ADDRESSES:
            page.goto(f"{live_server.url}{path}")
            for fold in page.locator("main summary").all():
                if fold.is_visible() and not fold.evaluate("summary => summary.parentElement.open"):
                    fold.click()
            check_width(page)
            check_access(page)
            check_large_text(page)
        page.goto(f"{live_server.url}/audit")
        page.locator("a.events__link").first.click()
        expect(page).to_have_url(re.compile(r"/audit/[0-9a-f-]{36}$"))
        check_width(page)
        check_access(page)
        check_large_text(page)
        assert complaints == []
    finally:
        context.close()


def test_new_events_appear_by_themselves_and_the_page_can_be_held_still(
    chromium: Browser, context: BrowserContext, live_server: LiveServer, office: str
) -> None:
    page = context.new_page()
    open_office(page, live_server, office)
    page.goto(f"{live_server.url}/audit?q=event:user_logout")
    page.goto(f"{live_server.url}/audit?q=event:user_login_failed")
    rows = page.locator("tr[data-event]")
    before = rows.count()

    def fail_to_sign_in(email: str) -> None:
        other = chromium.new_context()
        try:
            visitor = other.new_page()
            visitor.goto(f"{live_server.url}/login")
            visitor.get_by_label("E-mail address").fill(email)
            visitor.get_by_label("Password", exact=True).fill("not the password")
            visitor.get_by_role("button", name="Sign in").click()
            expect(visitor.get_by_role("alert")).to_be_visible()
        finally:
            other.close()

    fail_to_sign_in("first@example.com")
    expect(rows).to_have_count(before + 1)
    expect(rows.first).to_contain_text("first@example.com")
    status = page.locator("[data-live] [role=status]")
    expect(status).to_contain_text("1 new event since you came")
    page.get_by_role("button", name="Pause").click()
    expect(status).to_contain_text("Paused")
    fail_to_sign_in("second@example.com")
    page.wait_for_timeout(6_000)
    expect(rows).to_have_count(before + 1)
    page.get_by_role("button", name="Go on").click()
    expect(rows.first).to_contain_text("second@example.com")
    expect(rows).to_have_count(before + 2)


def test_how_long_ago_something_was_goes_on_while_the_page_is_open(
    context: BrowserContext, live_server: LiveServer, office: str
) -> None:
    page = context.new_page()
    open_office(page, live_server, office)
    page.clock.install()
    page.goto(f"{live_server.url}/audit?q=event:user_login+actor:{office}")
    newest = page.locator("tr[data-event] time").first
    expect(newest).to_have_text(re.compile(r"just now|seconds ago"))
    page.clock.fast_forward(62_000)
    expect(newest).to_have_text("1 minute ago")
    page.clock.fast_forward(2 * 3_600_000)
    expect(newest).to_have_text("2 hours ago")


def test_page_and_server_say_in_the_same_words_how_long_ago_something_was(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/help")
    sizes = [1, 9, 10, 59, 60, 119, 120, 3_599, 3_600, 7_200, 86_400, 604_800, 2_630_880, 31_570_560, 10**9, 6 * 10**10]
    ages = [size + further for size in sizes for further in (-0.5, 0.5)]
    said = page.evaluate(
        "ages => import('/static/js/relative_times.js').then(({ ago }) => ages.map((age) => ago(age)))", ages
    )
    assert said == [template_filters._ago(clock.now() - timedelta(seconds=age)) for age in ages]


def test_searching_works_without_javascript(chromium: Browser, live_server: LiveServer, office: str) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    try:
        page = context.new_page()
        open_office(page, live_server, office)
        page.goto(f"{live_server.url}/audit")
        page.get_by_label("Search the audit log").fill("event:user_login actor:office@example.com")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_text("by or about office@example.com", exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="Refresh")).to_be_visible()
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        page.locator("summary", has_text="Filters").click()
        page.get_by_label("Outcome").select_option("Refused")
        page.get_by_role("button", name="Filter", exact=True).click()
        expect(page.get_by_label("Search the audit log")).to_have_value(
            "actor:office@example.com event:user_login outcome:refused"
        )
    finally:
        context.close()
