"""Guard: every route says who may call it, and means it."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from capecontrol.auth.identity import public

pytestmark = pytest.mark.guard

KINDS = {"public", "signed-in", "administrator"}
CHANGES = re.compile(r"(delete|remove|rename|archive|logout|sign_out|restore|end_session|create|start|post)")


def routes(app: Flask) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"]


def address_of(rule: Rule) -> str:
    """Return the rule with something harmless in the place of each parameter."""
    return re.sub(r"<[^>]+>", "01a20b54-59b6-73dc-bed7-75fc94ed232e", rule.rule)


def unmarked(app: Flask) -> list[str]:
    """Return the endpoints that do not say who may call them."""
    return [
        rule.endpoint for rule in routes(app) if getattr(app.view_functions[rule.endpoint], "access", None) not in KINDS
    ]


def misspelt(app: Flask) -> list[str]:
    """Return the addresses that are not in lower case with hyphens."""
    fixed = ((rule.rule, re.sub(r"<[^>]+>", "", rule.rule)) for rule in routes(app))
    return [address for address, text in fixed if not re.fullmatch(r"[a-z0-9/.\-]*", text)]


def changing_by_get(app: Flask) -> list[str]:
    """Return the endpoints whose name says that they change something, and that answer GET."""
    return [
        rule.endpoint
        for rule in routes(app)
        if CHANGES.match(rule.endpoint.rpartition(".")[2]) and "GET" in (rule.methods or set())
    ]


def test_every_route_says_who_may_call_it(app: Flask) -> None:
    assert unmarked(app) == [], "each needs exactly one of @public, @login_required, @admin_required"


def test_addresses_are_lower_case_with_hyphens(app: Flask) -> None:
    assert misspelt(app) == []


def test_nothing_changes_by_get(app: Flask) -> None:
    assert changing_by_get(app) == []


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
            # A page sends people to sign in, also with a form whose token is gone with the session.
            assert answer.status_code == 303, f"{method} {rule.rule} answered {answer.status_code}"


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


def test_the_guards_see_a_route_that_breaks_the_rules() -> None:
    careless = Flask("careless")

    @careless.get("/Start_here/<page_name>")
    def start_here(page_name: str) -> str:
        return page_name

    @careless.get("/in-order")
    @public
    def show() -> str:
        return ""

    assert unmarked(careless) == ["start_here"]
    assert misspelt(careless) == ["/Start_here/<page_name>"]
    assert changing_by_get(careless) == ["start_here"]


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_unknown_addresses_under_api_answer_json(client: FlaskClient, method: str) -> None:
    answer = getattr(client, method)("/api/no/such/thing")
    assert answer.status_code == 404
    assert answer.is_json
    assert answer.json["detail"]
