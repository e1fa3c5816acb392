"""Which addresses stand in the server's line, and when somebody in it lets the next begin."""

from flask import Flask, g
from flask.testing import FlaskClient

from tests.people import PASSWORD

BODY = {"full_name": "Lerato Dube", "email": "lerato@example.com", "password": PASSWORD}


def test_what_opens_accounts_and_asks_for_a_place_stands_in_line_and_nothing_else(app: Flask) -> None:
    assert app.config["BEGIN_IN_LINE"] == {
        "/register",
        "/register/waiting",
        "/api/auth/register",
        "/api/auth/register/step2",
        "/api/auth/v2/register",
        "/api/auth/v2/registration-place",
    }


def test_a_registration_lets_the_next_begin_before_it_hashes(client: FlaskClient) -> None:
    steps: list[set[str]] = []
    let_next = {"capecontrol.let_next_begin": lambda: steps.append({*g.timings})}
    assert client.post("/api/auth/v2/register", json=BODY, environ_overrides=let_next).status_code == 201
    assert [step & {"db", "hash"} for step in steps] == [{"db"}], "looked up, and not yet hashed"


def test_a_registration_that_is_refused_before_it_hashes_keeps_its_place_until_it_is_answered(
    client: FlaskClient,
) -> None:
    steps: list[str] = []
    let_next = {"capecontrol.let_next_begin": lambda: steps.append("let")}
    body = {**BODY, "password": "short"}
    assert client.post("/api/auth/v2/register", json=body, environ_overrides=let_next).status_code == 422
    assert steps == []
    assert client.post("/api/auth/v2/register", json=BODY).status_code == 201, "also where no server has a line"
    assert steps == []
