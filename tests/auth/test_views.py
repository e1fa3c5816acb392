"""The account pages, without JavaScript: register, sign in and out, one's account."""

import re
from collections.abc import Callable
from datetime import timedelta

import psycopg2
import pytest
from bs4 import BeautifulSoup
from flask import Flask
from itsdangerous import TimestampSigner
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from capecontrol import clock
from capecontrol.audit.devices import browser_name
from capecontrol.audit.models import AuditLog
from capecontrol.auth import automation, passwords
from capecontrol.auth.models import User, UserSession
from capecontrol.auth.views import safe_target
from capecontrol.config import libpq_url
from capecontrol.errors import RateLimited
from tests.live_server import SECRET_KEY
from tests.people import PASSWORD, Person
from tests.visitor import Visitor, filled_in

FILLED = {
    "full_name": "Lerato Dube",
    "email": "lerato@example.com",
    "password": PASSWORD,
    "user_role": "client",
    "company_name": "",
    "terms": "yes",
}


@pytest.fixture
def patient(visitor: Visitor) -> Visitor:
    """A visitor who took their time to fill in the form."""
    visitor.visit("/register")
    return visitor


def an_older_mark() -> str:
    """Return the mark of a form that was drawn a minute ago."""
    signer = automation._signer(SECRET_KEY)
    now = signer.get_timestamp()
    signer.get_timestamp = lambda: now - 60  # type: ignore[method-assign]
    return signer.sign("form").decode()


def test_what_is_missing_is_said_in_the_same_words_by_the_page_and_by_the_server(patient: Visitor) -> None:
    fields = ("full_name", "email", "password", "terms")
    said = {name: patient.page.find(attrs={"name": name})["data-missing"] for name in fields}
    assert len(set(said.values())) == len(fields)
    page = register(patient, status=422, full_name="", email="", password="", terms=None)
    for name in fields:
        assert page.find(id=f"{name}-error").get_text().split("Error:")[1].strip() == said[name]
    # And the password that is there but too short.
    page = register(patient, status=422, password="short")
    assert said["password"] in page.find(id="password-error").get_text()
    assert page.find(attrs={"name": "password"})["minlength"] == str(passwords.SHORTEST)


def register(visitor: Visitor, *, status: int = 200, **changes: object):
    return visitor.send("/register", status=status, **{**FILLED, "rendered_at": an_older_mark(), **changes})


def names(session: Session) -> list[str]:
    return list(session.scalars(select(AuditLog.event_type).order_by(AuditLog.id)))


def test_a_registration_signs_in_and_goes_to_the_conversations(patient: Visitor, db_session: Session) -> None:
    page = register(patient)
    assert page.answer.request.path == "/conversations"
    assert [answer.status_code for answer in page.answer.history] == [303]
    assert "Welcome, Lerato Dube" in page.words
    assert names(db_session) == ["user_registration"]
    assert patient.visit("/account").find(string=re.compile("lerato@example.com"))


def test_after_a_mistake_everything_but_the_password_is_kept(patient: Visitor, db_session: Session) -> None:
    page = register(
        patient, status=422, email="not an address", company_name="Kelp & <b>Co</b>", user_role="developer", terms=None
    )
    assert page.find("input", id="full_name")["value"] == "Lerato Dube"
    assert page.find("input", id="email")["value"] == "not an address"
    assert page.find("input", id="company_name")["value"] == "Kelp & <b>Co</b>"
    assert page.find("input", value="developer").has_attr("checked")
    assert not page.find("input", id="password").get("value")
    assert PASSWORD not in str(page)
    summary = page.find(attrs={"role": "alert"})
    assert {link["href"] for link in summary.find_all("a")} >= {"#email", "#terms"}
    assert page.title.get_text().startswith("Error")
    assert names(db_session) == ["user_registration_failed"]
    assert db_session.scalar(select(func.count()).select_from(User)) == 0


@pytest.mark.parametrize("password", ["short", "password1234", "Lerato-Dube-1", "lerato-the-1st", "x" * 257])
def test_every_mistake_is_told_at_once_the_password_too(patient: Visitor, password: str) -> None:
    page = register(patient, status=422, email="lerato-the-1st", password=password, terms=None)
    told = {link["href"]: link.get_text() for link in page.select("[role=alert] a")}
    assert list(told) == ["#email", "#password", "#terms"]
    assert told["#password"] == passwords.problems(password, email="lerato-the-1st", name="Lerato Dube")[0]


def test_a_name_that_cannot_be_seen_or_turns_what_stands_beside_it_is_refused_in_words(patient: Visitor) -> None:
    page = register(patient, status=422, full_name="\u200b\u200b", company_name="Kelp \u202eoC &")
    assert "Your name must have something visible in it." in page.find(id="full_name-error").get_text()
    assert "must not contain characters that turn the direction" in page.find(id="company_name-error").get_text()


def test_the_mistake_can_be_corrected(patient: Visitor) -> None:
    register(patient, status=422, password="short")
    assert register(patient).answer.request.path == "/conversations"


def test_a_taken_address_is_said_beside_the_field(patient: Visitor, person: Person) -> None:
    page = register(patient, status=409, email=person.email.upper())
    assert "already has an account" in page.words
    assert page.find("input", id="email")["aria-invalid"] == "true"


@pytest.mark.parametrize("role", ["admin", "root", ""])
def test_nobody_makes_themselves_an_administrator(patient: Visitor, db_session: Session, role: str) -> None:
    register(patient, status=422, user_role=role)
    assert db_session.scalar(select(func.count()).select_from(User)) == 0


def test_sending_the_same_form_twice_makes_one_account(patient: Visitor, app: Flask, db_session: Session) -> None:
    form = patient.page.form("/register")
    key = form.find("input", attrs={"name": "idempotency_key"})["value"]
    second = Visitor(app)
    second.visit("/register")
    register(patient)
    page = register(second, idempotency_key=key)
    assert page.answer.request.path == "/conversations"
    assert db_session.scalar(select(func.count()).select_from(User)) == 1


def test_going_back_and_changing_the_form_is_said_and_can_be_sent(patient: Visitor, app: Flask) -> None:
    key = patient.page.form("/register").find("input", attrs={"name": "idempotency_key"})["value"]
    register(patient)
    back = Visitor(app)
    back.visit("/register")
    page = register(back, status=422, idempotency_key=key, email="second@example.com")
    assert "already sent this form with other details" in page.words
    assert register(back, email="second@example.com").answer.request.path == "/conversations"


def test_a_filled_trap_is_answered_in_words(patient: Visitor, db_session: Session) -> None:
    page = register(patient, status=422, fax_number="12345")
    assert "Leave this empty" in page.words
    assert db_session.scalar(select(func.count()).select_from(User)) == 0
    assert register(patient).answer.request.path == "/conversations", "the trap is empty again"


def test_a_form_sent_in_the_second_it_was_drawn_is_answered_in_words(
    patient: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_second = int(clock.epoch())
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _signer: this_second)
    monkeypatch.setattr(clock, "epoch", lambda: this_second + 0.9)
    page = register(patient, status=422, rendered_at=automation.stamp(SECRET_KEY))
    assert "faster than anybody can type" in page.words


@pytest.mark.parametrize("mark", ["", "form", "form.abc.def"])
def test_a_forged_mark_is_answered_in_words(patient: Visitor, mark: str) -> None:
    register(patient, status=422, rendered_at=mark)


def test_a_form_without_its_token_is_refused(app: Flask, db_session: Session) -> None:
    answer = app.test_client().post("/register", data=FILLED)
    assert answer.status_code == 400
    assert "load that page anew" in answer.get_data(as_text=True)
    assert db_session.scalar(select(func.count()).select_from(User)) == 0


@pytest.mark.parametrize("has_session", [True, False], ids=["another session", "no session"])
def test_an_outdated_registration_is_drawn_again_with_what_was_typed(
    patient: Visitor, db_session: Session, has_session: bool
) -> None:
    if not has_session:
        patient.client.delete_cookie("session")
    patient.headers = {"Referer": "http://localhost/register"}
    page = register(patient, status=400, csrf_token="outdated", company_name="Kelp & Co", user_role="developer")
    kept = filled_in(page.form("/register"))
    assert {name: kept.get(name) for name in ("full_name", "email", "company_name", "user_role", "terms")} == {
        **{name: FILLED[name] for name in ("full_name", "email", "terms")},
        "company_name": "Kelp & Co",
        "user_role": "developer",
    }
    assert PASSWORD not in str(page)
    title = "This page was open for too long" if has_session else "This form came without our cookie"
    assert page.find(attrs={"role": "alert"}).h2.get_text() == title
    assert "Please type your password and press the button once more." in page.words
    assert ("let your browser keep the cookies" in page.words) is not has_session
    assert (names(db_session), db_session.scalar(select(func.count()).select_from(User))) == ([], 0)
    assert "Sign in" in Visitor(patient.client.application).visit("/account").title.get_text()
    patient.page = page
    assert register(patient).answer.request.path == "/conversations", "the form works"


@pytest.mark.parametrize("has_session", [True, False], ids=["another session", "no session"])
def test_an_outdated_sign_in_is_drawn_again_and_signs_nobody_in(
    app: Flask, person: Person, db_session: Session, has_session: bool
) -> None:
    visitor = Visitor(app, Referer="http://localhost/login?next=/account")
    visitor.visit("/login?next=/account")
    if not has_session:
        visitor.client.delete_cookie("session")
    filled = {"email": person.email, "password": PASSWORD, "remember": "y"}
    page = visitor.send("/login", status=400, csrf_token="outdated", **filled)
    kept = filled_in(page.form("/login"))
    assert (kept["email"], kept["password"], kept["next"]) == (person.email, "", "/account")
    assert "remember" in kept
    title = "This page was open for too long" if has_session else "This form came without our cookie"
    assert page.find(attrs={"role": "alert"}).h2.get_text() == title
    assert "Please type your password and press the button once more." in page.words
    assert names(db_session) == ["user_registration"], "the person's own, before"
    assert db_session.scalar(select(func.count()).select_from(UserSession)) == 0
    page = visitor.send("/login", password=PASSWORD)
    assert page.answer.request.path == "/account", "the form works"


@pytest.mark.parametrize("path", ["/register", "/login"])
@pytest.mark.parametrize("page", ["", "https://evil.test/", "http://localhost@evil.test/login"])
def test_another_sites_form_is_not_drawn_and_leaves_the_persons_session_alone(app: Flask, path: str, page: str) -> None:
    answer = app.test_client().post(path, data=FILLED, headers={"Referer": page})
    assert answer.status_code == 400
    assert FILLED["email"] not in answer.text
    assert "Set-Cookie" not in answer.headers, "its session would take the place of the person's own"
    shown = BeautifulSoup(answer.text, "html.parser")
    assert shown.h1.get_text() == "This page was open for too long"
    assert "Nothing was done." in shown.find("p", class_="lead").get_text()


def test_an_outdated_sign_in_goes_on_to_no_other_site(app: Flask) -> None:
    filled = {"email": "a@example.com", "next": "https://evil.test/"}
    answer = app.test_client().post("/login", data=filled, headers={"Referer": "http://localhost/login"})
    assert answer.status_code == 400
    assert "a@example.com" in answer.text
    assert "evil.test" not in answer.text


def post_as_from(visitor: Visitor, page: str, action: str) -> TestResponse:
    """Send what a browser sends of a form whose token belongs to a session that is over."""
    return visitor.client.post(action, data={"csrf_token": "outdated"}, headers={"Referer": page})


def test_a_form_sent_after_signing_out_elsewhere_leads_to_signing_in_and_back(sign_in, person: Person) -> None:
    visitor = sign_in(person)
    visitor.visit("/conversations")
    visitor.send("/logout")
    answer = post_as_from(visitor, "http://localhost/conversations?shelf=archived", "/conversations")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login?next=/conversations?shelf%3Darchived"
    page = visitor.visit(answer.headers["Location"])
    assert page.find("input", attrs={"name": "next"})["value"] == "/conversations?shelf=archived"


def test_a_session_that_was_ended_elsewhere_leads_back_to_the_form_too(
    sign_in, person: Person, db_session: Session
) -> None:
    visitor = sign_in(person)
    token = filled_in(visitor.visit("/conversations").form("/conversations"))["csrf_token"]
    db_session.execute(update(UserSession).values(ended_at=clock.now()))
    headers = {"Referer": "http://localhost/conversations"}
    answer = visitor.client.post("/conversations", data={"csrf_token": token}, headers=headers)
    assert answer.headers["Location"] == "/login?next=/conversations"


def test_a_form_of_an_earlier_session_says_what_can_be_done_and_leads_to_its_page(sign_in, person: Person) -> None:
    answer = post_as_from(sign_in(person), "http://localhost/conversations?shelf=archived#main", "/conversations")
    page = BeautifulSoup(answer.text, "html.parser")
    assert answer.status_code == 400
    assert "Go back, load that page anew and send it again." in page.find("p", class_="lead").get_text()
    link = page.select_one(".actions a")
    assert (link.get_text(), link["href"]) == ("Load that page anew", "/conversations?shelf=archived")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "https://evil.test/conversations",
        "https://localhost/conversations",
        "http://localhost:81/conversations",
        "http://localhost@evil.test/conversations",
        "http://localhost//evil.test",
        "http://localhost/conversations/1/rename",
        "http://localhost/nothing",
        "http://[",
        "javascript:alert(1)",
    ],
)
def test_a_form_of_an_earlier_session_leads_to_no_other_page(sign_in, person: Person, page: str) -> None:
    visitor = sign_in(person)
    answer = post_as_from(visitor, page, "/conversations")
    assert answer.status_code == 400
    assert "Load that page anew" not in answer.text
    visitor.visit("/conversations")
    visitor.send("/logout")
    assert post_as_from(visitor, page, "/conversations").headers["Location"] == "/login"


def test_signing_in_gives_the_browser_a_new_session(app: Flask, person: Person, db_session: Session) -> None:
    visitor = Visitor(app)
    visitor.visit("/login")
    before = visitor.client.get_cookie("session")
    visitor.send("/login", email=person.email, password=PASSWORD)
    after = visitor.client.get_cookie("session")
    assert before is not None
    assert after is not None
    assert before.value != after.value
    assert after.http_only
    assert after.same_site == "Lax"
    row = db_session.scalars(select(UserSession)).one()
    assert row.token_hash not in after.value
    assert row.expires_at - row.created_at == timedelta(hours=24)


def test_signing_in_again_ends_the_earlier_session(app: Flask, person: Person, db_session: Session) -> None:
    visitor = Visitor(app)
    for _ in range(2):
        visitor.client.get("/login")
        token = _token(visitor)
        visitor.client.post("/login", data={"email": person.email, "password": PASSWORD, "csrf_token": token})
    ended = list(db_session.scalars(select(UserSession.ended_at).order_by(UserSession.created_at)))
    assert [at is None for at in ended] == [False, True]


def _token(visitor: Visitor) -> str:
    """Return a request-forgery token for a browser that may be signed in."""
    with visitor.client.session_transaction() as session:
        session.setdefault("csrf_token", "0" * 40)
        raw = session["csrf_token"]
    from itsdangerous import URLSafeTimedSerializer

    return str(URLSafeTimedSerializer(SECRET_KEY, salt="wtf-csrf-token").dumps(raw))


def test_a_wrong_password_and_an_unknown_address_read_the_same(app: Flask, person: Person, db_session: Session) -> None:
    words = []
    for email in (person.email, "nobody@example.com"):
        visitor = Visitor(app)
        visitor.visit("/login")
        page = visitor.send("/login", status=401, email=email, password="wrong-wrong-wrong")
        assert page.find("input", id="email")["value"] == email
        words.append(page.words)
    assert words[0] == words[1]
    failures = list(db_session.scalars(select(AuditLog).where(AuditLog.event_type == "user_login_failed")))
    assert [row.user_id for row in failures] == [person.id, None]
    assert {row.event_metadata["reason"] for row in failures} == {"wrong_password_or_closed", "unknown_address"}


def test_who_forgot_the_password_is_led_to_what_helps(app: Flask, person: Person) -> None:
    def links(place) -> list[str]:
        return [link["href"] for link in place.find_all("a", string="I forgot my password")]

    visitor = Visitor(app)
    assert links(visitor.visit("/login").form("/login")) == ["/help/forgotten-password"]
    page = visitor.send("/login", status=401, email=person.email, password="wrong-wrong-wrong")
    assert links(page.find(attrs={"role": "alert"})) == ["/help/forgotten-password"]
    visitor.visit("/help/forgotten-password")
    visitor.visit("/login")
    page = visitor.send("/login", status=422, email=person.email, password="")
    assert links(page.find(attrs={"role": "alert"})) == [], "an empty field is no forgotten password"


def test_a_closed_account_cannot_sign_in(app: Flask, person: Person, db_session: Session) -> None:
    db_session.execute(update(User).values(is_active=False))
    db_session.commit()
    visitor = Visitor(app)
    visitor.visit("/login")
    visitor.send("/login", status=401, email=person.email, password=PASSWORD)


def test_being_remembered_outlives_the_browser(app: Flask, person: Person, sign_in: Callable[..., Visitor]) -> None:
    visitor = sign_in(person, remember=True)
    visitor.client.delete_cookie("session")
    assert person.email in visitor.visit("/account").words
    forgetful = sign_in(person)
    forgetful.client.delete_cookie("session")
    assert "Sign in" in forgetful.visit("/account").title.get_text()


def test_signing_out_ends_the_session_on_the_server(
    app: Flask, person: Person, sign_in: Callable[..., Visitor], db_session: Session
) -> None:
    visitor = sign_in(person, remember=True)
    stolen = visitor.client.get_cookie("session")
    visitor.visit("/account")
    page = visitor.send("/logout")
    assert page.answer.request.path == "/"
    assert visitor.client.get_cookie("remember") is None
    assert "Sign in" in visitor.visit("/account").title.get_text()
    thief = Visitor(app)
    assert stolen is not None
    thief.client.set_cookie("session", stolen.value)
    assert "Sign in" in thief.visit("/account").title.get_text()
    assert names(db_session)[-1] == "user_logout"


def test_who_is_signed_out_already_is_told_so_by_the_button_of_an_old_page(sign_in, person: Person) -> None:
    visitor = sign_in(person)
    old = visitor.visit("/account")
    visitor.send("/logout")
    visitor.page = old
    page = visitor.send("/logout")
    assert page.answer.request.path == "/login"
    assert page.find(class_="flashes").get_text(strip=True) == "You are signed out."
    assert "You are signed out." not in visitor.visit("/login").words


def test_whose_session_was_ended_elsewhere_is_told_so_by_the_button(
    sign_in, person: Person, db_session: Session
) -> None:
    visitor = sign_in(person)
    visitor.visit("/account")
    db_session.execute(update(UserSession).values(ended_at=clock.now()))
    page = visitor.send("/logout")
    assert page.answer.request.path == "/login"
    assert page.find(class_="flashes").get_text(strip=True) == "You are signed out."


def test_an_old_button_brings_the_page_back_with_one_that_signs_out(
    sign_in, person: Person, db_session: Session
) -> None:
    visitor = sign_in(person)
    answer = post_as_from(visitor, "http://localhost/account/activity?outcome=refused", "/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account/activity?outcome=refused")
    assert "Press “Sign out” once more." in visitor.visit(answer.headers["Location"]).words
    assert post_as_from(visitor, "https://evil.test/account", "/logout").headers["Location"] == "/conversations"
    assert db_session.scalars(select(UserSession.ended_at)).one() is None
    visitor.visit("/account")
    assert visitor.send("/logout").answer.request.path == "/"
    assert db_session.scalars(select(UserSession.ended_at)).one() is not None


def test_an_old_button_is_answered_in_words_while_the_database_is_silent(
    sign_in, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = sign_in(person)

    def be_silent(*_args: object, **_kwargs: object) -> None:
        raise OperationalError("SELECT", {}, psycopg2.OperationalError("server closed the connection"))

    monkeypatch.setattr(Session, "execute", be_silent)
    assert post_as_from(visitor, "http://localhost/account", "/logout").status_code == 503


def test_another_sites_form_signs_nobody_out(app: Flask, sign_in, person: Person, db_session: Session) -> None:
    """A browser sends it without the person's cookies, and keeps the cookies of the answer."""
    headers = {"Referer": "https://evil.test/", "Origin": "https://evil.test"}
    answer = app.test_client().post("/logout", headers=headers)
    assert answer.status_code == 303
    assert answer.headers.getlist("Set-Cookie") == []
    visitor = sign_in(person)
    page = visitor.visit(answer.headers["Location"])
    assert page.answer.request.path == "/conversations"
    assert visitor.client.post("/logout", headers=headers).status_code == 303
    assert person.email in visitor.visit("/account").words
    assert db_session.scalars(select(UserSession.ended_at)).one() is None


def test_a_page_that_needs_signing_in_comes_back_after_it(app: Flask, person: Person) -> None:
    visitor = Visitor(app)
    visitor.visit("/account/activity?outcome=refused")
    page = visitor.send("/login", email=person.email, password=PASSWORD)
    assert page.answer.request.full_path.startswith("/account/activity?outcome=refused")


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example.com/",
        "//evil.example.com",
        "/\\evil.example.com",
        "\\\\evil.example.com",
        "/\t/evil.example.com",
        "javascript:alert(1)",
        "account",
        "",
        "/a\r\nSet-Cookie: x",
    ],
)
def test_nobody_is_sent_to_another_site_after_signing_in(target: str) -> None:
    assert safe_target(target) is None


def test_a_path_of_ours_is_a_target() -> None:
    assert safe_target("/account/activity?a=b") == "/account/activity?a=b"


def test_somebody_signed_in_needs_no_registration_and_no_sign_in(sign_in: Callable[..., Visitor]) -> None:
    visitor = sign_in()
    for path in ("/register", "/login"):
        assert visitor.visit(path).answer.request.path == "/conversations"


def test_ones_sessions_are_listed_and_can_be_ended(
    app: Flask, person: Person, sign_in: Callable[..., Visitor], db_session: Session
) -> None:
    here, there = sign_in(person), sign_in(person)
    page = here.visit("/account")
    other = db_session.scalars(select(UserSession).order_by(UserSession.created_at.desc())).first()
    assert other is not None
    assert page.find("form", action=f"/account/sessions/{other.id}/end")
    here.send(f"/account/sessions/{other.id}/end")
    assert "Sign in" in there.visit("/account").title.get_text()
    assert person.email in here.visit("/account").words
    assert "session_ended" in names(db_session)


def test_somebody_elses_session_cannot_be_ended(
    person: Person, noise: Person, sign_in: Callable[..., Visitor], db_session: Session
) -> None:
    mine, theirs = sign_in(person), sign_in(noise)
    other = db_session.scalars(select(UserSession).where(UserSession.user_id == noise.id)).one()
    answer = mine.client.post(f"/account/sessions/{other.id}/end", data={"csrf_token": _token(mine)})
    assert answer.status_code == 404
    assert noise.email in theirs.visit("/account").words
    gone = mine.client.post("/account/sessions/none-such/end", data={"csrf_token": _token(mine)})
    assert gone.status_code == 404
    (denied,) = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied"))
    assert (denied.user_id, denied.subject_id, denied.event_metadata) == (person.id, other.id, {"wanted": "session"})
    assert denied.success is False


def test_a_forgotten_session_ends_by_itself(
    app: Flask, person: Person, sign_in: Callable[..., Visitor], db_session: Session
) -> None:
    visitor = sign_in(person)
    db_session.execute(update(UserSession).values(expires_at=clock.now()))
    db_session.commit()
    assert "Sign in" in visitor.visit("/account").title.get_text()


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox on Linux"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/130.0 Safari/537.36 Edg/130.0", "Edge on Windows"),
        ("curl/8.5.0", "curl"),
        (None, "Unknown browser"),
    ],
)
def test_a_browser_is_named_as_people_know_it(agent: str | None, name: str) -> None:
    assert browser_name(agent) == name


def test_registering_over_somebody_leaves_nothing_of_theirs_in_the_browser(
    app: Flask, person: Person, sign_in: Callable[..., Visitor], db_session: Session
) -> None:
    """A shared computer: the next user's account must not give way to the first one's when the browser is restarted."""
    visitor = sign_in(person, remember=True)
    other = Visitor(app)
    other.visit("/register")
    form = {name: value for name, value in FILLED.items() if value} | {"rendered_at": an_older_mark()}
    key = other.page.form("/register").find("input", attrs={"name": "idempotency_key"})["value"]
    answer = visitor.client.post("/register", data={**form, "idempotency_key": key, "csrf_token": _token(visitor)})
    assert answer.status_code == 303
    assert "lerato@example.com" in visitor.visit("/account").words
    visitor.client.delete_cookie("session")
    assert "Sign in" in visitor.visit("/account").title.get_text()
    ended = db_session.scalars(select(UserSession).where(UserSession.user_id == person.id)).one()
    assert ended.ended_at is not None
    events = db_session.execute(select(AuditLog.event_type, AuditLog.user_id).order_by(AuditLog.id)).all()
    assert ("session_ended", person.id) in [tuple(row) for row in events]


@pytest.mark.parametrize("target", ["//[", "/\\[", "http://["])
def test_an_address_that_cannot_be_read_is_no_target(visitor: Visitor, target: str) -> None:
    assert safe_target(target) is None
    visitor.client.get("/login", query_string={"next": target})
    assert visitor.visit("/login").status == 200


def test_a_rate_limit_keeps_what_was_typed(app: Flask, patient: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise RateLimited(retry_after=7)

    told = register(patient, status=422, email="").find(attrs={"role": "alert"})
    assert told.h2.get_text() == "Please look at this again"
    monkeypatch.setattr("capecontrol.web.rate_limits.hold_to", refuse)
    page = register(patient, status=429)
    assert page.find("input", id="full_name")["value"] == "Lerato Dube"
    assert page.answer.headers["Retry-After"] == "7"
    told = page.find(attrs={"role": "alert"})
    assert told.h2.get_text() == "Your account is not open yet", "nothing is wrong with what was filled in"
    assert [line.get_text() for line in told.find_all("li")] == ["Too many tries from here. Try again in 7 seconds."]
    assert "type your password again" in told.find("p", class_="without-js").get_text()


def test_a_busy_database_keeps_what_was_typed_and_is_recorded(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    visitor = Visitor(committed_app)
    visitor.visit("/register")
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    with psycopg2.connect(url) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE users_v2 IN ACCESS EXCLUSIVE MODE")
        page = register(visitor, status=503)
        other.rollback()
    assert page.find("input", id="full_name")["value"] == "Lerato Dube"
    # The record refers to people, so it could not be written either; it is on standard error.
    assert '"user_registration_failed"' in capsys.readouterr().err
    assert register(visitor).answer.request.path == "/conversations"


def test_a_tick_is_sent_as_yes(patient: Visitor) -> None:
    assert patient.page is not None
    assert patient.page.find("input", attrs={"name": "terms"})["value"] == "yes"
    again = register(patient, status=422, email="no")
    assert again.find("input", attrs={"name": "terms"})["value"] == "yes"
    assert again.find("input", attrs={"name": "terms"}).has_attr("checked")


@pytest.mark.parametrize("key", ["x" * 201, "na\u00efve", "a\tb"])
def test_a_hidden_key_that_no_page_of_ours_made_is_refused(patient: Visitor, db_session: Session, key: str) -> None:
    page = register(patient, status=422, idempotency_key=key)
    assert "This form was changed on its way" in page.words
    fresh = page.find("input", attrs={"name": "idempotency_key"})["value"]
    assert fresh not in ("", key)
    assert db_session.scalar(select(func.count()).select_from(User)) == 0
    register(patient)
    assert db_session.scalar(select(func.count()).select_from(User)) == 1


@pytest.mark.parametrize("path", ["/register", "/login", "/register/waiting"])
def test_looking_at_a_forms_head_sends_nothing_and_is_no_refusal(app: Flask, db_session: Session, path: str) -> None:
    answer = app.test_client().head(path)
    assert answer.status_code == (303 if path == "/register/waiting" else 200)
    assert names(db_session) == []
