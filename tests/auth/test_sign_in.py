"""Signing in by JSON: tokens, their end, inherited hashes, and cookies of other sites."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import bcrypt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit.models import AuditLog
from capecontrol.auth import account, sign_in
from capecontrol.auth.models import ApiToken, User, UserSession
from capecontrol.auth.sign_in import sign_out
from capecontrol.extensions import db
from capecontrol.operations import tasks
from tests.audit.faults import run
from tests.people import PASSWORD, Person, make_person
from tests.visitor import Visitor


def test_a_token_lasts_twelve_hours(client: FlaskClient, person: Person, db_session: Session) -> None:
    row = db_session.scalars(select(ApiToken)).one()
    assert row.expires_at - row.created_at == timedelta(hours=12)
    db_session.execute(update(ApiToken).values(expires_at=clock.now()))
    db_session.commit()
    assert client.get("/api/auth/v2/me", headers=person.bearer).status_code == 401


def test_a_signed_out_token_is_dead_and_others_live(client: FlaskClient, person: Person) -> None:
    other = client.post("/api/auth/v2/login", json={"email": person.email, "password": PASSWORD}).json["access_token"]
    assert client.post("/api/auth/v2/logout", headers=person.bearer).status_code == 204
    assert client.get("/api/auth/v2/me", headers=person.bearer).status_code == 401
    assert client.get("/api/auth/v2/me", headers={"Authorization": f"Bearer {other}"}).status_code == 200
    assert client.post("/api/auth/v2/logout", headers=person.bearer).status_code == 401


def test_a_closed_accounts_token_is_dead(client: FlaskClient, person: Person, db_session: Session) -> None:
    db_session.execute(update(User).values(is_active=False))
    db_session.commit()
    assert client.get("/api/auth/v2/me", headers=person.bearer).status_code == 401


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer x", "bearer \u00e9", "Basic abc", "Token abc", "Bearer " + "x" * 9000]
)
def test_something_else_is_no_token(client: FlaskClient, header: str) -> None:
    answer = client.get("/api/auth/me", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.is_json


def test_an_inherited_account_signs_in_and_gets_argon2id(client: FlaskClient, db_session: Session) -> None:
    inherited = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    db_session.add(
        User(
            id=ids.new_id(),
            email="old@example.com",
            email_key="old@example.com",
            password_hash=inherited,
            user_role="client",
        )
    )
    db_session.commit()
    body = {"email": "old@example.com", "password": PASSWORD}
    assert client.post("/api/auth/v2/login", json=body).status_code == 200
    db_session.expire_all()
    assert str(db_session.scalar(select(User.password_hash))).startswith("$argon2id$")
    assert client.post("/api/auth/v2/login", json=body).status_code == 200


def test_signing_in_and_out_are_recorded(client: FlaskClient, person: Person, db_session: Session) -> None:
    client.post("/api/auth/v2/login", json={"email": person.email, "password": PASSWORD})
    client.post("/api/auth/v2/login", json={"email": person.email, "password": "wrong"})
    client.post("/api/auth/v2/logout", headers=person.bearer)
    events = list(db_session.execute(select(AuditLog.event_type, AuditLog.success).order_by(AuditLog.id)))
    assert events == [
        ("user_registration", True),
        ("user_login", True),
        ("user_login_failed", False),
        ("user_logout", True),
    ]


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        ({"username": "a", "password": "b"}, "application/x-www-form-urlencoded", 401),
        ({"username": "a"}, "application/x-www-form-urlencoded", 422),
        ("{}", "application/json", 415),
        (b"\xff\xfe=\xff", "application/x-www-form-urlencoded", 400),
        ("", None, 415),
    ],
)
def test_the_form_endpoint_takes_forms_only(
    client: FlaskClient, data: object, content_type: str | None, status: int
) -> None:
    answer = client.post("/api/token", data=data, content_type=content_type)
    assert answer.status_code == status
    assert answer.is_json


def test_another_sites_page_cannot_use_the_cookie(sign_in: Callable[..., Visitor], person: Person) -> None:
    visitor = sign_in(person)
    assert visitor.get("/api/auth/me").json["email"] == person.email
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
    ):
        answer = visitor.client.post("/api/auth/v2/logout", headers=headers)
        assert answer.status_code == 403, headers
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert visitor.client.post("/api/auth/v2/logout", headers=own).status_code == 204


def test_a_token_counts_before_a_cookie(
    app: Flask, sign_in: Callable[..., Visitor], person: Person, noise: Person
) -> None:
    visitor = sign_in(person)
    assert visitor.client.get("/api/auth/me", headers=noise.bearer).json["email"] == noise.email
    assert visitor.client.get("/api/auth/me", headers={"Authorization": "Bearer dead"}).status_code == 401


@pytest.mark.parametrize("origin", ["http://[", "null", "https://evil.example.com"])
def test_another_sites_origin_is_refused_however_odd(sign_in: Callable[..., Visitor], origin: str) -> None:
    assert sign_in().client.get("/api/auth/me", headers={"Origin": origin}).status_code == 403


def test_a_hash_that_was_cut_short_lets_nobody_in(client: FlaskClient, db_session: Session) -> None:
    broken = User(id=ids.new_id(), email="b@example.com", email_key="b@example.com", user_role="client")
    broken.password_hash = "$2b$12$short"
    db_session.add(broken)
    db_session.commit()
    answer = client.post("/api/auth/v2/login", json={"email": "b@example.com", "password": PASSWORD})
    assert answer.status_code == 401


def test_a_sign_in_of_the_wrong_shape_is_recorded_with_its_address(client: FlaskClient, db_session: Session) -> None:
    client.post("/api/auth/v2/login", json={"email": "a@example.com"})
    client.post("/api/auth/v2/login", data="{", content_type="application/json")
    rows = list(db_session.execute(select(AuditLog.event_type, AuditLog.user_email).order_by(AuditLog.id)))
    assert rows == [("user_login_failed", "a@example.com"), ("user_login_failed", None)]


def test_a_password_typed_in_place_of_the_address_is_not_recorded(
    app: Flask, client: FlaskClient, db_session: Session
) -> None:
    mistyped = "correct horse battery staple"
    visitor = Visitor(app)
    visitor.visit("/login")
    visitor.send("/login", email=mistyped, password="x", status=401)
    client.post("/api/auth/v2/login", json={"email": mistyped, "password": "x"})
    client.post("/api/auth/v2/register", json={"email": mistyped, "password": PASSWORD, "full_name": "Lerato Dube"})
    rows = db_session.execute(select(AuditLog.event_type, AuditLog.user_email, AuditLog.success))
    assert sorted(map(tuple, rows)) == [
        ("user_login_failed", None, False),
        ("user_login_failed", None, False),
        ("user_registration_failed", None, False),
    ]


def test_an_unknown_caller_is_told_how_to_come(client: FlaskClient) -> None:
    assert client.get("/api/auth/me").headers["WWW-Authenticate"] == "Bearer"


def test_what_the_database_fails_of_an_account_is_recorded_as_failed(committed_app: Flask) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        session = UserSession(user_id=person.id, token_hash="-", expires_at=clock.now() + timedelta(hours=1))
        db.session.add(session)
        db.session.commit()
        session_id = session.id
        db.session.rollback()
        for table in ("api_tokens", "user_sessions", "users_v2"):
            run(committed_app, f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK (false) NOT VALID")
        for act in (
            lambda: sign_out(actor=person.actor, method="token", token_secret=person.token),
            lambda: account.end_session(session_id, actor=person.actor),
            lambda: account.complete_profile({"company": "Kelp"}, actor=person.actor),
        ):
            with pytest.raises(IntegrityError):
                act()
    found = run(
        committed_app,
        "SELECT event_type, success, actor_ref, subject_id, error_message, event_metadata FROM audit_logs "
        "WHERE NOT success ORDER BY id",
    )
    assert found == [
        ("user_logout", False, person.id, None, "IntegrityError", {"method": "token"}),
        ("session_ended", False, person.id, session_id, "IntegrityError", {"ended_session": session_id}),
        ("profile_updated", False, person.id, person.id, "IntegrityError", {"fields": ["company"]}),
    ]


# What is over is forgotten


DAY = timedelta(days=1)


@pytest.fixture
def long_ago(app: Flask, person: Person) -> Iterator[datetime]:
    """Yield a moment that is just longer ago than sessions and tokens are kept, with neither there before."""
    with app.app_context():
        for kind in (UserSession, ApiToken):
            db.session.execute(delete(kind))
        db.session.commit()
        yield clock.now() - sign_in.REMEMBERED_FOR - timedelta(minutes=1)


def store_sign_ins(person: Person, *named: tuple[str, datetime, datetime | None]) -> None:
    """Store a session and a token for each name, with when it expires and when it was ended."""
    for name, expires_at, ended_at in named:
        columns = {"user_id": person.id, "token_hash": name, "expires_at": expires_at}
        db.session.add_all([UserSession(**columns, ended_at=ended_at), ApiToken(**columns, revoked_at=ended_at)])
    db.session.commit()


def kept_sign_ins(kind: type) -> list[str]:
    return sorted(db.session.scalars(select(kind.token_hash)))


def test_sessions_and_tokens_are_deleted_thirty_days_after_they_were_over(person: Person, long_ago: datetime) -> None:
    now = clock.now()
    store_sign_ins(
        person,
        ("expired long ago", long_ago, None),
        ("ended long ago", long_ago + 20 * DAY, long_ago),
        ("expired long ago and ended late", long_ago, now),
        ("expired lately", now - DAY, None),
        ("ended lately", now + DAY, now - DAY),
        ("expired just not long enough ago", long_ago + timedelta(minutes=2), None),
        ("going on", now + DAY, None),
    )
    tasks.forget(timestamp=0)
    for kind in (UserSession, ApiToken):
        assert kept_sign_ins(kind) == ["ended lately", "expired just not long enough ago", "expired lately", "going on"]


def test_what_gathered_for_years_is_deleted_in_batches(
    person: Person, long_ago: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "_MOST_AT_ONCE", 2)
    store_sign_ins(person, *((str(number), long_ago, None) for number in range(5)))
    assert sign_in.forget_old_sign_ins() == 10
    assert sign_in.forget_old_sign_ins() == 0
