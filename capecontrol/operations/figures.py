"""The numbers on the operations page, each with words that say what it means and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock
from capecontrol.audit import alerts, spilling
from capecontrol.audit.delivery_state import delivery_states
from capecontrol.audit.models import AuditLog
from capecontrol.auth import waiting_room
from capecontrol.config import current_settings, on_a_dyno
from capecontrol.database import reason_of
from capecontrol.extensions import db
from capecontrol.mail import outgoing

_JOBS = text(
    "SELECT count(*) FILTER (WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())) AS waiting, "
    "count(*) FILTER (WHERE status = 'todo' AND scheduled_at > now()) AS later, "
    "count(*) FILTER (WHERE status = 'doing') AS running, "
    "count(*) FILTER (WHERE status = 'failed') AS failed FROM procrastinate_jobs"
)
_FAILED_TASKS = text(
    "SELECT task_name, count(*) FROM procrastinate_jobs WHERE status = 'failed' "
    "GROUP BY task_name ORDER BY count(*) DESC, task_name LIMIT 3"
)
_WORKERS = text(
    "SELECT count(*) FILTER (WHERE last_heartbeat > now() - interval '30 seconds') FROM procrastinate_workers"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; `needs_you` says whether somebody should do what the words say."""

    name: str
    value: int
    words: str
    needs_you: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Numbers about one thing, or in `trouble` why they could not be read."""

    name: str
    figures: tuple[Figure, ...] = ()
    trouble: str | None = None


def read_all() -> list[Section]:
    """Return every section that has anything to say. What cannot be read says so and keeps nobody from the rest: this
    page is looked at when something is broken."""
    sections = [_read(name, figures) for name, figures in _SECTIONS.items()]
    return [section for section in sections if section.figures or section.trouble]


def read_alerts() -> list[alerts.Alert] | None:
    """Return the alerts that are there for administrators, or None when they cannot be read."""
    try:
        return alerts.list_alerts()
    except SQLAlchemyError:
        return None
    finally:
        db.session.rollback()


def _read(name: str, figures: Callable[[], Iterator[Figure]]) -> Section:
    try:
        section = Section(name, tuple(figures()))
    except SQLAlchemyError as failure:
        section = Section(name, trouble=f"These figures could not be read ({reason_of(failure)}); look at the parts.")
    db.session.rollback()  # they only read, and a failed one must not spoil the next
    return section


def _work() -> Iterator[Figure]:
    jobs = db.session.execute(_JOBS).one()
    workers = db.session.execute(_WORKERS).scalar_one()
    yield Figure(
        "workers",
        workers,
        "They make replies, send mails and keep house." if workers else "Replies and mails wait: start the worker.",
        needs_you=not workers,
    )
    yield Figure("jobs running", jobs.running, "What the workers are busy with at this moment.")
    yield Figure("jobs waiting", jobs.waiting, "They are taken in order. If this grows, add a worker.")
    yield Figure("jobs for later", jobs.later, "They have a time of their own, such as the next try of a mail.")
    if jobs.failed:
        tasks = ", ".join(f"{name} ({count})" for name, count in db.session.execute(_FAILED_TASKS))
        words = f"Tried and given up within 30 days, most of all {tasks}. The worker's log says why: job_failed."
    else:
        words = "Nothing was given up within 30 days."
    yield Figure("jobs failed", jobs.failed, words, needs_you=bool(jobs.failed))


def _mail() -> Iterator[Figure]:
    found = outgoing.get_figures()
    if found.stuck:
        words = f"{found.stuck} of them in vain so far: {found.last_trouble}. Check the mail server and SMTP_URL."
    else:
        words = "They leave within seconds."
    yield Figure("waiting", found.waiting, words, needs_you=bool(found.stuck))
    if current_settings().mail_server is None:
        kept = len(outgoing.list_kept())
        words = "No mail server is set, so they reach nobody and stay here for a week. SMTP_URL names one."
        yield Figure("in the outbox", kept, words, needs_you=on_a_dyno() and bool(kept))
        return
    yield Figure("sent today", found.sent, "The mail server took them in the last 24 hours.")
    yield Figure(
        "refused today",
        found.refused,
        "The address does not exist or takes no mail. Nothing to do, unless there are many.",
    )
    yield Figure(
        "given up today",
        found.given_up,
        "Tried for a day, and the server never took them." if found.given_up else "None was tried for a day in vain.",
        needs_you=bool(found.given_up),
    )


def _record() -> Iterator[Figure]:
    swallowed = spilling.health.swallowed
    yield Figure(
        "late events",
        swallowed,
        "This web process could not write them at once. None is lost: standard error has them as AUDIT_SPILL."
        if swallowed
        else "This web process wrote every event at once.",
        needs_you=spilling.health.is_degraded,
    )
    hour = select(AuditLog.id).where(AuditLog.created_at > clock.now() - timedelta(hours=1)).limit(_MOST_COUNTED + 1)
    events = len(db.session.scalars(hour).all())
    more = " or more" if events > _MOST_COUNTED else ""
    yield Figure("events in an hour", min(events, _MOST_COUNTED), f"What people and programs did{more}, and refusals.")
    yield Figure(
        "new devices today",
        alerts.count_new_devices(),
        "Sign-ins from a browser or network not seen before. Each person was told by mail.",
    )


def _deliveries() -> Iterator[Figure]:
    for state in delivery_states():
        if not state.is_configured:
            words = f"{state.destination} is no longer in the settings; it had {state.delivered:,} events."
        elif state.last_error:
            words = (
                f"{state.destination} takes none ({state.last_error}); it is tried again by itself, and none is lost."
            )
        elif state.waiting:
            words = f"{state.destination} gets them in order; the oldest has waited {state.lag_seconds:.0f} s."
        else:
            words = f"{state.destination} has everything: {state.delivered:,} events."
        is_stuck = state.is_configured and state.last_error is not None
        yield Figure(f"waiting for {state.name}", state.waiting, words, needs_you=is_stuck)


def _waiting_room() -> Iterator[Figure]:
    waiting = waiting_room.count_waiting()
    yield Figure(
        "people waiting",
        waiting,
        "More want to open an account than the password hash allows; each has a place and an estimate."
        if waiting
        else "Everybody who registers is served at once.",
    )


_MOST_COUNTED = 5_000

_SECTIONS: dict[str, Callable[[], Iterator[Figure]]] = {
    "Work": _work,
    "Mail": _mail,
    "Audit log": _record,
    "Audit log elsewhere": _deliveries,
    "Waiting room": _waiting_room,
}
