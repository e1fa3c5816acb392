"""The waiting room: order, places, turns, and tickets that cannot be forged, shared, moved or used twice."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from capecontrol import clock
from capecontrol.auth import passwords, waiting_room
from capecontrol.auth.models import RegistrationTicket, User
from capecontrol.extensions import db
from tests.people import PASSWORD
from tests.visitor import Visitor


@contextmanager
def full_gate() -> Iterator[None]:
    """Hold every place in front of the registrations' hash."""
    gate = passwords._ready().registration
    held = 0
    while gate._waiting.acquire(blocking=False):
        held += 1
    try:
        yield
    finally:
        for _ in range(held):
            gate._waiting.release()


@pytest.fixture(autouse=True)
def _fresh_figures(app: Flask) -> None:
    """Let nothing of another test's room be remembered, and nothing be read late."""
    look_again()


def look_again() -> None:
    waiting_room.forget_figure()


def register(client: FlaskClient, email: str = "lerato@example.com", ticket: str | None = None):
    look_again()
    body = {"email": email, "password": PASSWORD, "full_name": "Lerato Dube"}
    headers = {"X-Registration-Ticket": ticket} if ticket else {}
    return client.post("/api/auth/v2/register", json=body, headers=headers)


def place(client: FlaskClient, ticket: str):
    look_again()
    return client.get("/api/auth/v2/registration-place", headers={"X-Registration-Ticket": ticket})


def draw(client: FlaskClient, email: str = "lerato@example.com") -> str:
    with full_gate():
        answer = register(client, email)
    assert answer.status_code == 503, answer.json
    return answer.json["ticket"]


def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep everybody waiting: turns are given as somebody else's room would, not at all."""
    monkeypatch.setattr(
        waiting_room, "_GIVE_TURNS", waiting_room.text("SELECT :most, :lasts, :turn, :claimed, :unclaimed")
    )


def test_a_full_gate_gives_a_ticket_a_place_and_a_time_to_come_back(client: FlaskClient, db_session: Session) -> None:
    with full_gate():
        answer = register(client)
    assert answer.status_code == 503
    assert set(answer.json) == {"detail", "errors", "ticket", "place", "eta_seconds"}
    assert answer.json["place"] == 1
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    assert db_session.scalar(select(User.id)) is None


def test_at_its_turn_the_ticket_opens_the_account(client: FlaskClient) -> None:
    ticket = draw(client)
    assert place(client, ticket).json["status"] == "ready"
    assert register(client, ticket=ticket).status_code == 201
    assert place(client, ticket).json["status"] == "done"


def test_a_ticket_opens_one_account(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    place(client, ticket)
    assert register(client, ticket=ticket).status_code == 201
    db_session.execute(update(User).values(email="b@example.com", email_key="b@example.com"))
    db_session.commit()
    again = register(client, ticket=ticket)
    assert again.status_code == 409
    assert "has been used" in again.json["detail"]


def test_a_ticket_cannot_be_moved_to_another_address(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    place(client, ticket)
    assert register(client, "other@example.com", ticket).status_code == 422
    assert db_session.scalar(select(User.id)) is None


@pytest.mark.parametrize("ticket", ["x", "a.b", "WyJhIiwxLCJiIl0.signature", "é", "x" * 501])
def test_a_forged_ticket_is_worth_nothing(client: FlaskClient, ticket: str) -> None:
    assert place(client, ticket.encode().decode("latin-1")).status_code == 422
    assert register(client, ticket=ticket.encode().decode("latin-1")).status_code == 422


def test_asking_without_a_ticket_is_refused(client: FlaskClient) -> None:
    assert client.get("/api/auth/v2/registration-place").status_code == 422


def test_order_is_kept_and_coming_early_keeps_the_place(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    tickets = [draw(client, f"p{number}@example.com") for number in range(4)]
    assert [place(client, ticket).json["place"] for ticket in tickets] == [1, 2, 3, 4]
    early = register(client, "p2@example.com", tickets[2])
    assert (early.status_code, early.json["place"], early.json["ticket"]) == (503, 3, tickets[2])
    assert [place(client, ticket).json["place"] for ticket in tickets] == [1, 2, 3, 4]


def test_nobody_passes_those_who_wait(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    draw(client, "first@example.com")
    newcomer = register(client, "late@example.com")
    assert (newcomer.status_code, newcomer.json["place"]) == (503, 2)


def test_a_client_that_knows_of_no_ticket_keeps_its_place_by_its_address(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, db_session: Session
) -> None:
    with monkeypatch.context() as patch:
        no_turns(patch)
        first = draw(client, "older@example.com")
        draw(client, "wall@example.com")
        again = register(client, "older@example.com")
        assert (again.status_code, again.json["ticket"], again.json["place"]) == (503, first, 1)
    place(client, first)
    assert register(client, "older@example.com").status_code == 201


def test_turns_come_in_order_and_only_as_many_as_will_be_used(client: FlaskClient, db_session: Session) -> None:
    most = 4 * waiting_room._ready().slots
    now = clock.now()
    db_session.add_all(RegistrationTicket(email_mark=f"x{number}", created_at=now) for number in range(500))
    db_session.commit()
    look_again()
    waiting_room_place(client)
    turned = list(
        db_session.scalars(
            select(RegistrationTicket.number).where(RegistrationTicket.turn_at.is_not(None)).order_by("number")
        )
    )
    numbers = list(db_session.scalars(select(RegistrationTicket.number).order_by("number")))
    assert turned == numbers[: len(turned)]
    assert most <= len(turned) < 500


def waiting_room_place(client: FlaskClient) -> None:
    """Make the room look at itself, as any registration does."""
    register(client, "somebody@example.com")


def test_a_turn_nobody_comes_for_holds_no_one_up(client: FlaskClient, db_session: Session) -> None:
    first = draw(client, "first@example.com")
    look_again()
    waiting_room_place(client)
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    assert place(client, first).json["status"] == "expired"
    second = draw(client, "second@example.com")
    assert place(client, second).json["status"] == "ready"


def test_a_passed_turn_means_a_new_place(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    place(client, ticket)
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    answer = register(client, ticket=ticket)
    assert answer.status_code == 503
    assert answer.json["ticket"] != ticket


def test_a_full_gate_at_ones_turn_keeps_the_turn(client: FlaskClient) -> None:
    ticket = draw(client)
    place(client, ticket)
    with full_gate():
        answer = register(client, ticket=ticket)
    assert (answer.status_code, answer.json["ticket"], answer.json["place"]) == (503, ticket, 0)
    assert register(client, ticket=ticket).status_code == 201


def test_a_poll_while_waiting_asks_the_database_nothing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import event

    no_turns(monkeypatch)
    ticket = draw(client)
    place(client, ticket)
    with app.app_context():
        target = db.engines[None]
    seen: list[str] = []
    event.listen(target, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    answer = client.get("/api/auth/v2/registration-place", headers={"X-Registration-Ticket": ticket})
    assert answer.json["status"] == "waiting"
    assert seen == []


def test_a_room_that_is_itself_full_says_so_at_once(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "MOST_WAITING", 0)
    with full_gate():
        answer = register(client)
    assert answer.status_code == 503
    assert "ticket" not in answer.json
    assert int(answer.headers["Retry-After"]) >= 30


def test_the_room_can_be_closed(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room._ready(), "is_open", False)
    with full_gate():
        answer = register(client)
    assert answer.status_code == 503
    assert "ticket" not in answer.json
    assert answer.headers["Retry-After"]


def test_a_ticket_tells_no_address_and_the_table_holds_none(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    row = db_session.scalars(select(RegistrationTicket)).one()
    assert "lerato" not in ticket
    assert "lerato" not in str(vars(row))
    assert PASSWORD not in str(vars(row))


def test_old_tickets_are_forgotten(app: Flask, client: FlaskClient, db_session: Session) -> None:
    draw(client)
    with app.app_context():
        assert waiting_room.forget_old_tickets() == 0
    db_session.execute(update(RegistrationTicket).values(created_at=clock.now() - timedelta(hours=3)))
    db_session.commit()
    with app.app_context():
        assert waiting_room.forget_old_tickets() == 1


def test_twins_at_one_turn_make_one_account(committed_app: Flask) -> None:
    ticket = draw(committed_app.test_client())
    place(committed_app.test_client(), ticket)
    statuses = []

    def post() -> None:
        statuses.append(register(committed_app.test_client(), ticket=ticket).status_code)

    twins = [threading.Thread(target=post) for _ in range(2)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join(20)
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 503}


def page_at_the_gate(app: Flask) -> Visitor:
    """Return a visitor who has sent the form while the gate was full."""
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = Visitor(app)
    visitor.visit("/register")
    look_again()
    with full_gate():
        visitor.send("/register", **{**FILLED, "rendered_at": an_older_mark()})
    return visitor


def test_the_page_waits_without_the_password_and_goes_on_with_it(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    assert visitor.page.answer.request.path == "/register/waiting"
    cookie = visitor.client.get_cookie("waiting")
    assert cookie is not None
    assert cookie.http_only
    assert PASSWORD not in cookie.decoded_value
    look_again()
    visitor.visit("/register/waiting")
    page = visitor.send("/register/waiting", password=PASSWORD)
    assert page.answer.request.path == "/conversations"
    assert visitor.client.get_cookie("waiting") is None


def test_a_weak_password_at_ones_turn_is_said_and_costs_no_place(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    page = visitor.send("/register/waiting", status=422, password="password1234")
    assert "lists that attackers try first" in page.words
    look_again()
    assert visitor.send("/register/waiting", password=PASSWORD).answer.request.path == "/conversations"


def test_a_place_can_be_given_up(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    assert visitor.send("/register/waiting/leave").answer.request.path == "/register"
    assert db_session.scalar(select(RegistrationTicket.left_at)) is not None


def test_a_turn_can_be_kept(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now() - timedelta(seconds=25)))
    db_session.commit()
    visitor.send("/register/waiting/keep")
    left = clock.now() - db_session.scalars(select(RegistrationTicket.turn_at)).one()
    assert left < timedelta(seconds=20)


def test_who_waits_for_nothing_is_led_to_the_form(app: Flask) -> None:
    visitor = Visitor(app)
    assert visitor.visit("/register/waiting").answer.request.path == "/register"
    visitor.client.set_cookie("waiting", "forged")
    assert visitor.visit("/register/waiting").answer.request.path == "/register"


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/register/step2"])
def test_the_older_pages_get_a_ticket_in_their_own_words(client: FlaskClient, path: str) -> None:
    body = {"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}
    with full_gate():
        answer = client.post(path, json=body)
    assert answer.status_code == 503
    assert answer.json["ticket"]
    assert (answer.json["success"], answer.json["message"]) == (False, answer.json["detail"])
