"""Guard: the JSON describes itself, all of it, and the description is valid."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from pydantic import BaseModel

from capecontrol import create_app
from capecontrol.web import openapi
from capecontrol.web.openapi import describes
from tests.conftest import settings_for
from tests.people import PASSWORD
from tests.visitor import Visitor

pytestmark = pytest.mark.guard


@pytest.fixture
def described(client: FlaskClient) -> dict[str, Any]:
    """Fetch the description."""
    answer = client.get("/api/openapi.json")
    assert answer.status_code == 200
    assert answer.mimetype == "application/json"
    return answer.json


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def silent(app: Flask) -> list[str]:
    """Return the endpoints that say nothing about themselves."""
    return [
        f"{rule.endpoint} ({rule.rule})"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api") and not hasattr(app.view_functions[rule.endpoint], "described")
    ]


def test_every_endpoint_describes_itself(app: Flask) -> None:
    assert silent(app) == [], "put @describes on these"


def test_the_guard_sees_an_endpoint_that_says_nothing() -> None:
    app = Flask("one")
    app.add_url_rule("/api/silent", "silent", lambda: "")
    assert silent(app) == ["silent (/api/silent)"]
    assert openapi.list_operations(app) == []


def test_it_is_valid_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    schema = schemathesis.openapi.from_dict(described)
    schema.validate()
    found = [result.ok() for result in schema.get_all_operations()]
    assert len(found) == len(list(operations(described)))


def test_references_lead_somewhere_and_names_are_unique(described: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    schemas = described["components"]["schemas"]
    for reference in references(described):
        assert reference.removeprefix("#/components/schemas/") in schemas
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names))


def test_the_contract_is_in_it(described: dict[str, Any]) -> None:
    found = {(method, path) for method, path, _ in operations(described)}
    for row in (
        ("GET", "/api/auth/v2/validate-email"),
        ("POST", "/api/auth/v2/validate-email"),
        ("POST", "/api/auth/v2/validate-password"),
        ("POST", "/api/auth/v2/register"),
        ("POST", "/api/auth/v2/login"),
        ("POST", "/api/token"),
        ("POST", "/api/auth/login"),
        ("GET", "/api/auth/v2/me"),
        ("GET", "/api/auth/me"),
        ("POST", "/api/auth/v2/logout"),
        ("GET", "/api/auth/v2/registration-place"),
        ("POST", "/api/auth/register"),
        ("POST", "/api/auth/register/step1"),
        ("POST", "/api/auth/register/step2"),
        ("POST", "/api/enhanced/complete-phase2-profile"),
        ("GET", "/api/conversations"),
        ("POST", "/api/conversations"),
        ("GET", "/api/conversations/{conversation_id}"),
        ("PATCH", "/api/conversations/{conversation_id}"),
        ("DELETE", "/api/conversations/{conversation_id}"),
        ("GET", "/api/conversations/{conversation_id}/messages"),
        ("POST", "/api/conversations/{conversation_id}/messages"),
        ("GET", "/api/conversations/{conversation_id}/events"),
        ("GET", "/api/audit/logs"),
        ("GET", "/api/audit/logs/{reference}"),
        ("GET", "/api/audit/event-types"),
        ("GET", "/api/audit/export"),
        ("GET", "/api/audit/statistics"),
        ("GET", "/api/audit/security-events"),
        ("GET", "/api/audit/user-activity/{user_id}"),
        ("GET", "/api/audit/failed-logins"),
        ("DELETE", "/api/audit/logs"),
        ("DELETE", "/api/audit/logs/{reference}"),
        ("GET", "/api/health"),
        ("GET", "/api/health/"),
        ("GET", "/api/openapi.json"),
    ):
        assert row in found


def test_every_operation_says_who_may_call_it_and_how_it_can_fail(app: Flask, described: dict[str, Any]) -> None:
    access = {(each.method, each.path): each.access for each in openapi.list_operations(app)}
    for method, path, operation in operations(described):
        statuses = {int(status) for status in operation["responses"]}
        is_open = access[method, path] == "everybody"
        assert ("security" not in operation) is is_open
        assert 503 in statuses
        assert is_open or {401, 403} <= statuses
        assert "{" not in path or 404 in statuses
        if body := operation.get("requestBody"):
            assert statuses >= {400, 413, 415, 422}
            assert body["required"] is True
        for status, answer in operation["responses"].items():
            assert answer["description"]
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/json"]
            if int(status) in (429, 503):
                assert answer["headers"]["Retry-After"]["required"] is True


def test_what_is_asked_for_is_described_in_the_right_place(described: dict[str, Any]) -> None:
    paths = described["paths"]
    token = paths["/api/token"]["post"]["requestBody"]["content"]
    assert list(token) == ["application/x-www-form-urlencoded"]
    stream = paths["/api/conversations/{conversation_id}/events"]["get"]["responses"]["200"]["content"]
    assert list(stream) == ["text/event-stream"]
    assert "content" not in paths["/api/auth/v2/logout"]["post"]["responses"]["204"]
    register = paths["/api/auth/v2/register"]["post"]["parameters"]
    assert [(each["name"], each["in"], each["required"]) for each in register] == [
        ("Idempotency-Key", "header", False),
        ("X-Registration-Ticket", "header", False),
    ]
    (ticket,) = paths["/api/auth/v2/registration-place"]["get"]["parameters"]
    assert (ticket["name"], ticket["in"], ticket["required"]) == ("X-Registration-Ticket", "header", True)
    asked = {each["name"]: each for each in paths["/api/audit/logs"]["get"]["parameters"]}
    assert asked["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert asked["success_only"]["schema"] == {"type": "boolean"}
    assert asked["start_date"]["schema"]["anyOf"][0] == {"type": "string", "format": "date"}
    assert asked["limit"]["required"] is False
    one = paths["/api/audit/logs/{reference}"]["get"]["parameters"]
    assert one == [{"name": "reference", "in": "path", "required": True, "schema": {"type": "string"}}]


def test_the_answer_of_private_accounts_is_described_without_an_account_in_it(described: dict[str, Any]) -> None:
    for path, fields in (
        ("/api/auth/v2/register", {"detail"}),
        ("/api/auth/register", {"detail", "success", "message"}),
        ("/api/auth/register/step2", {"detail", "success", "message"}),
    ):
        answer = described["paths"][path]["post"]["responses"]["202"]["content"]["application/json"]["schema"]
        name = answer["$ref"].removeprefix("#/components/schemas/")
        assert described["components"]["schemas"][name]["properties"].keys() == fields


def test_both_vocabularies_of_a_registration_are_described(described: dict[str, Any]) -> None:
    body = described["components"]["schemas"]["RegistrationBody"]
    assert body["properties"].keys() >= {
        *("email", "password", "full_name", "user_role", "company_name", "tos_accepted"),
        *("firstName", "lastName", "role", "company", "termsAccepted", "terms", "phone", "website", "experience"),
    }
    assert body["required"] == ["email", "password"]
    assert body["anyOf"] == [{"required": ["full_name"]}, {"required": ["firstName"]}, {"required": ["lastName"]}]


@pytest.mark.parametrize("key", ["k", "a key of words", "!~"])
def test_the_description_allows_the_keys_that_are_taken(described, client: FlaskClient, key: str) -> None:
    (parameter, _) = described["paths"]["/api/auth/v2/register"]["post"]["parameters"]
    assert re.search(parameter["schema"]["pattern"], key)
    body = {"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}
    assert client.post("/api/auth/v2/register", json=body, headers={"Idempotency-Key": key}).status_code == 201


def test_a_description_only_leaves_a_note() -> None:
    class Body(BaseModel):
        name: str

    def view() -> str:
        return "as before"

    noted = describes("Do it.", body=Body, answers={201: Body, 409: None})(view)
    assert noted is view
    assert noted() == "as before"
    assert noted.described.answers == {201: Body, 409: None}  # type: ignore[attr-defined]


def test_people_read_the_same_list(app: Flask, visitor: Visitor) -> None:
    page = visitor.visit("/help/api")
    for operation in openapi.list_operations(app):
        assert operation.summary in page.words
        assert operation.path in page.words


def test_the_address_people_use_is_the_server() -> None:
    app = create_app(settings_for("postgresql://nobody@127.0.0.1:9/none", public_url="https://app.example.com"))
    assert openapi.document(app)["servers"] == [{"url": "https://app.example.com"}]
