"""Applicants do what the registration page does, and what they were told is judged right."""

import asyncio
import json
from typing import Any

import pytest

from tests.load import applicants
from tests.load.applicants import Journey, Registrar, Told, errors_of_estimates, inversions, median_error
from tests.load.dynos import Dyno, play, routed
from tests.load.traffic import Answer, Caller
from tests.load.wire import Head


def answer(status: int, said: dict[str, Any] | None = None, *, retry_after: int | None = None) -> bytes:
    body = json.dumps(said).encode() if said is not None else b"<html>"
    kind = "application/json" if said is not None else "text/html"
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def queued(place: int, eta: int) -> bytes:
    return answer(503, {"detail": "", "ticket": "T", "place": place, "eta_seconds": eta}, retry_after=0)


def place(status: str, number: int = 0, eta: int = 0) -> bytes:
    return answer(200, {"status": status, "place": number, "eta_seconds": eta, "detail": ""}, retry_after=0)


OPENED = answer(201, {"id": "person-1"})
TAKEN = answer(409, {"detail": "taken"})


def journey_of(*script: bytes, **changes: Any) -> tuple[Journey, list[tuple[str, str | None]]]:
    """Let one person come to a server that answers as written; return how it went, and what was asked with which
    ticket."""
    found: list[Journey] = []
    asked: list[tuple[str, str | None]] = []

    async def scene() -> None:
        answers = list(script)

        async def write(dyno: Dyno, writer: asyncio.StreamWriter) -> None:
            writer.write(answers.pop(0))

        dyno = Dyno(write)
        async with routed(dyno) as (router, _):
            found.append(await Registrar("127.0.0.1", router.port, "test", **changes).come(1))
        for head, _ in dyno.requests:
            ticket = head.get(b"x-registration-ticket")
            asked.append((head.first[0].decode(), ticket.decode() if ticket else None))
        keys = {head.get(b"idempotency-key") for head, _ in dyno.requests if head.first[0] == b"POST"}
        assert len(keys) == 1

    play(scene())
    return found[0], asked


def test_at_their_turn_they_send_the_form_again_with_the_ticket():
    journey, asked = journey_of(queued(2, 9), place("waiting", 1, 4), place("ready"), OPENED)
    assert (journey.outcome, journey.account_id, journey.tickets) == ("account", "person-1", 1)
    assert asked == [("POST", None), ("GET", "T"), ("GET", "T"), ("POST", "T")]
    assert [(told.place, told.eta_seconds) for told in journey.told] == [(2, 9), (1, 4)]
    assert journey.turn_at is not None


def test_a_turn_the_gate_could_not_take_is_tried_again():
    journey, asked = journey_of(queued(1, 1), place("ready"), queued(0, 0), OPENED)
    assert journey.outcome == "account" and journey.tickets == 1
    assert asked[-2:] == [("POST", "T"), ("POST", "T")]


def test_an_expired_ticket_is_replaced():
    journey, asked = journey_of(queued(1, 1), place("expired"), OPENED)
    assert (journey.outcome, journey.expired) == ("account", 1)
    assert asked[-1] == ("POST", None)


def test_a_lost_answer_is_asked_for_again_under_the_same_key():
    journey, asked = journey_of(queued(1, 1), place("done"), OPENED)
    assert journey.outcome == "account" and asked[-1] == ("POST", None)


def test_without_a_ticket_they_come_again_when_told_and_after_a_broken_answer(monkeypatch):
    monkeypatch.setattr(applicants, "_ASK_AGAIN_SECONDS", 0.01)
    full = answer(503, {"detail": "full"}, retry_after=0)
    journey, asked = journey_of(full, answer(503), answer(500, {"detail": ""}), OPENED)
    assert journey.outcome == "account" and len(asked) == 4
    assert [applicants.is_broken(a) for a in journey.posts] == [False, True, True, False]


def test_what_no_waiting_changes_ends_it():
    assert journey_of(TAKEN)[0].refusal == "409 taken"
    assert journey_of(queued(1, 1), answer(422, {"detail": "no ticket"}))[0].outcome == "refused"


def test_with_a_ticket_they_come_as_late_as_the_page_and_no_later():
    """A quarter of the time and at most two seconds; who holds no place comes anywhere within the time again."""
    told = Head((b"HTTP/1.1", b"503", b"X"), [(b"retry-after", b"100")])
    one = applicants._Applicant(Registrar("127.0.0.1", 1, "test"), 1, Caller("127.0.0.1", 1))
    waits = [one._retry_after(Answer(503, 0.0, 0.0, told)) for _ in range(99)]
    assert 190 < max(waits) <= 200
    one._ticket = "T"
    waits = [one._retry_after(Answer(503, 0.0, 0.0, told)) for _ in range(99)]
    assert 101.5 < max(waits) <= 102 and min(waits) >= 100


def test_some_leave_with_their_ticket():
    journey, asked = journey_of(queued(9, 60), share_who_leave=1.0)
    assert journey.outcome == "left" and len(asked) == 1


def test_estimates_are_compared_with_the_real_wait():
    waited = Journey(1, "", turn_at=110.0, told=[Told(100.0, 9, 12.0), Told(105.0, 4, 5.0), Told(109.5, 1, 1.0)])
    assert errors_of_estimates([waited]) == pytest.approx([0.2, 0.0])
    assert median_error([waited], first_only=True) == pytest.approx(0.2)
    assert errors_of_estimates([Journey(2, "")]) == []


def test_inversions_are_between_coming_and_having_an_account():
    def person(came: float, done: float, outcome: str = "account") -> Journey:
        return Journey(0, "", arrived_at=came, ended_at=done, outcome=outcome)

    assert inversions([person(1, 5), person(2, 6), person(3, 7)]) == 0.0
    assert inversions([person(3, 5), person(2, 6), person(1, 7)]) == 1.0
    assert inversions([person(1, 9), person(2, 6, "left")]) == 0.0
