"""The waiting room: order, places, turns, and tickets that cannot be forged, shared, moved or used twice."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from capecontrol import clock, create_app, each_second, ids
from capecontrol.auth import passwords, registration, turns, waiting_room
from capecontrol.auth.models import RegistrationTicket, User
from capecontrol.auth.tickets import Ticket
from capecontrol.config import libpq_url
from capecontrol.database import AUDIT, WEB_PROCESS, run_alone
from capecontrol.errors import Unavailable
from capecontrol.extensions import db
from capecontrol.web import rate_limits
from tests.conftest import dispose, settings_for
from tests.people import PASSWORD
from tests.postgres import Databases
from tests.visitor import Visitor, filled_in

CROWD = (
    "INSERT INTO registration_tickets (id, email_mark, created_at) SELECT n, n, now() FROM generate_series(1, %s) AS n"
)


@contextmanager
def full_gate() -> Iterator[None]:
    """Hold every place in front of the registrations' hash."""
    gate = passwords._ready().registration
    before, gate._inside = gate._inside, gate._places
    try:
        yield
    finally:
        gate._inside = before


@pytest.fixture(autouse=True)
def _fresh_figures(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of another test's room be remembered, and nothing be read late; a hash takes its time, as live."""
    settings = app.config["SETTINGS"]
    monkeypatch.setattr(passwords, "_hashing", None)
    passwords.configure(slots=settings.password_hash_slots, threads=settings.web_threads, memory_kib=19456, passes=2)
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
    monkeypatch.setattr(turns, "_GIVE_TURNS", "SELECT %(most)s; ")


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


@pytest.mark.parametrize("ticket", ["x", "a.b", "a.1.b.signature", "é", "x" * 501])
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


def test_a_place_stays_though_somebody_before_comes_again_and_again_without_a_ticket(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_turns(monkeypatch)
    for number in (1, 2):
        draw(client, f"p{number}@example.com")
    for _ in range(5):
        assert register(client, "p2@example.com").json["place"] == 2
    third = draw(client, "p3@example.com")
    for number in range(4, 8):
        assert register(client, f"p{number}@example.com").json["place"] == number
        assert place(client, third).json["place"] == 3


def test_places_given_up_are_nobodys(client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    tickets = [draw(client, f"p{number}@example.com") for number in range(1, 8)]
    with app.app_context():
        for ticket in tickets[1:5]:
            waiting_room.leave(ticket)
    assert [place(client, ticket).json["place"] for ticket in (tickets[0], *tickets[5:])] == [1, 2, 3]
    assert register(client, "p8@example.com").json["place"] == 4


def test_a_place_given_up_in_another_tab_is_told_at_once(
    client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_turns(monkeypatch)
    draw(client, "wall@example.com")
    ticket = draw(client)
    with app.app_context():
        waiting_room.leave(ticket)
    told = place(client, ticket).json
    assert (told["status"], told["was_given_up"], told["detail"]) == (
        "expired",
        True,
        "This place was given up. Send the form again for a new one.",
    )
    again = register(client, ticket=ticket)
    assert (again.status_code, again.json["place"]) == (503, 2)
    assert again.json["ticket"] != ticket


@pytest.mark.parametrize(("seconds", "was_given_up"), [(29, True), (31, False)])
def test_a_turn_given_up_in_another_tab_is_told_from_one_that_was_over(
    client: FlaskClient, app: Flask, db_session: Session, seconds: int, was_given_up: bool
) -> None:
    ticket = draw(client)
    look_again()
    assert place(client, ticket).json["status"] == "ready"
    began = RegistrationTicket.claimed_at - timedelta(seconds=seconds)
    db_session.execute(update(RegistrationTicket).values(claimed_at=began))
    db_session.commit()
    with app.app_context():
        waiting_room.leave(ticket)
    told = place(client, ticket).json
    assert (told["status"], told["was_given_up"]) == ("expired", was_given_up)


def test_a_turn_that_comes_at_the_end_of_the_tickets_hour_is_kept_as_long_as_any(
    client: FlaskClient, db_session: Session
) -> None:
    ticket = draw(client)
    look_again()
    assert place(client, ticket).json["status"] == "ready"
    late = clock.now() - timedelta(seconds=turns.TICKET_LASTS_SECONDS + 5)
    db_session.execute(update(RegistrationTicket).values(created_at=late))
    db_session.commit()
    told = place(client, ticket).json
    assert told["status"] == "ready"
    assert told["seconds_left"] > 20
    assert register(client, ticket=ticket).status_code == 201


def test_the_line_moves_past_those_who_went_away_also_while_nobody_asks(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns.Turns, "_most", lambda *_: 5)
    with committed_app.app_context():
        for number in range(8):
            waiting_room._draw(f"gone {number}")
        waiting_room.forget_figure()
        waiting_room.look()
        each_second.wake()
        began = time.monotonic()
        while run_alone("SELECT count(*) FROM registration_tickets WHERE turn_at IS NULL", ())[0]:
            assert time.monotonic() - began < 12
            time.sleep(0.2)
        each_second.of(committed_app).close()


def test_nobody_passes_those_who_wait(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    draw(client, "first@example.com")
    newcomer = register(client, "late@example.com")
    assert (newcomer.status_code, newcomer.json["place"]) == (503, 2)


def test_who_has_an_account_is_told_so_at_once_however_many_wait(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, db_session: Session
) -> None:
    assert register(client, "owner@example.com").status_code == 201
    no_turns(monkeypatch)
    draw(client, "first@example.com")
    assert register(client, "owner@example.com").status_code == 409
    assert db_session.scalar(select(func.count()).select_from(RegistrationTicket)) == 1


def test_a_registration_sent_again_is_answered_at_once_however_many_wait(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, db_session: Session
) -> None:
    def send(email: str, key: str):
        look_again()
        body = {"email": email, "password": PASSWORD, "full_name": "Lerato Dube"}
        return client.post("/api/auth/v2/register", json=body, headers={"Idempotency-Key": key})

    first = send("owner@example.com", "key-of-one")
    no_turns(monkeypatch)
    draw(client, "first@example.com")
    again = send("owner@example.com", "key-of-one")
    assert (again.status_code, again.json["id"]) == (201, first.json["id"])
    assert send("another@example.com", "key-of-one").status_code == 422
    assert db_session.scalar(select(func.count()).select_from(RegistrationTicket)) == 1


def test_whoever_comes_while_others_wait_costs_the_database_one_question(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(*question: Any, **limits: Any) -> Any:
        asked.append(question[0])
        return run_alone(*question, **limits)

    no_turns(monkeypatch)
    with databases.clone() as url:
        app = create_app(settings_for(url, ratelimit_enabled=True))
        try:
            draw(app.test_client(), "first@example.com")
            for module in (rate_limits, registration, waiting_room):
                monkeypatch.setattr(module, "run_alone", ask)
            assert register(app.test_client(), "late@example.com").json["place"] == 2
        finally:
            dispose(app)
    assert len(asked) == 1


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
    most = 4 * waiting_room._ready().turns.slots
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
    assert place(client, first).json["status"] == "ready"
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    assert place(client, first).json["status"] == "expired"
    second = draw(client, "second@example.com")
    assert place(client, second).json["status"] == "ready"


def test_who_was_told_to_come_later_than_the_turn_came_has_not_lost_it(
    app: Flask, client: FlaskClient, db_session: Session
) -> None:
    """A room that gets quicker while people wait, by more dynos, is no fault of theirs; nor is a phone that slept."""
    ticket = draw(client)
    look_again()
    waiting_room_place(client)
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now() - timedelta(seconds=200)))
    db_session.commit()
    told = place(client, ticket)
    assert (told.json["status"], told.json["place"]) == ("ready", 0)
    with app.app_context():
        assert waiting_room.get_place(ticket).seconds_left in (29, 30), "the turn begins as its owner hears of it"
    assert register(client, ticket=ticket).status_code == 201


def test_a_turn_that_nobody_was_told_of_can_be_kept_from_then_on(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now() - timedelta(seconds=200), claimed_at=None))
    db_session.commit()
    visitor.send("/register/waiting/keep")
    assert "kept for" in visitor.visit("/register/waiting").words


def test_a_passed_turn_means_a_new_place(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    place(client, ticket)
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    answer = register(client, ticket=ticket)
    assert answer.status_code == 503
    assert answer.json["ticket"] != ticket


@pytest.mark.parametrize("had_room_a_moment_before", [False, True])
def test_a_full_gate_at_ones_turn_keeps_the_turn(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, had_room_a_moment_before: bool
) -> None:
    ticket = draw(client)
    place(client, ticket)
    if had_room_a_moment_before:
        monkeypatch.setattr(passwords, "has_room_for_registration", lambda: True)
    with full_gate():
        answer = register(client, ticket=ticket)
    assert (answer.status_code, answer.json["ticket"], answer.json["place"]) == (503, ticket, 0)
    assert register(client, ticket=ticket).status_code == 201


def test_at_a_full_gate_nothing_is_looked_up_of_who_comes_at_their_turn(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = draw(client)
    place(client, ticket)
    monkeypatch.setattr(registration, "_known", lambda *_: pytest.fail("it would be asked again a second later"))
    with full_gate():
        assert register(client, ticket=ticket).json["ticket"] == ticket


def test_at_a_full_gate_who_has_the_account_already_is_told_so(client: FlaskClient) -> None:
    ticket = draw(client)
    place(client, ticket)
    assert register(client, ticket=ticket).status_code == 201
    with full_gate():
        assert register(client, ticket=ticket).status_code == 409


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
    monkeypatch.setattr(waiting_room, "_room", replace(waiting_room._ready(), is_open=False))
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


@pytest.mark.parametrize("overtaken", [(waiting_room, "admit"), (passwords, "hash_for_registration")])
def test_two_at_once_at_one_turn_under_one_key_get_the_same_account(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch, overtaken: tuple[Any, str]
) -> None:
    """The twin commits before the first one has shown its ticket, or while it hashes."""
    client = committed_app.test_client()
    headers = {"X-Registration-Ticket": draw(client), "Idempotency-Key": "key-1"}
    before_the_twin = getattr(*overtaken)
    accounts = []

    def twice(*arguments: Any) -> Any:
        monkeypatch.setattr(*overtaken, before_the_twin)
        send()
        return before_the_twin(*arguments)

    def send() -> None:
        look_again()
        body = {"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}
        answer = client.post("/api/auth/v2/register", json=body, headers=headers)
        accounts.append((answer.status_code, answer.json.get("id")))

    monkeypatch.setattr(*overtaken, twice)
    send()
    assert accounts[0] == accounts[1]
    assert accounts[0][0] == 201


def page_at_the_gate(app: Flask, **fields: str) -> Visitor:
    """Return a visitor who has sent the form while the gate was full."""
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = Visitor(app)
    visitor.visit("/register")
    look_again()
    with full_gate():
        visitor.send("/register", **{**FILLED, "rendered_at": an_older_mark(), **fields})
    return visitor


@pytest.mark.parametrize("ahead", [timedelta(seconds=5), timedelta(seconds=-5), timedelta(minutes=-59)])
def test_the_page_waits_on_though_another_dynos_clock_is_not_ours(
    app: Flask, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    there = time.time() + ahead.total_seconds()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(time, "time", lambda: there)
        visitor = page_at_the_gate(app)
    assert visitor.visit("/register/waiting").answer.request.path == "/register/waiting"


def test_the_page_waits_for_an_hour(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    an_hour_ago = time.time() - 3602
    with monkeypatch.context() as then:
        then.setattr(time, "time", lambda: an_hour_ago)
        visitor = page_at_the_gate(app)
    assert visitor.visit("/register/waiting").answer.request.path == "/register"


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
    visitor = page_at_the_gate(app, user_role="developer", company_name="Dube and Daughters")
    page = visitor.send("/register/waiting/leave")
    assert page.answer.request.path == "/register"
    assert "You left the queue." in page.words
    back = filled_in(page.form("/register"))
    assert (back["full_name"], back["email"], back["password"]) == ("Lerato Dube", "lerato@example.com", "")
    assert (back["user_role"], back["company_name"]) == ("developer", "Dube and Daughters")
    page = visitor.visit("/register")
    assert filled_in(page.form("/register"))["email"] == "", "it is handed back once"
    assert db_session.scalar(select(RegistrationTicket.left_at)) is not None


def test_a_place_given_up_in_another_browser_is_told_and_a_new_one_can_be_taken(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_turns(monkeypatch)
    here, there = page_at_the_gate(app), page_at_the_gate(app)
    here.send("/register/waiting/leave")
    look_again()
    page = there.visit("/register/waiting")
    assert page.find("h1").get_text(strip=True) == "Your place was given up"
    assert "Somebody left the queue with it, in another browser perhaps. Take a new place" in page.words
    assert there.visit("/register/waiting?given_up").answer.request.path == "/register/waiting"
    page = there.send("/register/waiting", status=503, password=PASSWORD)
    assert page.find("h1").get_text(strip=True) == "You are 1st in line"


def test_who_left_in_another_tab_is_told_where_the_page_leads(app: Flask) -> None:
    page = Visitor(app).visit("/register/waiting?given_up")
    assert page.answer.request.path == "/register"
    assert "You left the queue in another tab." in page.words


@pytest.mark.parametrize("action", ["", "/keep", "/leave"])
def test_an_outdated_form_of_the_waiting_page_is_drawn_again_and_costs_nothing(
    app: Flask, db_session: Session, action: str
) -> None:
    visitor = page_at_the_gate(app)
    page = visitor.send(f"/register/waiting{action}", status=400, csrf_token="outdated")
    assert "This page was open for too long. Your place is kept: please press the button once more." in page.words
    assert db_session.scalars(select(RegistrationTicket.left_at)).all() == [None]
    look_again()
    visitor.visit("/register/waiting")
    assert visitor.send("/register/waiting", password=PASSWORD).answer.request.path == "/conversations"


@pytest.mark.parametrize("action", ["", "/keep", "/leave"])
@pytest.mark.parametrize("email", ["lerato@example.com", "neo@example.com"], ids=["same address", "another address"])
def test_what_an_older_tab_sends_touches_nothing_of_the_form_sent_last(
    app: Flask, db_session: Session, action: str, email: str
) -> None:
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = page_at_the_gate(app)
    older = filled_in(visitor.page.form(f"/register/waiting{action}"))
    visitor.visit("/register")
    with full_gate():
        visitor.send("/register", **FILLED | {"rendered_at": an_older_mark(), "email": email})
    look_again()
    before = all_tickets(db_session)
    page = visitor.send(f"/register/waiting{action}", status=409, **{**older, "password": PASSWORD})
    assert f"Another form was sent from this browser since, for {email}" in page.words
    assert all_tickets(db_session) == before
    assert db_session.scalar(select(func.count()).select_from(User)) == 0
    assert visitor.send("/register/waiting", password=PASSWORD).answer.request.path == "/conversations"


def all_tickets(db_session: Session) -> list[Any]:
    """Return who has left, and who has kept a turn."""
    db_session.rollback()
    statement = select(RegistrationTicket.left_at, RegistrationTicket.claimed_at).order_by(RegistrationTicket.number)
    return [tuple(row) for row in db_session.execute(statement)]


def test_whose_wait_ends_with_a_refusal_has_the_form_back(app: Flask, client: FlaskClient, monkeypatch) -> None:
    visitor = page_at_the_gate(app, company_name="Kelp & Co")
    monkeypatch.setattr(waiting_room, "_room", replace(waiting_room._ready(), is_open=False))
    assert register(client, "lerato@example.com").status_code == 201
    page = visitor.send("/register/waiting", password=PASSWORD)
    assert page.answer.request.path == "/register"
    kept = filled_in(page.form("/register"))
    assert (kept["email"], kept["company_name"], kept["password"]) == ("lerato@example.com", "Kelp & Co", "")


def test_an_outdated_form_of_nobody_who_waits_is_not_drawn(app: Flask) -> None:
    answer = app.test_client().post("/register/waiting", data={"csrf_token": "outdated"})
    assert answer.status_code == 400
    assert "Nothing was done." in answer.text
    assert "Set-Cookie" not in answer.headers


def test_who_opens_the_form_while_waiting_is_shown_the_way_back(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    masthead = visitor.page.find("header")
    assert masthead.find("a", href="/login") is not None
    assert masthead.find("a", href="/register") is None, "a blank form would hide the place"
    page = visitor.visit("/register")
    assert "You are in line with lerato@example.com" in page.words
    assert page.find("main").find("a", href="/register/waiting") is not None
    page = visitor.send("/register", status=422, full_name="")
    assert "Back to your place." in page.words
    page = Visitor(app).visit("/register")
    assert "You are in line" not in page.words
    assert page.find("header").find("a", href="/register") is not None


def test_a_turn_can_be_kept(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=25)))
    db_session.commit()
    visitor.send("/register/waiting/keep")
    kept_for = clock.now() - db_session.scalars(select(RegistrationTicket.claimed_at)).one()
    assert kept_for < timedelta(seconds=20)


def test_who_waits_for_nothing_is_led_to_the_form(app: Flask) -> None:
    visitor = Visitor(app)
    assert visitor.visit("/register/waiting").answer.request.path == "/register"
    visitor.client.set_cookie("waiting", "forged")
    assert visitor.visit("/register/waiting").answer.request.path == "/register"


# What two processes know


def another_process() -> turns.Turns:
    return turns.Turns(waiting_room._ready().turns.slots)


def test_a_fresh_ticket_is_known_to_a_process_that_looked_a_moment_ago(app: Flask, client: FlaskClient) -> None:
    """Its figure is young enough to be believed, and older than the ticket."""
    other = another_process()
    with app.app_context():
        before = other.current()
        ticket = waiting_room._ready().signer.read(draw(client))
        assert ticket.number > before.last
        assert other.current(drawn=ticket.number).last >= ticket.number


def test_a_living_ticket_without_a_turn_waits_whatever_the_figure_says(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket with a lower number may be stored after one with a higher number has been looked at."""
    no_turns(monkeypatch)
    ticket = draw(client)
    room = waiting_room._ready()
    number = room.signer.read(ticket).number
    room.turns._figure = turns.Figure(number, number, 0, 1.0, read_at=clock.monotonic())
    answer = client.get("/api/auth/v2/registration-place", headers={"X-Registration-Ticket": ticket}).json
    assert (answer["status"], answer["place"]) == ("waiting", 1)


def test_the_first_in_line_is_first_though_all_earlier_tickets_are_forgotten(
    client: FlaskClient, db_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_turns(monkeypatch)
    for number in range(5):
        draw(client, f"p{number}@example.com")
    db_session.execute(delete(RegistrationTicket))
    db_session.commit()
    ticket = draw(client, "late@example.com")
    assert place(client, ticket).json["place"] == 1


def test_a_figure_that_is_too_old_is_waited_for_while_another_thread_reads(
    committed_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = another_process()
    with committed_app.app_context(), room._reading:
        old = replace(turns._NOTHING_READ, read_at=clock.monotonic() - 2)
        room._figure = old
        started = clock.monotonic()
        assert room.current() == old
        assert clock.monotonic() - started >= turns._BELIEVED_SECONDS
        room._figure = replace(old, read_at=clock.monotonic() - 0.5)
        monkeypatch.setattr(turns, "_BELIEVED_SECONDS", 60.0)
        started = clock.monotonic()
        room.current()
        assert clock.monotonic() - started < 30, "not yet so old is good enough while somebody reads"


@pytest.mark.parametrize(("hours", "is_known"), [(1.9, True), (2.1, False)])
def test_a_ticket_forgotten_long_ago_counts_for_nothing(app: Flask, hours: float, is_known: bool) -> None:
    drawn = ids.new_id_of(clock.now() - timedelta(hours=hours))
    with app.app_context():
        ticket = waiting_room._ready().signer.write(Ticket(drawn, 1, "mark"))
        assert (waiting_room.id_of(ticket) == drawn) is is_known


@pytest.mark.parametrize("age", [6, float("inf")])
def test_nobody_goes_by_a_figure_that_is_much_too_old(committed_app: Flask, age: float) -> None:
    room = another_process()
    room._figure = replace(turns._NOTHING_READ, read_at=clock.monotonic() - age)
    with committed_app.app_context(), room._reading, pytest.raises(PoolTimeout):
        room.current()


def test_while_the_room_cannot_be_read_nobody_passes_who_waits(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_turns(monkeypatch)
    ticket = draw(client)
    waiting_room.forget_figure()
    with waiting_room._ready().turns._reading:
        assert register(client, "newcomer@example.com").json["detail"] == Unavailable.detail
        assert place(client, ticket).status_code == 503


# The pace, and what is told of it


def registered_lately(db_session: Session, *, people: int, seconds: float) -> None:
    """Store people who have registered one after another, the last of them now."""
    now = clock.now()
    step = timedelta(seconds=seconds / people)
    db_session.add_all(
        RegistrationTicket(email_mark=f"d{n}", created_at=now, turn_at=now, claimed_at=now, done_at=now - n * step)
        for n in range(people)
    )
    db_session.commit()


def test_the_pace_is_measured_from_the_first_registration_on(app: Flask, db_session: Session) -> None:
    registered_lately(db_session, people=1000, seconds=2)
    with app.app_context():
        # 100 over all ten seconds; a little less than 500 where the database is slow.
        assert 200 < another_process().current().pace <= 500


def test_a_crowd_that_holds_the_hash_up_does_not_make_the_estimate_hopeless(app: Flask, db_session: Session) -> None:
    registered_lately(db_session, people=30, seconds=10)
    with app.app_context():
        passwords._ready().registration.seconds = 0.06
        assert another_process().current().pace == pytest.approx(0.75 * 2 * 10), "only 3 a second were opened lately"


def waiting_since(db_session: Session, *, seconds: float, people: int = 5) -> turns.Turns:
    """Store people who wait, and return a process that has looked at them all the while."""
    drawn = clock.now() - timedelta(seconds=seconds)
    db_session.add_all(RegistrationTicket(email_mark=f"w{number}", created_at=drawn) for number in range(people))
    db_session.commit()
    room = another_process()
    room._awake_since = clock.monotonic() - seconds
    room._figure = replace(turns._NOTHING_READ, read_at=clock.monotonic() - 1)
    return room


def test_a_pace_that_stays_low_is_believed(app: Flask, db_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    registered_lately(db_session, people=30, seconds=10)
    room = waiting_since(db_session, seconds=25)
    with app.app_context():
        assert room.current().pace == pytest.approx(3, rel=0.2)


def test_a_line_that_hardly_moves_is_measured_by_its_turns_in_a_minute(
    app: Flask, db_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the turns of those who never come, as they hold up nobody for long."""
    no_turns(monkeypatch)
    room = waiting_since(db_session, seconds=100)
    with app.app_context():
        assert room.current().pace == pytest.approx(1 / 60), "somebody is next all the same"
        now = clock.now()
        db_session.add_all(
            RegistrationTicket(email_mark=f"t{number}", created_at=now, turn_at=now - timedelta(seconds=9 * number))
            for number in range(12)
        )
        db_session.commit()
        room._figure = replace(room._figure, read_at=clock.monotonic() - 1)
        assert room.current().pace == pytest.approx(7 / 60)


def test_while_nobody_looked_the_room_has_learnt_nothing(app: Flask, db_session: Session) -> None:
    """Everybody's computer slept, or the database was away: nobody was let in, and nobody was slow."""
    room = waiting_since(db_session, seconds=600)
    room.forget()
    with app.app_context():
        passwords._ready().registration.seconds = 0.06
        assert room.current().pace == pytest.approx(20)


def test_the_room_waits_less_for_a_lock_than_others_do(app: Flask) -> None:
    """Everybody who registers asks it, and while it waits it holds a connection that sign-ins need."""
    with app.app_context():
        assert waiting_room._ask("SELECT current_setting('lock_timeout')", ()) == ("250ms",)


def test_without_registrations_the_pace_is_that_of_the_hashes_of_all_processes(app: Flask) -> None:
    passwords._ready().registration.seconds = 0.06
    room = another_process()
    room._processes = 3
    with app.app_context():
        assert room.current().pace == pytest.approx(6 * 10), "40 ms of other work around each of 60"


def test_a_slow_start_does_not_keep_the_room_slow(app: Flask) -> None:
    room = another_process()
    assert room._most(pace=1000.0, share_who_come=1.0) >= 625
    assert room._most(pace=0.1, share_who_come=1.0) == 4 * room.slots


def test_while_a_crowd_comes_fewer_turns_are_given_than_when_it_has_come(committed_app: Flask) -> None:
    """Its forms are most of the work then, and must be taken at once."""
    room = another_process()
    room._processes, room._counted_at = 4, clock.monotonic()
    passwords._ready().registration.seconds = 0.05

    def look_after_half_a_second() -> turns.Figure:
        room._figure = replace(room._figure, read_at=clock.monotonic() - 0.5)
        return room.current()

    with committed_app.app_context():
        run_alone(CROWD, (3000,))
        assert room.current().is_filling, "nobody knows since when"
        has_come = look_after_half_a_second()
        assert not has_come.is_filling
        run_alone(CROWD.replace("SELECT n, n", "SELECT n || 'b', n || 'b'"), (3000,))
        comes = look_after_half_a_second()
        assert comes.is_filling
    assert room._pace_of_turns(has_come) > room._pace_of_turns(comes) >= comes.pace


def test_where_half_never_come_twice_as_many_turns_are_given() -> None:
    room = another_process()
    as_many_as_come = room._most(pace=100.0, share_who_come=1.0)
    assert room._most(pace=100.0, share_who_come=0.5) == pytest.approx(2 * as_many_as_come, abs=2)
    assert room._most(pace=100.0, share_who_come=0.0) == pytest.approx(4 * as_many_as_come, abs=4)


def test_those_who_do_not_come_for_their_turn_are_noticed(app: Flask, db_session: Session) -> None:
    given = clock.now() - timedelta(seconds=8)
    db_session.add_all(
        RegistrationTicket(email_mark=f"t{n}", created_at=given, turn_at=given, claimed_at=given if n % 4 else None)
        for n in range(40)
    )
    db_session.commit()
    with app.app_context():
        assert another_process().current().share_who_come == pytest.approx(0.75)


def test_turns_are_given_by_one_process_at_a_time(committed_app: Flask) -> None:
    with committed_app.app_context():
        run_alone(CROWD, (9000,))
        with db.engines[None].begin() as another:
            another.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": turns._ADVISORY_LOCK})
            assert another_process().current().come_to == 0, "another gives them at this moment"
        given = another_process().current().come_to
        assert 0 < given < 9000
        assert another_process().current().come_to == given, "as many as may be open were given"


@pytest.mark.parametrize(
    ("place", "eta", "poll"), [(1, 1, 1), (30, 3, 1), (80, 8, 4), (400, 40, 20), (600, 60, 30), (700, 70, 30)]
)
def test_the_estimate_is_the_place_over_the_pace_and_polls_grow_with_it(place: int, eta: int, poll: int) -> None:
    told = waiting_room._waiting(place, turns.Figure(0, place, place, pace=10.0, read_at=0.0))
    assert (told.place, told.eta_seconds, told.poll_seconds) == (place, eta, poll)


@pytest.mark.parametrize("people", [10, 400, 3_000, 20_000])
def test_nobody_is_late_where_the_room_gets_as_quick_as_its_hashes(people: int) -> None:
    """A crowd's own forms keep the pace low while it comes, and its estimates long."""
    passwords._ready().registration.seconds = 0.05
    figure = turns.Figure(0, people, people, pace=1.0, read_at=0.0)
    for place in range(1, people + 1):
        poll = waiting_room._waiting(place, figure).poll_seconds
        at_the_soonest = place * 0.05 / waiting_room._ready().turns.slots
        assert poll <= max(30, at_the_soonest / 2)
        assert poll <= max(1, place / 2), "after half the estimate"


@pytest.mark.parametrize(("hash_seconds", "poll"), [(0.05, 1), (0.25, 1), (0.3, 2), (5.0, 2)])
def test_where_the_hash_is_slow_those_who_are_next_ask_less_often(hash_seconds: float, poll: int) -> None:
    """One who is at the gate keeps it for longer; a turn nobody has come for counts for three seconds."""
    passwords._ready().registration.seconds = hash_seconds
    told = waiting_room._waiting(1, turns.Figure(0, 1, 1, pace=10.0, read_at=0.0))
    assert told.poll_seconds == poll


def test_those_who_wait_for_a_slow_hash_are_asked_back_long_before_their_turn() -> None:
    passwords._ready().registration.seconds = 0.4
    figure = turns.Figure(0, 3000, 3000, pace=4.0, read_at=0.0)
    told = waiting_room._waiting(3000, figure)
    assert (told.eta_seconds, told.poll_seconds) == (750, 300), "two hashes at a time would take 600 seconds"


def test_turns_are_given_for_all_web_processes_of_all_dynos(committed_app: Flask) -> None:
    url = libpq_url(committed_app.config["SETTINGS"].database_url)
    names = [f"{WEB_PROCESS}one", f"{WEB_PROCESS}one", f"{WEB_PROCESS}two", f"{WEB_PROCESS}three", "capecontrol-worker"]
    room, alone = another_process(), another_process()
    with committed_app.app_context(), ExitStack() as others:
        run_alone(CROWD, (9,))
        for name in names:
            others.enter_context(closing(psycopg2.connect(url, application_name=name)))
        room.current()
        assert room.slots == 3 * alone.slots


def test_where_no_process_tells_its_name_those_of_this_dyno_count(committed_app: Flask) -> None:
    """A pooler may keep the names to itself."""
    with committed_app.app_context():
        run_alone(CROWD, (9,))
        room = turns.Turns(2, processes=2)
        room.current()
        assert room.slots == 4


# Turns are nobody's to take away


def test_a_full_gate_at_ones_turn_lets_the_turn_begin_anew(client: FlaskClient, db_session: Session) -> None:
    ticket = draw(client)
    place(client, ticket)
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=25)))
    db_session.commit()
    with full_gate():
        register(client, ticket=ticket)
    assert place(client, ticket).json["seconds_left"] > 25


def test_a_turn_that_is_over_cannot_be_kept(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    assert "Your turn has passed" in visitor.send("/register/waiting/keep", status=409).words


def test_a_full_gate_lets_the_turn_begin_anew_of_who_comes_without_the_ticket(
    client: FlaskClient, db_session: Session
) -> None:
    ticket = draw(client)
    place(client, ticket)
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=25)))
    db_session.commit()
    with full_gate():
        answer = register(client)
    assert (answer.json["ticket"], answer.json["place"]) == (ticket, 0)
    assert place(client, ticket).json["seconds_left"] > 25


def test_a_full_room_takes_no_turn_away(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, db_session: Session
) -> None:
    ticket = draw(client)
    place(client, ticket)
    monkeypatch.setattr(waiting_room, "MOST_WAITING", 0)
    with full_gate():
        answer = register(client)
    assert (answer.status_code, answer.json["ticket"], answer.json["place"]) == (503, ticket, 0)


def test_a_ticket_that_was_lost_with_the_database_has_passed(app: Flask, client: FlaskClient) -> None:
    """Or its owner would be next for ever: its number is beyond all that are known."""
    with app.app_context():
        lost = waiting_room._ready().signer.write(Ticket("01a2-lost", 10**9, "mark"))
    assert place(client, lost).json["status"] == "expired"


def test_what_comes_with_a_ticket_has_a_limit_of_its_own(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "REGISTER_WITH_TICKET", replace(rate_limits.REGISTER_WITH_TICKET, hits=2))
    with databases.clone() as url:
        app = create_app(settings_for(url, ratelimit_enabled=True))
        try:
            client = app.test_client()
            ticket, another = draw(client), draw(client, "other@example.com")
            assert [register(client, "neighbour@", ticket=ticket).status_code for _ in range(3)] == [422, 422, 429]
            client.environ_base["REMOTE_ADDR"] = "192.0.2.1"
            assert register(client, "neighbour@", ticket=ticket).status_code == 422, "another caller has tries too"
            assert register(client, "other@example.com", ticket=another).status_code == 201
        finally:
            dispose(app)


def test_a_turn_can_be_kept_so_often_as_the_limit_says(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "REGISTER_WITH_TICKET", replace(rate_limits.REGISTER_WITH_TICKET, hits=1))
    with databases.clone() as url:
        app = create_app(settings_for(url, ratelimit_enabled=True))
        try:
            visitor = page_at_the_gate(app)
            look_again()
            visitor.visit("/register/waiting")
            assert "kept for" in visitor.send("/register/waiting/keep").words
            visitor.send("/register/waiting/keep", status=429)
        finally:
            dispose(app)


def test_turns_that_are_kept_again_and_again_hold_nobody_up(app: Flask, db_session: Session) -> None:
    now = clock.now()
    db_session.add_all(RegistrationTicket(email_mark=f"x{number}", created_at=now) for number in range(400))
    db_session.commit()
    room = another_process()
    with app.app_context():
        first = room.current().come_to
        taken = db_session.scalars(select(RegistrationTicket).where(RegistrationTicket.turn_at.is_not(None))).all()
        assert 0 < len(taken) < 400
        long_ago = now - timedelta(seconds=turns.TURN_LASTS_SECONDS + 1)
        db_session.execute(
            update(RegistrationTicket)
            .where(RegistrationTicket.turn_at.is_not(None))
            .values(turn_at=long_ago, claimed_at=now - timedelta(seconds=20))
        )
        db_session.commit()
        for row in taken:
            assert waiting_room.keep(waiting_room._ready().signer.write(Ticket(row.id, row.number, row.email_mark)))
        room.forget()
        assert room.current().come_to > first, "others have their turns beside"


def test_the_page_is_held_to_the_tickets_limit_too(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "REGISTER_WITH_TICKET", replace(rate_limits.REGISTER_WITH_TICKET, hits=1))
    with databases.clone() as url:
        app = create_app(settings_for(url, ratelimit_enabled=True))
        try:
            visitor = page_at_the_gate(app)
            visitor.send("/register/waiting", status=422, password="")
            page = visitor.send("/register/waiting", status=429, password=PASSWORD)
            assert "Your place is kept. That was a little too often." in page.words
        finally:
            dispose(app)


def test_an_address_with_an_account_is_not_told_to_who_holds_anothers_ticket(client: FlaskClient) -> None:
    register(client, "thandi@example.com")
    ticket = draw(client)
    assert register(client, "thandi@example.com", ticket=ticket).status_code == 422


def test_a_form_that_was_taken_at_once_ends_an_older_ones_waiting(app: Flask, db_session: Session) -> None:
    """Or the page would go on with the older form, perhaps somebody else's, and with the newer one's password."""
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = page_at_the_gate(app)
    look_again()
    db_session.execute(update(RegistrationTicket).values(turn_at=clock.now()))
    db_session.commit()
    visitor.visit("/register")
    visitor.send("/register", **{**FILLED, "email": "second@example.com", "rendered_at": an_older_mark()})
    assert visitor.client.get_cookie("waiting") is None
    assert db_session.scalars(select(RegistrationTicket.left_at)).one() is not None


def test_a_page_whose_form_is_forgotten_says_so(app: Flask, db_session: Session) -> None:
    visitor = page_at_the_gate(app)
    visitor.client.delete_cookie("waiting")
    page = visitor.send("/register/waiting", password=PASSWORD)
    assert page.answer.request.path == "/register"
    assert "This page waits no more: another form was taken from this browser" in page.words
    assert db_session.scalar(select(User.id)) is None


def test_without_scripts_a_full_gate_at_ones_turn_is_said(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    with full_gate():
        page = visitor.send("/register/waiting", status=503, password=PASSWORD)
    assert "Every seat was taken at this moment." in page.words
    assert "It is your turn" in page.words


def test_without_scripts_the_page_can_be_read_before_it_loads_anew(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    no_turns(monkeypatch)
    page = page_at_the_gate(app).page
    assert page.find("meta", {"http-equiv": "refresh"})["content"].startswith("10; ")
    assert "This page looks again by itself every 10 seconds." in page.words


def test_without_scripts_it_is_said_that_the_turn_had_passed(
    app: Flask, db_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    no_turns(monkeypatch)
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    look_again()
    page = visitor.send("/register/waiting", status=503, password=PASSWORD)
    said = [alert.get_text() for alert in page.find_all(role="alert")]
    assert any("Your turn had passed, so you have a new place." in words for words in said)
    assert "type your password once more" in page.words
    page = visitor.send("/register/waiting", status=503, password=PASSWORD)
    assert "Your turn had passed" not in page.words, "this place is the one it has"


def test_a_full_room_after_ones_turn_does_not_say_that_the_place_is_kept(
    app: Flask, db_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    visitor.visit("/register/waiting")
    db_session.execute(update(RegistrationTicket).values(claimed_at=clock.now() - timedelta(seconds=31)))
    db_session.commit()
    monkeypatch.setattr(waiting_room, "MOST_WAITING", 0)
    page = visitor.send("/register/waiting", status=503, password=PASSWORD)
    assert "So many people are waiting that we cannot take more." in page.words
    assert "Take a new place" in page.words
    assert "Your place is kept." not in page.words


def test_a_limit_takes_no_turn_away(databases: Databases) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url, ratelimit_enabled=True))
        try:
            client = app.test_client()
            ticket = draw(client)
            for number in range(rate_limits.REGISTER.hits):
                register(client, f"neighbour{number}@")
            assert register(client, "one.more@example.com").status_code == 429
            place(client, ticket)
            assert register(client, ticket=ticket).status_code == 201
            assert register(client, ticket="forged").status_code == 429
        finally:
            dispose(app)


def test_a_stranger_with_the_same_address_cannot_give_the_place_up(app: Flask, db_session: Session) -> None:
    owner = page_at_the_gate(app)
    stranger = page_at_the_gate(app)
    assert stranger.client.get_cookie("waiting") is not None
    stranger.send("/register/waiting/leave")
    assert db_session.scalars(select(RegistrationTicket.left_at)).all() == [None]
    owner.send("/register/waiting/leave")
    assert db_session.scalars(select(RegistrationTicket.left_at)).one() is not None


def test_sending_the_form_again_keeps_the_place_ones_own(app: Flask, db_session: Session) -> None:
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = page_at_the_gate(app)
    visitor.visit("/register")
    look_again()
    with full_gate():
        visitor.send("/register", **{**FILLED, "rendered_at": an_older_mark()})
    visitor.send("/register/waiting/leave")
    assert db_session.scalars(select(RegistrationTicket.left_at)).one() is not None


def test_an_older_tab_never_opens_the_account_of_a_newer_form(app: Flask, db_session: Session) -> None:
    from tests.auth.test_views import FILLED, an_older_mark

    visitor = page_at_the_gate(app)
    older_ticket = visitor.page.form("/register/waiting").find("input", {"name": "ticket"})["value"]
    visitor.visit("/register")
    look_again()
    with full_gate():
        visitor.send("/register", **{**FILLED, "email": "other@example.com", "rendered_at": an_older_mark()})
    look_again()
    page = visitor.send("/register/waiting", status=409, password=PASSWORD, ticket=older_ticket)
    assert "Another form was sent from this browser since, for other@example.com" in page.words
    assert db_session.scalar(select(User.id)) is None
    look_again()
    assert visitor.send("/register/waiting", password=PASSWORD).answer.request.path == "/conversations"
    assert db_session.scalars(select(User.email)).all() == ["other@example.com"]


# When something is broken


def test_a_forgotten_password_is_asked_for_and_costs_no_place(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    look_again()
    page = visitor.send("/register/waiting", status=422, password="")
    assert "Type your password once more." in page.words


def test_the_page_stays_and_looks_again_while_the_database_does_not_answer(
    committed_app: Flask, databases: Databases
) -> None:
    visitor = page_at_the_gate(committed_app)
    look_again()
    visitor.visit("/register/waiting")
    with committed_app.app_context(), db.engines[AUDIT].connect() as locker:
        locker.execute(text("LOCK TABLE registration_tickets IN ACCESS EXCLUSIVE MODE"))
        look_again()
        page = visitor.visit("/register/waiting", status=503)
        assert "Your place is kept" in page.words
        assert page.answer.headers["Retry-After"]
        assert page.find("meta", {"http-equiv": "refresh"}) is not None
        page = visitor.send("/register/waiting", status=503, password=PASSWORD)
        assert "Your place is kept" in page.words
        locker.rollback()
    look_again()
    assert visitor.send("/register/waiting", password=PASSWORD).answer.request.path == "/conversations"


def test_the_page_is_drawn_however_late_the_request_comes(app: Flask) -> None:
    visitor = page_at_the_gate(app)
    late = str(int((clock.now().timestamp() - 20) * 1000))
    assert visitor.client.get("/register/waiting", headers={"X-Request-Start": late}).status_code == 200
    assert visitor.client.get("/register", headers={"X-Request-Start": late}).status_code == 503


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/register/step2"])
def test_the_older_pages_get_a_ticket_in_their_own_words(client: FlaskClient, path: str) -> None:
    body = {"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"}
    with full_gate():
        answer = client.post(path, json=body)
    assert answer.status_code == 503
    assert answer.json["ticket"]
    assert (answer.json["success"], answer.json["message"]) == (False, answer.json["detail"])
