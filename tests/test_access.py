"""Guard: every route says who may call it, and means it."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

KINDS = {"public", "signed-in", "administrator"}


def routes(app: Flask) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"]


def address_of(rule: Rule) -> str:
    """Return the rule with something harmless in the place of each parameter."""
    return re.sub(r"<[^>]+>", "01a20b54-59b6-73dc-bed7-75fc94ed232e", rule.rule)


def test_every_route_says_who_may_call_it(app: Flask) -> None:
    for rule in routes(app):
        access = getattr(app.view_functions[rule.endpoint], "access", None)
        assert access in KINDS, f"{rule.endpoint} needs exactly one of @public, @login_required, @admin_required"


def test_addresses_are_lower_case_with_hyphens(app: Flask) -> None:
    for rule in routes(app):
        assert re.fullmatch(r"[a-z0-9/<>:_.\-]*", rule.rule), f"{rule.rule} should be lower case with hyphens"
        fixed = re.sub(r"<[^>]+>", "", rule.rule)
        assert "_" not in fixed, f"{rule.rule} should use hyphens"


def test_nothing_changes_by_get(app: Flask) -> None:
    words = re.compile(r"(delete|remove|rename|archive|logout|sign_out|restore|end_session|create|start|post)")
    for rule in routes(app):
        name = rule.endpoint.rpartition(".")[2]
        if words.match(name):
            assert "GET" not in (rule.methods or set()), f"{rule.endpoint} changes something and answers GET"


def test_signed_out_people_reach_nothing_but_the_public_routes(app: Flask, client: FlaskClient) -> None:
    for rule in routes(app):
        if getattr(app.view_functions[rule.endpoint], "access", None) == "public":
            continue
        method = next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        answer = client.open(address_of(rule), method=method, json={} if rule.rule.startswith("/api/") else None)
        if rule.rule.startswith("/api/"):
            assert answer.status_code == 401, f"{method} {rule.rule} answered {answer.status_code}"
            assert answer.is_json
        else:
            # A page sends people to sign in; a form without its token is refused before that.
            assert answer.status_code in (303, 400), f"{method} {rule.rule} answered {answer.status_code}"


def test_people_who_are_no_administrators_reach_no_administrators_route(app: Flask, sign_in) -> None:
    person = sign_in()
    token = person.visit("/account").find("input", attrs={"name": "csrf_token"})["value"]
    for rule in routes(app):
        if getattr(app.view_functions[rule.endpoint], "access", None) != "administrator":
            continue
        method = "GET" if "GET" in (rule.methods or ()) else next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        data = {"csrf_token": token} if method == "POST" else None
        answer = person.client.open(address_of(rule), method=method, data=data)
        assert answer.status_code == 403, f"{rule.rule} answered {answer.status_code}"


def test_the_guard_sees_a_route_without_a_mark(app: Flask) -> None:
    def forgotten() -> str:
        return ""

    assert getattr(forgotten, "access", None) not in KINDS


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_unknown_addresses_under_api_answer_json(client: FlaskClient, method: str) -> None:
    answer = getattr(client, method)("/api/no/such/thing")
    assert answer.status_code == 404
    assert answer.is_json
    assert answer.json["detail"]
