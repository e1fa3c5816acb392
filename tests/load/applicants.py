"""People who open an account, as programs: they post, take a ticket, ask for their place when told to, and come at
their turn, at the pace of the registration page; unlike it they speak JSON."""

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.load.figures import median, share_of_inversions
from tests.load.traffic import Answer, Caller
from tests.load.wire import request_bytes

PASSWORD = "seven grey herons at low tide"
REGISTER = "/api/auth/v2/register"
PLACE = "/api/auth/v2/registration-place"

_ASK_AGAIN_SECONDS = 1.0
"""After an answer that says nothing about when to come again: a cut connection, the router's own page."""

_LATEST_BY = 2.0
"""Seconds by which somebody with a ticket comes later than told, at the most."""


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody in the waiting room was told: the place, and the seconds until their turn."""

    at: float
    place: int
    eta_seconds: float


@dataclass(slots=True)
class Journey:
    """How it went for one person; times are monotonic seconds.

    `outcome` is `account`, `refused` (an answer that no waiting will change), `left` (the person had no more
    patience) or empty while under way.
    """

    number: int
    email: str
    arrived_at: float = 0.0
    ended_at: float = 0.0
    outcome: str = ""
    account_id: str | None = None
    refusal: str = ""
    turn_at: float | None = None
    tickets: int = 0
    expired: int = 0
    posts: list[Answer] = field(default_factory=list)
    polls: list[Answer] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        """Every answer, also those that never came."""
        return self.posts + self.polls

    @property
    def seconds(self) -> float:
        """From coming to the end."""
        return self.ended_at - self.arrived_at


@dataclass(frozen=True, slots=True)
class Registrar:
    """Where accounts are opened, and by whom: `label` keeps the addresses of two rounds apart."""

    host: str
    port: int
    label: str
    patience: float = 300.0
    share_who_leave: float = 0.0
    closes_at: float = math.inf
    """Seconds, monotonic: when everybody who still waits leaves."""

    def email(self, number: int) -> str:
        """Return somebody's address."""
        return f"{self.label}-{number}@example.com"

    def request(self, number: int, *, ticket: str | None = None, extra: dict[str, str] | None = None) -> bytes:
        """Return the registration as it goes over the wire; the same key for every try of one person."""
        body = {
            "full_name": f"Ines Example {number}",
            "email": self.email(number),
            "password": PASSWORD,
            "user_role": "client",
            "company_name": "Harbour Example",
            "tos_accepted": True,
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"key-{self.label}-{number}", **(extra or {})}
        if ticket is not None:
            headers["X-Registration-Ticket"] = ticket
        return request_bytes(
            "POST", REGISTER, host=f"{self.host}:{self.port}", body=json.dumps(body).encode(), headers=headers
        )

    async def come(self, number: int, due_at: float | None = None, *, caller: Caller | None = None) -> Journey:
        """Be one person, from coming to the end; it counts from when they were due (monotonic), or from now."""
        person = _Applicant(self, number, caller or Caller(self.host, self.port))
        try:
            return await person.apply(time.monotonic() if due_at is None else due_at)
        finally:
            if caller is None:
                person.caller.close()


class _Applicant:
    def __init__(self, registrar: Registrar, number: int, caller: Caller) -> None:
        self.caller = caller
        self._registrar = registrar
        self._number = number
        self._ticket: str | None = None
        self._chance = random.Random(number)
        self._journey = Journey(number, registrar.email(number))

    async def apply(self, arrived_at: float) -> Journey:
        journey = self._journey
        journey.arrived_at = arrived_at
        leaves_at = min(journey.arrived_at + self._registrar.patience, self._registrar.closes_at)
        leaves_with_ticket = self._chance.random() < self._registrar.share_who_leave
        wait = await self._post()
        journey.posts[0].began_at = arrived_at
        while not journey.outcome:
            if time.monotonic() + wait > leaves_at or (leaves_with_ticket and self._ticket is not None):
                journey.outcome = "left"
                break
            await asyncio.sleep(wait)
            wait = await (self._post() if self._ticket is None or self._is_my_turn() else self._ask())
        journey.ended_at = time.monotonic()
        return journey

    def _is_my_turn(self) -> bool:
        return self._journey.turn_at is not None

    async def _post(self) -> float:
        """Send the form; return the seconds until there is something to do again."""
        journey = self._journey
        answer = await self.caller.call(self._registrar.request(self._number, ticket=self._ticket))
        journey.posts.append(answer)
        said = _json(answer)
        if answer.status == 201:
            journey.outcome = "account"
            journey.account_id = str(said.get("id"))
        elif answer.status in (409, 422):
            journey.outcome = "refused"
            journey.refusal = f"{answer.status} {said.get('detail')}"
        elif answer.status == 503 and "ticket" in said:
            if said["ticket"] != self._ticket:
                journey.tickets += 1
            self._ticket = str(said["ticket"])
            self._note(said)
        return self._retry_after(answer)

    async def _ask(self) -> float:
        """Ask for the place; return the seconds until there is something to do again."""
        journey = self._journey
        request = request_bytes(
            "GET",
            PLACE,
            host=f"{self._registrar.host}:{self._registrar.port}",
            headers={"X-Registration-Ticket": self._ticket or ""},
        )
        answer = await self.caller.call(request)
        journey.polls.append(answer)
        said = _json(answer)
        if answer.status == 422:
            journey.outcome = "refused"
            journey.refusal = f"422 {said.get('detail')}"
        if answer.status != 200:
            return self._retry_after(answer)
        if said["status"] == "waiting":
            self._note(said)
            return self._retry_after(answer)
        if said["status"] == "expired":
            journey.expired += 1
            self._ticket = None
        else:
            # "done" is an account whose answer was lost on its way: the same key gives it again.
            journey.turn_at = answer.ended_at
            self._ticket = None if said["status"] == "done" else self._ticket
        return 0.0

    def _note(self, said: dict[str, Any]) -> None:
        if said["place"] > 0:
            self._journey.told.append(Told(time.monotonic(), int(said["place"]), float(said["eta_seconds"])))

    def _retry_after(self, answer: Answer) -> float:
        text = answer.header("Retry-After") if answer.status else None
        if text is not None and text.isdigit():
            # Those who were refused together must not come back together: without a ticket, where nobody keeps an
            # order, anywhere within the time again; with one, a little late each time, as the page does.
            told = int(text)
            return told + self._chance.random() * (min(told / 4, _LATEST_BY) if self._ticket is not None else told)
        return _ASK_AGAIN_SECONDS * (1 + self._chance.random())


async def register_without_pause(
    registrar: Registrar, people: int, seconds: float, *, beside: Callable[[], Awaitable[None]] | None = None
) -> list[Journey]:
    """Let so many people register one after another, each on a kept connection; who has begun is let finish.

    `beside` runs meanwhile and is cancelled at the end.
    """
    numbers = itertools.count()
    ends_at = time.monotonic() + seconds
    journeys: list[Journey] = []
    watching = asyncio.ensure_future(beside()) if beside is not None else None

    async def register_again_and_again() -> None:
        caller = Caller(registrar.host, registrar.port)
        while time.monotonic() < ends_at:
            journeys.append(await registrar.come(next(numbers), caller=caller))
        caller.close()

    await asyncio.gather(*(register_again_and_again() for _ in range(people)))
    if watching is not None:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return journeys


def broken_answers(journeys: Iterable[Journey]) -> list[Answer]:
    """Return the answers that nobody should ever get: none at all, a fault of the server, the router's own page."""
    return [answer for journey in journeys for answer in journey.answers if is_broken(answer)]


def is_broken(answer: Answer) -> bool:
    """Say whether nobody should ever get this answer. A 503 in our own words is no fault."""
    return answer.status == 0 or (answer.status >= 500 and not (answer.status == 503 and _json(answer)))


def errors_of_estimates(journeys: Iterable[Journey], *, first_only: bool = False) -> list[float]:
    """Return by how much each told estimate was wrong, as a share of the real wait until the turn; waits of at least
    a second, because nobody sees less."""
    found = []
    for journey in journeys:
        if journey.turn_at is None:
            continue
        for told in journey.told[:1] if first_only else journey.told:
            wait = journey.turn_at - told.at
            if wait >= 1.0:
                found.append(abs(told.eta_seconds - wait) / wait)
    return found


def median_error(journeys: Iterable[Journey], *, first_only: bool = False) -> float:
    """Return the middle of errors_of_estimates; NaN when nobody waited."""
    return median(errors_of_estimates(journeys, first_only=first_only))


def inversions(journeys: Iterable[Journey]) -> float:
    """Return the share of pairs of people of whom the one who came first got the account later."""
    with_account = sorted((j for j in journeys if j.outcome == "account"), key=lambda journey: journey.arrived_at)
    return share_of_inversions([journey.ended_at for journey in with_account])


def _json(answer: Answer) -> dict[str, Any]:
    """Return the answer's JSON object, or an empty one for anything else, such as the router's own page."""
    if answer.status and answer.header("Content-Type") == "application/json":
        said = json.loads(answer.body)
        return said if isinstance(said, dict) else {}
    return {}
