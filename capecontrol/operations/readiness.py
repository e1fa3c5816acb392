"""Whether the product can do its work: every part probed for real, and what that means for the whole."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Literal

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import configure_mappers

from capecontrol import clock, ids
from capecontrol.audit import recorder, savepoint, spilling, spool
from capecontrol.audit.models import AuditLog
from capecontrol.config import ROOT, current_settings, on_a_dyno
from capecontrol.database import reason_of, short_transaction
from capecontrol.extensions import Base, db

State = Literal["ok", "degraded", "down"]

FRESH_SECONDS = 2.0
BELIEVED_SECONDS = 5.0
OLDEST_JOB_SECONDS = 60
WORKER_SILENT_SECONDS = 30
"""Procrastinate's worker reports every 10 s; after three missed reports it counts as gone."""

_MISSING = ("42P01", "42703")  # table, column
_NEXT_JOB = text(
    "SELECT extract(epoch FROM now() - coalesce(job.scheduled_at, deferred.at)) FROM procrastinate_jobs AS job "
    "LEFT JOIN procrastinate_events AS deferred ON deferred.job_id = job.id AND deferred.type = 'deferred' "
    "WHERE job.status = 'todo' AND (job.scheduled_at IS NULL OR job.scheduled_at <= now()) "
    "ORDER BY job.priority DESC, job.id LIMIT 1"
)
_STUCK_MAILS = text(
    "SELECT count(*) FILTER (WHERE state = 'waiting' AND attempts > 0) AS stuck, "
    "max(last_trouble) FILTER (WHERE state = 'waiting') AS trouble, "
    "count(*) FILTER (WHERE state = 'given_up' AND ended_at > now() - interval '1 day') AS given_up "
    "FROM outgoing_mails WHERE state IN ('waiting', 'given_up')"
)
_LAST_REPORT = text("SELECT extract(epoch FROM now() - max(last_heartbeat)) FROM procrastinate_workers")


@dataclass(frozen=True, slots=True)
class Part:
    """One part and how it is; `detail` is a sentence for whoever runs the product, with what to do.

    `is_failing` says that it does not do its work now, and not only that something about it waits for somebody.
    """

    name: str
    state: State
    detail: str
    is_failing: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    """How the parts were when they were last looked at."""

    parts: tuple[Part, ...]
    checked_at: datetime

    @property
    def status(self) -> State:
        """The whole: down when a part is that nothing works without, degraded when any is not well."""
        states = {part.state for part in self.parts}
        return "down" if "down" in states else "degraded" if "degraded" in states else "ok"


class Watch:
    """Keeps one process's last look for two seconds, so that asking often costs nothing."""

    def __init__(self) -> None:
        self._latest: tuple[float, Readiness] | None = None
        self._looking = threading.Lock()

    def current(self) -> Readiness:
        """Return how the parts are. While somebody looks, others get the last look, unless that was long ago: then
        the looking itself hangs, and the database does not answer."""
        if self._latest is not None and self._is_fresh(self._latest):
            return self._latest[1]
        if not self._looking.acquire(blocking=self._latest is None) and self._latest is not None:
            return self._latest[1] if self._age(self._latest) < BELIEVED_SECONDS else _without_answer()
        try:
            if self._latest is None or not self._is_fresh(self._latest):
                readiness = look()
                self._latest = (clock.monotonic(), readiness)
            return self._latest[1]
        finally:
            self._looking.release()

    def _is_fresh(self, latest: tuple[float, Readiness]) -> bool:
        return self._age(latest) < FRESH_SECONDS

    @staticmethod
    def _age(latest: tuple[float, Readiness]) -> float:
        return clock.monotonic() - latest[0]


def _without_answer() -> Readiness:
    return Readiness((Part("database", "down", "The database does not answer; a look at it hangs."),), clock.now())


def look() -> Readiness:
    """Probe every part now, on the small pool apart from the requests'. Takes at most a few seconds, never raises
    for trouble of the database."""
    return Readiness(tuple(_parts()), clock.now())


def _parts() -> Iterator[Part]:
    try:
        with short_transaction() as connection:
            connection.exec_driver_sql(savepoint.LIMITS)
            yield Part("database", "ok", "The database answers.")
            for name, probe in _PROBES.items():
                yield _looked_at(name, probe, connection)
    except PoolTimeout:
        yield Part("database", "degraded", "The connection for probes was in use for a second; look again.")
    except SQLAlchemyError as error:
        yield Part("database", "down", f"The database does not answer ({reason_of(error)}); check DATABASE_URL and it.")


def _looked_at(name: str, probe: Callable[[Connection], Part], connection: Connection) -> Part:
    """Run a probe in a savepoint that is always rolled back. Lets a lost connection's error through."""
    savepoint = connection.begin_nested()
    try:
        return probe(connection)
    except DBAPIError as error:
        if error.connection_invalidated or connection.invalidated:
            raise
        return Part(name, _WHEN_UNREADABLE.get(name, "degraded"), f"Its tables could not be read ({reason_of(error)}).")
    finally:
        if not connection.invalidated and savepoint.is_active:
            savepoint.rollback()


def _migrations(connection: Connection) -> Part:
    found = set(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    wanted = heads()
    if found == wanted:
        return Part("migrations", "ok", f"The database is at {_listed(found)}.")
    return Part(
        "migrations",
        "down",
        f"The database is at {_listed(found) or 'no revision'}, but this release needs {_listed(wanted)}: "
        "run `flask --app wsgi db upgrade`, or deploy the release that matches.",
    )


def _mapping(connection: Connection) -> Part:
    """Prove that the models can work: among themselves, and against the tables there are.

    The audit log's table is left out: without it the product goes on, and the part `audit` says so.
    """
    try:
        configure_mappers()
        _ = db.metadata.sorted_tables
    except SQLAlchemyError as error:
        return Part(
            "mapping", "down", f"The models do not fit together ({type(error).__name__}): deploy a mended release."
        )
    for mapper in Base.registry.mappers:
        if mapper.class_ is AuditLog:
            continue
        try:
            connection.execute(select(*mapper.local_table.columns).limit(0))
        except DBAPIError as error:
            if reason_of(error) not in _MISSING:
                raise
            return Part(
                "mapping",
                "down",
                f"The table {mapper.local_table} is not as the models need it ({reason_of(error)}): "
                "run `flask --app wsgi doctor`.",
            )
    return Part("mapping", "ok", "The models fit together and fit the tables.")


def _audit(connection: Connection) -> Part:
    """Insert a row for real; the caller rolls it back."""
    event_id = ids.new_id()
    try:
        connection.execute(
            insert(AuditLog).values(
                event_id=event_id,
                event_type="write_probe",
                event_category="system",
                event_level="info",
                success=True,
                created_at=ids.created_at(event_id),
            )
        )
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return Part(
            "audit",
            "degraded",
            f"Events cannot be written ({reason_of(error)}); they go to the spool, and to stderr as AUDIT_SPILL lines: "
            f"keep those. {_spooled()}".rstrip(),
            is_failing=True,
        )
    if spilling.health.is_degraded:
        return Part(
            "audit",
            "degraded",
            f"This process could not write its last events ({spilling.health.last_reason}; "
            f"{spilling.health.swallowed} since it started); they are in the spool, and on stderr as AUDIT_SPILL "
            f"lines. {_spooled()}".rstrip(),
        )
    if spooled := _spooled():
        return Part("audit", "degraded", f"Events can be written. {spooled}")
    return Part("audit", "ok", "Events can be written.")


def _spooled() -> str:
    """Return in words what waits, what nobody tries for now and what is wrong with the spool; nothing if all is well.

    Files of other installations are nobody's trouble here; `audit replay` names them.
    """
    told = []
    if files := spool.spool.backlog(spilling.installation.id):
        size = sum(file.size for file in files)
        told.append(
            f"{len(files)} spool file{'s' if len(files) > 1 else ''} ({size:,} bytes) wait in {spool.spool.folder} "
            f"since {min(file.since for file in files):%Y-%m-%d %H:%M} UTC: they are stored by themselves, or with "
            "`flask --app wsgi audit replay`."
        )
    if spool.memory:
        told.append(f"{len(spool.memory)} events wait in this process's memory.")
    if open_for := round(recorder.breaker.seconds_open):
        told.append(f"The breaker is open: for {open_for} s nobody tries to write.")
    if aside := spool.spool.set_aside():
        told.append(f"{len(aside)} files of lines that could not be read are in {spool.spool.folder}: look at them.")
    if problem := spool.spool.problem():
        told.append(problem)
    return " ".join(told)


def _queue(connection: Connection) -> Part:
    waited = connection.execute(_NEXT_JOB).scalar()
    if waited is None:
        return Part("queue", "ok", "No job is waiting.")
    state: State = "degraded" if waited > OLDEST_JOB_SECONDS else "ok"
    return Part("queue", state, f"The next job has been waiting for {round(waited)} s.")


def _worker(connection: Connection) -> Part:
    silent = connection.execute(_LAST_REPORT).scalar()
    if silent is None:
        return Part("worker", "degraded", "No worker is running; replies wait until one is: `flask --app wsgi worker`.")
    if silent > WORKER_SILENT_SECONDS:
        return Part("worker", "degraded", f"The worker was last heard of {round(silent)} s ago: restart it.")
    return Part("worker", "ok", f"The worker reported {round(silent)} s ago.")


def _mail(connection: Connection) -> Part:
    """Tell by the mails themselves, so that asking never waits for a mail server."""
    found = connection.execute(_STUCK_MAILS).one()
    if found.stuck:
        return Part(
            "mail",
            "degraded",
            f"{found.stuck} mails wait because the mail server did not take them ({found.trouble}); they are tried "
            "again for a day: check SMTP_URL and the server.",
        )
    if found.given_up:
        return Part("mail", "degraded", f"{found.given_up} mails could not be sent within a day and were given up.")
    settings = current_settings()
    if settings.mail_server is None and on_a_dyno():
        return Part("mail", "degraded", "No mail server is set, so nobody gets any mail: set SMTP_URL.")
    if settings.mail_server is None:
        return Part("mail", "ok", "No mail server is set, so mails stay in the outbox; SMTP_URL names one.")
    return Part("mail", "ok", "The mail server takes what there is to send.")


_PROBES: dict[str, Callable[[Connection], Part]] = {
    "migrations": _migrations,
    "mapping": _mapping,
    "audit": _audit,
    "queue": _queue,
    "worker": _worker,
    "mail": _mail,
}
_WHEN_UNREADABLE: dict[str, State] = {"migrations": "down"}


@cache
def heads() -> frozenset[str]:
    """Return the migration revisions this release needs."""
    return frozenset(ScriptDirectory(str(ROOT / "migrations")).get_heads())


def _listed(revisions: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(revisions))
