"""Everything around the record breaks, again and again, while people act; then each act is looked for in it."""

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from capecontrol import ids
from capecontrol.config import libpq_url
from capecontrol.operations.local_postgres import end_with_parent
from tests.drills.acting_points import DOOMED, EVERY_DOOMED, POINTS
from tests.drills.report import Report, count_row
from tests.live_server import REPOSITORY, environment_of_processes
from tests.load.figures import Row, tell_progress
from tests.load.product import Database, durable_database

PROCESSES = 2
CALM_SHARE = 0.5
"""How long it is calm after a fault, as a share of the fault."""

GIVE_UP_SECONDS = 1800.0

_DOOM = (
    "CREATE FUNCTION doom() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'doomed' USING ERRCODE = 'check_violation'; END $$; "
    "CREATE CONSTRAINT TRIGGER doom AFTER INSERT ON conversations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
    f"WHEN (NEW.title LIKE '%{DOOMED}') EXECUTE FUNCTION doom()"
)
_REFUSE = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN IF hashtext(NEW.event_id) % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$; "
    "CREATE TRIGGER refuse BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION refuse()"
)
_KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'capecontrol'"
)


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--acts", type=int, default=20_000, help="how many acts are to happen")
    parser.add_argument("--fault-seconds", type=float, default=1.5, help="how long each fault lasts")


class _Actor:
    """An acting process, and everything it prints: what a log drain would have."""

    def __init__(self, environment: dict[str, str], person: str, *fate: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills.acting", "--person", person, *fate],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reading.join()

    def fill_disk(self, is_full: bool) -> None:
        """Let none of its files grow any more, as on a full disk, or again; standard error is a pipe and none."""
        with contextlib.suppress(ProcessLookupError):
            most = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0 if is_full else most, most))

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(f"2026-11-24T20:17:38+00:00 app[web.1]: {line.decode(errors='replace')}")
        self._process.stderr.close()


@dataclass(slots=True)
class _Drill:
    """What acts, and what was broken."""

    database: Database
    folder: Path
    person: str
    actors: list[_Actor] = field(default_factory=list)
    ended: list[_Actor] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    died_at: Counter[str] = field(default_factory=Counter)
    _fates: Iterator[str] = field(default_factory=lambda: itertools.cycle(POINTS))
    _aims: dict[int, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return environment_of_processes(
            self.database.url, AUDIT_SPOOL_DIR=str(self.folder / "audit-spool"), WEB_CONCURRENCY="1"
        )

    def keep_acting(self) -> None:
        """Start processes for those that died, each with a point of its own to die at."""
        for actor in [actor for actor in self.actors if not actor.is_alive]:
            actor.kill()
            self.actors.remove(actor)
            self.ended.append(actor)
            self.died_at[self._aims.pop(id(actor), "?")] += 1
        while len(self.actors) < PROCESSES:
            point = next(self._fates)
            after = 300 if point in ("before the event", "event inserted", "committed") else 5
            actor = _Actor(self.environment, self.person, "--die-at", point, "--after", str(after))
            self._aims[id(actor)] = point
            self.actors.append(actor)

    def end(self) -> None:
        for actor in self.actors:
            actor.fill_disk(False)
            actor.kill()
        self.ended += self.actors
        self.actors = []

    def happened(self) -> int:
        return int(self.database.ask("SELECT count(*) FROM conversations")[0][0])

    def execute(self, statement: str) -> None:
        """Change the table between two acts, however many are under way."""
        with closing(psycopg2.connect(libpq_url(self.database.url))) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()


Fault = Callable[[_Drill], "contextlib.AbstractContextManager[None]"]


@contextmanager
def _lock(drill: _Drill) -> Iterator[None]:
    with closing(psycopg2.connect(libpq_url(drill.database.url))) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _missing(drill: _Drill) -> Iterator[None]:
    drill.execute("ALTER TABLE audit_logs RENAME TO audit_logs_away")
    try:
        yield
    finally:
        drill.execute("ALTER TABLE audit_logs_away RENAME TO audit_logs")


@contextmanager
def _refusing(drill: _Drill) -> Iterator[None]:
    drill.execute(_REFUSE)
    try:
        yield
    finally:
        drill.execute("DROP FUNCTION refuse() CASCADE")


@contextmanager
def _full_disk(drill: _Drill) -> Iterator[None]:
    for actor in drill.actors:
        actor.fill_disk(True)
    try:
        yield
    finally:
        for actor in drill.actors:
            actor.fill_disk(False)


@contextmanager
def _cut(drill: _Drill) -> Iterator[None]:
    for _ in range(3):
        drill.database.ask(_KILL)
        time.sleep(0.1)
    yield


@contextmanager
def _killed(drill: _Drill) -> Iterator[None]:
    os.kill(drill.actors[0]._process.pid, signal.SIGKILL)
    yield


FAULTS: tuple[tuple[str, tuple[Fault, ...]], ...] = (
    ("table locked", (_lock,)),
    ("table missing", (_missing,)),
    ("rows refused by a trigger", (_refusing,)),
    ("connections cut", (_cut,)),
    ("kill -9", (_killed,)),
    ("table missing and disk full", (_missing, _full_disk)),
    ("table locked and kill -9", (_lock, _killed)),
    ("rows refused and connections cut", (_refusing, _cut)),
    ("table locked, disk full and kill -9", (_lock, _full_disk, _killed)),
)


def run(options: Namespace, database: Database | None = None) -> Report:
    """Act and break until enough has happened, replay everything twice, and compare."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capecontrol-drill-")))
        database = database or stack.enter_context(durable_database())
        database.seed("actor", 1)
        drill = _Drill(database, folder, "actor-1")
        drill.execute(_DOOM)
        stack.callback(drill.end)
        began = time.monotonic()
        _break(drill, options.acts, options.fault_seconds)
        drill.end()
        drill.database.ask(_KILL)  # and with them the transactions of those killed
        _wait_for_transactions(drill)
        by_themselves = _right(drill)
        replays = _replay(drill)
        return _report(drill, options, by_themselves, replays, time.monotonic() - began)


def _break(drill: _Drill, acts: int, fault_seconds: float) -> None:
    faults = itertools.cycle(FAULTS)
    drill.keep_acting()
    ends_at = time.monotonic() + GIVE_UP_SECONDS
    while drill.happened() < acts or not set(drill.broken) >= {name for name, _ in FAULTS}:
        if time.monotonic() > ends_at:
            raise RuntimeError(f"only {drill.happened()} of {acts} acts in {GIVE_UP_SECONDS:g} s")
        name, parts = next(faults)
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part(drill))
            drill.broken[name] += 1
            time.sleep(fault_seconds)
        drill.keep_acting()
        time.sleep(fault_seconds * CALM_SHARE)
        if sum(drill.broken.values()) % 20 == 0:
            tell_progress(f"{drill.happened():,} acts, {sum(drill.broken.values())} faults")


def _wait_for_transactions(drill: _Drill) -> None:
    while drill.database.ask(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'capecontrol'"
    ):
        time.sleep(0.05)


def _replay(drill: _Drill) -> list[dict[str, Any]]:
    """Replay the spool and then the log, and all of it a second time, from copies of the spool's files."""
    spool, copies, log = drill.folder / "audit-spool", drill.folder / "copies", drill.folder / "drained.log"
    spool.mkdir(mode=0o700, exist_ok=True)  # where nothing had to be kept, the product has made none
    shutil.copytree(spool, copies, ignore=shutil.ignore_patterns("*.unfinished", "*.bad"))
    log.write_text("".join(line for actor in drill.ended for line in actor.lines))
    done = []
    for _ in range(2):
        done.append(_command(drill, "audit", "replay", "--json"))
        done.append(_command(drill, "audit", "replay", "--json", "--from-log", str(log)))
        for path in copies.iterdir():
            shutil.copy(path, spool / f"{path.name.partition('.')[0]}.{ids.new_id()}.spool")
    for path in spool.glob("*.spool"):
        path.unlink()
    return done


def _command(drill: _Drill, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
        cwd=REPOSITORY,
        env=drill.environment,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"{' '.join(arguments)} failed\n{done.stdout}{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _right(drill: _Drill) -> int:
    """Return how many acts have exactly one event at this moment."""
    return int(
        drill.database.ask(
            "SELECT count(*) FROM conversations AS act WHERE (SELECT count(*) FROM audit_logs "
            "WHERE subject_id = act.id AND event_type = 'conversation_started' AND success) = 1"
        )[0][0]
    )


def _report(
    drill: _Drill, options: Namespace, by_themselves: int, replays: list[dict[str, Any]], seconds: float
) -> Report:
    happened = drill.happened()
    right = _right(drill)
    false_successes = drill.database.ask(
        "SELECT count(*) FROM audit_logs AS event WHERE event_type = 'conversation_started' AND success "
        "AND NOT EXISTS (SELECT 1 FROM conversations WHERE id = event.subject_id)"
    )[0][0]
    unknown = drill.database.ask("SELECT count(*) FROM audit_logs WHERE event_metadata->>'outcome' = 'unknown'")[0][0]
    attempts = drill.database.ask("SELECT count(*) FROM audit_logs WHERE event_metadata->>'outcome' = 'not_committed'")
    again = sum(done["stored"] for done in replays[2:])
    unreadable = sum(done["unreadable"] for done in replays[1::2])
    not_died_at = sorted(set(POINTS) - set(drill.died_at)) if sum(drill.died_at.values()) >= 2 * len(POINTS) else []
    return Report(
        name=f"audit-faults: {options.acts:,} acts",
        broke=", ".join(f"{name} {count} times" for name, count in drill.broken.items())
        + f"; one act in {EVERY_DOOMED} failed at its commit. Processes died "
        + ", ".join(f"{point} {count}" for point, count in drill.died_at.items())
        + f". All within {seconds:.0f} s.",
        saw=f"{happened:,} acts happened; {by_themselves:,} had their event before anybody replayed by hand, the rest "
        f"came from the files of killed processes ({replays[0]['stored']:,}) and from the log "
        f"({replays[1]['stored']:,}).",
        lost=f"{happened - right} acts without exactly one event. {attempts[0][0]:,} attempts that were not committed "
        "are told as such.",
        rows=[
            Row(
                "acts that happened", f"{happened:,}", goal=f">= {options.acts:,}", is_reached=happened >= options.acts
            ),
            count_row("acts without exactly one event", happened - right, of=happened),
            count_row("events that claim a success which did not happen", int(false_successes)),
            count_row("events stored by replaying everything a second time", again),
            count_row("events whose outcome nobody knows", int(unknown)),
            count_row("acts that are doomed and happened all the same", _doomed(drill)),
            Row("lines of the log cut off by a kill", f"{unreadable // 2:,}"),
            Row(
                "points at which a process really died",
                f"{len(set(POINTS) & set(drill.died_at))} of {len(POINTS)}"
                + (f", not: {', '.join(not_died_at)}" if not_died_at else ""),
            ),
        ],
    )


def _doomed(drill: _Drill) -> int:
    return int(drill.database.ask("SELECT count(*) FROM conversations WHERE title LIKE %s", f"%{DOOMED}")[0][0])
