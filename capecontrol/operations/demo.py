"""Fills an empty database with invented people, conversations and thirty days of history, so every page has content.

History cannot be made by the services, which do things now; its rows are written directly, with the services' own
rules for addresses, passwords, titles and answers. The administrator, and what happens today, go through the services.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import func, insert, select, text

from capecontrol import clock, ids
from capecontrol.audit import events, hours
from capecontrol.audit.actor import Actor
from capecontrol.audit.events import Event
from capecontrol.audit.models import AuditLog
from capecontrol.audit.recorder import record
from capecontrol.auth import account, credentials, email_addresses, passwords, registration
from capecontrol.auth.models import User
from capecontrol.conversations import changes, replies, service, wording
from capecontrol.conversations.assistants import Reply, connected_provider
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.errors import Conflict
from capecontrol.extensions import db
from capecontrol.operations.demo_cast import BROWSERS, GUESSED, PEOPLE, STRANGERS, TALKS, Character

ADMINISTRATOR = Character("Ayanda Dlamini", "ayanda.dlamini", "client", "Harbour Lantern Tours")
DAYS = 30
_LOCK = 0x64656D6F  # "demo" in hexadecimal: two at once would fill it twice


class DatabaseInUse(Conflict):
    """There are people in the database, and invented ones must never come among real ones."""

    detail = "There are people in this database already, so it is left alone: the demonstration is for an empty one."


@dataclass(frozen=True, slots=True)
class Filled:
    """What was written, and whom to sign in as. The password is the same for both."""

    people: int
    conversations: int
    events: int
    administrator: str
    person: str
    password: str = field(repr=False)


@dataclass(slots=True)
class _History:
    """Rows to be written, gathered first; a seeded source of chance makes every demonstration the same."""

    now: datetime
    chance: Random
    answers: dict[str, Reply]
    people: list[dict[str, Any]] = field(default_factory=list)
    conversations: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where somebody sits: an internet address and a browser."""

    ip_address: str
    user_agent: str


def fill(*, actor: Actor | None) -> Filled:
    """Write the demonstration. Raises DatabaseInUse where there are people already, and changes nothing then."""
    _refuse_people()
    password = ids.new_secret()[:20]
    password_hash = passwords.hash_for_registration(password)
    questions = dict.fromkeys(message for talk in TALKS for message in talk)
    answers = {question: connected_provider().reply(question, db.session()) for question in questions}
    db.session.rollback()
    history = _History(clock.now(), Random(1652), answers)  # noqa: S311 -- chance, not secrecy
    _tell(history, password_hash)
    _store(history)
    person = _live_today(history)
    administrator = _open_administrator(password, actor)
    counts = {"people": len(history.people) + 1, "conversations": _count(Conversation)}
    record(events.DEMO_FILLED, actor=actor, details=counts)
    db.session.commit()
    hours.recount()  # a worker beside us has closed the hours that were empty until now
    return Filled(
        **counts, events=_count(AuditLog), administrator=administrator.email, person=person, password=password
    )


def _refuse_people() -> None:
    if db.session.scalar(select(User.id).limit(1)) is not None:
        raise DatabaseInUse
    db.session.rollback()


def _store(history: _History) -> None:
    """Write everything in one transaction: a demonstration is there as a whole or not at all."""
    db.session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if db.session.scalar(select(User.id).limit(1)) is not None:
        raise DatabaseInUse
    db.session.execute(insert(User), history.people)
    db.session.execute(insert(Conversation), history.conversations)
    db.session.execute(insert(ConversationMessage), history.messages)
    db.session.execute(insert(AuditLog), sorted(history.events, key=lambda event: event["created_at"]))
    db.session.commit()


def _tell(history: _History, password_hash: str) -> None:
    for number, character in enumerate(PEOPLE):
        begun = history.now - timedelta(days=DAYS - 1 - number, hours=history.chance.uniform(1, 12))
        if number >= DAYS - 4:
            begun = history.now - timedelta(days=3, hours=number % 12)
        _live(history, number, character, begun, password_hash)
    _knock(history)


def _live(history: _History, number: int, character: Character, begun: datetime, password_hash: str) -> None:
    """Let one person open an account, come back on some days, and talk."""
    address = email_addresses.parse(f"{character.address}@example.com")
    chance = history.chance
    place = _Place(f"192.0.2.{10 + number * 7}", BROWSERS[number % len(BROWSERS)])
    person = Actor(ids.new_id_of(begun), address.address, character.role, character.name)
    history.people.append(
        {
            "id": person.id,
            "email": address.address,
            "email_key": address.key,
            "email_verified_at": begun,  # so that they can sign in where accounts are private
            "password_hash": password_hash,
            "user_role": character.role,
            "full_name": character.name,
            "company_name": character.company,
            "tos_accepted_at": begun,
            "tos_source": "page",
            "created_at": begun,
            "updated_at": begun,
            "last_login_at": begun,
        }
    )
    details = {"method": "page", "role": character.role, "terms_source": "page"}
    _happen(history, events.USER_REGISTRATION, begun, person, place, details, subject_id=person.id)
    if chance.random() < 0.3:
        _happen(history, events.PROFILE_UPDATED, begun + timedelta(minutes=4), person, place, {"fields": ["industry"]})
    talks = iter([TALKS[(number * 3 + offset) % len(TALKS)] for offset in range(2 + number % 3)])
    for visit in _visits(history, begun):
        history.people[-1]["last_login_at"] = visit
        _visit(history, visit, person, place, next(talks, None))
    for talk in talks:
        _talk(history, begun + timedelta(minutes=chance.uniform(5, 50)), person, place, talk)


def _visits(history: _History, begun: datetime) -> Iterator[datetime]:
    """Yield when somebody comes back: every few days, until yesterday."""
    at = begun
    while True:
        at += timedelta(days=history.chance.uniform(0.7, 4.5))
        if at > history.now - timedelta(hours=20):
            return
        yield at


def _visit(history: _History, at: datetime, person: Actor, place: _Place, talk: tuple[str, ...] | None) -> None:
    chance = history.chance
    if chance.random() < 0.15:
        reason = {"method": "page", "reason": "wrong_password_or_closed"}
        _refuse(history, events.USER_LOGIN_FAILED, at - timedelta(seconds=25), person, place, reason, is_proven=False)
    _happen(history, events.USER_LOGIN, at, person, place, {"method": "page", "remembered": chance.random() < 0.3})
    at += timedelta(minutes=2)
    if talk is not None:
        at = _talk(history, at, person, place, talk)
    if chance.random() < 0.08:
        _refuse(history, events.ACCESS_DENIED, at, person, place, {"wanted": "audit.search"})
    if chance.random() < 0.1:
        session = ids.new_id_of(at)
        _happen(history, events.SESSION_ENDED, at, person, place, {"ended_session": session}, subject_id=session)
    if chance.random() < 0.5:
        _happen(history, events.USER_LOGOUT, at + timedelta(minutes=3), person, place, {"method": "page"})


def _talk(history: _History, at: datetime, person: Actor, place: _Place, talk: tuple[str, ...]) -> datetime:
    """Let somebody hold one conversation with the Guide; return when they were done."""
    conversation: dict[str, Any] = {
        "id": ids.new_id_of(at),
        "user_id": person.id,
        "title": wording.title_from(talk[0]),
        "status": "active",
        "total_messages": len(talk) * 2,
        "ai_provider": connected_provider().name,
        "deleted_at": None,
        "status_before_delete": None,
        "created_at": at,
    }
    _happen(history, events.CONVERSATION_STARTED, at, person, place, subject_id=conversation["id"])
    parent = None
    for question in talk:
        parent = _exchange(history, at, person, place, conversation["id"], parent, question)
        at += timedelta(seconds=history.chance.uniform(40, 240))
    fate = history.chance.random()
    if fate < 0.12:
        _happen(history, events.CONVERSATION_RENAMED, at, person, place, subject_id=conversation["id"])
        conversation["title"] = "To remember: " + conversation["title"][:60]
    elif fate < 0.3:
        _happen(history, events.CONVERSATION_ARCHIVED, at, person, place, subject_id=conversation["id"])
        conversation["status"] = "archived"
    elif fate < 0.38:
        _happen(history, events.CONVERSATION_DELETED, at, person, place, subject_id=conversation["id"])
        conversation |= {"status": "deleted", "status_before_delete": "active", "deleted_at": at}
    history.conversations.append(conversation | {"updated_at": at})
    return at


def _exchange(
    history: _History, at: datetime, person: Actor, place: _Place, conversation: str, parent: str | None, question: str
) -> str:
    """Write a question and its answer; return the answer's id."""
    answer = history.answers[question]
    milliseconds = history.chance.randint(12, 90)
    answered = at + timedelta(milliseconds=300 + milliseconds)
    asked_id, answer_id = ids.new_id_of(at), ids.new_id_of(answered)
    common = {"conversation_id": conversation, "status": "complete"}
    history.messages += [
        common
        | {
            "id": asked_id,
            "parent_id": parent,
            "role": "user",
            "content": question,
            "ai_provider": None,
            "response_time_ms": None,
            "created_at": at,
            "completed_at": at,
        },
        common
        | {
            "id": answer_id,
            "parent_id": asked_id,
            "role": "assistant",
            "content": answer.text,
            "ai_provider": answer.provider,
            "response_time_ms": milliseconds,
            "created_at": at + timedelta(microseconds=1),
            "completed_at": answered,
        },
    ]
    asked = {"message_id": asked_id, "characters": len(question)}
    _happen(history, events.AI_PROMPT_SUBMITTED, at, person, place, asked, subject_id=conversation)
    made = {
        "message_id": answer_id,
        "provider": answer.provider,
        "characters": len(answer.text),
        "milliseconds": milliseconds,
    }
    _happen(history, events.AI_RESPONSE_GENERATED, answered, person, None, made, subject_id=conversation)
    return answer_id


def _knock(history: _History) -> None:
    """Let strangers try addresses and passwords, as they do everywhere."""
    for night in range(1, DAYS, 4):
        at = history.now - timedelta(days=night, hours=history.chance.uniform(0, 6))
        stranger = _Place(STRANGERS[night % len(STRANGERS)], BROWSERS[-1])
        for number in range(6):
            at += timedelta(seconds=history.chance.uniform(1, 4))
            details = {"method": "api", "reason": "unknown_address"}
            email = GUESSED[number % len(GUESSED)]
            _refuse(history, events.USER_LOGIN_FAILED, at, None, stranger, details, email=email)
        _refuse(history, events.RATE_LIMIT_EXCEEDED, at, None, stranger, {"limit": "sign_in_to_account"})
        details = {"method": "page", "reason": "email_taken"}
        taken = f"{PEOPLE[0].address}@example.com"
        _refuse(history, events.USER_REGISTRATION_FAILED, at, None, stranger, details, email=taken)


def _happen(
    history: _History,
    kind: Event,
    at: datetime,
    person: Actor | None,
    place: _Place | None,
    details: Mapping[str, Any] | None = None,
    **columns: Any,
) -> None:
    """Add an event that happened at `at`. Raises ValueError for other details than the event's own, as record does."""
    details = dict(details or {})
    if details.keys() != kind.details:
        raise ValueError(f"{kind.name} takes the details {sorted(kind.details)}, not {sorted(details)}")
    event_id = ids.new_id_of(at)
    history.events.append(
        {
            "event_id": event_id,
            "user_id": person.id if person else None,
            "actor_ref": person.id if person and place else None,
            "user_email": person.email if person else None,
            "user_role": person.role if person else None,
            "subject_id": None,
            "event_type": kind.name,
            "event_category": kind.category,
            "event_level": kind.level,
            "ip_address": place.ip_address if place else None,
            "user_agent": place.user_agent if place else None,
            "request_id": ids.new_id_of(at) if place else None,
            "success": True,
            "error_message": None,
            "event_metadata": json.loads(json.dumps(details)),
            "created_at": ids.created_at(event_id),
        }
        | columns
    )


def _refuse(
    history: _History,
    kind: Event,
    at: datetime,
    person: Actor | None,
    place: _Place,
    details: Mapping[str, Any],
    *,
    email: str | None = None,
    is_proven: bool = True,
) -> None:
    """Add an event that was refused. One that nobody proved to have done names no actor."""
    _happen(history, kind, at, person, place, details, success=False, error_message=_ERRORS[kind.name])
    event = history.events[-1]
    event["user_email"] = email or event["user_email"]
    if not is_proven:
        event |= {"actor_ref": None, "user_role": None}


_ERRORS = {
    "user_login_failed": "That e-mail address and password do not match an open account.",
    "user_registration_failed": "That e-mail address already has an account.",
    "access_denied": "Only administrators may open this.",
    "rate_limit_exceeded": "More than 10 in 300 s.",
}


def _live_today(history: _History) -> str:
    """Let the first person do a few things now, through the services; return their address."""
    first = history.people[0]
    actor = Actor(first["id"], first["email"], first["user_role"], first["full_name"])
    started = service.start(actor=actor, content=TALKS[0][0])
    if started.reply is not None:
        replies.make_reply(started.reply.id)
    old = service.start(actor=actor, content=TALKS[3][0])
    if old.reply is not None:
        replies.make_reply(old.reply.id)
    changes.rename(old.conversation.id, "Renaming and archiving", actor=actor)
    changes.archive(old.conversation.id, actor=actor)
    return actor.email


def _open_administrator(password: str, actor: Actor | None) -> User:
    """Open the administrator's account as the operator's command would."""
    application = registration.Application(
        email=f"{ADMINISTRATOR.address}@example.com",
        password=password,
        full_name=ADMINISTRATOR.name,
        user_role=ADMINISTRATOR.role,
        company_name=ADMINISTRATOR.company,
        terms_source="demo",
    )
    done = registration.register(application, actor=actor, method="demo", mint=credentials.token)
    return account.promote(done.user.email, actor=actor)


def _count(model: type[Any]) -> int:
    return db.session.execute(select(func.count()).select_from(model)).scalar_one()
