"""Reading a long audit log: what each page and filter takes in the database."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from flask import Flask
from sqlalchemy import event as sqlalchemy_event

from capecontrol import clock
from capecontrol.audit import hours, neighbours, people, queries, query_language, security, statistics
from capecontrol.audit.filtering import Filters
from capecontrol.extensions import db
from capecontrol.web.pagination import Position
from tests.load.figures import Row, percentile, tell_progress
from tests.load.long_log import DAYS, PEOPLE

GOAL_MS = 50.0
SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Case:
    """A page or a filter, and how to ask for it with other values each time."""

    what: str
    ask: Callable[[Random], Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case took in the database: milliseconds, all of its statements together."""

    what: str
    samples: tuple[float, ...]

    @property
    def slow(self) -> float:
        """The 95th percentile in milliseconds."""
        return percentile(self.samples, 0.95)


def cases() -> list[Case]:
    """Return every page and filter, with the statements its view sends."""
    names = queries.list_event_types()

    def page(text: str) -> Callable[[Random], Any]:
        def ask(chance: Random) -> None:
            event_types = queries.list_event_types()
            values = {
                "person": f"person-{int(PEOPLE * chance.random() ** 3)}",
                "ip": f"10.{chance.randrange(20)}.0.{chance.randrange(250)}",
                "days": chance.randrange(1, DAYS),
            }
            query = query_language.parse(text.format(**values), now=clock.now(), event_types=event_types)
            if query.problems:
                raise ValueError(query.problems)
            queries.search(query.filters)
            queries.count_up_to(query.filters)

        return ask

    def position(chance: Random) -> Position:
        return Position(clock.now() - timedelta(days=chance.uniform(0.1, DAYS)), "0")

    def some_event(chance: Random) -> str:
        found = queries.search(Filters(), position=position(chance), limit=1).events
        return found[0].event_id

    def event_page(chance: Random) -> None:
        neighbours.around(queries.get_event(some_event(chance)))

    def person_page(chance: Random) -> None:
        person = people.get_portrait(f"person-{int(PEOPLE * chance.random() ** 3)}")
        queries.search(people.everything_about(person))
        people.summarize(person, days=30)

    def activity(chance: Random) -> None:
        person = people.get_portrait("person-0")  # the busiest
        people.summarize(person, days=90)
        people.list_activity(person, days=90)

    searches = {
        "/audit, the newest": "",
        "actor: by address": "actor:{person}@example.com",
        "actor: by id": "actor:{person}",
        "actor: nobody": "actor:nobody@example.com",
        "event: frequent": "event:ai_prompt_submitted",
        "event: rare": "event:role_changed",
        "event: never": "event:conversation_restored",
        "event: three together": "event:access_denied event:role_changed event:user_registration",
        "event: all that begin so": "event:conversation_*",
        "outcome: refused": "outcome:refused",
        "outcome: done": "outcome:done",
        "ip:": "ip:{ip}",
        "ip: refused": "ip:{ip} outcome:refused",
        "after: and before:": "after:{days}d before:{days}d",
        "after: only": "after:{days}d",
        "category: frequent": "category:data",
        "category: rare": "category:admin",
        "actor: and event:, rarely together": "actor:{person} event:role_changed",
        "busiest actor: and an event: that never is": "actor:person-0 event:conversation_restored",
        "event: never refused, refused": "event:user_login outcome:refused",
        "text, frequent": "prompt",
        "text, a name": '"Ines Example 123"',
        "text, nowhere": "xyzzy",
        "text of four words, nowhere": "xyzzy plugh fog bay",
        "text, an id": "0199aaaa-0000-7000-8000-000000000000",
        "text of one actor:": "actor:{person} refused",
    }
    searches["after: and before:"] = "after:2026-01-01 before:yesterday"
    return [
        *(Case(f"search {what}" if what[0] != "/" else what, page(text)) for what, text in searches.items()),
        Case("an older page", lambda chance: queries.search(Filters(), position=position(chance))),
        Case("a newer page", lambda chance: queries.search_newer(Filters(), position=position(chance))),
        Case(
            "an older page of refusals",
            lambda chance: queries.search(Filters(outcome="refused"), position=position(chance)),
        ),
        Case(
            "the tail",
            lambda _: queries.search_newer(Filters(), position=Position(clock.now() - timedelta(seconds=10), "0")),
        ),
        Case("event page with its neighbours (and finding one)", event_page),
        Case("a person's page", person_page),
        Case("one's own activity", lambda chance: queries.list_own(f"person-{int(PEOPLE * chance.random() ** 3)}")),
        *(Case(f"statistics, {days} days", lambda _, days=days: statistics.over_days(days)) for days in (1, 7, 30, 90)),
        *(Case(f"security, {each} h", lambda _, each=each: security.list_events(hours=each)) for each in (24, 168)),
        *(
            Case(f"failed sign-ins grouped, {each} h", lambda _, each=each: security.group_failed_sign_ins(hours=each))
            for each in (24, 168)
        ),
        Case("API failed-logins, 168 h, 1,000 rows", lambda _: security.list_failed_sign_ins(hours=168)),
        Case("API user-activity of the busiest, 90 days, 1,000 rows", activity),
        Case("the names of events", lambda _: names and queries.list_event_types()),
    ]


def measure(app: Flask, *, samples: int = SAMPLES) -> list[Row]:
    """Ask for each page and filter so many times; return the slowest, and each that is slower than the goal."""
    found = sorted(_ask_for_all(app, samples), key=lambda each: each.slow, reverse=True)
    late = [each for each in found if each.slow > GOAL_MS]
    slowest = "; ".join(f"{each.what} {each.slow:.1f} ms" for each in found[:5])
    return [
        Row(
            f"every page and filter of the audit log, p95 in the database ({len(found)} of them, {samples} times each)",
            f"{len(found) - len(late)} within {GOAL_MS:.0f} ms; the slowest: {slowest}",
            f"median of them {percentile((each.slow for each in found), 0.5):.1f} ms",
            goal=f"p95 <= {GOAL_MS:.0f} ms",
            is_reached=not late,
        ),
        *(Row(f"... too slow: {each.what}", f"p95 {each.slow:.1f} ms", is_reached=False) for each in late[5:]),
    ]


def _ask_for_all(app: Flask, samples: int) -> list[Measured]:
    found = []
    with app.app_context():
        for case in cases():
            chance = Random(1652)
            case.ask(chance)  # once for the plans and the cache, as a page that is in use finds them
            took = []
            for _ in range(samples):
                with in_database() as spent:
                    case.ask(chance)
                db.session.rollback()
                took.append(spent[0] * 1000)
            found.append(Measured(case.what, tuple(took)))
            tell_progress(f"{case.what}: {percentile(took, 0.95):.1f} ms")
    return found


@contextlib.contextmanager
def in_database() -> Iterator[list[float]]:
    """Count the seconds that statements take until their answer is here."""
    spent, began = [0.0], [0.0]

    def start(*_: Any) -> None:
        began[0] = time.perf_counter()

    def stop(*_: Any) -> None:
        spent[0] += time.perf_counter() - began[0]

    sqlalchemy_event.listen(db.engine, "before_cursor_execute", start)
    sqlalchemy_event.listen(db.engine, "after_cursor_execute", stop)
    try:
        yield spent
    finally:
        sqlalchemy_event.remove(db.engine, "before_cursor_execute", start)
        sqlalchemy_event.remove(db.engine, "after_cursor_execute", stop)


def count_all_hours(app: Flask) -> float:
    """Count the log by the hour and return how many seconds it took."""
    with app.app_context():
        hours.count_hours()  # makes the mark
        began = time.perf_counter()
        while hours.count_hours(seconds=600) > 0:
            tell_progress("counted by the hour")
        return time.perf_counter() - began
