"""A newcomer's whole walk in Chromium, with and without JavaScript, on a phone, by keyboard, for a screen reader."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.browser import walk
from tests.browser.chromium import complaints_of
from tests.live_server import LiveServer
from tests.people import PASSWORD

pytestmark = pytest.mark.browser
AXE = Axe()
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
    "resultTypes": ["violations"],  # what is well is a megabyte a page, and nobody reads it
}


def nothing(_name: str) -> None:
    """Take no picture."""


def check_access(page: Page) -> None:
    """Fail for anything the accessibility rules find on the page."""
    found = AXE.run(page, options=RULES).response["violations"]
    told = [f"{rule['id']}: {[node['target'] for node in rule['nodes']]}" for rule in found]
    assert told == [], page.url


def check_width(page: Page) -> None:
    """Fail when the page has to be scrolled sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px too wide"


def check_large_text(page: Page) -> None:
    """Fail when text of twice the size needs scrolling sideways, or has its names cut off."""
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    check_width(page)
    names = page.locator(".rail__places li, .brand__name").evaluate_all(
        "names => names.map(name => [name.scrollWidth - name.clientWidth, name.getBoundingClientRect().right])"
    )
    wide = page.evaluate("document.documentElement.clientWidth")
    assert all(cut <= 0 and right <= wide + 0.5 for cut, right in names), (page.url, names)
    page.evaluate("document.documentElement.style.fontSize = ''")


def check_focus_in_sight(page: Page) -> None:
    """Fail when something that has the focus is behind the bar of a phone."""
    for _ in range(25):
        page.keyboard.press("Tab")
        below = page.evaluate(
            """() => {
                const bar = document.querySelector(".rail__places");
                const focused = document.activeElement.closest("main *");
                return focused ? focused.getBoundingClientRect().bottom - bar.getBoundingClientRect().top : 0;
            }"""
        )
        assert below <= 0, f"{page.evaluate('document.activeElement.textContent')} is {below} px behind the bar"


def check_words_in_a_low_window(page: Page) -> None:
    """Fail unless a long message can be read at 1280 by 1024 and 400 %, which is 320 by 256."""
    size = page.viewport_size
    page.set_viewport_size({"width": 320, "height": 256})
    shares = page.evaluate(
        """() => {
            const message = document.querySelector("article .message__body").getBoundingClientRect();
            window.scrollTo(0, message.top + window.scrollY);
            const rows = [...Array(20).keys()].map(row => row * innerHeight / 20 + 5);
            const words = rows.filter(row => document.elementFromPoint(250, row)?.closest("article"));
            return [message.height / innerHeight, words.length / rows.length];
        }"""
    )
    assert min(shares) >= 0.9, "what stands still covers the words"
    page.set_viewport_size(size)


def refuse_a_title(page: Page) -> None:
    """Give a conversation no title, and expect to be at the field that was refused."""
    page.locator("summary").filter(has_text="Rename").click()
    page.get_by_label("Title").fill("")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_label("Title")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Title")).to_be_focused()


def new_person(context: BrowserContext, server: LiveServer, email: str, name: str = "Sipho Zulu") -> Page:
    """Return a page of somebody who has just registered."""
    page = context.new_page()
    page.goto(f"{server.url}/register")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)
    page.get_by_role("button", name="Open my account").click()
    expect(page).to_have_url(f"{server.url}/conversations")
    return page


def start_conversation(page: Page, text: str) -> None:
    """Start a conversation from the list and arrive in it, each with its scripts: they are what keeps a draft."""
    page.wait_for_load_state()
    page.get_by_label("What would you like to know?").fill(text)
    page.get_by_role("button", name=re.compile("^Start")).click()
    expect(page).to_have_url(re.compile(r"/conversations/[0-9a-f-]{36}"))
    page.wait_for_load_state()


def test_a_newcomer_does_everything_and_the_administrator_sees_it(
    chromium: Browser, context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    complaints = complaints_of(page)
    email = "thandi@example.com"

    def check(_name: str) -> None:
        check_access(page)
        check_width(page)

    walk.register(page, live_server.url, email, "Thandi Nkosi", check)
    walk.sign_out(page)
    walk.sign_in(page, live_server.url, email, check)
    walk.converse(page, live_server.url, check)
    walk.find_oneself(page, live_server.url, check)
    assert complaints == []

    walk.make_administrator(live_server, "ayanda@example.com")
    office = chromium.new_context()
    try:
        page = office.new_page()
        walk.sign_in(page, live_server.url, "ayanda@example.com", nothing)
        walk.find_everything(page, live_server.url, email, check)
    finally:
        office.close()


def test_the_whole_walk_without_javascript(chromium: Browser, live_server: LiveServer) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    try:
        page = new_person(context, live_server, "quiet@example.com")
        page.get_by_label("What would you like to know?").fill(walk.QUESTIONS[0])
        page.get_by_role("button", name=re.compile("^Start")).click()
        answer = page.locator('[data-role="assistant"]').first
        for _ in range(20):
            if "No AI model is connected" in answer.inner_text():
                break
            page.wait_for_timeout(500)
            page.reload()
        expect(answer).to_contain_text("No AI model is connected")
        check_width(page)
        refuse_a_title(page)
        page.goto(f"{live_server.url}/account/activity")
        expect(page.get_by_text("user_registration", exact=True).first).to_be_visible()
    finally:
        context.close()


@pytest.mark.parametrize("width", [320, 390])
def test_every_page_fits_a_phone(chromium: Browser, live_server: LiveServer, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme="dark")
    try:
        page = new_person(context, live_server, f"phone{width}@example.com", name="W" * 200)
        expect(page.get_by_text("Welcome, WWW")).to_be_visible()
        check_width(page)
        page.get_by_label("What would you like to know?").fill("word " * 40 + "x" * 300)
        page.get_by_role("button", name=re.compile("^Start")).click()
        expect(page).to_have_url(re.compile(r"/conversations/[0-9a-f-]{36}"))
        conversation = page.url
        for path in ("/conversations", conversation, "/account", "/account/activity", "/help", "/help/api", "/nothing"):
            page.goto(path if path.startswith("http") else f"{live_server.url}{path}")
            check_width(page)
            check_access(page)
            check_large_text(page)
        page.goto(f"{live_server.url}/help")
        for path in page.locator("main a").evaluate_all("links => links.map(link => link.getAttribute('href'))"):
            page.goto(f"{live_server.url}{path}")
            check_large_text(page)
        page.goto(f"{live_server.url}/help")
        check_focus_in_sight(page)
        page.goto(conversation)
        check_words_in_a_low_window(page)
        refuse_a_title(page)
        context.clear_cookies()
        for path in ("/", "/login", "/verify-email?token=x", "/register"):
            page.goto(f"{live_server.url}{path}")
            check_large_text(page)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        check_large_text(page)
    finally:
        context.close()


def test_how_long_ago_something_was_goes_on_wherever_it_stands(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "times@example.com")
    complaints = complaints_of(page)
    start_conversation(page, "How do I sign out?")
    expect(page.locator('[data-role="assistant"]')).to_have_attribute("data-status", "complete")
    page.clock.install()
    page.reload()
    page.get_by_label("Your message").fill("And how do I come back?")
    page.get_by_role("button", name=re.compile("^Send")).click()
    mine = page.locator('[data-role="user"] time').last
    expect(mine).to_have_text("just now")
    page.clock.fast_forward(80_000)  # the page's clock may lag behind ours where much else goes on
    expect(mine).to_have_text("1 minute ago")
    for path in ("/conversations", "/account", "/account/activity"):
        page.goto(f"{live_server.url}{path}")
        time = page.locator("main time").last
        expect(time).to_have_text(re.compile("just now|seconds? ago|1 minute ago"))
        page.clock.fast_forward(3 * 3_600_000)
        expect(time).to_have_text(re.compile(r"^\d+ hours ago$"))
        spoken = "[aria-live], [role=status], [role=alert], [role=log], [role=timer]"
        assert page.locator(f":is({spoken}) time").count() == 0, "each change would be read out"
    assert complaints == []


def test_another_sites_form_signs_nobody_out(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "stays@example.com")
    form = f'<form method="post" action="{live_server.url}/logout"><button>A prize</button></form>'
    page.route("http://evil.test/", lambda route: route.fulfill(content_type="text/html", body=form))
    page.goto("http://evil.test/")
    page.get_by_role("button", name="A prize").click()
    expect(page).to_have_url(f"{live_server.url}/conversations")
    page.goto(f"{live_server.url}/account")
    expect(page.get_by_text("stays@example.com").first).to_be_visible()


def test_the_title_says_while_there_is_a_mistake(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    title = page.title()
    for _ in range(2):
        page.get_by_role("button", name="Open my account").click()
        expect(page.get_by_role("alert").first).to_be_focused()
        assert page.title() == f"Error: {title}"
    walk.fill_in(page, "title@example.com", "Sipho Zulu")
    page.route("**/register", lambda _route: None)  # no answer comes
    page.get_by_role("button", name="Open my account").click()
    expect(page).to_have_title(title)


def test_the_address_is_checked_while_it_is_typed(context: BrowserContext, live_server: LiveServer) -> None:
    new_person(context, live_server, "taken@example.com")
    context.clear_cookies()
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    status = page.locator("#email-availability")
    expect(status).to_have_attribute("aria-live", "polite")
    page.get_by_label("E-mail address").press_sequentially("taken@example.com", delay=10)
    expect(status).to_contain_text("already")
    page.get_by_label("E-mail address").fill("free@example.com")
    expect(status).to_contain_text("available")
    page.get_by_label("E-mail address").fill("not an address")
    page.get_by_label("E-mail address").blur()
    expect(status).not_to_contain_text("available")


def test_a_late_answer_never_overwrites_a_newer_one(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    asked: list[str] = []

    def answer_late_of_the_first(route: Route) -> None:
        asked.append(route.request.url)
        if "slow" not in (route.request.post_data or ""):
            route.continue_()
            return
        page.wait_for_timeout(1500)
        route.fulfill(json={"available": False, "reason": "already_exists"})

    page.route("**/validate-email*", answer_late_of_the_first)
    page.goto(f"{live_server.url}/register")
    page.get_by_label("E-mail address").fill("slow@example.com")
    page.wait_for_timeout(600)
    page.get_by_label("E-mail address").fill("quick@example.com")
    expect(page.locator("#email-availability")).to_contain_text("available")
    page.wait_for_timeout(1500)
    expect(page.locator("#email-availability")).to_contain_text("available")
    assert len(asked) == 2
    assert not any("@" in url or "%40" in url for url in asked), "routers log paths"


def test_a_check_that_fails_blocks_nothing(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.route("**/validate-email*", lambda route: route.abort())
    page.goto(f"{live_server.url}/register")
    page.get_by_label("Your name").fill("Sipho Zulu")
    page.get_by_label("E-mail address").fill("unchecked@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)
    page.get_by_role("button", name="Open my account").click()
    expect(page).to_have_url(f"{live_server.url}/conversations")


def test_a_double_click_opens_one_account(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    page.get_by_label("Your name").fill("Sipho Zulu")
    page.get_by_label("E-mail address").fill("double@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)
    page.get_by_role("button", name="Open my account").dblclick()
    expect(page).to_have_url(f"{live_server.url}/conversations")
    expect(page.get_by_text("Welcome, Sipho Zulu")).to_be_visible()


def test_a_password_is_shown_on_request_and_hidden_before_it_is_sent(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/login")
    field = page.get_by_label("Password", exact=True)
    field.fill("not the password")
    expect(field).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show password").click()
    expect(field).to_have_attribute("type", "text")
    expect(field).to_have_value("not the password")
    page.get_by_role("button", name="Hide password").click()
    expect(field).to_have_attribute("type", "password")
    # A browser offers again what was typed into a text field, so it is none any more when the form goes out.
    page.get_by_role("button", name="Show password").click()
    page.evaluate(
        """() => {
            const form = document.querySelector("form[data-submit-once]");
            form.addEventListener("submit", (event) => {
                event.preventDefault();
                window.typeWhenSent = form.elements.password.type;
            });
        }"""
    )
    page.get_by_label("E-mail address").fill("nobody@example.com")
    page.get_by_role("button", name="Sign in").click()
    assert page.evaluate("window.typeWhenSent") == "password"


@pytest.mark.parametrize("answer", [503, None], ids=["no room for a stream", "a stream that breaks"])
def test_an_answer_comes_without_a_stream_too(
    context: BrowserContext, live_server: LiveServer, answer: int | None
) -> None:
    page = new_person(context, live_server, f"poll{answer}@example.com")
    page.route(
        re.compile(r"/events(\?|$)"),
        lambda route: route.fulfill(status=answer, json={"detail": "Not now."}) if answer else route.abort(),
    )
    polls: list[str] = []
    page.on("request", lambda request: polls.append(request.url) if "/messages?after=" in request.url else None)
    page.get_by_label("What would you like to know?").fill("Who can read my conversations?")
    page.get_by_role("button", name=re.compile("^Start")).click()
    expect(page).to_have_url(re.compile(r"/conversations/[0-9a-f-]{36}"))
    page.evaluate("window.wasNotReloaded = true")
    page.get_by_label("Your message").fill("How do I sign out?")
    page.get_by_role("button", name=re.compile("^Send")).click()
    answers = page.locator('article[data-role="assistant"]')
    expect(answers).to_have_count(2)
    expect(answers.nth(1)).to_contain_text("No AI model is connected")
    expect(answers.nth(1)).to_have_attribute("data-status", "complete")
    assert polls, "nobody asked for the messages after the last one"
    assert page.evaluate("window.wasNotReloaded") is True


def test_a_mistake_begins_beside_its_bullet(chromium: Browser, live_server: LiveServer) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(f"{live_server.url}/register")
        page.get_by_label("Your name").fill("Thandi Nkosi")
        page.get_by_label("E-mail address").fill("thandi@example.com")
        page.get_by_label("Password", exact=True).fill("short")
        page.get_by_role("checkbox").check()
        page.wait_for_timeout(1100)
        page.get_by_role("button", name="Open my account").click()
        link = page.locator(".error-summary li a").first
        expect(link).to_contain_text("A few unrelated words make a good password.")
        page.wait_for_load_state()  # or the stylesheet may still be on its way
        tops, item, heights = link.evaluate(
            """(link) => {
                const lines = [...link.getClientRects()];
                return [lines.map((line) => line.top), link.parentElement.getBoundingClientRect().top,
                        lines.map((line) => line.height)];
            }"""
        )
        assert len(tops) > 1, "this is about a link of several lines"
        assert abs(tops[0] - item) < 8
        assert min(heights) >= 24, "each line is a target"
    finally:
        context.close()


def test_the_form_can_be_filled_in_by_keyboard_alone(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    page.get_by_label("Your name").focus()
    seen = []
    for _ in range(12):
        seen.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
        page.keyboard.press("Tab")
    assert "fax_number" not in seen, "the trap is out of the tab order"
    wanted = ["full_name", "email", "password", "user_role", "company_name", "terms"]
    assert [name for name in seen if name in wanted] == wanted


def test_a_draft_survives_a_reload(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "draft@example.com")
    start_conversation(page, "First")
    page.get_by_label("Your message").fill("A long thought, not yet sent")
    page.reload()
    expect(page.get_by_label("Your message")).to_have_value("A long thought, not yet sent")


def test_the_draft_of_a_new_conversation_stays_while_others_are_read(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "reads@example.com")
    start_conversation(page, "Keep me")
    page.goto(f"{live_server.url}/conversations")
    box = page.get_by_label("What would you like to know?")
    for text in ("A long question, not yet asked", "Keep me"):
        box.fill(text)
        page.get_by_role("link", name="Keep me").click()
        expect(page.get_by_label("Your message")).to_be_visible()
        page.wait_for_load_state()
        page.goto(f"{live_server.url}/conversations")
        expect(box).to_have_value(text)


def test_the_draft_of_a_new_conversation_goes_when_it_was_sent(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "sends@example.com")
    start_conversation(page, "  Two lines,\nas they were typed ")
    page.goto(f"{live_server.url}/conversations")
    page.wait_for_load_state()
    expect(page.get_by_label("What would you like to know?")).to_be_empty()


def test_a_start_that_failed_keeps_its_draft_whatever_is_opened_next(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "fails@example.com")
    start_conversation(page, "First")
    conversation = page.url
    page.goto(f"{live_server.url}/conversations")
    page.route(
        "**/conversations",
        lambda route: (
            route.fulfill(status=503, content_type="text/html", body="<h1>Application error</h1>")
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    box = page.get_by_label("What would you like to know?")
    box.fill("Do not lose me")
    page.get_by_role("button", name=re.compile("^Start")).click()
    expect(page.get_by_role("heading", name="Application error")).to_be_visible()
    page.goto(conversation)
    page.wait_for_load_state()
    page.goto(f"{live_server.url}/conversations")
    expect(box).to_have_value("Do not lose me")


def lose_the_answer_to_a_start(page: Page) -> None:
    """Let the next start reach the server, and its answer nobody."""

    def lose(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        assert route.fetch(max_redirects=0).status == 303
        route.abort("connectionreset")

    page.route("**/conversations", lose)


def test_a_start_whose_answer_was_lost_is_one_conversation(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "lost@example.com")
    page.wait_for_load_state()
    box = page.get_by_label("What would you like to know?")
    start = page.get_by_role("button", name=re.compile("^Start"))
    lose_the_answer_to_a_start(page)
    box.fill("Was I heard?\nOr not?")
    with page.expect_event("requestfailed"):
        start.click(no_wait_after=True)
    page.unroute_all(behavior="wait")

    page.goto(f"{live_server.url}/conversations")
    page.wait_for_load_state()
    expect(box).to_have_value("Was I heard?\nOr not?")
    expect(page.get_by_role("link", name="Was I heard?")).to_have_count(1)
    start.click()
    expect(page.locator('article[data-role="user"]')).to_have_count(1)
    page.wait_for_load_state()
    page.goto(f"{live_server.url}/conversations")
    page.wait_for_load_state()
    expect(page.get_by_role("link", name="Was I heard?")).to_have_count(1)
    expect(box).to_be_empty()

    # It has arrived: the same words are another question now.
    start_conversation(page, "Was I heard?\nOr not?")
    page.goto(f"{live_server.url}/conversations")
    expect(page.get_by_role("link", name="Was I heard?")).to_have_count(2)


def test_a_draft_that_was_changed_after_its_answer_was_lost_is_a_start_of_its_own(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "changed@example.com")
    page.wait_for_load_state()
    lose_the_answer_to_a_start(page)
    page.get_by_label("What would you like to know?").fill("Which tiles?")
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name=re.compile("^Start")).click(no_wait_after=True)
    page.unroute_all(behavior="wait")
    page.goto(f"{live_server.url}/conversations")
    start_conversation(page, "Which tiles, and how many?")
    expect(page.locator('article[data-role="user"]')).to_contain_text("and how many?")
    page.goto(f"{live_server.url}/conversations")
    expect(page.get_by_role("link", name="Which tiles")).to_have_count(2)


def test_two_empty_starts_are_two_conversations(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "empty@example.com")
    addresses = set()
    for _ in range(2):
        page.goto(f"{live_server.url}/conversations")
        start_conversation(page, "")
        addresses.add(page.url)
    assert len(addresses) == 2


def test_a_draft_is_shown_to_nobody_but_its_writer(context: BrowserContext, live_server: LiveServer) -> None:
    new_person(context, live_server, "next@example.com").close()
    context.clear_cookies()
    page = new_person(context, live_server, "first@example.com")
    start_conversation(page, "First")
    page.get_by_label("Your message").fill("A private reply")
    page.goto(f"{live_server.url}/conversations")
    box = page.get_by_label("What would you like to know?")
    box.fill("A private thought")
    walk.sign_out(page)
    page.goto(f"{live_server.url}/login")
    page.get_by_label("E-mail address").fill("next@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{live_server.url}/conversations")
    page.wait_for_load_state()
    expect(box).to_be_empty()
    assert "private" not in page.evaluate("JSON.stringify(sessionStorage)")
    for _ in range(3):
        page.go_back()
    expect(box).to_be_empty()
    expect(page.get_by_text("next@example.com")).to_be_visible()


def test_a_draft_survives_a_lapsed_session(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "lapsed@example.com")
    start_conversation(page, "First")
    conversation = page.url
    page.get_by_label("Your message").fill("Half a reply")
    page.goto(f"{live_server.url}/conversations")
    box = page.get_by_label("What would you like to know?")
    box.fill("Half a question")
    context.clear_cookies()
    page.reload()
    expect(page).to_have_url(re.compile("/login"))
    walk.sign_in(page, live_server.url, "lapsed@example.com", nothing)
    expect(box).to_have_value("Half a question")
    page.goto(conversation)
    expect(page.get_by_label("Your message")).to_have_value("Half a reply")


def test_what_was_written_stays_when_the_server_is_out_of_reach(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = new_person(context, live_server, "offline@example.com")
    start_conversation(page, "First")
    context.set_offline(True)
    page.get_by_label("Your message").fill("Do not lose me")
    page.get_by_role("button", name=re.compile("^Send")).click()
    expect(page.locator("[data-composer-error]")).not_to_be_empty()
    expect(page.get_by_label("Your message")).to_have_value("Do not lose me")
    context.set_offline(False)
    page.get_by_role("button", name=re.compile("^Send")).click()
    mine = page.locator('article[data-role="user"]').filter(has_text="Do not lose me")
    expect(mine).to_have_count(1)


def test_deleting_can_be_undone(context: BrowserContext, live_server: LiveServer) -> None:
    page = new_person(context, live_server, "undo@example.com")
    page.get_by_label("What would you like to know?").fill("Keep me")
    page.get_by_role("button", name=re.compile("^Start")).click()
    page.locator("summary").filter(has_text="Rename").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Conversation deleted.")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Keep me").first).to_be_visible()


def test_the_theme_can_be_switched_and_is_kept(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(live_server.url)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark theme").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after
