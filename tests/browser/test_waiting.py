"""The waiting room in Chromium: with people before oneself, one gets through it, with and without scripts.

Once with a crowd that really registers; else with tickets nobody comes for, which take their time and no processor's.
"""

import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect
from sqlalchemy import create_engine, text

from capecontrol.auth import turns
from capecontrol.config import libpq_url
from capecontrol.web import rate_limits
from tests.browser.chromium import complaints_of
from tests.browser.test_walk import check_access, check_width
from tests.live_server import LiveServer
from tests.people import PASSWORD
from tests.postgres import Databases

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

# One hash at a time, and that an expensive one: the room gives its turns to a few people in three seconds.
TINY_GATE = {"WEB_CONCURRENCY": "1", "PASSWORD_HASH_SLOTS": "1", "PASSWORD_HASH_PASSES": "16"}
LIVE_SERVER = {"worker": False}  # nobody says anything that wants an answer
PEOPLE_IN_THE_CROWD = 24
PEOPLE_BEFORE = 8
TURN_COMES_WITHIN = 60_000
STANDSTILL = "no turns for now"
IN_LINE = re.compile(r"^You are \d+(st|nd|rd|th) in line$")


@pytest.fixture(scope="module")
def slow_server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Yield a server with a tiny gate, shared by the tests of this module."""
    with databases.clone() as url:
        server = LiveServer(url, tmp_path_factory.mktemp("slow"), **TINY_GATE)
        try:
            server.start(worker=False)
            yield server
        finally:
            server.stop()


@pytest.fixture
def queue(slow_server: LiveServer) -> Iterator[LiveServer]:
    """Yield the server with people waiting at it, until `hurry`."""
    with people_waiting(slow_server):
        yield slow_server


@contextmanager
def people_waiting(server: LiveServer) -> Iterator[None]:
    """Fill the queue with tickets of closed browsers, so that nobody comes at the turn; and until `hurry` no turn
    comes at all, however long a busy machine takes for what a test does meanwhile.

    Where nobody came, the room would give all its turns at once; so of others, who have left, all seem to have come.
    """
    url = libpq_url(server.database_url)
    with closing(psycopg2.connect(url, application_name=STANDSTILL)) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (turns._ADVISORY_LOCK,))
        holder.commit()
        fill_the_queue(server)
        yield


def fill_the_queue(server: LiveServer) -> None:
    """Let people wait, behind others who seem to have come for their turns."""
    execute(
        server,
        "INSERT INTO registration_tickets (id, email_mark, created_at, turn_at, claimed_at, left_at) "
        "SELECT gen_random_uuid()::text, 'came ' || gen_random_uuid(), now(), "
        "now() + make_interval(secs => n * 0.05 - 15), now(), now() FROM generate_series(1, 3000) AS n",
    )
    execute(
        server,
        "INSERT INTO registration_tickets (id, email_mark, created_at) "
        "SELECT gen_random_uuid()::text, 'nobody ' || gen_random_uuid(), now() "
        f"FROM generate_series(1, {PEOPLE_BEFORE})",
    )


@pytest.fixture
def crowd(start_server: Callable[..., LiveServer]) -> Iterator[LiveServer]:
    """Yield a server with a tiny gate at which a crowd opens one account after the other."""
    server = start_server(worker=False, **TINY_GATE)
    is_over = threading.Event()
    people = [
        threading.Thread(target=register_again_and_again, args=(server, number, is_over))
        for number in range(PEOPLE_IN_THE_CROWD)
    ]
    for person in people:
        person.start()
    deadline = time.monotonic() + 30
    while execute(server, "SELECT count(*) FROM registration_tickets WHERE turn_at IS NULL") < 5:
        assert time.monotonic() < deadline, "the crowd never had to queue"
        time.sleep(0.2)
    yield server
    is_over.set()
    for person in people:
        person.join(20)


def register_again_and_again(server: LiveServer, number: int, is_over: threading.Event) -> None:
    """Open one account after the other as a program does: with the ticket again, when it is told to come."""
    headers: dict[str, str] = {}
    opened = 0
    while not is_over.is_set():
        body = {"email": f"crowd{number}.{opened}@example.com", "password": PASSWORD, "full_name": "One Of Many"}
        answer = requests.post(f"{server.url}/api/auth/v2/register", json=body, headers=headers, timeout=15)
        if answer.status_code == 503 and "ticket" in answer.json():
            headers = {"X-Registration-Ticket": answer.json()["ticket"]}
            is_over.wait(int(answer.headers["Retry-After"]))
        else:
            headers, opened = {}, opened + 1


def execute(server: LiveServer, statement: str) -> int:
    """Do something to the server's database; return the first figure of what it answers, or the rows it touched."""
    engine = create_engine(server.database_url.replace("postgresql://", "postgresql+psycopg2://", 1))
    try:
        with engine.begin() as connection:
            done = connection.execute(text(statement))
            return int(done.scalar_one() if done.returns_rows else done.rowcount)
    finally:
        engine.dispose()


def fill_in(page: Page, server: LiveServer, email: str) -> None:
    """Fill in the registration form as a person does, who takes more than a second."""
    page.goto(f"{server.url}/register")
    page.get_by_label("Your name").fill("Thandi Nkosi")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)


def get_in_line(page: Page, server: LiveServer, email: str) -> None:
    """Send the form and find oneself in the queue."""
    fill_in(page, server, email)
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(IN_LINE)
    expect(page).to_have_url(f"{server.url}/register/waiting")


def hurry(server: LiveServer) -> None:
    """Let turns come, and those who will never come give up their places."""
    execute(
        server,
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND application_name = '{STANDSTILL}'",
    )
    execute(
        server, "UPDATE registration_tickets SET left_at = now() WHERE email_mark LIKE 'nobody%' AND left_at IS NULL"
    )


def await_turn(page: Page, server: LiveServer) -> None:
    """Wait for the turn to come, which it does soon."""
    hurry(server)
    expect(page.get_by_role("heading", level=1)).to_have_text("It is your turn", timeout=TURN_COMES_WITHIN)


def expect_an_account(page: Page, server: LiveServer, email: str) -> None:
    """Expect to be signed in and welcomed, with exactly one account."""
    expect(page).to_have_url(f"{server.url}/conversations", timeout=TURN_COMES_WITHIN)
    expect(page.get_by_text("Welcome, Thandi Nkosi")).to_be_visible()
    assert execute(server, f"SELECT count(*) FROM users_v2 WHERE email = '{email}'") == 1


def place_of(page: Page) -> int:
    """Return the place the page shows."""
    return int(re.sub(r"\D", "", page.locator("dd[data-ordinal]").inner_text()))


def wait_for_the_next_poll(page: Page, polls: list[Request], *, within: int) -> None:
    """Let the page's seconds pass in small steps: an answer that takes long by its clock is no answer to it."""
    before = len(polls)
    for _ in range(within // 2):
        page.clock.run_for(2_000)
        page.wait_for_timeout(200)
        if len(polls) > before:
            return
    raise AssertionError(f"no question within {within} s")


def make_the_turn_pass(server: LiveServer) -> None:
    """Let half a minute pass for everybody whose turn it is."""
    execute(server, "UPDATE registration_tickets SET claimed_at = claimed_at - interval '31 s'")


def register_in_vain_until(server: LiveServer, status: int) -> None:
    """Send empty registrations until they are answered like this."""
    ends_at = time.monotonic() + 30
    while requests.post(f"{server.url}/api/auth/v2/register", json={}, timeout=15).status_code != status:
        assert time.monotonic() < ends_at, f"no {status} within 30 s"
        time.sleep(0.01)


def test_the_page_waits_and_opens_the_account_by_itself(context: BrowserContext, crowd: LiveServer) -> None:
    page = context.new_page()
    complaints = complaints_of(page)
    asked: list[float] = []

    def answer_slowly(route: Route) -> None:
        asked.append(time.monotonic())
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "retry-after": "3"})

    page.route(re.compile("registration-place"), answer_slowly)
    get_in_line(page, crowd, "thandi@example.com")
    expect(page).to_have_title(re.compile(r"^\d+(st|nd|rd|th) in line · Cape Control$"))
    expect(page.get_by_text("You need do nothing.")).to_be_visible()
    expect(page.get_by_role("link", name="Open an account")).to_have_count(0)
    expect(page.get_by_label("Password", exact=True)).not_to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="Checking what you filled in, done")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="Waiting for your turn, under way")).to_be_visible()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    check_access(page)
    check_width(page)
    everything_kept = f"{page.content()} {context.storage_state()} {page.evaluate('JSON.stringify(history.state)')}"
    assert PASSWORD not in everything_kept, "the password is kept in the page's memory alone"
    expect_an_account(page, crowd, "thandi@example.com")
    # The last question is whether the account is open.
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked[:-1])]
    assert pauses
    assert all(pause > 2.9 for pause in pauses), "the server sets the pace"
    assert complaints == []


def test_the_place_is_spoken_at_most_every_ten_seconds(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    page.clock.install()
    polls: list[Request] = []

    def come_closer(route: Route) -> None:
        polls.append(route.request)
        place = {"status": "waiting", "place": 100 - len(polls), "eta_seconds": 100 - len(polls), "detail": ""}
        route.fulfill(json=place, headers={"Retry-After": "2"})

    page.route("**/registration-place", come_closer)
    fill_in(page, queue, "spoken@example.com")
    page.clock.run_for(1100)
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(IN_LINE)
    expect(page.locator("[data-announcements]")).to_have_attribute("role", "status")
    page.evaluate(
        """() => {
          const region = document.querySelector("[data-announcements]");
          window.spoken = [];
          new MutationObserver(() => spoken.push({ at: Date.now(), words: region.textContent }))
            .observe(region, { childList: true });
        }"""
    )
    for _ in range(20):
        wait_for_the_next_poll(page, polls, within=20)
    spoken = page.evaluate("spoken")
    assert len(spoken) >= 4
    # The observer hears of the words a moment after the page has looked at its clock.
    assert all(later["at"] - earlier["at"] >= 9_900 for earlier, later in itertools.pairwise(spoken))
    assert re.fullmatch(r"\d+(st|nd|rd|th) in line\. Your turn comes in about .+\.", spoken[-1]["words"])


def test_who_is_told_to_ask_minutes_later_does_and_the_estimate_goes_on(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    polls: list[Request] = []

    def stay(route: Route) -> None:
        polls.append(route.request)
        place = {"status": "waiting", "place": 4000, "eta_seconds": 400, "detail": ""}
        route.fulfill(json=place, headers={"Retry-After": "200"})

    page.add_init_script("Math.random = () => 0.99")  # as late as it may be
    get_in_line(page, queue, "patient@example.com")
    page.clock.install()
    page.route("**/registration-place", stay)
    page.reload()
    wait_for_the_next_poll(page, polls, within=30)
    expect(page.locator("dd[data-ordinal]")).to_have_text("4,000th")
    told = len(polls)
    page.clock.run_for(150_000)
    expect(page.locator("dd[data-about]")).to_have_text("4 minutes")
    assert len(polls) == told
    wait_for_the_next_poll(page, polls, within=54)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_figures_stand_on_one_line_each_and_the_estimate_comes_first(
    chromium: Browser, queue: LiveServer, width: int
) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": width, "height": 844})
    try:
        page = context.new_page()
        get_in_line(page, queue, f"figures{width}@example.com")
        figures = page.locator(".queue__figures")
        figures.evaluate("list => { list.querySelector('[data-before]').textContent = '4,000 people'; }")
        expect(figures.locator("dt").first).to_have_text("Turn in about")
        boxes = [figures.locator("dd").nth(number).bounding_box() for number in range(3)]
        sizes = figures.evaluate("list => [...list.querySelectorAll('dd')].map(dd => [dd.scrollWidth, dd.clientWidth])")
        assert all(needed <= given for needed, given in sizes), "nothing is wider than its place"
        assert all(box and box["height"] < 48 for box in boxes), "nothing wraps"
        assert boxes[1]["y"] == boxes[2]["y"]
        assert (boxes[0]["y"] < boxes[1]["y"]) == (width < 1280)
        check_width(page)
    finally:
        context.close()


def test_without_javascript_the_page_refreshes_and_asks_for_the_password_again(
    chromium: Browser, queue: LiveServer
) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    try:
        page = context.new_page()
        get_in_line(page, queue, "quiet@example.com")
        check_width(page)
        expect(page.locator("input[type=password]")).not_to_be_visible()
        place = place_of(page)
        page.get_by_role("link", name="Look again").click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert place_of(page) <= place if page.locator("dd[data-ordinal]").is_visible() else True
        await_turn(page, queue)  # nobody touches anything: the page loads itself again
        page.get_by_role("button", name="Keep my turn").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("It is your turn")
        page.get_by_role("button", name="Open my account").click()
        expect(page.get_by_role("alert").first).to_contain_text("Type your password once more.")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        # At the turn the gate may still be full for a moment: then the page says come again at once.
        for _ in range(10):
            page.get_by_role("button", name="Open my account").click()
            if page.url.endswith("/conversations"):
                break
            page.wait_for_timeout(1000)
            page.get_by_label("Password", exact=True).fill(PASSWORD)
        expect_an_account(page, queue, "quiet@example.com")
    finally:
        context.close()


def test_a_reload_keeps_the_place_and_asks_for_the_password_at_the_turn(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    get_in_line(page, queue, "reload@example.com")
    page.wait_for_timeout(2500)
    before, progress = place_of(page), page.locator("progress").get_attribute("value")
    page.reload()
    if page.locator("dd[data-ordinal]").is_visible():
        assert place_of(page) <= before
        assert float(page.locator("progress").get_attribute("value") or 0) >= float(progress or 0)
        expect(page.get_by_text("Keep this page open.")).to_be_visible()
    await_turn(page, queue)
    expect(page).to_have_title("It is your turn · Cape Control")
    expect(page.get_by_label("Password", exact=True)).to_be_focused()
    expect(page.locator("[data-announcements]")).to_contain_text("It is your turn")
    check_access(page)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    expect_an_account(page, queue, "reload@example.com")


def test_after_a_reload_the_password_can_be_given_ahead_of_the_turn(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "ahead@example.com")
    page.reload()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Open my account at my turn").click()
    expect(page.get_by_text("You need do nothing.")).to_be_visible()
    assert PASSWORD not in page.content()
    hurry(queue)
    expect_an_account(page, queue, "ahead@example.com")


def test_a_password_that_will_be_refused_at_the_turn_is_refused_while_waiting(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    get_in_line(page, queue, "hopeless@example.com")
    page.reload()
    password = page.get_by_label("Password", exact=True)
    button = page.get_by_role("button", name="Open my account at my turn")
    for hopeless, words in (
        ("abc", "Use at least 12 characters."),
        ("password1234", "attackers try first"),
        ("hopeless@example.com", "little more than your own name or address"),
    ):
        password.fill(hopeless)
        button.click()
        expect(page.locator("[data-error-summary]")).to_contain_text(words)
        expect(page.locator("[data-error-summary]")).to_be_focused()
        expect(page.get_by_text("You need do nothing.")).not_to_be_visible()
        expect(button).to_be_enabled()
    password.fill(PASSWORD)
    button.click()
    expect(page.get_by_text("You need do nothing.")).to_be_visible()
    expect(page.locator("[data-error-summary]")).to_have_count(0)


def test_a_question_about_the_password_that_is_not_answered_holds_nobody_up(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.route("**/validate-password", lambda route: asked.append(route.request.post_data or ""))
    get_in_line(page, queue, "unasked@example.com")
    page.reload()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Open my account at my turn").click()
    expect(page.get_by_text("You need do nothing.")).to_be_visible()
    assert asked
    hurry(queue)
    expect_an_account(page, queue, "unasked@example.com")


def test_a_second_tab_shows_the_same_place_and_arrives_too(context: BrowserContext, queue: LiveServer) -> None:
    first, second = context.new_page(), context.new_page()
    get_in_line(first, queue, "tabs@example.com")
    second.goto(f"{queue.url}/register/waiting")
    expect(second.get_by_role("heading", level=1)).to_have_text(IN_LINE)
    hurry(queue)
    expect_an_account(first, queue, "tabs@example.com")
    expect(second).to_have_url(f"{queue.url}/conversations", timeout=40_000)


def test_a_place_can_be_given_up(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "leaves@example.com")
    page.get_by_role("button", name="Leave the queue").click()
    expect(page).to_have_url(f"{queue.url}/register")
    expect(page.get_by_text("You left the queue.")).to_be_visible()
    expect(page.get_by_label("E-mail address")).to_have_value("leaves@example.com")
    expect(page.locator("#email-availability")).to_contain_text("available")
    page.goto(f"{queue.url}/register/waiting")
    expect(page).to_have_url(f"{queue.url}/register")


def test_a_place_given_up_in_another_tab_leads_back_to_the_form(context: BrowserContext, queue: LiveServer) -> None:
    here, there = context.new_page(), context.new_page()
    get_in_line(here, queue, "leaves.in.two@example.com")
    there.goto(f"{queue.url}/register/waiting")
    expect(there.get_by_role("heading", level=1)).to_have_text(IN_LINE)
    here.get_by_role("button", name="Leave the queue").click()
    expect(here.get_by_text("You left the queue.")).to_be_visible()
    expect(there).to_have_url(f"{queue.url}/register", timeout=TURN_COMES_WITHIN)
    expect(there.get_by_text("You left the queue in another tab.")).to_be_visible()


def test_an_outdated_token_costs_neither_the_turn_nor_the_password(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "outdated@example.com")
    page.reload()
    await_turn(page, queue)
    outdate = "document.querySelectorAll('[name=csrf_token]').forEach((token) => { token.value = 'outdated'; })"
    page.evaluate(outdate)
    page.get_by_role("button", name="Keep my turn").click()
    expect(page.locator("[data-announcements]")).to_contain_text("kept for another 30 seconds")
    page.evaluate(outdate)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, queue, "outdated@example.com")


def test_signing_in_elsewhere_while_waiting_costs_no_turn(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "renewed@example.com")
    context.clear_cookies(name="session")
    hurry(queue)
    expect_an_account(page, queue, "renewed@example.com")


def test_a_form_sent_since_in_another_tab_is_not_opened_with_the_password_of_the_older(
    context: BrowserContext, queue: LiveServer
) -> None:
    older, newer = context.new_page(), context.new_page()
    get_in_line(older, queue, "older.tab@example.com")
    get_in_line(newer, queue, "newer.tab@example.com")
    newer.close()
    context.clear_cookies(name="session")
    hurry(queue)
    expect(older.locator("[data-error-summary]")).to_contain_text(
        "Another form was sent from this browser since, for newer.tab@example.com", timeout=TURN_COMES_WITHIN
    )
    expect(older.get_by_label("Password", exact=True)).to_have_value("")
    assert execute(queue, "SELECT count(*) FROM users_v2 WHERE email LIKE '%.tab@example.com'") == 0


def test_nothing_is_said_to_be_done_where_the_wait_ends_with_a_refusal(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    done: list[str] = []
    page.expose_function("tellDone", lambda path: done.append(path))
    page.add_init_script(
        """new MutationObserver(() => {
            if (document.querySelector('[data-step="open"][data-state="done"]')) tellDone(location.pathname);
        }).observe(document, {attributes: true, childList: true, subtree: true});"""
    )
    get_in_line(page, queue, "taken.meanwhile@example.com")
    page.route("**/register/waiting", lambda route: open_it_elsewhere_before(route, queue))
    hurry(queue)
    expect(page).to_have_url(f"{queue.url}/register", timeout=TURN_COMES_WITHIN)
    expect(page.get_by_text("That e-mail address already has an account.")).to_be_visible()
    expect(page.get_by_label("E-mail address")).to_have_value("taken.meanwhile@example.com")
    assert done == []


def open_it_elsewhere_before(route: Route, server: LiveServer) -> None:
    """Let somebody else open the account a moment before the page does."""
    if route.request.method == "POST":
        execute(
            server,
            "INSERT INTO users_v2 (id, email, email_key, password_hash, user_role, full_name, is_active, created_at, "
            "updated_at) SELECT gen_random_uuid()::text, email, email, '', 'client', 'Somebody', true, now(), now() "
            "FROM (VALUES ('taken.meanwhile@example.com')) AS taken (email) ON CONFLICT DO NOTHING",
        )
    route.continue_()


def test_the_estimate_does_not_run_out_while_nobody_answers(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "cut.off@example.com")
    page.clock.install()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text(IN_LINE)
    page.route("**/registration-place", lambda route: route.abort())
    for _ in range(150):
        page.clock.run_for(2_000)
        if page.get_by_text("No answer just now.").is_visible():
            break
    told = page.locator("dd[data-about]").inner_text()
    page.clock.run_for(120_000)
    expect(page.locator("dd[data-about]")).to_have_text(told)


def test_a_form_sent_after_signing_in_in_another_tab_opens_its_own_account(
    context: BrowserContext, live_server: LiveServer
) -> None:
    first, second = context.new_page(), context.new_page()
    fill_in(second, live_server, "second.of.two@example.com")
    fill_in(first, live_server, "first.of.two@example.com")
    first.get_by_role("button", name="Open my account").click()
    expect_an_account(first, live_server, "first.of.two@example.com")
    second.get_by_role("button", name="Open my account").click()
    expect_an_account(second, live_server, "second.of.two@example.com")


def test_who_leaves_gets_no_account_however_long_the_answer_takes(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "hesitant@example.com")
    polls: list[str] = []
    sent: list[str] = []

    def give_the_turn(route: Route) -> None:
        polls.append(route.request.url)
        place = {"status": "ready" if left else "waiting", "place": 9, "eta_seconds": 1, "seconds_left": 30}
        route.fulfill(json=place, headers={"Retry-After": "1"})

    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    left: list[Route] = []
    page.route("**/register/waiting/leave", lambda route: left.append(route))
    page.route("**/registration-place", give_the_turn)
    with page.expect_response("**/registration-place", timeout=TURN_COMES_WITHIN):
        pass
    page.get_by_role("button", name="Leave the queue").click(no_wait_after=True)
    page.wait_for_timeout(4_000)
    assert [url.rpartition("/")[2] for url in sent] == ["leave"]
    left[0].continue_()
    expect(page).to_have_url(f"{queue.url}/register")
    assert execute(queue, "SELECT count(*) FROM users_v2 WHERE email = 'hesitant@example.com'") == 0


def test_a_turn_that_has_passed_leads_to_a_new_place(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "late@example.com")
    page.reload()
    await_turn(page, queue)
    page.get_by_role("button", name="Open my account").click()
    expect(page.locator("[data-error-summary]")).to_contain_text("Type your password once more.")
    make_the_turn_pass(queue)
    expect(page.get_by_role("heading", level=1)).to_have_text("Your turn has passed")
    expect(page.locator("[data-error-summary]")).to_have_count(0)
    expect(page).to_have_title("Your turn has passed · Cape Control")
    check_access(page)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Take a new place").click()
    hurry(queue)
    expect_an_account(page, queue, "late@example.com")


def test_a_turn_is_warned_about_and_can_be_kept(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    page.clock.install()
    get_in_line(page, queue, "slow@example.com")
    page.reload()
    await_turn(page, queue)
    warning, words = page.locator("[data-turn-warning]"), page.locator("[data-turn-words]")
    expect(warning).to_have_attribute("role", "alert")
    expect(words).to_contain_text(re.compile(r"kept for \d+ seconds"))
    expect(warning).to_be_empty()
    execute(queue, "UPDATE registration_tickets SET claimed_at = claimed_at - interval '20 s'")
    page.clock.run_for(20_500)
    expect(warning).to_contain_text(re.compile(r"^Your turn ends in (\d|10) seconds?\."))
    check_access(page)
    page.get_by_role("button", name="Keep my turn").click()
    expect(warning).to_be_empty()
    expect(words).to_contain_text(re.compile(r"kept for (30|29|28) seconds"))
    page.clock.run_for(200)
    expect(page.locator("[data-announcements]")).to_contain_text("kept for another 30 seconds")
    freshest = "SELECT extract(epoch FROM clock_timestamp() - max(claimed_at)) FROM registration_tickets"
    assert execute(queue, freshest) < 10
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, queue, "slow@example.com")


def test_a_warning_is_given_once_and_ends_where_the_turn_is_kept_in_another_tab(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    page.add_init_script(
        """window.said = [];
        new MutationObserver((changes) => {
            const warned = changes.map(({target}) => target).filter((node) => node.matches?.("[data-turn-warning]"));
            said.push(...warned.map((warning) => warning.textContent).filter(Boolean));
        }).observe(document, {childList: true, subtree: true});"""
    )
    get_in_line(page, queue, "two.tabs@example.com")
    page.reload()
    await_turn(page, queue)
    execute(queue, "UPDATE registration_tickets SET claimed_at = claimed_at - interval '12 s'")
    page.reload()
    warning = page.locator("[data-turn-warning]")
    expect(warning).to_contain_text("Your turn ends in")
    for _ in range(2):
        with page.expect_response("**/registration-place"):
            pass
    assert len(page.evaluate("said")) == 1, "not again with each question for the place"
    execute(queue, "UPDATE registration_tickets SET claimed_at = clock_timestamp() WHERE claimed_at IS NOT NULL")
    expect(page.locator("[data-turn-words]")).to_contain_text(re.compile(r"kept for (30|29|28|27) seconds"))
    expect(warning).to_be_empty()


def test_polls_that_fail_are_said_and_lose_nothing(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "unlucky@example.com")
    context.set_offline(True)
    expect(page.get_by_text("No answer just now. Your place is kept")).to_be_visible(timeout=30_000)
    context.set_offline(False)
    hurry(queue)
    expect_an_account(page, queue, "unlucky@example.com")


def test_a_broken_answer_at_the_turn_is_tried_again(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "broken@example.com")
    broken: list[str] = []

    def break_once(route: Route) -> None:
        if route.request.method == "POST" and not broken:
            broken.append(route.request.url)
            route.fulfill(status=503, content_type="text/html", body="<h1>Application error</h1>")
        else:
            route.continue_()

    page.route("**/register/waiting", break_once)
    hurry(queue)
    expect_an_account(page, queue, "broken@example.com")
    assert broken


def turn_away(page: Page, times: int) -> list[str]:
    """Let every seat be taken at the turn, some times; return a list that fills with what was sent."""
    sent: list[str] = []

    def answer(route: Route) -> None:
        if route.request.method != "POST" or len(sent) == times:
            route.continue_()
            return
        sent.append(route.request.url)
        ready = route.fetch(method="GET")
        route.fulfill(response=ready, status=503, headers={**ready.headers, "retry-after": "1"})

    page.route("**/register/waiting", answer)
    return sent


def listen(page: Page) -> None:
    """Let `spoken` fill with what a screen reader hears of the page's regions, whatever page is in its place."""
    page.evaluate(
        """() => {
          window.spoken = [];
          new MutationObserver((changes) => {
            for (const { target } of changes) {
              const region = target.closest?.("[role=status], [role=alert]");
              if (region?.textContent.trim()) spoken.push(region.textContent.trim());
            }
          }).observe(document.body, { childList: true, subtree: true });
        }"""
    )


def test_while_every_seat_is_taken_the_turn_is_said_once_and_the_focus_stays(
    context: BrowserContext, queue: LiveServer
) -> None:
    page = context.new_page()
    get_in_line(page, queue, "patiently@example.com")
    sent = turn_away(page, 4)
    listen(page)
    hurry(queue)
    expect(page.get_by_text("Every seat was taken just now.")).to_be_visible(timeout=TURN_COMES_WITHIN)
    for step in ("secure", "open"):
        expect(page.locator(f'[data-step="{step}"]')).to_have_attribute("data-state", "now")
    check_access(page)
    while len(sent) < 4:
        assert page.evaluate("document.activeElement.tagName") == "H1"
        page.wait_for_timeout(200)
    spoken = [words for words in page.evaluate("spoken") if "in line" not in words]
    assert spoken == ["It is your turn. Opening your account."]
    expect_an_account(page, queue, "patiently@example.com")


def test_who_pressed_the_button_at_the_turn_does_not_lose_the_focus(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "pressed@example.com")
    page.reload()
    await_turn(page, queue)
    turn_away(page, 1)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_text("Every seat was taken just now.")).to_be_visible()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    expect_an_account(page, queue, "pressed@example.com")


def test_an_answer_that_was_lost_on_its_way_is_no_second_account(context: BrowserContext, queue: LiveServer) -> None:
    page = context.new_page()
    get_in_line(page, queue, "lost@example.com")
    lost: list[str] = []

    def lose_the_answer(route: Route) -> None:
        if route.request.method != "POST" or lost:
            route.continue_()
            return
        cookies = context.cookies()
        answer = route.fetch(max_redirects=0)
        if answer.status == 303:
            lost.append(answer.headers["location"])
            context.clear_cookies()
            context.add_cookies(cookies)
            route.abort()
        else:
            route.fulfill(response=answer)

    page.route("**/register/waiting", lose_the_answer)
    hurry(queue)
    expect(page).to_have_url(f"{queue.url}/conversations", timeout=TURN_COMES_WITHIN)
    assert lost
    assert execute(queue, "SELECT count(*) FROM users_v2 WHERE email = 'lost@example.com'") == 1


def test_the_form_stays_when_no_answer_comes(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    fill_in(page, live_server, "offline@example.com")
    context.set_offline(True)
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("alert").first).to_contain_text("You are offline")
    expect(page.get_by_role("alert").first).to_be_focused()
    check_access(page)
    expect(page.get_by_label("Password", exact=True)).to_have_value(PASSWORD)
    context.set_offline(False)
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, "offline@example.com")


def test_a_form_sent_too_often_comes_back_with_its_password(
    context: BrowserContext, start_server: Callable[..., LiveServer]
) -> None:
    server = start_server(worker=False, RATELIMIT_ENABLED="1", WEB_CONCURRENCY="1")
    page = context.new_page()
    fill_in(page, server, "often@example.com")
    left = rate_limits.REGISTER.seconds - time.time() % rate_limits.REGISTER.seconds
    time.sleep(left if left < 15 else 0)  # what was counted is forgotten when the window ends
    register_in_vain_until(server, 429)
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("alert").first).to_contain_text("Your account is not open yet")
    expect(page.get_by_label("Password", exact=True)).to_have_value(PASSWORD)
    expect(page.locator("#password-strength")).to_contain_text("trong")
    execute(server, "DELETE FROM rate_limit_counters")
    register_in_vain_until(server, 422)
    page.wait_for_timeout(1100)  # a form is not believed to be typed any quicker
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, server, "often@example.com")


def test_a_form_that_was_drawn_anew_leaves_nothing_of_the_old_ones_behind(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    fill_in(page, live_server, "again@example.com")
    browser = context.new_cdp_session(page)

    def count_nodes(*, expected: float) -> int:
        """Count them once they are as few as expected, or after a while: a browser gives memory back when it likes."""
        ends_at = time.monotonic() + 20
        while True:
            browser.send("HeapProfiler.collectGarbage")
            nodes: int = browser.send("Memory.getDOMCounters")["nodes"]
            if nodes < expected or time.monotonic() > ends_at:
                return nodes
            page.wait_for_timeout(200)

    def send_what_is_drawn_anew() -> None:
        page.locator("[name=fax_number]").evaluate("field => { field.value = 'filled in by a password manager'; }")
        send_and_read_the_answer(page)
        expect(page.get_by_role("alert").first).to_contain_text("Please empty it and send the form again.")

    send_what_is_drawn_anew()
    expected = count_nodes(expected=math.inf) * 1.3
    for _ in range(4):
        send_what_is_drawn_anew()
    assert count_nodes(expected=expected) < expected


@pytest.mark.parametrize("body", ["<h1>Application error</h1>", "", "<html><body id=main data-register>"])
def test_a_routers_page_is_never_shown(context: BrowserContext, live_server: LiveServer, body: str) -> None:
    page = context.new_page()
    email = f"router{len(body)}@example.com"
    fill_in(page, live_server, email)
    page.route(
        "**/register",
        lambda route: (
            route.fulfill(status=503, content_type="text/html", body=body)
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("alert").first).to_contain_text("No answer came")
    expect(page.get_by_role("button", name="Open my account")).to_be_enabled()
    page.unroute("**/register")
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, email)


def test_a_form_left_open_until_its_token_is_outdated_is_sent_all_the_same(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    fill_in(page, live_server, "hours@example.com")
    page.evaluate("document.querySelector('[name=csrf_token]').value = 'outdated'")
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, "hours@example.com")


def test_every_plain_mistake_is_told_before_anything_is_sent(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    page.get_by_label("Your name").fill("Thandi Nkosi")
    page.get_by_label("E-mail address").fill("thandi.example.com")
    page.get_by_label("Password", exact=True).fill("short")
    page.get_by_role("button", name="Open my account").click()
    told = page.locator("[data-error-summary] a")
    expect(told).to_have_count(3)
    expect(told.nth(0)).to_have_text("This does not look like an e-mail address.")
    expect(page.get_by_label("Password", exact=True)).to_have_value("short")
    page.get_by_label("E-mail address").fill("zoë@example.com")
    page.get_by_role("button", name="Open my account").click()
    expect(told).to_have_count(2)


def send_and_read_the_answer(page: Page) -> str:
    """Press the button and return what the server made of the form."""
    with page.expect_response(lambda response: response.request.method == "POST") as answer:
        page.get_by_role("button", name="Open my account").click()
    return answer.value.text()


def test_a_form_that_looks_automated_comes_back_with_its_password(
    context: BrowserContext, live_server: LiveServer
) -> None:
    page = context.new_page()
    fill_in(page, live_server, "trapped@example.com")
    page.locator("[name=fax_number]").evaluate("field => { field.value = 'filled in by a password manager'; }")
    assert PASSWORD not in send_and_read_the_answer(page)
    expect(page.get_by_role("alert").first).to_contain_text("Please empty it and send the form again.")
    expect(page.get_by_label("Password", exact=True)).to_have_value(PASSWORD)
    expect(page.locator("#password-strength")).to_contain_text("trong")
    assert page.locator(".strength__meter").evaluate("meter => meter.value") >= 3
    check_access(page)
    page.wait_for_timeout(1100)
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, "trapped@example.com")


def test_a_password_that_was_refused_is_not_put_in_again(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    fill_in(page, live_server, "common@example.com")
    page.get_by_label("Password", exact=True).fill("password1234")
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("alert").first).to_contain_text("lists that attackers try first")
    expect(page.get_by_label("Password", exact=True)).to_be_empty()
    expect(page.locator("#password-strength")).to_be_empty()


def test_a_taken_address_comes_back_with_everything_and_another_one_will_do(
    context: BrowserContext, chromium: Browser, live_server: LiveServer
) -> None:
    page = context.new_page()
    fill_in(page, live_server, "twice@example.com")
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, "twice@example.com")
    other = chromium.new_context()
    try:
        page = other.new_page()
        fill_in(page, live_server, "twice@example.com")
        assert PASSWORD not in send_and_read_the_answer(page)
        expect(page.get_by_role("alert").first).to_contain_text("already has an account")
        expect(page.get_by_role("alert").first).to_be_focused()
        expect(page).to_have_title(re.compile("^Error: "))
        expect(page).to_have_url(f"{live_server.url}/register")
        expect(page.get_by_label("E-mail address")).to_have_value("twice@example.com")
        expect(page.get_by_label("Password", exact=True)).to_have_value(PASSWORD)
        expect(page.get_by_label("Password", exact=True)).to_have_attribute("type", "password")
        expect(page.locator("#password-strength")).to_contain_text("trong")
        # The new form behaves as the first one did.
        page.get_by_label("E-mail address").fill("thrice@example.com")
        expect(page.locator("#email-availability")).to_contain_text("available")
        page.wait_for_timeout(1100)
        page.get_by_role("button", name="Open my account").click()
        expect_an_account(page, live_server, "thrice@example.com")
    finally:
        other.close()


def test_the_form_is_checked_when_nothing_of_it_is_wrong(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    check = page.locator('[data-step="check"]')
    page.get_by_label("E-mail address").fill("checked@example.com")
    expect(page.locator("#email-availability")).to_contain_text("available")
    expect(check).to_have_attribute("data-state", "next")
    page.get_by_role("button", name="Open my account").click()
    expect(page.locator("[data-error-summary]").get_by_role("listitem")).to_have_count(3)
    expect(check).to_have_attribute("data-state", "next")
    page.get_by_label("Your name").fill("Thandi Nkosi")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    expect(check).to_have_attribute("data-state", "next")
    page.get_by_role("checkbox").check()
    expect(check).to_have_attribute("data-state", "done")
    page.get_by_label("Your name").fill("")
    expect(check).to_have_attribute("data-state", "next")


def test_the_steps_follow_the_answers(context: BrowserContext, live_server: LiveServer) -> None:
    page = context.new_page()
    page.goto(f"{live_server.url}/register")
    step = page.locator("[data-step]")
    for number in range(4):
        expect(step.nth(number)).to_have_attribute("data-state", "next")
    fill_in(page, live_server, "steps@example.com")
    expect(page.locator('[data-step="check"]')).to_have_attribute("data-state", "done")
    is_answered = threading.Event()

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            expect(page.locator('[data-step="secure"]')).to_have_attribute("data-state", "now")
            expect(page.locator('[data-step="open"]')).to_have_attribute("data-state", "now")
            expect(page.locator('[data-step="done"]')).to_have_attribute("data-state", "next")
            is_answered.set()
        route.continue_()

    page.route("**/register", hold)
    page.get_by_role("button", name="Open my account").click()
    expect_an_account(page, live_server, "steps@example.com")
    assert is_answered.is_set()
