"""Private accounts in Chromium: from the form to the mail, by its link to the button, and in; also without scripts."""

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser import walk
from tests.browser.chromium import complaints_of
from tests.browser.test_waiting import TINY_GATE, TURN_COMES_WITHIN, execute, get_in_line, hurry, people_waiting
from tests.browser.test_walk import check_access, check_width, nothing
from tests.live_server import LiveServer
from tests.people import PASSWORD
from tests.postgres import Databases

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
OFFICE = "ayanda@example.com"
LINK = re.compile(r"http://127\.0\.0\.1:\d+/verify-email\?token=[\w-]+")


@pytest.fixture(scope="module")
def private_server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Yield web and worker where accounts are private, with an administrator who can read the outbox."""
    with databases.clone() as url:
        server = LiveServer(url, tmp_path_factory.mktemp("private"), ACCOUNT_PRIVACY="private")
        try:
            server.start()
            walk.make_administrator(server, OFFICE)
            yield server
        finally:
            server.stop()


def read_mail(chromium: Browser, server: LiveServer, to: str) -> str:
    """Return the newest mail to somebody, as an administrator reads it in the outbox."""
    context = chromium.new_context()
    try:
        page = context.new_page()
        walk.sign_in(page, server.url, OFFICE, nothing)
        rows = page.locator("li.row", has_text=to)
        ends_at = time.monotonic() + 30
        page.goto(f"{server.url}/admin/operations/outbox")
        while rows.count() == 0:
            assert time.monotonic() < ends_at, f"no mail to {to} came into the outbox"
            page.wait_for_timeout(300)
            page.reload()
        rows.first.get_by_role("link").click()
        return page.locator("main").inner_text()
    finally:
        context.close()


@pytest.mark.parametrize("has_scripts", [True, False], ids=["scripts", "no-scripts"])
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_from_the_form_by_the_mail_to_the_conversations(
    chromium: Browser, private_server: LiveServer, width: int, theme: str, has_scripts: bool
) -> None:
    url, email = private_server.url, f"thandi{width}{has_scripts}@example.com".lower()
    context = chromium.new_context(
        java_script_enabled=has_scripts, viewport={"width": width, "height": 844}, color_scheme=theme
    )

    def check(page: Page) -> None:
        check_width(page)
        if has_scripts:  # the rules themselves are a script
            check_access(page)

    try:
        page = context.new_page()
        complaints = complaints_of(page)
        page.goto(f"{url}/register")
        expect(page.get_by_text("We mail you a link")).to_be_visible()
        walk.fill_in(page, email, "Thandi Nkosi")
        check(page)
        page.get_by_role("button", name="Open my account").click()
        expect(page).to_have_url(f"{url}/register/check-mail")
        expect(page.get_by_role("heading", name="Check your mail")).to_be_visible()
        check(page)
        found = LINK.search(read_mail(chromium, private_server, email))
        assert found
        page.goto(found[0])
        expect(page.get_by_role("heading", name="Is this your mailbox?")).to_be_visible()
        check(page)
        page.get_by_role("button", name="Yes, confirm my address").click()
        expect(page).to_have_url(f"{url}/login")
        expect(page.get_by_text(f"{email} is confirmed")).to_be_visible()
        check(page)
        page.get_by_label("E-mail address").fill(email)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{url}/conversations")
        page.goto(f"{url}/account")
        expect(page.get_by_text("confirmed", exact=True)).to_be_visible()
        check(page)
        page.goto(found[0])
        expect(page.get_by_role("heading", name="This link is not valid")).to_be_visible()
        check(page)
        assert complaints == []
    finally:
        context.close()


def test_a_known_address_reads_the_same_page_and_its_owner_the_mail(
    chromium: Browser, private_server: LiveServer
) -> None:
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(f"{private_server.url}/register")
        walk.fill_in(page, OFFICE, "Somebody Else")
        expect(page.get_by_text("This address will do.")).to_be_visible()
        page.get_by_role("button", name="Open my account").click()
        expect(page).to_have_url(f"{private_server.url}/register/check-mail")
        told = read_mail(chromium, private_server, OFFICE)
        assert "You have one already" in told
        assert f"{private_server.url}/login" in told
    finally:
        context.close()


def test_an_unconfirmed_account_is_refused_in_the_words_everybody_reads(
    chromium: Browser, private_server: LiveServer
) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    try:
        page = context.new_page()
        page.goto(f"{private_server.url}/register")
        walk.fill_in(page, "sipho@example.com", "Sipho Zulu")
        page.get_by_role("button", name="Open my account").click()
        expect(page).to_have_url(f"{private_server.url}/register/check-mail")
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("E-mail address").fill("sipho@example.com")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert").first).to_contain_text("An account opens once its address is confirmed")
        check_access(page)
        check_width(page)
    finally:
        context.close()


def test_the_queue_ends_at_the_mail_in_every_tab(
    context: BrowserContext, start_server: Callable[..., LiveServer]
) -> None:
    server = start_server(worker=False, ACCOUNT_PRIVACY="private", **TINY_GATE)
    first, second = context.new_page(), context.new_page()
    with people_waiting(server):
        get_in_line(first, server, "thandi@example.com")
        expect(first.get_by_role("listitem").filter(has_text="Writing to your mailbox, to come")).to_be_visible()
        second.goto(f"{server.url}/register/waiting")
        hurry(server)
    expect(first).to_have_url(f"{server.url}/register/check-mail", timeout=TURN_COMES_WITHIN)
    expect(first.get_by_role("heading", name="Check your mail")).to_be_visible()
    expect(second).to_have_url(f"{server.url}/register/check-mail", timeout=40_000)
    assert execute(server, "SELECT count(*) FROM users_v2 WHERE email = 'thandi@example.com'") == 1
    assert execute(server, "SELECT count(*) FROM outgoing_mails WHERE letter = 'verify_email'") == 1
