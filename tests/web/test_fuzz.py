"""The JSON endpoints against their own description, and against everything that is no request at all.

Generated requests come from schemathesis with a fixed seed, so a failure here fails again. Whatever comes in, the
answer is JSON with a sentence, keeps to the description, and is never a 500; what is refused leaves nothing behind.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import text
from werkzeug.test import TestResponse

from capecontrol import create_app
from capecontrol.auth import credentials, waiting_room
from capecontrol.auth.models import User
from capecontrol.conversations import replies, service
from capecontrol.extensions import db
from capecontrol.web import openapi
from capecontrol.web.openapi import Operation
from tests.conftest import dispose, settings_for
from tests.people import PASSWORD, Person, make_person

EXAMPLES = 6
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STREAM = "text/event-stream"
FILES = ("application/x-ndjson", "text/csv")
ADMINISTRATORS = tuple(f"/api/audit/{page}" for page in ("statistics", "security-events", "failed-logins", "export"))
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
COUNTED = text(
    " UNION ALL ".join(
        f"SELECT '{name}', count(*) FROM {name}"
        for name in ("users_v2", "conversations", "conversation_messages", "api_tokens", "user_sessions")
    )
)
_numbers = count(1)

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Target:
    """An application on a database of its own, with a person in it, a conversation of theirs, and an administrator."""

    app: Flask
    person: Person
    administrator: Person
    conversation: str
    schema: schemathesis.BaseSchema

    @property
    def client(self) -> FlaskClient:
        """A program without cookies."""
        return self.app.test_client()

    def bearer(self, path: str = "") -> dict[str, str]:
        """Return the header with a token that no earlier request has revoked; the administrator's, for the record."""
        caller = self.administrator if path.startswith(ADMINISTRATORS) else self.person
        with self.app.app_context():
            credential = credentials.token(db.session.get_one(User, caller.id))
            db.session.commit()
        return {"Authorization": f"Bearer {credential.secret}"}

    def stored(self) -> dict[str, int]:
        """Count what people keep here."""
        with self.app.app_context():
            return dict(db.session.execute(COUNTED).all())


@pytest.fixture(scope="module")
def target(databases) -> Iterator[Target]:
    """Yield what is fuzzed, the same for all tests of this module."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        person = make_person(app)
        with app.app_context():
            conversation = service.start(actor=person.actor, content="Hello").conversation.id
        administrator = make_person(app, role="admin")
        yield Target(app, person, administrator, conversation, schemathesis.openapi.from_wsgi("/api/openapi.json", app))
        dispose(app)


def described() -> list[Operation]:
    """Return the operations there are to fuzz; no database is needed to know them."""
    return openapi.list_operations(create_app(settings_for("postgresql://nobody@127.0.0.1:9/none")))


OPERATIONS = described()
TAKING_JSON = [operation for operation in OPERATIONS if operation.description.body]
# Several addresses take the same body; its fields need not be tried at each.
EACH_BODY = list({operation.description.body: operation for operation in TAKING_JSON}.values())


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def check(answer: TestResponse, *, path: str) -> None:
    """Hold an answer to what every answer under /api/ promises."""
    assert answer.status_code < 500 or answer.status_code == 503, f"{path} answered {answer.status_code}"
    if answer.status_code == 204:
        assert "Content-Type" not in answer.headers, f"{path} says nothing, and calls it {answer.mimetype}"
        return
    if answer.mimetype == STREAM or (answer.mimetype in FILES and answer.status_code == 200):
        return
    assert answer.mimetype == JSON, f"{path} answered {answer.status_code} as {answer.mimetype}"
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.get_json()
    if answer.status_code >= 400:
        assert isinstance(body["detail"], str)
        assert len(body["detail"]) > 5
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("is_signed_in", [False, True], ids=["stranger", "signed-in"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_generated_requests(target: Target, operation: Operation, mode: GenerationMode, is_signed_in: bool) -> None:
    if mode == GenerationMode.NEGATIVE and not has_input(operation):
        return
    generated = target.schema[operation.path][operation.method].as_strategy(generation_mode=mode)
    headers = target.bearer(operation.path) if is_signed_in else {}

    @fuzzed
    @given(case=generated, is_real=st.booleans())
    def run(case: schemathesis.Case, is_real: bool) -> None:
        keeps = operation.method != "DELETE" and not is_stream(operation)
        if is_real and keeps and "conversation_id" in (case.path_parameters or {}):
            case.path_parameters["conversation_id"] = target.conversation
        response = case.call(headers=headers)
        assert response.status_code < 500 or response.status_code == 503
        case.validate_response(response, checks=CHECKS)

    run()


SUCCESSES: list[tuple[str, str, int, dict[str, Any]]] = [
    ("GET", "/api/auth/v2/validate-email", 200, {"query": {"email": "somebody@example.com"}}),
    ("POST", "/api/auth/v2/validate-email", 200, {"body": {"email": "not an address"}}),
    ("POST", "/api/auth/v2/validate-password", 200, {"body": {"password": PASSWORD}}),
    ("POST", "/api/auth/register/step1", 200, {"body": {"email": "somebody@example.com"}}),
    (
        "POST",
        "/api/auth/v2/register",
        201,
        {
            "body": {"email": "browser@example.com", "password": PASSWORD, "firstName": "New", "lastName": "Person"}
            | {"role": "customer", "company": "Kelp & Co", "phone": "", "termsAccepted": True}
        },
    ),
    *(
        ("POST", path, 201, {"body": {"email": f"new{number}@example.com", "password": PASSWORD, "full_name": "New"}})
        for number, path in enumerate(("/api/auth/v2/register", "/api/auth/register", "/api/auth/register/step2"))
    ),
    ("POST", "/api/auth/v2/register", 409, {"body": {"email": "EMAIL", "password": PASSWORD, "full_name": "Again"}}),
    ("POST", "/api/auth/v2/login", 200, {"body": {"email": "EMAIL", "password": PASSWORD}}),
    ("POST", "/api/auth/login", 200, {"body": {"email": "EMAIL", "password": PASSWORD, "userType": "client"}}),
    ("POST", "/api/token", 200, {"body": {"username": "EMAIL", "password": PASSWORD}, "media_type": FORM}),
    ("GET", "/api/auth/v2/me", 200, {}),
    ("GET", "/api/auth/me", 200, {}),
    ("POST", "/api/enhanced/complete-phase2-profile", 200, {"body": {"goals": ["to sail"], "bio": "At sea."}}),
    ("GET", "/api/conversations", 200, {"query": {"limit": 1}}),
    ("POST", "/api/conversations", 201, {"body": {"title": "Sailing", "content": "Which way is the wind?"}}),
    ("GET", "/api/conversations/{conversation_id}", 200, {}),
    ("PATCH", "/api/conversations/{conversation_id}", 200, {"body": {"title": "Another"}}),
    ("GET", "/api/conversations/{conversation_id}/events", 200, {}),
    ("GET", "/api/conversations/{conversation_id}/messages", 200, {}),
    ("POST", "/api/conversations/{conversation_id}/messages", 202, {"body": {"content": "And tomorrow?"}}),
    ("GET", "/api/audit/logs", 200, {"query": {"limit": 1}}),
    ("GET", "/api/audit/logs/{reference}", 200, {}),
    ("GET", "/api/audit/event-types", 200, {}),
    ("DELETE", "/api/audit/logs", 405, {}),
    ("GET", "/api/audit/user-activity/{user_id}", 200, {"query": {"categories": "authentication,data"}}),
    ("GET", "/api/audit/statistics", 200, {"query": {"days": 7}}),
    ("GET", "/api/audit/security-events", 200, {"query": {"hours": 24}}),
    ("GET", "/api/audit/failed-logins", 200, {"query": {"hours": 24}}),
    ("GET", "/api/audit/export", 200, {"query": {"format": "ndjson"}}),
    ("DELETE", "/api/audit/logs/{reference}", 405, {}),
    ("GET", "/api/health", 200, {}),
    ("GET", "/api/health/", 200, {}),
    ("GET", "/api/openapi.json", 200, {}),
    ("DELETE", "/api/conversations/{conversation_id}", 204, {}),
    ("PATCH", "/api/conversations/{conversation_id}", 409, {"body": {"title": "Deleted, so not renamed"}}),
    ("POST", "/api/auth/v2/logout", 204, {}),
    ("GET", "/api/auth/v2/registration-place", 200, {"ticket": True}),
]


@pytest.mark.guard
def test_every_operation_is_asked_for_something_it_does() -> None:
    assert {(method, path) for method, path, *_ in SUCCESSES} == {(each.method, each.path) for each in OPERATIONS}


@pytest.mark.guard
def test_what_succeeds_keeps_to_the_description_too(target: Target) -> None:
    """Chance finds no valid registration, so each operation is also asked for something it does."""
    with target.app.app_context():
        started = service.start(actor=target.person.actor, content="Hello")
        conversation = started.conversation.id
        replies.make_reply(started.reply.id)  # so that the stream has an end
    event = target.client.get("/api/audit/logs", headers=target.bearer()).json["logs"][0]["event_id"]
    for method, path, status, given_ in SUCCESSES:
        operation = target.schema[path][method]
        arguments = {"conversation_id": conversation, "reference": event, "user_id": target.person.id}
        fields = dict(given_)
        ticket = draw_ticket(target) if fields.pop("ticket", False) else None
        if "body" in fields:
            mine = {"EMAIL": target.person.email}
            fields["body"] = {
                name: mine.get(value, value) if isinstance(value, str) else value
                for name, value in fields["body"].items()
            }
            fields.setdefault("media_type", JSON)
        case = operation.Case(
            path_parameters={name: value for name, value in arguments.items() if f"{{{name}}}" in path}, **fields
        )
        response = case.call(headers=target.bearer(path) | ({"X-Registration-Ticket": ticket} if ticket else {}))
        assert response.status_code == status, f"{method} {path} answered {response.status_code}: {response.text}"
        case.validate_response(response, checks=CHECKS)

    with target.app.app_context():
        waiting_room.leave(ticket or "")  # or everybody after this would have to wait too


def draw_ticket(target: Target) -> str:
    """Take a place in the waiting room."""
    with target.app.app_context():
        answer = waiting_room.turned_away("newcomer@example.com", None)
    assert isinstance(answer, waiting_room.Queued)
    return answer.ticket


def has_input(operation: Operation) -> bool:
    """Say whether there is anything that could be unfitting."""
    asked = operation.description
    return bool(asked.body or asked.form or asked.query or asked.takes_idempotency_key or asked.takes_ticket)


def is_stream(operation: Operation) -> bool:
    return operation.description.answer_type == STREAM


DEEP = 5_000
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a list of objects": b"[{}]",
    "a text": b'"email"',
    "a number": b"1e400",
    "not a number": b"NaN",
    "true": b"true",
    "half an object": b'{"email": ',
    "single quotes": b"{'email': 'a@example.com'}",
    "two objects": b"{}{}",
    "not UTF-8": b'{"email": "\xff\xfe@example.com"}',
    "UTF-16": '{"email": "a@example.com"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"email":' * DEEP + b"1" + b"}" * DEEP,
    "very deep": b"[" * 400_000,
    "a long number": b'{"email": ' + b"9" * 10_000 + b"}",
    "zeros": b"\x00" * 64,
    "a form": b"email=a%40example.com&password=x",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_no_requests(target: Target, body: bytes) -> None:
    before = target.stored()
    headers = target.bearer()
    before["api_tokens"] += 1
    for operation in TAKING_JSON:
        path = address(operation, target)
        for extra in ({}, headers):
            answer = target.client.open(path, method=operation.method, data=body, content_type=JSON, headers=extra)
            check(answer, path=path)
            assert 400 <= answer.status_code < 500, f"{path} answered {answer.status_code}"
    assert target.stored() == before


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", "\xff"],
)
def test_other_content_types_are_refused(target: Target, content_type: str | None) -> None:
    headers = target.bearer()
    for operation in TAKING_JSON:
        path = address(operation, target)
        answer = target.client.open(
            path, method=operation.method, data=b"{}", headers=headers, content_type=content_type
        )
        check(answer, path=path)
        assert answer.status_code == 415, f"{path} answered {answer.status_code}"
    answer = target.client.post("/api/token", json={"username": "a", "password": "b"})
    check(answer, path="/api/token")
    assert answer.status_code == 415


def test_bodies_of_ten_megabytes_are_refused(target: Target) -> None:
    headers = target.bearer()
    large = b'{"email": "' + b"a" * 10_000_000 + b'"}'
    for operation in OPERATIONS:
        if not (operation.description.body or operation.description.form):
            continue
        path = address(operation, target)
        kind = JSON if operation.description.body else FORM
        answer = target.client.open(path, method=operation.method, data=large, headers=headers, content_type=kind)
        check(answer, path=path)
        assert answer.status_code == 413, f"{path} answered {answer.status_code}"


STRANGE: dict[str, Any] = {
    "null": None,
    "a number": 12,
    "a large number": 10**400,
    "a fraction": 1.5,
    "true": True,
    "a list": ["a"],
    "an object": {"$ne": ""},
    "nested": {"a": {"b": [{"c": [[[[]]]]}]}},
    "nothing": "",
    "spaces": " \t ",
    "NUL": "a\x00b",
    "control characters": "a\x07\x1b[31mb",
    "a lone surrogate": "a\ud800b",
    "a line break": "a\nb\r\nc",
    "long": "a" * 100_000,
    "a long address": "a" * 300 + "@example.com",
    "emoji": "🐧🏽‍🚀@example.com",
    "right to left": "\u202eelpmaxe\u202c",
    "SQL": "'; DROP TABLE users_v2; --",
    "markup": "<script>alert(1)</script>",
    "a template": "{{ 7 * 7 }}${7*7}%(x)s{0}",
    "an administrator": "admin",
}


# The browser client's names, which are read where ours are absent.
REPLACES = {"firstName": ["full_name"], "lastName": ["full_name"]}


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_strange_values_in_every_field(target: Target, value: Any) -> None:
    headers = target.bearer()
    before = target.stored()
    for operation in EACH_BODY:
        for name in field_names(operation):
            body = {key: known for key, known in plausible(operation).items() if key not in REPLACES.get(name, ())}
            body[name] = value
            path = address(operation, target)
            answer = target.client.open(
                path, method=operation.method, data=json.dumps(body), content_type=JSON, headers=headers
            )
            check(answer, path=f"{path} with {name}")
            if answer.status_code < 400:
                before = target.stored()
            else:
                assert target.stored() == before, f"{path} refused {name} and stored something"


def field_names(operation: Operation) -> tuple[str, ...]:
    assert operation.description.body is not None
    return fields_of(operation.description.body)


@cache
def fields_of(shape: type[BaseModel]) -> tuple[str, ...]:
    return tuple(shape.model_json_schema().get("properties", {}))


def plausible(operation: Operation) -> dict[str, Any]:
    """Return a body that would be taken, a new person each time."""
    known = {
        "email": f"fuzz{next(_numbers)}@example.com",
        "password": PASSWORD,
        "full_name": "Fuzzy Nkosi",
        "content": "Hello",
        "title": "A title",
    }
    return {name: known[name] for name in field_names(operation) if name in known}


def address(operation: Operation, target: Target) -> str:
    return operation.path.format(conversation_id=target.conversation, reference="1", user_id=target.person.id)


@pytest.mark.parametrize(
    "path",
    [
        "/api/",
        "/api/nothing",
        "/api//auth/v2/me",
        "/api/auth/v2/me/",
        "/api/auth/v2/../v2/me",
        "/api/%00",
        "/api/%ff%fe",
        "/api/conversations/%00",
        "/api/conversations/%ff",
        "/api/conversations/..%2f..%2fetc%2fpasswd",
        "/api/conversations/" + "a" * 5000,
        "/api/conversations/1%27%20OR%20%271%27=%271",
        "/api/conversations/%F0%9F%90%A7/messages",
        "/api/audit/logs/%00",
        "/api/audit/logs/9999999999999999999999",
        "/api/audit/logs?cursor=%00&q=%ff&limit=%EF%BC%91",
        "/api/conversations?cursor=%F0%9F%90%A7&limit=-1",
        "/api/conversations?" + "a=1&" * 2000,
        "/api/auth/v2/validate-email?email=%00&email=b",
        "/api/auth/v2/validate-email?email=%ff%fe@example.com",
        "/api/auth/v2/validate-email?email=" + "a" * 5000,
        "/api/auth/v2/validate-email",
    ],
)
def test_strange_addresses(target: Target, path: str) -> None:
    for headers in ({}, target.bearer()):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"):
            answer = target.client.open(path, method=method, headers=headers)
            assert answer.status_code < 500, f"{method} {path} answered {answer.status_code}"
            if method != "HEAD":
                check(answer, path=f"{method} {path}")


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Authorization": "Bearer " + "a" * 5000},
        {"Authorization": "Basic Og=="},
        {"Authorization": "Digest username=\xff"},
        {"Cookie": "session=\xff; remember=|||; session=.eJw"},
        {"Cookie": "remember=a|b"},
        {"Idempotency-Key": ""},
        {"Idempotency-Key": "\xff"},
        {"Idempotency-Key": "a" * 201},
        {"Last-Event-ID": "\xff\xfe"},
        {"X-Request-Start": "t=" + "9" * 400},
        {"X-Request-Start": "١٢٣"},
        {"X-Request-ID": "\x7f" * 50},
        {"X-Forwarded-For": "not, an, address"},
        {"Accept": "text/html"},
        {"Content-Length": "10"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"User-Agent": "\xff" * 3000},
    ],
    ids=lambda header: ",".join(header),
)
def test_strange_headers(target: Target, header: dict[str, str]) -> None:
    header = {name: value.encode("utf-8").decode("latin-1") for name, value in header.items()}
    for operation in OPERATIONS:
        path = address(operation, target) if not is_stream(operation) else "/api/conversations/x/events"
        is_about_repeats = "Idempotency-Key" in header and operation.description.takes_idempotency_key
        body = json.dumps(plausible(operation) if is_about_repeats else {}) if operation.description.body else None
        for extra in ({}, target.bearer(operation.path)):
            answer = target.client.open(
                path, method=operation.method, headers=extra | header, data=body, content_type=JSON if body else None
            )
            check(answer, path=f"{operation.method} {path}")
