"""Confirming an address: what the link does, once, and who may sign in before and after."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from capecontrol import clock
from capecontrol.audit.models import AuditLog
from capecontrol.auth import account, verification
from capecontrol.auth.models import ApiToken, EmailVerification, User, UserSession
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from capecontrol.mail import outgoing, tasks
from capecontrol.mail.models import OutgoingMail
from tests.auth.mailbox import Mailbox
from tests.auth.test_private_registration import BODY, kind_of, make_known, register, statements
from tests.people import PASSWORD, make_person
from tests.visitor import Visitor

EMAIL = "fresh@example.com"
OTHER_PASSWORD = "Another-Mountain-1085!"
REFUSED = "do not match an open account. An account opens once its address is confirmed"


@pytest.fixture
def token(private: Flask, mailbox: Mailbox) -> str:
    """Return the link's secret of somebody who has just registered."""
    register(private.test_client(), EMAIL)
    return mailbox.token(EMAIL)


def press(app: Flask, token: str, *, status: int = 200) -> Visitor:
    """Follow a link and press its button; or send the form without it, where the page has none."""
    visitor = Visitor(app)
    visitor.visit(f"/verify-email?token={token}", status=200 if status == 200 else status)
    if status == 200:
        visitor.send("/verify-email")
    return visitor


def press_blindly(app: Flask, token: str) -> TestResponse:
    """Send the form of the button with a token of one's own."""
    visitor = Visitor(app)
    form = visitor.visit("/login").form("/login")
    return visitor.client.post(
        "/verify-email", data={"token": token, "csrf_token": form.find("input", attrs={"name": "csrf_token"})["value"]}
    )


def sign_in(app: Flask, email: str = EMAIL, password: str = PASSWORD) -> TestResponse:
    return app.test_client().post("/api/auth/v2/login", json={"email": email, "password": password})


def person(app: Flask, email: str = EMAIL) -> User:
    with app.app_context():
        return db.session.scalars(select(User).where(User.email_key == email)).one()


def recorded(app: Flask, kind: str) -> list[AuditLog]:
    with app.app_context():
        return list(db.session.scalars(select(AuditLog).where(AuditLog.event_type == kind).order_by(AuditLog.id)))


# The link


def test_following_the_link_changes_nothing_and_shows_one_button(private: Flask, token: str) -> None:
    visitor = Visitor(private)
    for _ in range(3):  # as mail scanners do
        page = visitor.visit(f"/verify-email?token={token}")
        assert visitor.client.head(f"/verify-email?token={token}").status_code == 200
    assert EMAIL in page.words
    (button,) = page.find("main").find_all("button")
    assert button.get_text() == "Yes, confirm my address"
    assert person(private).email_verified_at is None
    assert sign_in(private).status_code == 401
    visitor.send("/verify-email")
    assert person(private).email_verified_at is not None


def test_the_button_confirms_says_so_and_offers_to_sign_in(private: Flask, token: str) -> None:
    visitor = press(private, token)
    assert visitor.page.answer.request.path == "/login"
    assert [answer.status_code for answer in visitor.page.answer.history] == [303]
    assert f"{EMAIL} is confirmed and your account is open." in visitor.page.words
    user = person(private)
    (event,) = recorded(private, "email_verified")
    assert (event.success, event.user_id, event.subject_id, event.user_email) == (True, user.id, user.id, EMAIL)
    assert event.event_metadata == {"replaced": False}
    visitor.send("/login", email=EMAIL, password=PASSWORD)
    assert visitor.page.answer.request.path == "/conversations"
    assert "confirmed" in visitor.visit("/account").find("dl", class_="facts").get_text()


def test_who_is_signed_in_with_another_account_is_told_how_to_use_the_one_confirmed(
    private: Flask, mailbox: Mailbox, token: str
) -> None:
    visitor = press(private, token)
    visitor.send("/login", email=EMAIL, password=PASSWORD)
    register(private.test_client(), "other@example.com")
    visitor.visit(f"/verify-email?token={mailbox.token('other@example.com')}")
    page = visitor.send("/verify-email")
    assert page.answer.request.path == "/account"
    assert "other@example.com is confirmed and its account is open." in page.words
    assert f"You are signed in here as {EMAIL}: to use the other, sign out first." in page.words


def test_a_link_works_once(private: Flask, token: str) -> None:
    press(private, token)
    page = press(private, token, status=404).page
    assert "This link is not valid" in page.words
    assert page.find("a", string="Sign in", class_="button")["href"] == "/login"
    assert press_blindly(private, token).status_code == 404
    assert [event.success for event in recorded(private, "email_verified")] == [True, False]


def test_of_two_presses_at_once_one_confirms(private: Flask, token: str) -> None:
    with ThreadPoolExecutor(4) as hands:
        statuses = sorted(hands.map(lambda _: press_blindly(private, token).status_code, range(4)))
    assert statuses == [303, 404, 404, 404]


def test_a_link_lasts_a_day(private: Flask, mailbox: Mailbox, token: str) -> None:
    with private.app_context():
        link = db.session.scalars(select(EmailVerification)).one()
        assert link.expires_at - link.created_at == verification.LINK_LASTS
    mailbox.let_a_day_pass()
    press(private, token, status=404)
    assert press_blindly(private, token).status_code == 404
    assert person(private).email_verified_at is None
    with private.app_context():
        assert verification.forget_old_links() == 1
        assert verification.forget_old_links() == 0


@pytest.fixture
def tokens(private: Flask, mailbox: Mailbox, token: str) -> list[str]:
    """Return the secrets of three links to one mailbox: of the registration, of another one with other words, and of a
    sign-in with the first one's password."""
    mailbox.let_an_hour_pass()
    register(private.test_client(), EMAIL, password=OTHER_PASSWORD, full_name="Somebody Else")
    second = mailbox.token(EMAIL)
    mailbox.let_an_hour_pass()
    sign_in(private)
    return [token, second, mailbox.token(EMAIL)]


@pytest.mark.parametrize(
    ("used", "name", "password"),
    [(0, "Lerato Dube", PASSWORD), (1, "Somebody Else", OTHER_PASSWORD), (2, "Lerato Dube", PASSWORD)],
)
def test_links_stand_side_by_side_until_one_is_used(
    private: Flask, tokens: list[str], used: int, name: str, password: str
) -> None:
    assert len(set(tokens)) == 3
    for token in tokens:
        assert Visitor(private).visit(f"/verify-email?token={token}").words.count(EMAIL) == 1
    press(private, tokens[used])
    assert person(private).full_name == name
    assert sign_in(private, password=password).status_code == 200
    for token in tokens:
        press(private, token, status=404)
        assert press_blindly(private, token).status_code == 404
    assert person(private).full_name == name
    with private.app_context():
        assert db.session.scalars(select(EmailVerification)).all() == []


def test_whoever_registered_first_takes_nobodys_link_by_signing_in(private: Flask, mailbox: Mailbox) -> None:
    """Somebody else registered the address; its owner did an hour later, and has not confirmed yet."""
    register(private.test_client(), EMAIL, full_name="Squatter")
    mailbox.let_an_hour_pass()
    register(private.test_client(), EMAIL, password=OTHER_PASSWORD)
    owners = mailbox.token(EMAIL)
    mailbox.let_an_hour_pass()
    sign_in(private)
    late = mailbox.token(EMAIL)
    assert late != owners
    press(private, owners)
    assert person(private).full_name == "Lerato Dube"
    assert sign_in(private, password=OTHER_PASSWORD).status_code == 200
    assert press_blindly(private, late).status_code == 404
    assert sign_in(private, password=PASSWORD).status_code == 401


def test_of_different_links_pressed_at_once_one_confirms(private: Flask, tokens: list[str]) -> None:
    with ThreadPoolExecutor(3) as hands:
        statuses = sorted(hands.map(lambda token: press_blindly(private, token).status_code, tokens))
    assert statuses == [303, 404, 404]
    assert [event.success for event in recorded(private, "email_verified")].count(True) == 1


def test_using_a_link_leaves_the_links_of_others_alone(private: Flask, mailbox: Mailbox, tokens: list[str]) -> None:
    register(private.test_client(), "noise@example.com")
    press(private, tokens[0])
    press(private, mailbox.token("noise@example.com"))


def test_no_more_links_are_out_than_a_day_has_hours(private: Flask, mailbox: Mailbox, token: str) -> None:
    for _ in range(26):
        mailbox.let_an_hour_pass()
        sign_in(private)
        sign_in(private)
    with private.app_context():
        alive = db.session.scalars(select(EmailVerification).where(EmailVerification.expires_at > clock.now())).all()
        assert len(alive) == 24
        assert len({link.token_hash for link in alive}) == 24
        verification.forget_old_links()
        assert len(db.session.scalars(select(EmailVerification)).all()) == 24
    press(private, token, status=404)


@pytest.mark.parametrize("forged", ["", "abc", "a\ud800b", "x" * 5000, "%00", "' OR 1=1 --"])
def test_a_forged_link_is_not_valid(private: Flask, token: str, forged: str) -> None:
    answers = [
        private.test_client().get("/verify-email", query_string={"token": forged.encode("utf-8", "replace")}),
        press_blindly(private, forged.encode("utf-8", "replace").decode()),
    ]
    for answer in answers:
        assert answer.status_code == 404
        assert "This link is not valid" in answer.text
    assert person(private).email_verified_at is None
    (refused,) = recorded(private, "email_verified")
    assert (refused.success, refused.user_id, refused.user_email) == (False, None, None)


def test_a_page_of_another_site_cannot_press_the_button(private: Flask, token: str) -> None:
    assert private.test_client().post("/verify-email", data={"token": token}).status_code == 400
    assert person(private).email_verified_at is None


def test_a_closed_account_stays_closed(private: Flask, token: str) -> None:
    with private.app_context():
        db.session.execute(update(User).values(is_active=False))
        db.session.commit()
    press(private, token, status=404)
    assert press_blindly(private, token).status_code == 404


def test_a_database_in_trouble_keeps_the_link(private: Flask, token: str) -> None:
    url = libpq_url(private.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE email_verifications IN ACCESS EXCLUSIVE MODE")
        assert private.test_client().get(f"/verify-email?token={token}").status_code == 503
        assert press_blindly(private, token).status_code == 503
        other.rollback()
    press(private, token)
    told = [(event.success, event.error_message) for event in recorded(private, "email_verified")]
    assert told == [(False, "OperationalError"), (True, None)]


def test_links_lead_to_the_address_people_use_whatever_the_host_header_says(private: Flask, mailbox: Mailbox) -> None:
    private.test_client().post("/api/auth/v2/register", json={**BODY, "email": EMAIL}, headers={"Host": "evil.test"})
    token = mailbox.token(EMAIL)
    with private.app_context():
        mail_id = db.session.scalars(select(OutgoingMail.id)).one()
        assert tasks.deliver(mail_id) == "kept"
        kept = outgoing.get_kept(mail_id)
    address = private.config["SETTINGS"].address
    for body in (kept.text_body, kept.html_body):
        assert f"{address}/verify-email?token={token}" in body
        assert "evil.test" not in body
        assert "Lerato" not in body, "what somebody typed is not for strangers' mailboxes"
    assert kept.fields == {}


# Whose account it becomes


def test_nobody_can_take_a_mailbox_in_advance(private: Flask, mailbox: Mailbox) -> None:
    """Somebody else registered the address with a password of theirs; its owner registers later, and confirms."""
    client = private.test_client()
    register(client, EMAIL, full_name="Squatter", github="squatter")
    mailbox.let_an_hour_pass()
    register(client, EMAIL, full_name="Lerato Dube", password=OTHER_PASSWORD, user_role="developer")
    waiting = person(private)
    assert (waiting.full_name, waiting.github) == ("Squatter", "squatter"), "asking alone changes nothing"
    press(private, mailbox.token(EMAIL))
    user = person(private)
    assert (user.full_name, user.github, user.user_role, user.id) == ("Lerato Dube", None, "developer", waiting.id)
    assert sign_in(private, password=OTHER_PASSWORD).status_code == 200
    assert sign_in(private, password=PASSWORD).status_code == 401
    assert [event.event_metadata for event in recorded(private, "email_verified")] == [{"replaced": True}]


def test_a_second_form_within_the_hour_changes_nothing_either(private: Flask, mailbox: Mailbox, token: str) -> None:
    register(private.test_client(), EMAIL, password=OTHER_PASSWORD, full_name="Somebody Else")
    press(private, token)
    assert person(private).full_name == "Lerato Dube"
    assert sign_in(private, password=PASSWORD).status_code == 200
    assert sign_in(private, password=OTHER_PASSWORD).status_code == 401


def test_what_an_earlier_registrant_held_ends_with_the_takeover(private: Flask, mailbox: Mailbox) -> None:
    """An account of open mode, whose address nobody ever proved."""
    earlier = make_person(private, email=EMAIL)
    with private.app_context():
        db.session.add(
            UserSession(user_id=earlier.id, token_hash="-", expires_at=clock.now() + verification.LINK_LASTS)
        )
        account.complete_profile({"bio": "Mine."}, actor=earlier.actor)
    client = private.test_client()
    register(client, EMAIL, password=OTHER_PASSWORD)
    assert client.get("/api/auth/me", headers=earlier.bearer).status_code == 200, "asking locks nobody out"
    press(private, mailbox.token(EMAIL))
    assert client.get("/api/auth/me", headers=earlier.bearer).status_code == 401
    with private.app_context():
        assert db.session.scalars(select(UserSession.ended_at)).one() is not None
        assert db.session.scalars(select(ApiToken.revoked_at)).one() is not None
    assert person(private).profile is None


def test_an_address_of_admin_emails_becomes_an_administrator_by_the_press_and_not_before(
    private: Flask, mailbox: Mailbox
) -> None:
    register(private.test_client(), "boss@example.com")
    assert person(private, "boss@example.com").user_role == "client"
    press(private, mailbox.token("boss@example.com"))
    assert person(private, "boss@example.com").user_role == "admin"
    (event,) = recorded(private, "role_changed")
    assert (event.event_metadata, event.user_email) == ({"old": "client", "new": "admin"}, "boss@example.com")


def test_others_stay_what_they_are(private: Flask, token: str) -> None:
    press(private, token)
    assert person(private).user_role == "client"
    assert recorded(private, "role_changed") == []


# Signing in


def test_until_then_every_refusal_reads_the_same(private: Flask, token: str) -> None:
    make_known(private, "known@example.com")
    tries = [
        (EMAIL, PASSWORD),  # right, and not confirmed
        (EMAIL, "wrong-wrong-wrong"),
        ("known@example.com", "wrong-wrong-wrong"),
        ("nobody@example.com", PASSWORD),
    ]
    answers = [sign_in(private, *one) for one in tries]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.data for answer in answers}) == 1
    assert REFUSED in answers[0].json["detail"]
    pages = []
    for email, password in tries:
        visitor = Visitor(private)
        visitor.visit("/login")
        page = visitor.send("/login", status=401, email=email, password=password)
        assert REFUSED in page.words
        pages.append(page.words)
    assert len(set(pages)) == 1
    found = [event.event_metadata["reason"] for event in recorded(private, "user_login_failed")]
    assert found[:4] == [
        "address_not_confirmed",
        *("wrong_password_or_closed", "wrong_password_or_closed", "unknown_address"),
    ]


@pytest.mark.parametrize("path", ["/api/auth/v2/login", "/api/auth/login", "/api/token", "/login"])
def test_no_door_lets_an_unconfirmed_account_in(private: Flask, token: str, path: str) -> None:
    if path == "/login":
        visitor = Visitor(private)
        visitor.visit(path)
        visitor.send(path, status=401, email=EMAIL, password=PASSWORD)
    elif path == "/api/token":
        answer = private.test_client().post(path, data={"username": EMAIL, "password": PASSWORD})
        assert answer.status_code == 401
    else:
        answer = private.test_client().post(path, json={"email": EMAIL, "password": PASSWORD})
        assert answer.status_code == 401
    with private.app_context():
        assert db.session.scalars(select(ApiToken)).all() == []
        assert db.session.scalars(select(UserSession)).all() == []


def test_the_right_password_of_an_unconfirmed_account_mails_the_link_again_at_most_once_an_hour(
    private: Flask, mailbox: Mailbox, token: str
) -> None:
    sign_in(private)
    assert len(mailbox.letters()) == 1, "the first is not an hour old"
    mailbox.let_an_hour_pass()
    sign_in(private, password="wrong-wrong-wrong")
    sign_in(private, email="nobody@example.com")
    assert len(mailbox.letters()) == 1
    for _ in range(3):
        sign_in(private)
    assert mailbox.letters() == [("verify_email", EMAIL)] * 2
    press(private, mailbox.token(EMAIL))
    assert sign_in(private).status_code == 200


def test_every_refusal_asks_the_database_the_same(private: Flask, mailbox: Mailbox, token: str) -> None:
    mailbox.let_an_hour_pass()
    asked = []
    for email, password in (
        (EMAIL, PASSWORD),  # written to
        (EMAIL, PASSWORD),  # and not again
        (EMAIL, "wrong-wrong-wrong"),
        ("nobody@example.com", PASSWORD),
    ):
        with statements(private) as seen:
            sign_in(private, email, password)
        asked.append(["END" if kind_of(each) in ("RELEASE", "ROLLBACK") else kind_of(each) for each in seen])
    assert len(asked[0]) > 5
    assert asked == [asked[0]] * 4
    assert len(mailbox.letters()) == 2


@pytest.mark.parametrize("has_account", [False, True])
def test_an_administrator_made_by_the_operator_counts_as_confirmed(private: Flask, has_account: bool) -> None:
    email = "ayanda@example.com"
    if has_account:
        make_person(private, email=email)
        assert sign_in(private, email).status_code == 401
    done = private.test_cli_runner().invoke(args=["auth", "create-admin", email], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert sign_in(private, email).json["user"]["role"] == "admin"


def test_links_that_are_still_out_bring_an_administrator_no_other_password(private: Flask, tokens: list[str]) -> None:
    private.test_cli_runner().invoke(args=["auth", "create-admin", EMAIL])
    for token in tokens:
        assert press_blindly(private, token).status_code == 404
    assert sign_in(private, password=OTHER_PASSWORD).status_code == 401
    assert sign_in(private).json["user"]["role"] == "admin"


def test_an_account_page_says_where_an_address_is_not_confirmed(private: Flask, sign_in_open: Any) -> None:
    assert "not confirmed" in sign_in_open.visit("/account").words


@pytest.fixture
def sign_in_open(private: Flask) -> Visitor:
    """Return somebody who has signed in before accounts were private."""
    email = make_person(private).email
    visitor = Visitor(private)
    settings = private.config["SETTINGS"]
    private.config["SETTINGS"] = settings.model_copy(update={"account_privacy": "open"})
    visitor.visit("/login")
    visitor.send("/login", email=email, password=PASSWORD)
    private.config["SETTINGS"] = settings
    return visitor
