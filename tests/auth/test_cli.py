"""The operator's commands about people."""

import json

from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.auth import account
from capecontrol.auth.models import User
from capecontrol.extensions import db
from tests.people import PASSWORD, Person


def test_an_existing_person_becomes_an_administrator(app: Flask, person: Person, db_session: Session) -> None:
    done = app.test_cli_runner().invoke(args=["auth", "create-admin", person.email.upper()])
    assert done.exit_code == 0
    assert "is an administrator now" in done.output
    assert "make sure that the right person opened it" in done.output
    assert db_session.scalar(select(User.user_role)) == "admin"
    event = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "role_changed")).one()
    assert event.event_metadata == {"old": "client", "new": "admin"}
    assert (event.user_id, event.actor_ref) == (person.id, None)


def test_a_new_administrator_gets_an_account(app: Flask, db_session: Session) -> None:
    done = app.test_cli_runner().invoke(args=["auth", "create-admin", "ayanda@example.com"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    answer = app.test_client().post("/api/auth/v2/login", json={"email": "ayanda@example.com", "password": PASSWORD})
    assert answer.json["user"]["role"] == "admin"


def test_a_weak_password_or_a_bad_address_makes_nobody(app: Flask, db_session: Session) -> None:
    for email, password in (("ayanda@example.com", "short"), ("nobody", PASSWORD), ("ayanda@example.com", "")):
        done = app.test_cli_runner().invoke(args=["auth", "create-admin", email], input=f"{password}\n")
        assert done.exit_code == 1
        assert "Traceback" not in done.output
    assert db_session.scalar(select(User.id)) is None


def test_administrators_are_listed(app: Flask, admin: Person, noise: Person) -> None:
    assert admin.email in app.test_cli_runner().invoke(args=["auth", "list"]).output
    listed = json.loads(app.test_cli_runner().invoke(args=["auth", "list", "--json"]).output)
    assert listed == [{"id": admin.id, "email": admin.email}]


def test_with_no_administrator_the_command_is_named(app: Flask) -> None:
    assert "create-admin" in app.test_cli_runner().invoke(args=["auth", "list"]).output


def test_making_an_administrator_twice_records_one_change(app: Flask, admin: Person, db_session: Session) -> None:
    app.test_cli_runner().invoke(args=["auth", "create-admin", admin.email])
    changes = list(db_session.scalars(select(AuditLog).where(AuditLog.event_type == "role_changed")))
    assert len(changes) == 1


def test_somebody_may_take_long_over_the_password(committed_app: Flask) -> None:
    """Nothing is held meanwhile: a transaction left open would be ended by its idle limit."""
    with committed_app.app_context():
        assert account.has_account("nobody@example.com") is False
        assert not db.session().in_transaction()
