"""What the record costs an act: its insert in the savepoint beside a plain one, and its share of a registration."""

import time
from collections.abc import Callable

from flask import Flask
from sqlalchemy import Connection

from capecontrol.audit import events, inserts, savepoint
from capecontrol.audit.frozen import freeze
from capecontrol.extensions import db
from tests.load.figures import Row, median

ROUNDS = 1_500
GOAL_RATIO, GOAL_SHARE = 1.5, 0.03


def insert_in_a_savepoint(app: Flask, *, rounds: int = ROUNDS) -> Row:
    """Write events both ways in turn, in transactions that have written something else before."""

    def with_savepoint(connection: Connection) -> None:
        assert savepoint.write(connection, inserts.in_strings([_event()])) is None

    def plainly(connection: Connection) -> None:
        connection.exec_driver_sql(*inserts.insert([_event()]))

    took: dict[Callable[[Connection], None], list[float]] = {with_savepoint: [], plainly: []}
    with app.app_context():
        for number in range(rounds):
            connection = db.session.connection()
            connection.exec_driver_sql(
                "INSERT INTO users_v2 (id, email, email_key, full_name, user_role) "
                "VALUES (%s, %s, %s, 'Ines Example', 'client')",
                (f"cost-{number}", f"cost-{number}@example.com", f"cost-{number}@example.com"),
            )
            ways = [with_savepoint, plainly]
            for way in ways if number % 2 else reversed(ways):
                began = time.perf_counter()
                way(connection)
                took[way].append(1000 * (time.perf_counter() - began))
            db.session.commit()
    ours, limit = median(took[with_savepoint]), median(took[plainly])
    return Row(
        f"an event's insert in the savepoint, with freezing it ({rounds:,} transactions)",
        f"{ours:.2f} ms",
        f"the same insert without one, in the same transaction {limit:.2f} ms",
        f"{ours / limit:.2f}",
        f"<= {GOAL_RATIO}",
        ours <= GOAL_RATIO * limit,
    )


def share_of_a_registration(lines: list[dict[str, float]]) -> Row:
    """Return which part of a registration the record took, by the request log of these registrations."""
    audit = median(line["audit_ms"] for line in lines)
    total = median(line["total_ms"] for line in lines)
    return Row(
        f"the record's part of a registration, one at a time ({len(lines)} of them)",
        f"{audit:.2f} ms",
        f"the whole registration {total:.1f} ms",
        f"{audit / total:.3f}",
        f"< {GOAL_SHARE:.0%}",
        audit < GOAL_SHARE * total,
    )


def _event() -> dict[str, object]:
    details = {"method": "api", "role": "client", "terms_source": "legacy client"}
    return freeze(events.USER_REGISTRATION, None, details, None, None)
