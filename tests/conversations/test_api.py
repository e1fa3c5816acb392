"""The JSON of conversations, as contract C1 and C2 describe it."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from capecontrol.conversations import replies
from capecontrol.conversations.models import ConversationMessage
from tests.people import Person

MESSAGE_KEYS = {
    *("id", "parent_id", "role", "content", "html", "status", "error"),
    *("created_at", "completed_at", "provider", "model"),
}


@pytest.fixture
def conversation(as_program) -> dict[str, Any]:
    return as_program("POST", "/api/conversations", json={"title": "Tiles"}).json


def test_starting_answers_201_with_the_conversation(as_program) -> None:
    answer = as_program("POST", "/api/conversations", json={"title": "Tiles"})
    assert answer.status_code == 201
    assert answer.json["title"] == "Tiles"
    assert answer.json["status"] == "active"
    assert answer.json["total_messages"] == 0
    assert {"id", "created_at", "updated_at"} <= answer.json.keys()
    assert (answer.json["message"], answer.json["reply"]) == (None, None)


def test_starting_needs_no_title_and_takes_a_first_message(as_program) -> None:
    assert as_program("POST", "/api/conversations", json={}).json["title"] == "New conversation"
    answer = as_program("POST", "/api/conversations", json={"content": "Hello there"}).json
    assert answer["title"] == "Hello there"
    assert answer["message"]["content"] == "Hello there"
    assert answer["reply"]["status"] == "queued"


def test_starting_twice_under_one_key_gives_the_same(client: FlaskClient, person: Person) -> None:
    headers = person.bearer | {"Idempotency-Key": "k-1"}
    first = client.post("/api/conversations", json={"content": "Hello"}, headers=headers)
    again = client.post("/api/conversations", json={"content": "Hello"}, headers=headers)
    other = client.post("/api/conversations", json={"content": "Bye"}, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert first.json["message"]["id"] == again.json["message"]["id"]
    assert (again.status_code, other.status_code) == (201, 422)
    assert other.json["errors"].keys() == {"idempotency_key"}


def test_the_list_holds_a_shelf_and_is_paged(as_program) -> None:
    made = [as_program("POST", "/api/conversations", json={"title": str(n)}).json["id"] for n in range(3)]
    as_program("PATCH", f"/api/conversations/{made[0]}", json={"status": "archived"})
    first = as_program("GET", "/api/conversations?limit=1").json
    second = as_program("GET", f"/api/conversations?limit=1&cursor={first['next']}").json
    assert [c["id"] for c in first["conversations"] + second["conversations"]] == [made[2], made[1]]
    assert second["next"] is None
    assert [c["id"] for c in as_program("GET", "/api/conversations?status=archived").json["conversations"]] == [made[0]]
    assert as_program("GET", "/api/conversations?status=deleted").json == {"conversations": [], "next": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "status=gone", "cursor=x", "cursor=%00"])
def test_a_list_asked_for_wrongly_is_refused_in_words(as_program, query: str) -> None:
    answer = as_program("GET", f"/api/conversations?{query}")
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {query.partition("=")[0]}


def test_a_conversation_is_read_renamed_archived_and_brought_back(as_program, conversation) -> None:
    path = f"/api/conversations/{conversation['id']}"
    assert as_program("GET", path).json["title"] == "Tiles"
    assert as_program("PATCH", path, json={"title": "Floor"}).json["title"] == "Floor"
    assert as_program("PATCH", path, json={"status": "archived"}).json["status"] == "archived"
    both = as_program("PATCH", path, json={"title": "Wall", "status": "active"}).json
    assert (both["title"], both["status"]) == ("Wall", "active")
    assert as_program("PATCH", path, json={}).json["title"] == "Wall"


@pytest.mark.parametrize(
    "body", [{"title": ""}, {"title": "a\nb"}, {"title": 5}, {"title": "x" * 201}, {"status": "deleted"}, {"status": 1}]
)
def test_a_change_that_breaks_a_rule_changes_nothing(as_program, conversation, body: dict[str, Any]) -> None:
    path = f"/api/conversations/{conversation['id']}"
    answer = as_program("PATCH", path, json=body)
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == body.keys()
    assert as_program("GET", path).json["title"] == "Tiles"


def test_deleting_answers_204_and_can_be_undone(as_program, conversation) -> None:
    path = f"/api/conversations/{conversation['id']}"
    answer = as_program("DELETE", path)
    assert (answer.status_code, answer.data) == (204, b"")
    assert as_program("DELETE", path).status_code == 204
    assert as_program("GET", "/api/conversations").json["conversations"] == []
    assert as_program("GET", path).json["status"] == "deleted"
    refused = as_program("PATCH", path, json={"title": "New"})
    assert refused.status_code == 409
    assert "Restore" in refused.json["detail"]
    assert as_program("POST", f"{path}/messages", json={"content": "Hello"}).status_code == 409
    assert as_program("PATCH", path, json={"status": "active"}).json["status"] == "active"


def test_a_deleted_conversation_with_a_bad_title_stays_deleted(as_program, conversation) -> None:
    path = f"/api/conversations/{conversation['id']}"
    as_program("DELETE", path)
    assert as_program("PATCH", path, json={"status": "active", "title": ""}).status_code == 422
    assert as_program("GET", path).json["status"] == "deleted"
    assert as_program("PATCH", path, json={"status": "active", "title": "Floor"}).json["title"] == "Floor"


def test_posting_answers_202_with_the_message_and_the_reply_to_come(as_program, conversation) -> None:
    answer = as_program("POST", f"/api/conversations/{conversation['id']}/messages", json={"content": "**Hi** 🦭"})
    assert answer.status_code == 202
    message, reply = answer.json["message"], answer.json["reply"]
    assert message.keys() == reply.keys() == MESSAGE_KEYS
    assert (message["role"], message["content"], message["status"]) == ("user", "**Hi** 🦭", "complete")
    assert message["html"].strip() == "<p><strong>Hi</strong> 🦭</p>"
    assert (reply["role"], reply["status"], reply["parent_id"]) == ("assistant", "queued", message["id"])


def test_the_reply_is_found_by_asking_for_what_comes_after(app: Flask, as_program, conversation) -> None:
    path = f"/api/conversations/{conversation['id']}/messages"
    posted = as_program("POST", path, json={"content": "How do I sign out?"}).json
    (waiting,) = as_program("GET", f"{path}?after={posted['message']['id']}").json["messages"]
    assert waiting["status"] == "queued"
    with app.app_context():
        replies.make_reply(posted["reply"]["id"])
    (reply,) = as_program("GET", f"{path}?after={posted['message']['id']}").json["messages"]
    assert (reply["id"], reply["status"], reply["provider"]) == (posted["reply"]["id"], "complete", "guide")
    assert "<blockquote>" in reply["html"]
    assert as_program("GET", f"{path}?after={reply['id']}").json == {"messages": [], "next": None}


def test_messages_are_paged_by_next(as_program, conversation) -> None:
    path = f"/api/conversations/{conversation['id']}/messages"
    for number in range(2):
        as_program("POST", path, json={"content": str(number)})
    first = as_program("GET", f"{path}?limit=3").json
    assert [message["content"] for message in first["messages"]] == ["0", "", "1"]
    for name in ("after", "cursor"):
        second = as_program("GET", f"{path}?limit=3&{name}={first['next']}").json
        assert [message["role"] for message in second["messages"]] == ["assistant"]
        assert second["next"] is None


def test_the_same_post_under_the_same_key_is_one_message(
    client: FlaskClient, person: Person, conversation, db_session: Session
) -> None:
    path = f"/api/conversations/{conversation['id']}/messages"
    headers = person.bearer | {"Idempotency-Key": "k-1"}
    first, again = (client.post(path, json={"content": "Hello"}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json
    other = client.post(path, json={"content": "Hullo"}, headers=headers)
    assert (other.status_code, other.json["errors"].keys()) == (422, {"idempotency_key"})
    assert db_session.scalar(select(func.count()).select_from(ConversationMessage)) == 2


@pytest.mark.parametrize("key", ["", "x" * 201, "é"])
def test_a_key_that_is_none_is_refused(client: FlaskClient, person: Person, conversation, key: str) -> None:
    answer = client.post(
        f"/api/conversations/{conversation['id']}/messages",
        json={"content": "Hello"},
        headers=person.bearer | {"Idempotency-Key": key},
    )
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "content"),
        ({"content": None}, "content"),
        ({"content": 5}, "content"),
        ({"content": ["x"]}, "content"),
        ({"content": {"a": 1}}, "content"),
        ({"content": ""}, "content"),
        ({"content": " \n"}, "content"),
        ({"content": "a\x00b"}, "content"),
        ({"content": "a\x1bb"}, "content"),
        ({"content": "\ud800"}, "content"),
        ({"content": "x" * 32_001}, "content"),
        ({"content": "x", "parent_id": "nothing"}, "parent_id"),
        ({"content": "x", "parent_id": "\x00"}, "parent_id"),
        ({"content": "x", "parent_id": "\udfff"}, "parent_id"),
        ({"content": "x", "parent_id": 7}, "parent_id"),
        ([], "body"),
        ("text", "body"),
    ],
)
def test_a_post_that_breaks_a_rule_is_422_with_a_sentence(
    as_program, conversation, db_session: Session, body: Any, field: str
) -> None:
    answer = as_program("POST", f"/api/conversations/{conversation['id']}/messages", json=body)
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {field}
    assert answer.json["detail"].endswith(".")
    assert db_session.scalar(select(func.count()).select_from(ConversationMessage)) == 0


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"content=Hello", "application/x-www-form-urlencoded", 415),
        (b'{"content": "Hello"}', "text/plain", 415),
        (b"{", "application/json", 400),
        (b'{"content": "\xff"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"content": "' + b"x" * 10_000_000 + b'"}', "application/json", 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_words(
    client: FlaskClient, person: Person, conversation, data: bytes, content_type: str, status: int
) -> None:
    answer = client.post(
        f"/api/conversations/{conversation['id']}/messages",
        data=data,
        content_type=content_type,
        headers=person.bearer,
    )
    assert answer.status_code == status
    assert answer.is_json
    assert answer.json["detail"]


def test_unknown_fields_are_ignored(as_program, conversation) -> None:
    answer = as_program(
        "POST", f"/api/conversations/{conversation['id']}/messages", json={"content": "Hello", "role": "system"}
    )
    assert answer.status_code == 202
    assert answer.json["message"]["role"] == "user"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/messages"),
        ("POST", "/messages"),
        ("GET", "/events"),
    ],
)
def test_somebody_elses_and_no_conversation_answer_the_same_404(
    client: FlaskClient, conversation, noise: Person, person: Person, method: str, path: str
) -> None:
    body: dict[str, Any] = {"json": {"content": "Hello", "title": "Mine"}} if method in ("POST", "PATCH") else {}
    theirs = client.open(f"/api/conversations/{conversation['id']}{path}", method=method, headers=noise.bearer, **body)
    none = client.open(f"/api/conversations/nothing{path}", method=method, headers=noise.bearer, **body)
    odd = client.open(f"/api/conversations/a%00b{path}", method=method, headers=noise.bearer, **body)
    assert theirs.status_code == none.status_code == odd.status_code == 404
    assert theirs.json == none.json
    assert odd.is_json


@pytest.mark.parametrize("path", ["", "/x", "/x/messages", "/x/events"])
def test_nobody_gets_in_without_signing_in(client: FlaskClient, path: str) -> None:
    answer = client.get(f"/api/conversations{path}", headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert answer.is_json


def test_posting_too_often_is_429(committed_app: Flask) -> None:
    from tests.people import make_person

    committed_app.config["SETTINGS"] = committed_app.config["SETTINGS"].model_copy(update={"ratelimit_enabled": True})
    person, client = make_person(committed_app), committed_app.test_client()
    answers = [client.post("/api/conversations", json={}, headers=person.bearer) for _ in range(125)]
    refused = next(answer for answer in answers if answer.status_code != 201)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json["detail"]


def test_the_description_names_every_endpoint_of_conversations(client: FlaskClient) -> None:
    paths = client.get("/api/openapi.json").json["paths"]
    described = {(method, path) for path in paths for method in paths[path] if path.startswith("/api/conversations")}
    assert described == {
        ("get", "/api/conversations"),
        ("post", "/api/conversations"),
        ("get", "/api/conversations/{conversation_id}"),
        ("patch", "/api/conversations/{conversation_id}"),
        ("delete", "/api/conversations/{conversation_id}"),
        ("get", "/api/conversations/{conversation_id}/messages"),
        ("post", "/api/conversations/{conversation_id}/messages"),
        ("get", "/api/conversations/{conversation_id}/events"),
    }
