"""Storing what was swallowed: from the spool's files, from memory, or from a drained log; each event exactly once.

A line says which transaction it belonged to, and the database what became of that (R9): what was committed is stored
as it was, what was not as something tried in vain. A file goes only after the commit of what it held, and an event
that is there already is left out, so that a replay may be broken off anywhere and repeated any number of times (R10).
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, ids
from capecontrol.audit import erasure, events, recorder, spool
from capecontrol.audit.savepoint import LOCK_MS
from capecontrol.database import reason_of, short_transaction

ROWS_AT_A_TIME = 200
STATEMENT_MS = 2000
REFUSALS_IN_A_ROW = 3
"""After so many events refused one after another it is the table that refuses, and the rest waits."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
DROPS_TOLD_EVERY_SECONDS = 60.0

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

_NEEDED = ("event_id", "event_type", "event_category", "event_level", "created_at")
_FIRST_NORMAL_XID, _LAST_XID = 3, 2**64 - 1

# What may stand in front of a line in a drained log: a time, a host, a process. Never a part of some other entry's
# text, which could be anybody's: that is why nothing quoted, bracketed like an object or named with `=` may.
_IN_A_LOG = re.compile(r'^[^"{}=]*?\bAUDIT_SPILL (?=\{)')

log = structlog.get_logger("audit")


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


@dataclass(frozen=True, slots=True)
class _Line:
    """A swallowed event, and the line it was read from."""

    raw: str
    frozen: dict[str, Any]
    transaction_id: str | None
    installation: str | None


def replay() -> Replayed:
    """Store what waits in the spool's files and in this process's memory. Never raises for trouble of the database."""
    done = Replayed()
    installation = _installation(done)
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
    installation = _installation(done)
    if installation is None:
        return done
    found = (match and line[match.end() :] for line in log_lines for match in (_IN_A_LOG.match(line),))
    chunk: list[_Line] = []
    for line in _readable((raw for raw in found if raw), done, may_trail=True):
        chunk.append(line)
        if len(chunk) == ROWS_AT_A_TIME:
            _store(chunk, installation, done)
            chunk = []
    _store(chunk, installation, done)
    return done


class Keeper:
    """Keeps the spool empty and the record of its own troubles complete, in one process; called each second."""

    def __init__(self) -> None:
        """Begin."""
        self._one_at_a_time = threading.Lock()
        self._pause = FIRST_PAUSE_SECONDS
        self._next_try_at = 0.0
        self._drops_told_at = -DROPS_TOLD_EVERY_SECONDS

    def keep_up(self, is_last: bool = False) -> None:
        """Store what waits, when the table takes it again, and record what there is to say about the time between.

        The last time what is in memory goes to the disk, whatever the database says, and with it what there is to say.
        """
        with self._one_at_a_time:
            if recorder.installation.id is None:
                _installation(Replayed())
            if is_last or clock.monotonic() >= self._next_try_at:
                self._replay()
            self._tell_of_trouble(is_last)
            self._tell_of_drops(is_last)
            if is_last:
                _save_memory()

    def _replay(self) -> None:
        installation = recorder.installation.id
        if installation is None or not (len(spool.memory) or spool.spool.waiting(installation)):
            self._pause = FIRST_PAUSE_SECONDS
            # Another process stored what this one swallowed: they share the folder.
            if recorder.health.is_degraded and _installation(Replayed()) is not None:
                recorder.health.written()
            return
        done = replay()
        if done.stored or done.unreadable:
            log.warning("audit_replayed", **done.as_json())
        got_on = done.trouble is None and not done.waiting
        self._pause = FIRST_PAUSE_SECONDS if got_on else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._next_try_at = clock.monotonic() + self._pause

    def _tell_of_trouble(self, is_last: bool) -> None:
        """Record each time of trouble that is over (R13), or that this process does not see the end of."""
        episodes = recorder.health.take_over(is_last=is_last)
        while episodes:
            episode = episodes[0]
            details = {
                "swallowed": episode.swallowed,
                "reasons": episode.reasons,
                "began_at": episode.began_at.isoformat(),
                "ended_at": (episode.ended_at or clock.now()).isoformat(),
            }
            if not recorder.record_apart(events.AUDIT_DEGRADED, details=details, or_spill=is_last):
                recorder.health.put_back(episodes)
                return
            episodes = episodes[1:]

    def _tell_of_drops(self, is_last: bool) -> None:
        """Record at most once a minute how many events there was no room for (R11)."""
        is_due = is_last or clock.monotonic() - self._drops_told_at >= DROPS_TOLD_EVERY_SECONDS
        dropped = spool.memory.take_dropped() if is_due else 0
        if not dropped:
            return
        self._drops_told_at = clock.monotonic()
        if not recorder.record_apart(events.AUDIT_EVENTS_DROPPED, details={"dropped": dropped}, or_spill=is_last):
            spool.memory.put_back_dropped(dropped)


keeper = Keeper()


def keep_up(is_last: bool = False) -> None:
    """Do what is to be done each second."""
    keeper.keep_up(is_last)


def _installation(done: Replayed) -> str | None:
    """Return which installation the database is, when it answers and has a table that takes events; else say why."""
    try:
        with short_transaction() as connection:
            connection.exec_driver_sql(_LIMITS)
            found = recorder.installation.id = connection.execute(_INSTALLATION).scalar()
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
    lines = list(_readable(_raw_lines(file.read()), done, unreadable=unreadable))
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


def _store(lines: Sequence[_Line], installation: str, done: Replayed) -> list[_Line]:
    """Store events and return those that still have to wait; those of other installations are only counted."""
    left: list[_Line] = []
    ours = []
    for line in lines:
        if line.installation in (None, installation):
            ours.append(line)
        else:
            done.foreign[str(line.installation)] += 1
    for at in range(0, len(ours), ROWS_AT_A_TIME):
        left += _store_chunk(ours[at : at + ROWS_AT_A_TIME], done)
    return left


def _store_chunk(lines: list[_Line], done: Replayed) -> list[_Line]:
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
    left: list[_Line] = []
    refused: list[_Line] = []
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


def _store_together(lines: list[_Line], done: Replayed) -> list[_Line]:
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
            counts.stored = connection.exec_driver_sql(*recorder.insert(rows)).rowcount
    if rows:
        recorder.breaker.close()
        recorder.health.written()
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


def _as_it_went(line: _Line, outcomes: dict[str, str | None], counts: Replayed) -> dict[str, Any]:
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
    frozen = recorder.as_refused(frozen, error=error)
    return frozen | {"event_metadata": json.dumps(json.loads(frozen["event_metadata"]) | {"outcome": told})}


def _readable(
    raws: Iterable[str], done: Replayed, *, unreadable: list[str] | None = None, may_trail: bool = False
) -> Iterator[_Line]:
    """Yield the lines that hold an event; count the others, and put them into `unreadable`."""
    for raw in raws:
        try:
            yield _parsed(raw, may_trail=may_trail)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            done.unreadable += 1
            if unreadable is not None:
                unreadable.append(raw)


def _parsed(raw: str, *, may_trail: bool) -> _Line:
    """Return the event of a line. Raises ValueError, TypeError, KeyError or AttributeError where it holds none."""
    told, end = json.JSONDecoder().raw_decode(raw)
    if raw[end:].strip() and not may_trail:
        raise ValueError("more than one event")
    transaction_id, installation = told.pop("xid"), told.pop("installation")
    told.pop("reason")
    if not all(isinstance(told[name], str) for name in _NEEDED) or not isinstance(told["success"], bool):
        raise ValueError("no event")
    if not ids.is_uuid(told["event_id"]) or not isinstance(told["event_metadata"], dict):
        raise ValueError("no event")
    if datetime.fromisoformat(told["created_at"]).tzinfo is None:
        raise ValueError("no time")
    if transaction_id is not None and not _FIRST_NORMAL_XID <= int(transaction_id) <= _LAST_XID:
        raise ValueError("no transaction")
    if installation is not None and not isinstance(installation, str):
        raise ValueError("no installation")
    told = recorder.storable(told) | {"event_metadata": json.dumps(recorder.storable(told["event_metadata"]))}
    if not all(value is None or isinstance(value, str | int) for value in told.values()):
        raise ValueError("no event")
    return _Line(raw[:end], {"user_id": None} | told, transaction_id, installation)


def _raw_lines(data: bytes) -> Iterator[str]:
    for line in data.split(b"\n"):
        if line.strip():
            yield line.decode("utf-8", "replace")


def _count_lines(path: Path) -> int:
    try:
        return sum(1 for _ in _raw_lines(path.read_bytes()))
    except FileNotFoundError:  # somebody else's replay is done with it
        return 0


def _save_memory() -> None:
    """Put what is in memory on the disk, where the next process finds it."""
    lines = spool.memory.take()
    if lines:
        try:
            spool.spool.append(lines, recorder.installation.id)
        except OSError:
            spool.memory.add(lines)
            log.error("audit_memory_lost", events=len(lines), note="they are on stderr as AUDIT_SPILL lines")  # noqa: TRY400 -- the reason was counted before
