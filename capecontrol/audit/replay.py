"""Storing what was swallowed: from the spool's files, from memory, or from a drained log; each event exactly once.

A line says which transaction it belonged to, and the database what became of that (R9): what was committed is stored
as it was, what was not as something tried in vain. A file goes only after the commit of what it held, and an event
that is there already is left out, so that a replay may be broken off anywhere and repeated any number of times (R10).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from capecontrol.audit import erasure, events, inserts, recorder, spilled_lines, spilling, spool
from capecontrol.audit.frozen import as_refused
from capecontrol.audit.savepoint import LOCK_MS
from capecontrol.audit.spilled_lines import Line, NoEvent
from capecontrol.database import reason_of, short_transaction

ROWS_AT_A_TIME = 200
STATEMENT_MS = 2000
REFUSALS_IN_A_ROW = 3
"""After so many events refused one after another it is the table that refuses, and the rest waits."""

_NOBODYS_ACT = (events.AUDIT_DEGRADED.name, events.AUDIT_EVENTS_DROPPED.name)
"""Events about the record itself: they belong to no transaction and are true whatever became of any."""

NOT_COMMITTED = "This was not completed: its transaction was not committed."
OUTCOME_UNKNOWN = "Whether this was completed is not known any more."

_LIMITS = (
    f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = {STATEMENT_MS}; "
    # The file is removed after the commit, so the commit must have reached the disk.
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
# A number that is not given out yet belongs to another history, such as the one before a backup was restored.
_OUTCOMES = text(
    "SELECT number, CASE WHEN CAST(number AS xid8) < pg_current_xact_id() THEN pg_xact_status(CAST(number AS xid8)) "
    "END FROM unnest(CAST(:numbers AS text[])) AS number"
)
# Locked, so that nobody is deleted between this and the insert.
_PEOPLE = text("SELECT id FROM users_v2 WHERE id = ANY(:ids) ORDER BY id FOR KEY SHARE")
_INSTALLATION = text("SELECT id FROM installation")


@dataclass(slots=True)
class Replayed:
    """What a replay did: how many events it stored, found stored already, left waiting, or could not read.

    Of those stored, `not_committed` and `unknown` were stored as something that did not succeed. `in_progress` are
    those whose transaction is still open, `refused` those the table does not take; `foreign` are left alone, by
    installation. `trouble` says why the rest was not tried.
    """

    stored: int = 0
    known: int = 0
    not_committed: int = 0
    unknown: int = 0
    in_progress: int = 0
    refused: int = 0
    untried: int = 0
    unreadable: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    trouble: str | None = None
    set_aside: list[str] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many events of this installation still wait."""
        return self.in_progress + self.refused + self.untried

    @property
    def is_all_well(self) -> bool:
        """Whether nothing waits and everything could be read."""
        return not self.waiting and not self.unreadable and self.trouble is None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"ok": self.is_all_well, **asdict(self), "foreign": dict(self.foreign), "waiting": self.waiting}


def replay() -> Replayed:
    """Store what waits in the spool's files and in this process's memory. Never raises for trouble of the database."""
    done = Replayed()
    installation = ask_installation(done)
    if installation is None:
        return done
    for path in spool.spool.foreign(installation):
        done.foreign[path.name.partition(".")[0]] += _count_lines(path)
    lines = list(_readable(spool.memory.take(), done))
    spool.memory.add([line.raw for line in _store(lines, installation, done)])
    for path in spool.spool.waiting(installation):
        if done.trouble is not None:
            done.untried += _count_lines(path)
            continue
        with spool.spool.claim(path) as file:
            if file is not None:
                _replay_file(file, path.with_suffix(spool.CLAIMED), installation, done)
    return done


def replay_log(log_lines: Iterable[str]) -> Replayed:
    """Store the `AUDIT_SPILL` lines of a drained log, whatever stands in front of them; the log stays as it is."""
    done = Replayed()
    installation = ask_installation(done)
    if installation is None:
        return done
    chunk: list[Line] = []
    for line in _readable(spilled_lines.in_log(log_lines), done, may_trail=True):
        chunk.append(line)
        if len(chunk) == ROWS_AT_A_TIME:
            _store(chunk, installation, done)
            chunk = []
    _store(chunk, installation, done)
    return done


def ask_installation(done: Replayed) -> str | None:
    """Return which installation the database is, when it answers and has a table that takes events; else say why."""
    try:
        with short_transaction() as connection:
            connection.exec_driver_sql(_LIMITS)
            found = spilling.installation.id = connection.execute(_INSTALLATION).scalar()
            connection.exec_driver_sql("LOCK TABLE audit_logs IN ROW EXCLUSIVE MODE")
    except SQLAlchemyError as failure:
        done.trouble = reason_of(failure)
        return None
    if found is None:
        done.trouble = "the installation has no name"
    return found


def _replay_file(file: IO[bytes], path: Path, installation: str, done: Replayed) -> None:
    """Store a claimed file's events and remove it; what still waits goes into a file of its own before that."""
    unreadable: list[str] = []
    lines = list(_readable(spilled_lines.in_file(file.read()), done, unreadable=unreadable))
    ours = [line for line in lines if line.installation in (None, installation)]
    foreign: dict[str, list[str]] = {}
    for line in lines:
        if line.installation not in (None, installation):
            foreign.setdefault(str(line.installation), []).append(line.raw)
    left = [line.raw for line in _store(ours, installation, done)]
    if left and len(left) == len(lines) and not unreadable:
        return  # it stays as it is, claimed by nobody
    try:
        if left:
            spool.spool.leave(left, installation)
        for owner, raws in foreign.items():
            done.foreign[owner] += len(raws)
            spool.spool.leave(raws, owner)
        if unreadable:
            done.set_aside.append(str(spool.spool.lay_aside(unreadable, path)))
    except OSError as failure:  # it stays, and with it what could not be put elsewhere; what is stored is known
        done.trouble = f"the spool's disk takes nothing ({failure.strerror})"
        return
    path.unlink()


def _store(lines: Sequence[Line], installation: str, done: Replayed) -> list[Line]:
    """Store events and return those that still have to wait; those of other installations are only counted."""
    left: list[Line] = []
    ours = []
    for line in lines:
        if line.installation in (None, installation):
            ours.append(line)
        else:
            done.foreign[str(line.installation)] += 1
    for at in range(0, len(ours), ROWS_AT_A_TIME):
        left += _store_chunk(ours[at : at + ROWS_AT_A_TIME], done)
    return left


def _store_chunk(lines: list[Line], done: Replayed) -> list[Line]:
    """Store some events together or, where the table refuses them together, one by one."""
    if done.trouble is not None:
        done.untried += len(lines)
        return lines
    try:
        return _store_together(lines, done)
    except SQLAlchemyError as failure:
        if not _is_refusal(failure):
            done.trouble = reason_of(failure)
            done.untried += len(lines)
            return lines
    left: list[Line] = []
    refused: list[Line] = []
    in_a_row = 0
    for number, line in enumerate(lines):
        try:
            left += _store_together([line], done)
            in_a_row = 0
        except SQLAlchemyError as failure:
            done.refused += 1
            refused.append(line)
            in_a_row += 1
            if in_a_row == REFUSALS_IN_A_ROW or not _is_refusal(failure):
                done.trouble = reason_of(failure)
                done.untried += len(lines) - number - 1
                left += lines[number + 1 :]
                break
    return left + refused  # those refused last, so that they are not what the next replay stops at


def _is_refusal(failure: SQLAlchemyError) -> bool:
    """Say whether the server answered, and it may be one event that it did not take."""
    return getattr(getattr(failure, "orig", None), "pgcode", None) is not None


def _store_together(lines: list[Line], done: Replayed) -> list[Line]:
    """Store events in a transaction and return those whose own is still open. Raises SQLAlchemyError."""
    counts = Replayed()
    with short_transaction() as connection:
        connection.exec_driver_sql(_LIMITS)
        outcomes = _outcomes(connection, {line.transaction_id for line in lines if line.transaction_id})
        left = [line for line in lines if outcomes.get(line.transaction_id or "") == "in progress"]
        rows = [_as_it_went(line, outcomes, counts) for line in lines if line not in left]
        if rows:
            people = {person for row in rows for person in erasure.people_of(row)}
            there = set(connection.execute(_PEOPLE, {"ids": sorted(people)}).scalars()) if people else set()
            rows = erasure.as_erased(rows, connection)  # behind that lock, which an erasure takes too
            rows = [row | {"user_id": row["user_id"] if row["user_id"] in there else None} for row in rows]
            counts.stored = connection.exec_driver_sql(*inserts.insert(rows)).rowcount
    if rows:
        recorder.breaker.close()
        spilling.health.written()
    done.stored += counts.stored
    done.known += len(rows) - counts.stored
    done.not_committed += counts.not_committed
    done.unknown += counts.unknown
    done.in_progress += len(left)
    return left


def _outcomes(connection: Connection, numbers: set[str]) -> dict[str, str | None]:
    """Return what became of transactions: committed, aborted, in progress, or None where nobody knows any more."""
    if not numbers:
        return {}
    found = connection.execute(_OUTCOMES, {"numbers": sorted(numbers)})
    return {number: outcome for number, outcome in found}  # noqa: C416 -- rows, which dict() would take for mappings


def _as_it_went(line: Line, outcomes: dict[str, str | None], counts: Replayed) -> dict[str, Any]:
    """Return the event as it is to be stored: as a success only where its transaction is known to be committed."""
    frozen = line.frozen
    outcome = outcomes.get(line.transaction_id or "")
    # Without the installation's name the number is one of nobody knows which database.
    is_certain = outcome == "committed" and line.installation is not None
    if is_certain or not frozen["success"] or frozen["event_type"] in _NOBODYS_ACT:
        return frozen
    if outcome == "aborted" and line.installation is not None:
        counts.not_committed += 1
        told, error = "not_committed", NOT_COMMITTED
    else:
        counts.unknown += 1
        told, error = "unknown", OUTCOME_UNKNOWN
    frozen = as_refused(frozen, error=error)
    return frozen | {"event_metadata": json.dumps(json.loads(frozen["event_metadata"]) | {"outcome": told})}


def _readable(
    raws: Iterable[str], done: Replayed, *, unreadable: list[str] | None = None, may_trail: bool = False
) -> Iterator[Line]:
    """Yield the lines that hold an event; count the others, and put them into `unreadable`."""
    for raw in raws:
        try:
            yield spilled_lines.read(raw, may_trail=may_trail)
        except NoEvent:
            done.unreadable += 1
            if unreadable is not None:
                unreadable.append(raw)


def _count_lines(path: Path) -> int:
    try:
        return sum(1 for _ in spilled_lines.in_file(path.read_bytes()))
    except FileNotFoundError:  # somebody else's replay is done with it
        return 0
