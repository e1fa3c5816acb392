"""The whole walk, as a newcomer and as an administrator; the same for the tests and for the pictures."""

import re
import subprocess
import sys
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.live_server import REPOSITORY, LiveServer
from tests.people import PASSWORD

QUESTIONS = (
    "How do I get a deleted conversation back?",
    "Who can read my conversations?",
    "What is the capital of Mongolia?",
)
REASON = "Help desk ticket 1085: the answer seems to be cut off"
Shoot = Callable[[str], None]


def make_administrator(server: LiveServer, email: str) -> None:
    """Open an administrator's account as an operator does."""
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "auth", "create-admin", email],
        cwd=REPOSITORY,
        env=server.environment,
        input=f"{PASSWORD}\n",
        text=True,
        capture_output=True,
        check=True,
    )


def register(page: Page, url: str, email: str, name: str, shoot: Shoot) -> None:
    """Open an account, making a mistake first and correcting it."""
    page.goto(url)
    shoot("landing")
    page.get_by_role("link", name="Open an account").first.click()
    expect(page.get_by_role("heading", name="Open an account")).to_be_visible()
    page.wait_for_load_state()
    shoot("register")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill("password1234")
    page.get_by_text("I want things done").click()
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)  # a person takes longer still
    page.get_by_role("button", name="Open my account").click()
    expect(page.get_by_role("alert").first).to_contain_text("lists that attackers try first")
    shoot("register-mistake")
    expect(page.get_by_label("Your name")).to_have_value(name)
    expect(page.get_by_label("E-mail address")).to_have_value(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.wait_for_timeout(1100)
    page.get_by_role("button", name="Open my account").click()
    expect(page).to_have_url(f"{url}/conversations")
    expect(page.get_by_text(f"Welcome, {name}")).to_be_visible()
    shoot("conversations-empty")


def fill_in(page: Page, email: str, name: str) -> None:
    """Fill in the registration form in front of one as a person does, who takes more than a second."""
    page.get_by_label("Your name").fill(name)
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("checkbox").check()
    page.wait_for_timeout(1100)


def sign_out(page: Page) -> None:
    """Sign out."""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in").first).to_be_visible()


def sign_in(page: Page, url: str, email: str, shoot: Shoot) -> None:
    """Sign in, with a mistake first."""
    page.goto(f"{url}/login")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").first).to_contain_text("do not match")
    shoot("sign-in-mistake")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{url}/conversations")


def converse(page: Page, url: str, shoot: Shoot) -> None:
    """Ask the Guide three questions; the answers come without a reload."""
    page.goto(f"{url}/conversations")
    page.get_by_label("What would you like to know?").fill(QUESTIONS[0])
    page.get_by_role("button", name=re.compile("^Start")).click()
    expect(page).to_have_url(re.compile(r"/conversations/[0-9a-f-]{36}"))
    answers = page.locator('article[data-role="assistant"]')
    expect(answers.first).to_contain_text("No AI model is connected", timeout=20_000)
    page.evaluate("window.wasNotReloaded = true")
    for number, question in enumerate(QUESTIONS[1:], start=2):
        page.get_by_label("Your message").fill(question)
        page.get_by_role("button", name=re.compile("^Send")).click()
        expect(answers).to_have_count(number, timeout=20_000)
        expect(answers.nth(number - 1)).not_to_have_attribute(
            "data-status", re.compile("queued|streaming"), timeout=20_000
        )
        expect(answers.nth(number - 1)).to_contain_text("No AI model is connected")
    assert page.evaluate("window.wasNotReloaded") is True, "the page was loaded anew to show an answer"
    shoot("conversation")


def find_oneself(page: Page, url: str, shoot: Shoot) -> None:
    """Find everything one did in one's own activity, with the stored names beside."""
    page.goto(f"{url}/account/activity")
    for name in ("user_registration", "user_login", "user_logout", "user_login_failed", "conversation_started"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_text("ai_prompt_submitted", exact=True)).to_have_count(len(QUESTIONS))
    shoot("activity")
    page.goto(f"{url}/account")
    shoot("account")


def find_everything(page: Page, url: str, email: str, shoot: Shoot) -> None:
    """Find all of somebody's acts as an administrator."""
    page.goto(f"{url}/audit")
    shoot("audit")
    page.goto(f"{url}/audit?person={email.replace('+', '%2B')}")
    main = page.get_by_role("main")
    of_account = ("user_registration", "user_registration_failed", "user_login", "user_login_failed", "user_logout")
    of_conversation = ("conversation_started", "ai_prompt_submitted", "ai_response_generated")
    for name in (*of_account, *of_conversation):
        expect(main.locator("td, dd, li, code, .event").get_by_text(name, exact=True).first).to_be_visible()
    shoot("audit-person")


def read_as_staff(page: Page, url: str, shoot: Shoot) -> None:
    """Read somebody's conversation as an administrator, forgetting the reason first; all of it by keyboard."""
    page.goto(f"{url}/audit?q=event%3Aconversation_started")
    page.locator("a.events__link").first.click()
    link = page.get_by_role("link", name="Read this conversation")
    expect(link).to_be_visible()
    link.press("Enter")
    expect(page.get_by_role("heading", name="Read somebody's conversation")).to_be_visible()
    page.wait_for_load_state()
    shoot("staff-reading-asked")
    page.get_by_role("button", name="Record it and read").press("Enter")
    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    shoot("staff-reading-mistake")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    field = page.get_by_label("Why do you need to read it?")
    expect(field).to_be_focused()
    page.keyboard.type(REASON)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You are reading this as staff.")).to_be_visible()
    expect(page.locator(".message__author").first).not_to_have_text("You")
    shoot("staff-reading")
