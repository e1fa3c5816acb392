"""Reading a long audit log: fills one, and measures what each page and filter takes in the database.

`python -m tests.load.audit_reading` with a million events, `--rows 10000000` for the size that is promised. Part of
what `make bench` can show; on its own because filling takes its time.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

import psycopg2
from flask import Flask
from sqlalchemy import event as sqlalchemy_event

from capecontrol import clock, create_app
from capecontrol.audit import hours, neighbours, people, queries, query_language, security, statistics
from capecontrol.audit.filtering import Filters
from capecontrol.config import libpq_url
from capecontrol.extensions import db
from capecontrol.web.pagination import Position
from tests.conftest import dispose, settings_for
from tests.load.figures import Row, machine, percentile, say, table, tell_progress
from tests.load.product import POSTGRES, Database, durable_database

GOAL_MS = 50.0
DAYS = 90
PEOPLE = 20_000
ADDRESSES = 5_000
BATCH = 500_000
SAMPLES = 40

_PEOPLE = (
    "INSERT INTO users_v2 (id, email, email_key, full_name, user_role) SELECT 'person-' || n, "
    "'person-' || n || '@example.com', 'person-' || n || '@example.com', 'Ines Example ' || n, 'client' "
    "FROM generate_series(0, %s - 1) AS n"
)
# Few people do much and many do little; six in a hundred events are refused; some events have nobody and no address.
_EVENTS = """
INSERT INTO audit_logs (event_id, user_id, actor_ref, user_email, user_role, subject_id, event_type, event_category,
  event_level, ip_address, user_agent, endpoint, http_method, request_id, session_id, success, error_message,
  event_metadata, created_at, recorded_at)
SELECT overlay(overlay(overlay(overlay(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || '7' || substr(md5(n::text), 1, 19) placing '-' from 9 for 0) placing '-' from 14 for 0)
    placing '-' from 19 for 0) placing '-' from 24 for 0),
  CASE WHEN kind[3] = 'stranger' THEN NULL ELSE 'person-' || person END,
  CASE WHEN kind[3] = 'stranger' THEN NULL ELSE 'person-' || person END,
  'person-' || person || '@example.com', CASE WHEN kind[3] = 'stranger' THEN NULL ELSE 'client' END,
  md5('subject' || n / 7), kind[1], kind[2], CASE WHEN kind[3] = 'done' THEN 'info' ELSE 'warning' END,
  CASE WHEN n %% 9 = 0 THEN NULL ELSE '10.' || address / 250 || '.0.' || address %% 250 END,
  'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36',
  'conversations.show', 'POST', md5('request' || n / 2), md5('session' || n / 20 || person), kind[3] = 'done',
  CASE WHEN kind[3] = 'done' THEN NULL ELSE 'That was refused.' END,
  jsonb_build_object('message_id', md5(n::text), 'characters', n %% 500), at, at + interval '30 milliseconds'
FROM (
  SELECT n, start + (stop - start) * (n::float8 / total) AS at,
    floor(%(people)s * power(random(), 3))::int AS person, floor(%(addresses)s * power(random(), 2))::int AS address,
    (CASE
      WHEN share < 0.30 THEN ARRAY['ai_prompt_submitted', 'ai_service', 'done']
      WHEN share < 0.58 THEN ARRAY['ai_response_generated', 'ai_service', 'done']
      WHEN share < 0.74 THEN ARRAY['user_login', 'authentication', 'done']
      WHEN share < 0.84 THEN ARRAY['conversation_started', 'data', 'done']
      WHEN share < 0.90 THEN ARRAY['user_logout', 'authentication', 'done']
      WHEN share < 0.945 THEN ARRAY['user_login_failed', 'authentication', 'stranger']
      WHEN share < 0.955 THEN ARRAY['rate_limit_exceeded', 'security', 'stranger']
      WHEN share < 0.96 THEN ARRAY['access_denied', 'authorization', 'refused']
      WHEN share < 0.98 THEN ARRAY['user_registration', 'authentication', 'done']
      WHEN share < 0.99 THEN ARRAY['conversation_archived', 'data', 'done']
      WHEN share < 0.9999 THEN ARRAY['profile_updated', 'profile', 'done']
      ELSE ARRAY['role_changed', 'admin', 'done'] END) AS kind
  FROM (SELECT n, random() AS share, %(total)s::float8 AS total, now() - %(days)s * interval '1 day' AS start,
    now() AS stop FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS drawn
) AS drawn
"""


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
    def row(self) -> Row:
        """The case as a line of the table."""
        slow = percentile(self.samples, 0.95)
        figure = f"p95 {slow:.1f} ms, p50 {percentile(self.samples, 0.5):.1f} ms"
        return Row(self.what, figure, goal=f"p95 <= {GOAL_MS:.0f} ms", is_reached=slow <= GOAL_MS)


def fill(database: Database, count: int) -> None:
    """Write a log of so many events over the last 90 days, as it would be after a vacuum."""
    database.ask(_PEOPLE, PEOPLE)
    indexes = database.ask(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'audit_logs' AND indexname LIKE 'ix\\_%%'"
    )
    for name, _ in indexes:
        database.ask(f'DROP INDEX "{name}"')
    with closing(psycopg2.connect(libpq_url(database.url))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for first in range(1, count + 1, BATCH):
                last = min(count, first + BATCH - 1)
                cursor.execute(
                    _EVENTS,
                    {
                        "people": PEOPLE,
                        "addresses": ADDRESSES,
                        "total": count,
                        "days": DAYS,
                        "first": first,
                        "last": last,
                    },
                )
                tell_progress(f"{last:,} of {count:,} events")
            for name, definition in indexes:
                cursor.execute(definition)
                tell_progress(f"index {name}")
            cursor.execute("VACUUM ANALYZE audit_logs")
            cursor.execute("VACUUM ANALYZE users_v2")


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


def measure(app: Flask, *, samples: int = SAMPLES) -> list[Measured]:
    """Ask for each page and filter so many times and return what its statements took."""
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


def main() -> None:
    """Fill, count, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many events (10000000 is what is promised)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="how often each page is asked for")
    arguments = parser.parse_args()
    with durable_database() as database:
        fill(database, arguments.rows)
        app = create_app(settings_for(database.url))
        seconds = count_all_hours(app)
        measured = measure(app, samples=arguments.samples)
        ((total, heap),) = database.ask(
            "SELECT pg_total_relation_size('audit_logs') / 1e6, pg_relation_size('audit_logs') / 1e6"
        )
        sizes = database.ask(
            "SELECT indexrelname, pg_relation_size(indexrelid) / 1e6 FROM pg_stat_user_indexes "
            "WHERE relname = 'audit_logs' ORDER BY 2 DESC"
        )
        dispose(app)
    rows = [
        Row("events", f"{arguments.rows:,}; {heap:,.0f} MB, with indexes {total:,.0f} MB"),
        Row("counting all of them by the hour", f"{seconds:.1f} s"),
        *(each.row for each in measured),
    ]
    say(machine(POSTGRES))
    say(table(rows))
    say("Indexes, MB: " + ", ".join(f"{name} {size:,.0f}" for name, size in sizes))


if __name__ == "__main__":
    main()
