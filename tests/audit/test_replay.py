"""Replay: whatever is broken off, restarted or done twice, each event once, and no success that did not happen."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from capecontrol import clock, each_second, ids
from capecontrol.audit import events, recorder, replay, spilling, spool
from capecontrol.audit import tasks as audit_tasks
from capecontrol.audit.keeper import DROPS_TOLD_EVERY_SECONDS, Keeper
from capecontrol.config import ROOT
from capecontrol.extensions import db
from tests.audit.faults import (
    NO_TRIGGER,
    act,
    acts_recorded,
    away,
    locked,
    new_user,
    record_demo,
    run,
    spooled,
    trigger,
    value,
)
from tests.live_server import environment_of_processes
from tests.people import make_person


@pytest.fixture
def replay_all(committed_app: Flask) -> Callable[[], replay.Replayed]:
    """Return a function that replays once."""

    def replayed() -> replay.Replayed:
        with committed_app.app_context():
            return replay.replay()

    return replayed


def swallow(app: Flask, *numbers: int) -> None:
    """Do acts whose events go to the spool."""
    with away(app):
        for number in numbers:
            act(app, number)


def line_of(number: int, **changes: Any) -> str:
    """Return a spool's line as if this process had written it."""
    event_id = ids.new_id()
    told = {
        "event_id": event_id,
        "user_id": None,
        "event_type": "demo_filled",
        "event_category": "system",
        "event_level": "info",
        "success": True,
        "error_message": None,
        "user_email": None,
        "event_metadata": {"people": number, "conversations": 0},
        "created_at": ids.created_at(event_id).isoformat(),
        "reason": "42P01",
        "xid": None,
        "installation": None,
    }
    return json.dumps(told | changes)


def put(folder: Path, *lines: str, installation: str = "unknown") -> Path:
    """Put lines into a file of the spool."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{installation}.{ids.new_id()}.spool"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_what_was_swallowed_is_stored_when_the_table_is_back(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    person = make_person(committed_app)
    with away(committed_app):
        act(committed_app, 7, actor=person.actor)
    (line,) = spooled(audit_spool)
    done = replay_all()
    assert (done.stored, done.waiting, done.is_all_well) == (1, 0, True)
    assert list(audit_spool.iterdir()) == []
    (row,) = run(
        committed_app,
        "SELECT event_id, user_id, actor_ref, user_email, success, error_message, event_metadata, "
        "recorded_at > created_at FROM audit_logs WHERE event_type = 'demo_filled'",
    )
    assert row[:4] == (line["event_id"], person.id, person.id, person.email)
    assert row[4:] == (True, None, {"people": 7, "conversations": 2}, True)


def test_a_replay_done_twice_stores_each_event_once(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    """P21: one key that every replay of an event hits again, which a partitioned table could not have."""
    swallow(committed_app, 1, 2, 3)
    copies = {path: path.read_bytes() for path in audit_spool.iterdir()}
    assert replay_all().stored == 3
    for path, content in copies.items():
        path.write_bytes(content)
    done = replay_all()
    assert (done.stored, done.known) == (0, 3)
    assert acts_recorded(committed_app) == [(1, True), (2, True), (3, True)]


def test_two_replays_at_once_store_each_event_once(committed_app: Flask, audit_spool: Path) -> None:
    swallow(committed_app, *range(5))
    put(audit_spool, *(line_of(number) for number in range(5, 300)))

    def replayed() -> None:
        with committed_app.app_context():
            replay.replay()

    threads = [threading.Thread(target=replayed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    replayed()
    assert [number for number, _ in acts_recorded(committed_app)] == list(range(300))
    assert list(audit_spool.iterdir()) == []


def test_no_success_is_recorded_that_was_not_committed(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    """R9: the line is written before the commit, and then the commit fails."""
    run(
        committed_app,
        "CREATE TABLE promised (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO promised VALUES (1)",
    )
    with away(committed_app), committed_app.app_context():
        db.session.execute(text("INSERT INTO promised VALUES (1)"))
        record_demo()
        with pytest.raises(IntegrityError):
            db.session.commit()
        db.session.rollback()
    (line,) = spooled(audit_spool)
    assert line["success"] is True
    done = replay_all()
    assert (done.stored, done.not_committed) == (1, 1)
    (row,) = run(committed_app, "SELECT success, error_message, event_metadata FROM audit_logs")
    assert row == (False, replay.NOT_COMMITTED, {"people": 1, "conversations": 2, "outcome": "not_committed"})


def test_an_event_waits_for_a_transaction_that_is_still_open(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    """Whether it will be committed is not known yet, neither to us nor to anybody."""
    found: list[replay.Replayed] = []

    def look(_session: Session) -> None:
        run(committed_app, "ALTER TABLE audit_logs_away RENAME TO audit_logs")
        thread = threading.Thread(target=lambda: found.append(replay_all()))
        thread.start()
        thread.join(30)

    run(committed_app, "ALTER TABLE audit_logs RENAME TO audit_logs_away")
    with committed_app.app_context():
        db.session.add(new_user())
        record_demo()
        event.listen(db.session, "before_commit", look)  # runs after the recorder's own
        try:
            db.session.commit()
        finally:
            event.remove(db.session, "before_commit", look)
    assert (found[0].stored, found[0].in_progress) == (0, 1)
    assert acts_recorded(committed_app) == []
    assert replay_all().stored == 1
    assert acts_recorded(committed_app) == [(1, True)]


@pytest.mark.parametrize(
    ("transaction_id", "knows_installation"),
    [("9000000000", True), (None, True), ("3", False)],
    ids=["of a restored backup's other history", "without a number", "of nobody knows which database"],
)
def test_what_nobody_can_know_is_never_told_as_a_success(
    committed_app: Flask,
    audit_spool: Path,
    replay_all: Callable[[], replay.Replayed],
    transaction_id: str | None,
    knows_installation: bool,
) -> None:
    ours = value(committed_app, "SELECT id FROM installation")
    put(audit_spool, line_of(1, xid=transaction_id, installation=ours if knows_installation else None))
    assert replay_all().unknown == 1
    (row,) = run(committed_app, "SELECT success, error_message, event_metadata->>'outcome' FROM audit_logs")
    assert row == (False, replay.OUTCOME_UNKNOWN, "unknown")


def test_a_number_the_database_has_forgotten_is_unknown(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    """`pg_xact_status` is NULL for transactions from before the log's horizon."""
    ours = value(committed_app, "SELECT id FROM installation")
    put(audit_spool, line_of(1, xid="3", installation=ours))
    with committed_app.app_context():
        is_forgotten = db.session.scalar(text("SELECT pg_xact_status('3'::xid8)")) is None
        db.session.rollback()
    assert replay_all().unknown == int(is_forgotten)


def test_lines_of_another_installation_are_left_alone_and_named(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    other = "5d3f6a3e-0000-4000-8000-000000000000"
    theirs = put(audit_spool, line_of(1, installation=other), installation=other)
    before = theirs.read_bytes()
    put(audit_spool, line_of(2, installation=other), line_of(3, success=False))
    done = replay_all()
    assert (done.stored, dict(done.foreign)) == (1, {other: 2})
    assert theirs.read_bytes() == before
    assert sorted(line["event_metadata"]["people"] for line in spooled(audit_spool)) == [1, 2]
    assert {path.name.partition(".")[0] for path in audit_spool.iterdir()} == {other}
    assert replay_all().stored == 0


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        '"text"',
        "null",
        line_of(1)[:80],
        line_of(1) + line_of(2),
        line_of(1, xid="abc"),
        line_of(1, xid="-1"),
        line_of(1, xid="99999999999999999999"),
        line_of(1, event_id="1; DROP TABLE audit_logs"),
        line_of(1, created_at="yesterday"),
        line_of(1, created_at="2026-11-24T00:00:00"),
        line_of(1, success="yes"),
        line_of(1, user_agent={"a": 1}),
        line_of(1, event_metadata=None),
        "[" * 100_000,
        "\x00\xff",
    ],
    ids=range(17),
)
def test_a_bad_line_goes_aside_is_counted_and_holds_up_no_other(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed], bad: str
) -> None:
    put(audit_spool, line_of(1, success=False), bad, line_of(2, success=False))
    done = replay_all()
    assert (done.stored, done.unreadable, done.is_all_well) == (2, 1, False)
    (aside,) = audit_spool.iterdir()
    assert done.set_aside == [str(aside)]
    assert aside.read_text().strip("\n") == bad
    assert replay_all().is_all_well


def test_what_goes_aside_is_as_closed_and_as_lasting_as_the_spool(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be half an event, with an address in it; and the file it was read from goes."""
    claimed = put(audit_spool, line_of(1)[:80])
    claimed.with_suffix(".unfinished").write_text("of a replay that was killed")
    flushed: list[os.stat_result] = []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.fstat(fd)), flush(fd)))
    replay_all()
    (aside,) = audit_spool.iterdir()
    assert (aside.suffix, aside.stat().st_mode & 0o777) == (".bad", 0o600)
    assert aside.stat().st_ino in [each.st_ino for each in flushed]


def test_text_that_postgresql_cannot_hold_blocks_nothing(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    put(audit_spool, line_of(1, success=False, user_agent="a\x00b\ud800", event_metadata={"people": 1, "x": "\x00"}))
    assert replay_all().stored == 1


def test_one_event_the_table_refuses_keeps_no_other_waiting(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    swallow(committed_app, 1, 2, 3, 4, 5)
    run(committed_app, trigger("IF NEW.event_metadata->>'people' = '3' THEN RAISE 'no'; END IF;"))
    done = replay_all()
    assert (done.stored, done.refused, done.waiting) == (4, 1, 1)
    assert [number for number, _ in acts_recorded(committed_app)] == [1, 2, 4, 5]
    assert [line["event_metadata"]["people"] for line in spooled(audit_spool)] == [3]
    run(committed_app, NO_TRIGGER)
    assert replay_all().stored == 1
    assert len(acts_recorded(committed_app)) == 5


def test_a_table_that_refuses_everything_is_asked_a_few_times_and_nothing_is_lost(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    swallow(committed_app, *range(20))
    run(committed_app, trigger("RAISE 'no';"))
    done = replay_all()
    assert (done.stored, done.refused, done.waiting) == (0, replay.REFUSALS_IN_A_ROW, 20)
    run(committed_app, NO_TRIGGER)
    assert replay_all().stored == 20
    assert len(acts_recorded(committed_app)) == 20


def test_a_locked_table_leaves_the_spool_as_it_is(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    swallow(committed_app, 1, 2)
    before = {path.name: path.read_bytes() for path in audit_spool.iterdir()}
    with locked(committed_app):
        done = replay_all()
    assert done.trouble == "55P03"
    assert {path.name: path.read_bytes() for path in audit_spool.iterdir()} == before


def test_the_event_of_somebody_deleted_meanwhile_is_stored_with_their_name_in_text(
    committed_app: Flask, replay_all: Callable[[], replay.Replayed]
) -> None:
    """A foreign key to nobody would keep the event out for ever."""
    gone, there = make_person(committed_app), make_person(committed_app)
    with away(committed_app):
        act(committed_app, 1, actor=gone.actor)
        act(committed_app, 2, actor=there.actor)
    run(committed_app, "DELETE FROM users_v2 WHERE id = %(id)s", id=gone.id)
    assert replay_all().stored == 2
    rows = run(
        committed_app,
        "SELECT user_id, actor_ref, user_email FROM audit_logs WHERE event_type = 'demo_filled' ORDER BY event_id",
    )
    assert rows == [(None, gone.id, gone.email), (there.id, there.id, there.email)]


KILLED = """
import os, signal, sys
from capecontrol.audit import replay
from sqlalchemy import Engine, event
from pathlib import Path
from wsgi import app

point, times = sys.argv[1], int(sys.argv[2])

def come_to(name):
    global times
    if name == point:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

@event.listens_for(Engine, "after_cursor_execute")
def executed(_connection, _cursor, statement, *_):
    if "INSERT INTO audit_logs" in statement:
        come_to("inserted")

def around(cls, name, before, after):
    really = getattr(cls, name)
    def wrapped(*args, **kwargs):
        come_to(before)
        result = really(*args, **kwargs)
        come_to(after)
        return result
    setattr(cls, name, wrapped)

around(Path, "rename", "before the claim", "claimed")
around(Path, "unlink", "before the file goes", "file gone")
around(replay, "_store_together", "before a chunk", "committed")
with app.app_context():
    print(replay.replay().stored)
"""


@pytest.mark.parametrize(
    "point",
    [
        "before the claim",
        "claimed",
        "before a chunk",
        "inserted",
        "committed",
        "before the file goes",
        "file gone",
    ],
)
def test_a_replay_killed_anywhere_loses_nothing_and_doubles_nothing(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed], point: str
) -> None:
    ours = value(committed_app, "SELECT id FROM installation")
    put(audit_spool, *(line_of(number, success=False) for number in range(450)), installation=ours)
    put(audit_spool, *(line_of(number, success=False) for number in range(450, 500)), installation=ours)
    environment = environment_of_processes(
        committed_app.config["SETTINGS"].database_url, AUDIT_SPOOL_DIR=str(audit_spool)
    )
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, point, "2"], env=environment, cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert replay_all().is_all_well
    assert [number for number, _ in acts_recorded(committed_app)] == list(range(500))
    assert list(audit_spool.iterdir()) == []


def test_a_full_disk_keeps_the_whole_file_rather_than_lose_what_still_waits(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    swallow(committed_app, 1, 2)
    run(committed_app, trigger("IF NEW.event_metadata->>'people' = '2' THEN RAISE 'no'; END IF;"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space" in (replay_all().trouble or "")
    run(committed_app, NO_TRIGGER)
    replay_all()
    assert [number for number, _ in acts_recorded(committed_app)] == [1, 2]


def test_it_replays_by_itself_when_the_table_is_back(databases, audit_spool: Path) -> None:
    from capecontrol import create_app
    from tests.conftest import dispose, settings_for

    with databases.clone() as url:
        app = create_app(settings_for(url))
        swallow(app, 1, 2, 3)
        each_second.of(app).run_once()
        assert [number for number, _ in acts_recorded(app)] == [1, 2, 3]
        assert list(audit_spool.iterdir()) == []
        dispose(app)


def test_the_pause_after_trouble_is_an_applications_own(databases, audit_spool: Path) -> None:
    from capecontrol import create_app
    from tests.conftest import dispose, settings_for

    with databases.clone() as url:
        troubled, untroubled = create_app(settings_for(url)), create_app(settings_for(url))
        with away(troubled):
            act(troubled, 1)
            each_second.of(troubled).run_once()
        each_second.of(untroubled).run_once()
        assert acts_recorded(untroubled) == [(1, True)]
        dispose(troubled)
        dispose(untroubled)


def test_a_workers_job_replays_too(committed_app: Flask) -> None:
    swallow(committed_app, 1)
    with committed_app.app_context():
        audit_tasks.replay_waiting(0)
    assert acts_recorded(committed_app) == [(1, True)]


def test_events_in_memory_are_stored_as_well(committed_app: Flask, replay_all: Callable[[], replay.Replayed]) -> None:
    with away(committed_app), committed_app.app_context():
        recorder.record(events.EMAIL_CHECKS, actor=None, details={"checked": 9, "taken": 0, "refused": 0})
        db.session.commit()
    assert replay_all().stored == 1
    assert not spool.memory
    assert value(committed_app, "SELECT event_metadata->>'checked' FROM audit_logs") == "9"


def test_events_in_memory_go_to_the_disk_when_the_process_ends_without_a_database(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    with away(committed_app):
        with committed_app.app_context():
            recorder.record(events.EMAIL_CHECKS, actor=None, details={"checked": 9, "taken": 0, "refused": 0})
            db.session.commit()
            Keeper().keep_up(is_last=True)
        assert {line["event_type"] for line in spooled(audit_spool)} == {"email_checks", "audit_degraded"}
    assert replay_all().stored == 2


def test_the_first_write_afterwards_records_how_long_and_how_much_it_was(committed_app: Flask) -> None:
    """R13: a time without a record is itself on record."""
    started = clock.now()
    with locked(committed_app):
        act(committed_app, 1)
        act(committed_app, 2)
    with committed_app.app_context():
        Keeper().keep_up()
        Keeper().keep_up()
    ((level, details),) = run(
        committed_app, "SELECT event_level, event_metadata FROM audit_logs WHERE event_type = 'audit_degraded'"
    )
    assert (level, details["swallowed"], details["reasons"]) == ("error", 2, {"55P03": 2})
    assert started.isoformat() < details["began_at"] < details["ended_at"] < clock.now().isoformat()
    assert not spilling.health.is_degraded


def test_a_write_of_somebody_else_ends_the_trouble_too(committed_app: Flask) -> None:
    with away(committed_app):
        act(committed_app, 1)
    act(committed_app, 2)
    assert not spilling.health.is_degraded
    with committed_app.app_context():
        Keeper().keep_up()
    assert value(committed_app, "SELECT count(*) FROM audit_logs WHERE event_type = 'audit_degraded'") == 1


def test_a_replay_of_another_process_ends_the_trouble_too(committed_app: Flask, audit_spool: Path) -> None:
    """Processes share the folder, so what this one swallowed may be stored by any."""
    keeper = Keeper()
    swallow(committed_app, 1)
    with committed_app.app_context():
        spilling.installation.id = value(committed_app, "SELECT id FROM installation")
        environment = environment_of_processes(
            committed_app.config["SETTINGS"].database_url, AUDIT_SPOOL_DIR=str(audit_spool)
        )
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "audit", "replay"]
        subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
        with away(committed_app):
            keeper.keep_up()
            assert spilling.health.is_degraded
        keeper.keep_up()
        assert not spilling.health.is_degraded
    assert acts_recorded(committed_app) == [(1, True)]
    assert value(committed_app, "SELECT count(*) FROM audit_logs WHERE event_type = 'audit_degraded'") == 1


def test_trouble_that_cannot_be_recorded_yet_is_recorded_later(committed_app: Flask) -> None:
    with away(committed_app):
        act(committed_app, 1)
    act(committed_app, 2)
    with away(committed_app), committed_app.app_context():
        Keeper().keep_up()
    with committed_app.app_context():
        Keeper().keep_up()
    assert value(committed_app, "SELECT count(*) FROM audit_logs WHERE event_type = 'audit_degraded'") == 1


def test_a_process_that_ends_in_trouble_leaves_word_of_it(
    committed_app: Flask, audit_spool: Path, replay_all: Callable[[], replay.Replayed]
) -> None:
    """R11, R13: what only this process knows goes with it, unless the spool keeps it."""
    with away(committed_app), committed_app.app_context():
        act(committed_app, 1)
        spool.memory.add([line_of(1, event_type="email_checks")] * (spool.MOST_IN_MEMORY + 3))
        spool.memory.take()
        Keeper().keep_up(is_last=True)
    recorder.forget()
    assert replay_all().stored == 3
    told = run(
        committed_app,
        "SELECT event_type, success, event_metadata->'swallowed', event_metadata->'dropped', event_metadata->'outcome' "
        "FROM audit_logs WHERE event_type LIKE 'audit%' ORDER BY event_type",
    )
    assert told == [("audit_degraded", True, 1, None, None), ("audit_events_dropped", True, None, 3, None)]


def test_dropped_events_are_one_event_a_minute(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """R11: a loss must itself be on record."""
    keeper = Keeper()
    line = line_of(1, event_type="email_checks")
    with committed_app.app_context():
        for dropped in (3, 4):
            spool.memory.add([line] * (spool.MOST_IN_MEMORY + dropped))
            spool.memory.take()
            keeper.keep_up()
        later = clock.monotonic() + DROPS_TOLD_EVERY_SECONDS + 1
        monkeypatch.setattr(clock, "monotonic", lambda: later)
        keeper.keep_up()
    rows = run(
        committed_app,
        "SELECT event_metadata->>'dropped' FROM audit_logs WHERE event_type = 'audit_events_dropped' ORDER BY event_id",
    )
    assert rows == [("3",), ("4",)]


def test_a_replayed_event_closes_the_breaker(committed_app: Flask, replay_all: Callable[[], replay.Replayed]) -> None:
    swallow(committed_app, *range(6))
    assert recorder.breaker.seconds_open > 0
    replay_all()
    act(committed_app, 99)
    assert [number for number, _ in acts_recorded(committed_app)] == [*range(6), 99]


PREFIXES = [
    "",
    "2026-11-24T20:17:38.123456+00:00 app[web.1]: ",
    "2026-11-24T20:17:38+00:00 app[worker.1]: ",
    "<190>1 2026-11-24T20:17:38.123456+00:00 host app web.1 - ",
    "342 <190>1 2026-11-24T20:17:38.123456+00:00 host app web.1 - ",
    "Nov 24 20:17:38 cape gunicorn[412]: ",
    "2026-11-24T20:17:38.123456789Z stderr F ",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_drained_log_is_replayed_whatever_stands_before_the_lines(
    committed_app: Flask, audit_spool: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, prefix: str
) -> None:
    swallow(committed_app, 1, 2)
    for path in audit_spool.iterdir():
        path.unlink()  # the dyno was restarted
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("AUDIT_SPILL ")]
    drained = tmp_path / "drained.log"
    drained.write_text("".join(f"{prefix}{line}\n{prefix}GET / 200\n" for line in printed))
    command = committed_app.test_cli_runner()
    for stored, known in ((2, 0), (0, 2)):
        answer = command.invoke(args=["audit", "replay", "--from-log", str(drained), "--json"])
        assert answer.exit_code == 0, answer.output
        told = json.loads(answer.stdout)
        assert (told["stored"], told["known"], told["ok"]) == (stored, known, True)
    assert acts_recorded(committed_app) == [(1, True), (2, True)]


def test_nobody_can_write_an_event_into_the_log_from_outside(committed_app: Flask, tmp_path: Path) -> None:
    """A log holds what strangers sent: an address, a browser's name. None of it may be taken for an event."""
    forged = line_of(1)
    drained = tmp_path / "drained.log"
    drained.write_text(
        f'2026-11-24T20:17:38+00:00 heroku[router]: at=info path="/AUDIT_SPILL {forged}"\n'
        f"app[web.1]: user_agent=AUDIT_SPILL {forged}\n"
        f"AUDIT_SPILL {line_of(2, success=False, user_agent='AUDIT_SPILL ' + forged)}\n"
    )
    with committed_app.app_context(), drained.open() as log:
        done = replay.replay_log(log)
    assert (done.stored, done.unreadable) == (1, 0)
    assert acts_recorded(committed_app) == [(2, False)]


def test_a_log_with_bad_lines_and_those_of_others_says_so(committed_app: Flask, tmp_path: Path) -> None:
    drained = tmp_path / "drained.log"
    drained.write_text(f"AUDIT_SPILL {{cut off\nAUDIT_SPILL {line_of(1, installation='another')}\n")
    answer = committed_app.test_cli_runner().invoke(args=["audit", "replay", "--from-log", str(drained)])
    assert answer.exit_code == 1
    assert "1 lines could not be read" in answer.output
    assert "1 belong to installation another and were left alone" in answer.output
    assert acts_recorded(committed_app) == []


def test_the_command_replays_the_spool_and_says_when_something_is_left(committed_app: Flask, audit_spool: Path) -> None:
    command = committed_app.test_cli_runner()
    swallow(committed_app, 1, 2)
    with away(committed_app):
        answer = command.invoke(args=["audit", "replay"])
        assert answer.exit_code == 1
        assert "42P01" in answer.output
    answer = command.invoke(args=["audit", "replay"])
    assert (answer.exit_code, answer.stdout) == (0, "2 events stored, 0 were there already.\n")


def test_a_database_that_does_not_answer_is_said_in_one_sentence(audit_spool: Path) -> None:
    from capecontrol import create_app
    from tests.conftest import dispose, settings_for

    app = create_app(settings_for("postgresql://postgres@127.0.0.1:9/nothing"))
    put(audit_spool, line_of(1))
    answer = app.test_cli_runner().invoke(args=["audit", "replay"])
    assert answer.exit_code == 1
    assert "takes no events" in answer.output
    assert len(spooled(audit_spool)) == 1
    dispose(app)
