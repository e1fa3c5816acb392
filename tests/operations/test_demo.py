"""The demonstration: enough of everything to look at, and never among real people."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from capecontrol import clock, create_app
from capecontrol.audit import events, hours, statistics
from capecontrol.audit.models import AuditLog
from capecontrol.auth.models import User
from capecontrol.conversations.assistants.guide import INTRODUCTION
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for
from tests.people import make_person
from tests.visitor import Visitor


@dataclass(frozen=True)
class Show:
    """A database that the command has filled, and what it printed."""

    app: Flask
    printed: str


@pytest.fixture(scope="module")
def show(databases) -> Iterator[Show]:
    """Fill a database once for the tests of this module; beside a worker, which counts the record by the hour."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        with app.app_context():
            hours.count_hours()
        result = app.test_cli_runner().invoke(args=["demo"])
        assert result.exit_code == 0, result.output
        yield Show(app, result.output)
        dispose(app)


@pytest.fixture
def rows(show: Show) -> Iterator[Session]:
    """Yield a session on the filled database."""
    with show.app.app_context(), Session(db.engine) as session:
        yield session


def test_there_is_enough_to_look_at(rows: Session) -> None:
    people = rows.scalars(select(User)).all()
    assert len(people) >= 24
    assert all(person.email.endswith("@example.com") for person in people)
    assert Counter(person.user_role for person in people)["admin"] == 1
    conversations = rows.scalars(select(Conversation)).all()
    assert len(conversations) >= 60
    assert {conversation.status for conversation in conversations} == {"active", "archived", "deleted"}
    assert {conversation.user_id for conversation in conversations} < {person.id for person in people}
    kinds = Counter(rows.scalars(select(AuditLog.event_type)))
    assert kinds.total() >= 300
    assert len(kinds) >= 14
    assert kinds["demo_filled"] == 1
    refused = rows.scalar(select(func.count()).where(~AuditLog.success))
    assert refused is not None
    assert refused >= 40
    oldest = rows.scalar(select(func.min(AuditLog.created_at)))
    assert oldest is not None
    assert 25 <= (clock.now() - oldest).days <= 31
    assert rows.scalar(select(func.max(AuditLog.created_at))) <= clock.now()


def test_the_answers_are_the_guides_own(rows: Session) -> None:
    answers = rows.scalars(select(ConversationMessage).where(ConversationMessage.role == "assistant")).all()
    assert all(answer.content.startswith(INTRODUCTION) for answer in answers)
    assert {answer.status for answer in answers} == {"complete"}
    assert len({answer.content for answer in answers}) > 20
    for conversation in rows.scalars(select(Conversation)):
        count = rows.scalar(select(func.count()).where(ConversationMessage.conversation_id == conversation.id))
        assert count == conversation.total_messages


def test_history_is_recorded_like_everything_else(rows: Session) -> None:
    listed = events.all_events()
    for row in rows.scalars(select(AuditLog)):
        kind = listed[row.event_type]
        assert (row.event_category, row.event_level) == (kind.category, kind.level)
        assert set(row.event_metadata) == kind.details


def test_the_statistics_show_all_of_it(show: Show, rows: Session) -> None:
    with show.app.app_context():
        assert statistics.over_days(90).total == rows.scalar(select(func.count()).select_from(AuditLog))


def test_the_printed_people_can_sign_in(show: Show) -> None:
    found = re.search(r"Administrator: (\S+)   somebody else: (\S+)   password: (\S+)", show.printed)
    assert found, show.printed
    admin, person, password = found.groups()
    browser = Visitor(show.app)
    browser.visit("/login")
    browser.send("/login", email=admin, password=password)
    assert len(browser.visit("/audit").select("a.events__link")) == 50
    browser = Visitor(show.app)
    browser.visit("/login")
    browser.send("/login", email=person, password=password)
    assert "Thandi Nkosi" in browser.visit("/account").words
    assert browser.visit("/conversations").words.count("Hello! What can I do with Cape Control?") >= 1
    assert "You opened your account" in browser.visit("/account/activity").words


def test_a_second_time_is_refused_in_one_sentence(show: Show, rows: Session) -> None:
    before = rows.scalar(select(func.count()).select_from(AuditLog))
    result = show.app.test_cli_runner().invoke(args=["demo"])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "There are people in this database already" in result.output
    assert rows.scalar(select(func.count()).select_from(AuditLog)) == before


def test_real_people_are_never_joined(app: Flask, db_session: Session) -> None:
    make_person(app)
    assert app.test_cli_runner().invoke(args=["demo"]).exit_code == 1
    assert db_session.scalar(select(func.count()).select_from(User)) == 1
