"""Opening an account: the rules, the races' outcomes, and repeats."""

from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from capecontrol import clock, create_app
from capecontrol.audit.models import AuditLog
from capecontrol.auth import credentials, passwords, registration
from capecontrol.auth.models import ApiToken, IdempotencyKey, User
from capecontrol.config import Settings
from capecontrol.errors import Invalid
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for
from tests.people import PASSWORD, Person, make_person
from tests.postgres import Databases

BODY = {"full_name": "Lerato Dube", "email": "lerato@example.com", "password": PASSWORD, "user_role": "client"}
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def register(client: FlaskClient, key: str | None = None, **changes: object):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/auth/v2/register", json={**BODY, **changes}, headers=headers)


def reasons(session: Session) -> list[str]:
    events = session.scalars(
        select(AuditLog).where(AuditLog.event_type == "user_registration_failed").order_by(AuditLog.id)
    )
    return [row.event_metadata["reason"] for row in events]


def test_an_account_is_opened_with_its_event(client: FlaskClient, db_session: Session) -> None:
    answer = register(client, tos_accepted=True)
    user = db_session.scalars(select(User)).one()
    event = db_session.scalars(select(AuditLog)).one()
    assert answer.json["id"] == user.id == event.user_id == event.subject_id
    assert (event.event_type, event.success, event.user_email) == ("user_registration", True, "lerato@example.com")
    assert event.event_metadata == {"method": "api", "role": "client", "terms_source": "api"}
    assert user.password_hash is not None
    assert user.password_hash.startswith("$argon2id$v=19$")


def test_a_password_is_stored_at_the_cost_of_the_settings(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_hashing", None)
    costs = {name: Settings.model_fields[name].default for name in ("password_hash_memory_kib", "password_hash_passes")}
    with databases.clone() as url:
        app = create_app(settings_for(url, **costs))
        make_person(app)
        with app.app_context():
            stored = db.session.scalars(select(User.password_hash)).one()
        dispose(app)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_an_older_row_of_the_same_address_wins_whatever_its_case(client: FlaskClient, db_session: Session) -> None:
    register(client, email="Lerato@Example.COM")
    assert register(client, email="lerato@example.com").status_code == 409
    assert db_session.scalar(select(func.count()).select_from(User)) == 1
    assert reasons(db_session) == ["email_taken"]


def test_a_taken_address_leaves_the_first_account_as_it_was(client: FlaskClient, db_session: Session) -> None:
    register(client)
    before = db_session.scalar(select(User.password_hash))
    register(client, password="Another-Mountain-1085!", full_name="Somebody Else")
    assert db_session.execute(select(User.password_hash, User.full_name)).one() == (before, "Lerato Dube")


@pytest.mark.parametrize(
    "email",
    [
        "plus+tag@example.com",
        "Mixed.Case@Example.com",
        "naïve@münchen.example.com",
        "o'brien@example.com",
        "a@b.example.com",
    ],
)
def test_unusual_addresses_are_taken(client: FlaskClient, email: str) -> None:
    answer = register(client, email=email)
    assert answer.status_code == 201
    assert answer.json["email"].lower() == email.lower()


@pytest.mark.parametrize(
    "name",
    [
        "Zoë 🦭 Ngũgĩ",
        "Robert'); DROP TABLE users_v2;--",
        "<script>alert(1)</script>",
        "{{ 7*7 }}",
        "שלום",
        "-",
        "می\u200cخواهم",
        "👩\u200d🔬",
    ],
)
def test_any_text_is_a_name_and_stays_as_it_is(client: FlaskClient, db_session: Session, name: str) -> None:
    assert register(client, full_name=name).json["full_name"] == name
    assert db_session.scalar(select(User.full_name)) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("\u200b\u200b", "must have something visible in it."),
        ("\ufeff\u00ad", "must have something visible in it."),
        ("\u3164\u2800\ufe0f", "must have something visible in it."),
        *((f"Kelp {mark}gnp.eno", "must not contain characters that turn the direction of text.") for mark in TURNING),
    ],
)
def test_a_name_is_seen_and_turns_nothing_beside_it(client: FlaskClient, name: str, said: str) -> None:
    answer = register(client, full_name=name, company_name=name)
    assert answer.status_code == 422
    assert answer.json["errors"] == {"full_name": [f"Full name {said}"], "company_name": [f"Company name {said}"]}
    assert register(client, full_name=None, firstName="Lerato", lastName=name).json["errors"] == {
        "lastName": [f"Last name {said}"]
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"email": ""}, "email"),
        ({"email": "nobody"}, "email"),
        ({"email": "a@localhost"}, "email"),
        ({"email": "a" * 65 + "@example.com"}, "email"),
        ({"email": f"a@{'b' * 250}.com"}, "email"),
        ({"email": "a\x00@example.com"}, "email"),
        ({"email": None}, "email"),
        ({"email": 7}, "email"),
        ({"email": ["a@example.com"]}, "email"),
        ({"email": {"a": "b"}}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 257}, "password"),
        ({"password": "password1234"}, "password"),
        ({"password": "lerato@example"}, "password"),
        ({"password": "capecontrol12"}, "password"),
        ({"password": "with\x07bell-inside"}, "password"),
        ({"password": None}, "password"),
        ({"password": 123456789012}, "password"),
        ({"full_name": ""}, "full_name"),
        ({"full_name": "   "}, "full_name"),
        ({"full_name": "a\nb"}, "full_name"),
        ({"full_name": "a\x00b"}, "full_name"),
        ({"full_name": "\ud800"}, "full_name"),
        ({"full_name": "x" * 201}, "full_name"),
        ({"full_name": "\u200b\u200b"}, "full_name"),
        ({"full_name": "\u3164"}, "full_name"),
        ({"full_name": "Lerato \u202eebuD"}, "full_name"),
        ({"user_role": "admin"}, "user_role"),
        ({"user_role": "root"}, "user_role"),
        ({"user_role": 1}, "user_role"),
        ({"user_role": "", "role": "admin"}, "role"),
        ({"user_role": "client", "role": "admin"}, "role"),
        ({"user_role": "admin", "role": "client"}, "user_role"),
        ({"user_role": "client", "role": ["admin"]}, "role"),
        ({"company_name": "x" * 256}, "company_name"),
        ({"company_name": "Kelp \u2066& Co"}, "company_name"),
        ({"company_name": {"a": 1}}, "company_name"),
        ({"tos_accepted": False}, "tos_accepted"),
    ],
)
def test_bad_input_is_refused_in_words_and_changes_nothing(
    client: FlaskClient, db_session: Session, changes: dict[str, object], field: str
) -> None:
    answer = register(client, **changes)
    assert answer.status_code == 422
    assert answer.json["errors"][field]
    assert isinstance(answer.json["detail"], str)
    assert db_session.scalar(select(func.count()).select_from(User)) == 0
    assert reasons(db_session) == ["invalid_input"]


@pytest.mark.parametrize(
    ("sent", "role"),
    [
        ({"user_role": "", "role": ""}, "client"),
        ({"user_role": None, "role": "customer"}, "client"),
        ({"user_role": "", "role": "developer"}, "developer"),
        ({"user_role": "developer", "role": "customer"}, "developer"),
        ({"user_role": "customer", "role": "developer"}, "client"),
    ],
)
def test_a_role_is_taken_from_either_name(client: FlaskClient, sent: dict[str, object], role: str) -> None:
    assert register(client, **sent).json["user_role"] == role


def test_unknown_fields_are_ignored(client: FlaskClient, db_session: Session) -> None:
    answer = register(client, is_admin=True, id="mine", password_hash="x", email_verified_at="2020-01-01")
    user = db_session.scalars(select(User)).one()
    assert answer.status_code == 201
    assert (user.id != "mine", user.email_verified_at, user.user_role) == (True, None, "client")


def test_a_repeat_under_the_same_key_is_the_same_account_with_a_fresh_token(
    client: FlaskClient, db_session: Session
) -> None:
    first, second = register(client, "key-1"), register(client, "key-1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["id"] == second.json["id"]
    assert first.json["access_token"] != second.json["access_token"]
    for answer in (first, second):
        bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
        assert client.get("/api/auth/me", headers=bearer).status_code == 200
    assert db_session.scalar(select(func.count()).select_from(User)) == 1


def test_a_repeat_with_other_details_or_another_password_is_refused(client: FlaskClient, db_session: Session) -> None:
    register(client, "key-1")
    for changes in ({"full_name": "Other"}, {"password": "Another-Mountain-1085!"}, {"email": "b@example.com"}):
        assert register(client, "key-1", **changes).status_code == 422
    assert db_session.scalar(select(func.count()).select_from(User)) == 1
    assert reasons(db_session) == ["key_used_differently"] * 3


def test_a_key_is_forgotten_after_a_day(app: Flask, client: FlaskClient, db_session: Session) -> None:
    register(client, "key-1")
    db_session.execute(update(IdempotencyKey).values(created_at=clock.now() - timedelta(hours=25)))
    db_session.commit()
    assert register(client, "key-1", email="other@example.com").status_code == 201
    db_session.execute(update(IdempotencyKey).values(created_at=clock.now() - timedelta(hours=25)))
    db_session.commit()
    with app.app_context():
        assert registration.forget_old_keys() == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "naïve", "a\tb"])
def test_a_key_that_is_no_key_is_refused(client: FlaskClient, key: str) -> None:
    answer = client.post(
        "/api/auth/v2/register", json=BODY, headers={"Idempotency-Key": key.encode().decode("latin-1")}
    )
    assert answer.status_code == 422


def test_no_secret_is_stored(client: FlaskClient, db_session: Session) -> None:
    token = register(client, "the-key-itself").json["access_token"]
    assert db_session.scalar(select(ApiToken.token_hash)) != token
    kept = db_session.scalars(select(IdempotencyKey)).one()
    assert "the-key-itself" not in (kept.key_hash, kept.fingerprint)
    for row in db_session.scalars(select(AuditLog)):
        assert PASSWORD not in str(vars(row))
        assert token not in str(vars(row))


def test_the_service_holds_the_rule_without_the_form(app: Flask) -> None:
    with app.app_context(), pytest.raises(Invalid) as refused:
        registration.register(
            registration.Application(email="no", password="no", full_name="X", user_role="admin"),
            actor=None,
            method="api",
            mint=credentials.token,
        )
    assert set(refused.value.errors) == {"email", "password", "user_role"}


def test_an_application_never_shows_its_password() -> None:
    application = registration.Application(email="a@example.com", password=PASSWORD, full_name="A", user_role="client")
    assert PASSWORD not in repr(application)


def test_the_check_of_an_address_finds_somebody_elses(client: FlaskClient, person: Person, noise: Person) -> None:
    for email, available in ((person.email, False), (noise.email, False), ("free@example.com", True)):
        answer = client.post("/api/auth/v2/validate-email", json={"email": email})
        assert answer.json["available"] is available


def test_a_closed_accounts_repeat_opens_nothing(client: FlaskClient, db_session: Session) -> None:
    register(client, "key-1")
    db_session.execute(update(User).values(is_active=False))
    db_session.commit()
    assert register(client, "key-1").status_code == 422


def test_a_repeat_whose_account_was_deleted_meanwhile_is_refused_in_words(app: Flask) -> None:
    """The account was there when its key was looked up, and is gone when the password is compared."""
    gone = registration._Known(is_taken=True, fingerprint="same", key_owner="deleted-meanwhile")
    application = registration.Application("lerato@example.com", PASSWORD, "Lerato Dube", "client")
    with app.app_context(), pytest.raises(registration.KeyUsedDifferently):
        registration._repeat(
            "same", application, gone, actor=None, mint=credentials.token, at_full_gate=registration.Overloaded
        )


def test_a_refused_role_is_recorded_with_its_address(client: FlaskClient, db_session: Session) -> None:
    register(client, user_role="admin")
    register(client, key="x" * 201)
    emails = list(db_session.scalars(select(AuditLog.user_email)))
    assert emails == ["lerato@example.com"] * 2


def test_where_the_answer_to_the_commit_is_lost_nothing_is_claimed_and_the_same_form_tells(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_and_lose_the_answer(connection: Any) -> None:
        connection.commit()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    with committed_app.app_context():
        dialect = db.engine.dialect
    client = committed_app.test_client()
    with monkeypatch.context() as fault:
        fault.setattr(dialect, "do_commit", commit_and_lose_the_answer)
        answer = register(client, key="once")
    assert answer.status_code == 503
    assert "we cannot say whether this was done. Please send the same form again" in answer.json["detail"]
    assert answer.headers["Retry-After"]
    with committed_app.app_context():
        assert "outcome_unknown" in reasons(db.session)
        assert db.session.scalar(select(func.count()).select_from(User)) == 1
    assert register(client, key="once").status_code == 201
    assert register(client, key="another").status_code == 409
