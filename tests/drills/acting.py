"""A process that acts without pause, for the drill that breaks the record: `python -m tests.drills.acting`.

Each act starts a conversation, so that what happened is in a table of its own, whatever the record says. Some acts are
doomed: a constraint that the drill has put there fails them at the commit.
"""

import argparse
import os
import signal
import threading
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from capecontrol.audit import spool
from capecontrol.audit.actor import Actor
from capecontrol.conversations import service
from capecontrol.errors import DomainError
from capecontrol.extensions import db
from tests.drills.acting_points import DOOMED, EVERY_DOOMED, POINTS
from wsgi import app

_counting = threading.Lock()


class Fate:
    """The point at which the process dies, and how many times it may come there before."""

    def __init__(self, point: str | None, times: int) -> None:
        self._point = point
        self._left = times

    def come_to(self, point: str) -> None:
        """Die here when it is time."""
        if point != self._point:
            return
        with _counting:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Act until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--person", required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--die-at", choices=POINTS)
    parser.add_argument("--after", type=int, default=1)
    options = parser.parse_args()
    _lay_points(Fate(options.die_at, options.after))
    actor = Actor(options.person, "ines@example.com", "client", "Ines Example")
    for number in range(options.threads):
        threading.Thread(target=_act, args=(actor, number)).start()


def _act(actor: Actor, thread: int) -> None:
    number = 0
    while True:
        number += 1
        title = f"Act {number} of thread {thread}" + (f" {DOOMED}" if number % EVERY_DOOMED == 0 else "")
        with app.app_context():
            try:
                service.start(actor=actor, title=title)
            except (SQLAlchemyError, DomainError):  # what the drill breaks; whether it happened, the table says
                db.session.rollback()


def _lay_points(fate: Fate) -> None:
    @event.listens_for(Engine, "before_cursor_execute")
    def _before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "SAVEPOINT audit;" in statement and "INSERT INTO audit_logs" in statement:
            fate.come_to("before the event")

    @event.listens_for(Engine, "after_cursor_execute")
    def _after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO audit_logs" in statement:
            fate.come_to("event inserted" if "SAVEPOINT audit;" in statement else "replay inserted")

    @event.listens_for(Session, "after_commit")
    def _committed(_session: Session) -> None:
        fate.come_to("committed")

    really_append, really_print = spool.Spool.append, spool.print_line

    def append(self: spool.Spool, *args: Any) -> None:
        fate.come_to("before the spool")
        really_append(self, *args)
        fate.come_to("spooled")

    def print_line(line: str) -> None:
        really_print(line)
        fate.come_to("printed")

    spool.Spool.append = append  # type: ignore[method-assign]
    spool.print_line = print_line


if __name__ == "__main__":
    main()
