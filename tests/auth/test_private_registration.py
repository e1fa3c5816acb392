"""ACCOUNT_PRIVACY=private: the same answer and the same work for every address, and the rest by mail."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, func, select, text, update
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from capecontrol import clock
from capecontrol.audit.models import AuditLog
from capecontrol.auth import passwords, private_registration, verification, waiting_room
from capecontrol.auth.models import ApiToken, EmailVerification, User, UserSession
from capecontrol.extensions import db
from tests.auth.mailbox import Mailbox
from tests.auth.test_views import FILLED, an_older_mark
from tests.auth.test_waiting_room import full_gate
from tests.people import PASSWORD, make_person
from tests.visitor import Visitor

KNOWN, UNKNOWN = "known@example.com", "fresh@example.com"
BODY = {"full_name": "Lerato Dube", "password": PASSWORD, "user_role": "client"}
CLIENTS_BODY = {"firstName": "Lerato", "lastName": "Dube", "password": PASSWORD, "role": "customer", "phone": ""}
REGISTRATIONS = [
    ("/api/auth/v2/register", BODY),
    ("/api/auth/v2/register", CLIENTS_BODY),
    ("/api/auth/register", BODY),
    ("/api/auth/register/step2", BODY),
]


@pytest.fixture
def client(private: Flask) -> FlaskClient:
    """Return a program, where one confirmed account is known."""
    make_known(private)
    return private.test_client()


def make_known(app: Flask, email: str = KNOWN, *, is_confirmed: bool = True) -> str:
    """Open an account as open mode does, confirmed or not; return its id."""
    person = make_person(app, email=email)
    if is_confirmed:
        with app.app_context():
            db.session.execute(update(User).where(User.id == person.id).values(email_verified_at=clock.now()))
            db.session.commit()
    return person.id


def register(client: FlaskClient, email: str, key: str | None = None, **changes: Any) -> TestResponse:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/auth/v2/register", json={**BODY, "email": email, **changes}, headers=headers)


def count_of(app: Flask, model: type) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(model)) or 0


def refusals(app: Flask) -> list[tuple[str | None, str]]:
    """Return whose registrations were recorded as refused, and why."""
    with app.app_context():
        rows = db.session.scalars(select(AuditLog).where(AuditLog.event_type == "user_registration_failed"))
        return [(row.user_email, row.event_metadata["reason"]) for row in sorted(rows, key=lambda row: row.id)]


def send_form(app: Flask, email: str) -> Visitor:
    visitor = Visitor(app)
    visitor.visit("/register")
    visitor.send("/register", **{**FILLED, "email": email, "rendered_at": an_older_mark()})
    return visitor


# The same answer


@pytest.mark.parametrize(("path", "body"), REGISTRATIONS)
def test_known_and_unknown_are_answered_byte_by_byte_alike(
    client: FlaskClient, private: Flask, path: str, body: dict[str, Any]
) -> None:
    answers = [client.post(path, json={**body, "email": email}) for email in (KNOWN, UNKNOWN)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].data == answers[1].data
    headers = [sorted((name, value) for name, value in answer.headers if name != "X-Request-ID") for answer in answers]
    assert headers[0] == headers[1]
    wanted = {"detail"} if path.startswith("/api/auth/v2") else {"detail", "message", "success"}
    assert answers[0].json.keys() == wanted
    assert answers[0].json["detail"] == private_registration.DETAIL
    assert (count_of(private, ApiToken), count_of(private, UserSession)) == (1, 0), "that of the known account alone"


def test_the_page_after_the_form_is_the_same_for_both_and_signs_nobody_in(private: Flask, mailbox: Mailbox) -> None:
    make_known(private)
    pages = []
    for email in (KNOWN, UNKNOWN):
        visitor = send_form(private, email)
        assert [answer.status_code for answer in visitor.page.answer.history] == [303]
        assert visitor.page.answer.request.path == "/register/check-mail"
        pages.append(visitor.page.answer.data)
        assert "Sign in" in visitor.visit("/account").title.get_text()
    assert pages[0] == pages[1]
    assert count_of(private, UserSession) == 0
    assert mailbox.letters() == [("account_exists", KNOWN), ("verify_email", UNKNOWN)]


def test_every_well_formed_address_is_called_available_at_every_door(client: FlaskClient) -> None:
    for path in ("/api/auth/v2/validate-email", "/api/auth/register/step1"):
        answers = [client.post(path, json={"email": email}) for email in (KNOWN, UNKNOWN)]
        assert answers[0].data == answers[1].data
        assert answers[0].json["available"] is True
        assert client.post(path, json={"email": "nobody"}).json["reason"] == "invalid_format"
    got = [client.get("/api/auth/v2/validate-email", query_string={"email": email}) for email in (KNOWN, UNKNOWN)]
    assert got[0].data == got[1].data


def test_what_is_wrong_with_a_form_is_said_to_both_alike(client: FlaskClient) -> None:
    answers = [register(client, email, password="short") for email in (KNOWN, UNKNOWN)]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].data == answers[1].data


def test_a_repeat_under_the_same_key_is_the_same_202_and_changes_nothing(
    client: FlaskClient, private: Flask, mailbox: Mailbox
) -> None:
    for email in (KNOWN, UNKNOWN):
        first, second = register(client, email, f"key-{email}"), register(client, email, f"key-{email}")
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.data == second.data
        mailbox.let_an_hour_pass()
        assert register(client, email, f"key-{email}").data == first.data
        assert len(mailbox.letters(email)) == 1, "nor later"
        assert register(client, email, f"key-{email}", full_name="Other").status_code == 422
    assert count_of(private, User) == 2
    reasons = [reason for email, reason in refusals(private) if email == KNOWN]
    assert reasons == ["email_taken", "sent_before", "sent_before", "key_used_differently"]


def test_a_key_of_one_address_tells_nothing_about_another(client: FlaskClient) -> None:
    register(client, KNOWN, "key-1")
    register(client, UNKNOWN, "key-2")
    assert [register(client, "third@example.com", key).status_code for key in ("key-1", "key-2")] == [422, 422]


# The same work


def test_the_password_is_hashed_for_both(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    original = PasswordHasher.hash
    monkeypatch.setattr(PasswordHasher, "hash", lambda *call: hashed.append("once") or original(*call))
    for email in (KNOWN, UNKNOWN):
        hashed.clear()
        register(client, email)
        assert hashed == ["once"], email


def test_every_case_asks_the_database_the_same(client: FlaskClient, private: Flask, mailbox: Mailbox) -> None:
    make_known(private, "unconfirmed@example.com", is_confirmed=False)
    make_known(private, "closed@example.com")
    with private.app_context():
        db.session.execute(text("UPDATE users_v2 SET is_active = false WHERE email = 'closed@example.com'"))
        db.session.commit()
    asked = {}
    # The last two were written to a moment ago, and are not written to again.
    for case in (UNKNOWN, KNOWN, "unconfirmed@example.com", "closed@example.com", UNKNOWN, KNOWN):
        waiting_room.forget_figure()
        with statements(private) as seen:
            assert register(client, case).status_code == 202
        asked[len(asked), case] = seen
    kinds = {case: [kind_of(statement) for statement in seen] for case, seen in asked.items()}
    first = next(iter(kinds.values()))
    assert len(first) > 6
    for case, seen in kinds.items():
        # Whether what is between was kept or taken back is the one difference.
        assert [("END" if kind in ("RELEASE", "ROLLBACK") else kind) for kind in seen] == [
            ("END" if kind in ("RELEASE", "ROLLBACK") else kind) for kind in first
        ], case
    assert len(mailbox.letters()) == 3


class statements:  # noqa: N801 -- read as a word of the language
    """Collect what the application sends to its database meanwhile."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.seen: list[str] = []

    def __enter__(self) -> list[str]:
        with self.app.app_context():
            self.engine = db.engines[None]
        event.listen(self.engine, "before_cursor_execute", self._keep)
        event.listen(self.engine, "savepoint", self._save)
        event.listen(self.engine, "release_savepoint", self._release)
        event.listen(self.engine, "rollback_savepoint", self._take_back)
        return self.seen

    def __exit__(self, *_: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self._keep)
        event.remove(self.engine, "savepoint", self._save)
        event.remove(self.engine, "release_savepoint", self._release)
        event.remove(self.engine, "rollback_savepoint", self._take_back)

    def _keep(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.seen.append(statement)

    def _save(self, *_: object) -> None:
        self.seen.append("SAVEPOINT")

    def _release(self, *_: object) -> None:
        self.seen.append("RELEASE")

    def _take_back(self, *_: object) -> None:
        self.seen.append("ROLLBACK")


def kind_of(statement: str) -> str:
    words = statement.split()
    return words[0] if words[0] in ("RELEASE", "ROLLBACK", "SAVEPOINT") else " ".join(words[:3])


def test_a_full_gate_gives_both_a_place(client: FlaskClient) -> None:
    with full_gate():
        answers = [register(client, email) for email in (KNOWN, UNKNOWN)]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[0].json.keys() == answers[1].json.keys() == {"detail", "errors", "ticket", "place", "eta_seconds"}


def test_a_turn_ends_in_the_same_place_for_both(client: FlaskClient, mailbox: Mailbox) -> None:
    ends = []
    for email in (KNOWN, UNKNOWN):
        with full_gate():
            ticket = register(client, email).json["ticket"]
        waiting_room.forget_figure()
        headers = {"X-Registration-Ticket": ticket, "Idempotency-Key": f"key-{email}"}
        body = {**BODY, "email": email}
        for _ in range(2):  # sent again as the waiting page does when the first answer was lost
            assert client.post("/api/auth/v2/register", json=body, headers=headers).status_code == 202
        place = client.get("/api/auth/v2/registration-place", headers={"X-Registration-Ticket": ticket}).json
        ends.append(place)
        spent = client.post("/api/auth/v2/register", json=body, headers={"X-Registration-Ticket": ticket})
        assert (spent.status_code, "account" in spent.json["detail"]) == (409, False)
    assert ends[0] == ends[1]
    assert (ends[0]["status"], ends[0]["detail"]) == ("done", "Your form was taken. Look into your mail.")
    assert len(mailbox.letters()) == 2


def test_the_page_of_the_queue_ends_at_the_mail_too(private: Flask, mailbox: Mailbox) -> None:
    visitor = Visitor(private)
    visitor.visit("/register")
    with full_gate():
        page = visitor.send("/register", **{**FILLED, "email": UNKNOWN, "rendered_at": an_older_mark()})
    assert page.answer.request.path == "/register/waiting"
    place = page.find(attrs={"data-waiting": True})
    assert (place["data-onward"], place["data-done"]) == ("/register/check-mail",) * 2
    waiting_room.forget_figure()
    page = visitor.send("/register/waiting", password=PASSWORD)
    assert page.answer.request.path == "/register/check-mail"
    assert "account is open" not in visitor.visit("/register/waiting").words
    assert mailbox.letters() == [("verify_email", UNKNOWN)]


# What is done


def test_an_unknown_address_gets_an_account_that_waits_and_a_link(
    client: FlaskClient, private: Flask, mailbox: Mailbox
) -> None:
    register(client, "Fresh@Example.com", tos_accepted=True)
    with private.app_context():
        user = db.session.scalars(select(User).where(User.email_key == UNKNOWN)).one()
        (recorded,) = db.session.scalars(select(AuditLog).where(AuditLog.user_email != KNOWN))
    assert (user.email_verified_at, user.full_name, user.user_role) == (None, "Lerato Dube", "client")
    assert (recorded.event_type, recorded.success, recorded.user_id) == ("user_registration", True, user.id)
    assert recorded.event_metadata == {"method": "api", "role": "client", "terms_source": "api"}
    assert mailbox.letters() == [("verify_email", user.email)]


def test_the_owner_of_a_known_address_is_told_and_nothing_of_theirs_changes(
    client: FlaskClient, private: Flask, mailbox: Mailbox
) -> None:
    with private.app_context():
        before = db.session.execute(text("SELECT * FROM users_v2")).one()
    register(client, KNOWN.upper(), full_name="Somebody Else", password="Another-Mountain-1085!")
    with private.app_context():
        assert db.session.execute(text("SELECT * FROM users_v2")).one() == before
        assert db.session.scalars(select(EmailVerification)).all() == []
    assert mailbox.letters() == [("account_exists", KNOWN)]
    assert refusals(private) == [(KNOWN.upper(), "email_taken")]


def test_nobody_gets_more_than_one_mail_an_hour(client: FlaskClient, private: Flask, mailbox: Mailbox) -> None:
    make_known(private, "unconfirmed@example.com", is_confirmed=False)
    for email in (KNOWN, UNKNOWN, "unconfirmed@example.com"):
        for _ in range(3):
            assert register(client, email).status_code == 202
        assert len(mailbox.letters(email)) == 1
        mailbox.let_an_hour_pass()
        register(client, email)
        letters = mailbox.letters(email)
        assert len(letters) == 2
        assert letters[0] == letters[1]


def test_two_at_once_make_one_account_and_are_answered_alike(private: Flask, mailbox: Mailbox) -> None:
    start = threading.Barrier(6)

    def one(_number: int) -> TestResponse:
        start.wait()
        return register(private.test_client(), UNKNOWN)

    with ThreadPoolExecutor(6) as people:
        answers = [answer for answer in people.map(one, range(6)) if answer.status_code != 503]
    assert len(answers) > 1
    assert {(answer.status_code, answer.data) for answer in answers} == {(202, answers[0].data)}
    assert count_of(private, User) == 1
    assert mailbox.letters() == [("verify_email", UNKNOWN)]


def test_two_at_once_write_one_mail_to_a_known_address(private: Flask, mailbox: Mailbox) -> None:
    make_known(private)
    with ThreadPoolExecutor(6) as people:
        list(people.map(lambda _: register(private.test_client(), KNOWN), range(6)))
    assert mailbox.letters() == [("account_exists", KNOWN)]


def test_who_asks_while_another_is_being_written_to_waits_and_writes_nothing(private: Flask, mailbox: Mailbox) -> None:
    make_known(private)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with private.app_context(), ThreadPoolExecutor(1) as other:
        verification.write_to(verification.lock_owner(KNOWN), form=None)
        second = other.submit(register, private.test_client(), KNOWN)
        while db.session.scalar(waiting) == 0:
            assert not second.done(), "it did not wait"
            time.sleep(0.02)
        db.session.commit()
        assert second.result().status_code == 202
    assert mailbox.letters() == [("account_exists", KNOWN)]


def test_two_at_once_under_one_key_are_one(private: Flask, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin commits while the first one hashes."""
    client = private.test_client()
    original = passwords.hash_for_registration

    def overtaken(password: str) -> str:
        monkeypatch.setattr(passwords, "hash_for_registration", original)
        assert register(private.test_client(), UNKNOWN, "key-1").status_code == 202
        return original(password)

    monkeypatch.setattr(passwords, "hash_for_registration", overtaken)
    assert register(client, UNKNOWN, "key-1").status_code == 202
    assert refusals(private) == [(UNKNOWN, "sent_before")]
    assert len(mailbox.letters()) == 1


@pytest.mark.parametrize("overtaken", [(waiting_room, "admit"), (passwords, "hash_for_registration")])
def test_two_at_once_at_one_turn_are_one(
    client: FlaskClient, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, overtaken: tuple[Any, str]
) -> None:
    """The twin commits before the first one has shown its ticket, or while it hashes."""
    with full_gate():
        ticket = register(client, UNKNOWN).json["ticket"]
    waiting_room.forget_figure()
    headers = {"X-Registration-Ticket": ticket, "Idempotency-Key": "key-1"}
    before_the_twin = getattr(*overtaken)

    def twice(*arguments: Any) -> Any:
        monkeypatch.setattr(*overtaken, before_the_twin)
        assert send() == 202
        return before_the_twin(*arguments)

    def send() -> int:
        return client.post("/api/auth/v2/register", json={**BODY, "email": UNKNOWN}, headers=headers).status_code

    monkeypatch.setattr(*overtaken, twice)
    assert send() == 202
    assert refusals(client.application) == [(UNKNOWN, "sent_before")]
    assert mailbox.letters() == [("verify_email", UNKNOWN)]


def test_nothing_secret_comes_into_a_log_or_the_record(private: Flask, mailbox: Mailbox) -> None:
    client = private.test_client()
    with capture_logs() as lines:
        register(client, UNKNOWN)
        token = mailbox.token(UNKNOWN)
        client.get("/verify-email", query_string={"token": token})
        client.get("/verify-email", query_string={"token": f"{token}x"})
        send_form(private, "second@example.com")
    told = repr(lines) + contents(private, "audit_logs") + contents(private, "procrastinate_jobs")
    assert "user_registration" in told
    assert "mail.send" in told
    for secret in (token, PASSWORD, "token=", "$argon2"):
        assert secret not in told
    kept = contents(private, "email_verifications")
    assert kept
    assert token not in kept


def contents(app: Flask, table: str) -> str:
    """Return everything a table holds."""
    with app.app_context():
        return "\n".join(db.session.scalars(text(f"SELECT {table}::text FROM {table}")))


# Open mode


def test_in_open_mode_no_mail_is_written_and_everything_is_as_it_was(
    app: Flask, client_of_open_mode: FlaskClient
) -> None:
    assert register(client_of_open_mode, UNKNOWN).status_code == 201
    assert register(client_of_open_mode, UNKNOWN).status_code == 409
    wrong = client_of_open_mode.post("/api/auth/v2/login", json={"email": UNKNOWN, "password": "wrong-wrong"})
    assert wrong.json["detail"] == "That e-mail address and password do not match an open account."
    right = client_of_open_mode.post("/api/auth/v2/login", json={"email": UNKNOWN, "password": PASSWORD})
    assert right.status_code == 200
    assert Mailbox(app).letters() == []
    assert client_of_open_mode.get("/register/check-mail").location == "/register"
    page = client_of_open_mode.get("/verify-email?token=abc")
    assert (page.status_code, "This link is not valid" in page.text) == (404, True)


@pytest.fixture
def client_of_open_mode(app: Flask) -> FlaskClient:
    return app.test_client()
