"""The spool: on the disk before the answer, private, and never in the way of what a person does."""

import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

from capecontrol import config, ids
from capecontrol.audit import events, recorder, spool
from capecontrol.audit.actor import Actor
from capecontrol.audit.spool import Spool
from capecontrol.errors import Unavailable
from capecontrol.extensions import db
from tests.audit.faults import act, acts_recorded, away, locked, new_user, spilled, spooled, value
from tests.people import make_person

OURS = ids.new_id()


@contextmanager
def full_disk(*, room: int = 0) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: the kernel refuses it as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def lines_in(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.spool")) for line in path.read_text().splitlines()]


def test_a_swallowed_event_is_in_the_spool_as_it_is_on_stderr(
    committed_app: Flask, audit_spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with away(committed_app):
        act(committed_app)
    assert spooled(audit_spool) == spilled(capsys.readouterr().err)
    (line,) = spooled(audit_spool)
    assert line["installation"] == value(committed_app, "SELECT id FROM installation")
    assert line["event_type"] == "demo_filled"


def test_the_spool_is_nobody_elses_to_read(committed_app: Flask, audit_spool: Path) -> None:
    with away(committed_app):
        act(committed_app)
    (path,) = audit_spool.iterdir()
    assert stat.S_IMODE(audit_spool.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_folder_somebody_else_could_put_events_into_is_not_used(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "spool"
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(OSError, match="takes nothing"):
        Spool(folder).append(["{}"], OURS)
    assert "others may write there" in (Spool(folder).problem() or "")


def test_what_is_written_is_flushed_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    really = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = Spool(tmp_path / "spool")
    writer.append(["{}"], OURS)
    (path,) = (tmp_path / "spool").iterdir()
    assert flushed == ["spool", path.name], "a new file's name has to reach the disk too"
    writer.append(["{}"], OURS)
    assert flushed == ["spool", path.name, path.name]
    writer.close()


def test_a_writer_that_finds_its_file_renamed_opens_a_new_one(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(["1"], OURS)
    (first,) = tmp_path.glob("*.spool")
    with writer.claim(first) as file:
        assert file is not None
        writer.append(["2"], OURS)
        assert file.read() == b"1\n"
    assert lines_in(tmp_path) == ["2"]
    writer.close()


def test_a_replay_waits_until_the_writer_is_done_with_the_file(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(["1"], OURS)
    (path,) = tmp_path.glob("*.spool")
    read: list[bytes] = []

    def replay() -> None:
        with Spool(tmp_path).claim(path) as file:
            read.append(file.read() if file is not None else b"")

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=replay)
        thread.start()
        while path.exists():
            thread.join(0.01)
        file.write(b"2\n")
    thread.join(10)
    assert read == [b"1\n2\n"]
    writer.close()


def test_two_replays_never_have_the_same_file(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(["1"], OURS)
    writer.close()
    (path,) = tmp_path.glob("*.spool")
    with writer.claim(path) as first, Spool(tmp_path).claim(path.with_suffix(".replaying")) as second:
        assert first is not None
        assert second is None


def test_threads_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    writer = Spool(tmp_path)

    def write(thread: int) -> None:
        for number in range(20):
            writer.append([json.dumps([thread, number, "x" * 500])], OURS)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(json.loads(line)[:2] for line in lines_in(tmp_path)) == [[t, n] for t in range(8) for n in range(20)]
    writer.close()


def test_a_child_process_writes_to_a_file_of_its_own(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(["parent"], OURS)
    child = os.fork()
    if child == 0:
        writer.append(["child"], OURS)
        os._exit(0)
    os.waitpid(child, 0)
    writer.append(["parent again"], OURS)
    assert sorted(path.read_text() for path in tmp_path.glob("*.spool")) == ["child\n", "parent\nparent again\n"]
    writer.close()


def test_a_full_disk_leaves_no_half_line_and_the_next_line_is_whole(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append(["first"], OURS)
    with full_disk(room=1000), pytest.raises(OSError, match="takes nothing") as caught:
        writer.append(["x" * 5000], OURS)
    assert lines_in(tmp_path) == ["first"]
    assert caught.value.errno == errno.EFBIG
    writer.append(["last"], OURS)
    assert [line for line in lines_in(tmp_path) if line] == ["first", "last"]
    writer.close()


def test_with_a_full_disk_the_act_goes_on_and_the_event_is_printed_counted_and_kept_in_memory(
    committed_app: Flask, audit_spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = spool.unspooled_total._value.get()
    with away(committed_app), full_disk():
        act(committed_app)
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 1
    assert len(spilled(capsys.readouterr().err)) == 1
    assert spool.unspooled_total._value.get() == before + 1
    assert spooled(audit_spool) == []
    assert len(spool.memory) == 1


def test_what_must_be_on_record_is_refused_where_neither_table_nor_disk_takes_it(
    committed_app: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    """R11: nobody becomes an administrator unseen."""
    person = make_person(committed_app)
    actor = Actor("0", "thandi@example.com", "admin")

    def promote() -> None:
        with committed_app.app_context():
            db.session.execute(text("UPDATE users_v2 SET user_role = 'admin'"))
            recorder.record(
                events.ROLE_CHANGED, actor=actor, subject_id=person.id, details={"old": "client", "new": "admin"}
            )
            try:
                db.session.commit()
            except Unavailable:
                with pytest.raises(Unavailable):
                    db.session.commit()  # also for whoever tries to get away with it
                raise

    with away(committed_app), full_disk(), pytest.raises(Unavailable):
        promote()
    assert value(committed_app, "SELECT user_role FROM users_v2") == "client"
    assert {(line["success"], line["error_message"]) for line in spilled(capsys.readouterr().err)} == {
        (False, recorder.UNKEPT)
    }
    with away(committed_app):
        promote()
    assert value(committed_app, "SELECT user_role FROM users_v2") == "admin"


def test_what_must_be_on_record_is_answered_with_503(committed_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def promote() -> str:
        recorder.record(events.ROLE_CHANGED, actor=None, details={"old": "client", "new": "admin"})
        db.session.add(new_user())
        db.session.commit()
        return ""

    monkeypatch.setitem(committed_app.view_functions, "landing.show", promote)
    client = committed_app.test_client()
    with away(committed_app), full_disk():
        assert client.get("/").status_code == 503
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 0
    assert client.get("/").status_code == 200


def test_what_must_be_on_record_is_tried_at_the_table_also_with_the_breaker_open(committed_app: Flask) -> None:
    with away(committed_app):
        for number in range(6):
            act(committed_app, number)
    assert recorder.breaker.seconds_open > 0
    with committed_app.app_context():
        recorder.record(events.ROLE_CHANGED, actor=None, details={"old": "client", "new": "admin"})
        db.session.commit()
    assert value(committed_app, "SELECT count(*) FROM audit_logs WHERE event_type = 'role_changed'") == 1


def test_a_best_effort_event_waits_in_memory_and_not_on_the_disk(
    committed_app: Flask, audit_spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with away(committed_app), committed_app.app_context():
        recorder.record(events.EMAIL_CHECKS, actor=None, details={"checked": 1, "taken": 0, "refused": 0})
        db.session.commit()
    assert spooled(audit_spool) == []
    assert len(spool.memory) == 1
    assert [line["event_type"] for line in spilled(capsys.readouterr().err)] == ["email_checks"]


def test_memory_has_room_for_so_many_and_counts_the_rest() -> None:
    memory = spool.Memory()
    memory.add(["x"] * (spool.MOST_IN_MEMORY - 1))
    memory.add(["x"] * 3)
    assert len(memory) == spool.MOST_IN_MEMORY
    assert [memory.take_dropped(), memory.take_dropped()] == [2, 0]
    assert len(memory.take()) == spool.MOST_IN_MEMORY
    assert len(memory) == 0


def test_a_failure_that_could_not_be_recorded_is_in_the_spool_too(committed_app: Flask, audit_spool: Path) -> None:
    with locked(committed_app), committed_app.app_context():
        recorder.record_failure(events.ACCESS_DENIED, actor=None, error="no", details={"wanted": "audit.search"})
    (line,) = spooled(audit_spool)
    assert (line["success"], line["xid"], line["reason"]) == (False, None, "55P03")


def test_nobody_waits_for_the_name_of_the_installation(
    committed_app: Flask, audit_spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing request must not be the one to ask a database that does not answer."""
    with locked(committed_app), locked(committed_app, "installation"), committed_app.app_context():
        recorder.record_failure(events.ACCESS_DENIED, actor=None, error="no", details={"wanted": "audit.search"})
        act(committed_app)
    assert [line["installation"] for line in spooled(audit_spool)] == [None, None]
    assert value(committed_app, "SELECT count(*) FROM users_v2") == 1


def test_a_name_in_a_line_leads_no_file_astray(tmp_path: Path) -> None:
    writer = Spool(tmp_path / "spool")
    (tmp_path / "spool").mkdir(mode=0o700)
    writer.leave(["{}"], "../../etc/passwd")
    assert [path.parent for path in tmp_path.rglob("*.spool")] == [tmp_path / "spool"]


def test_where_the_spool_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIT_SPOOL_DIR")
    given = {"database_url": "postgresql://h/db", "secret_key": "s" * 40, "public_url": "https://app.example.com"}
    assert config.Settings(**given).audit_spool_dir == str(config.ROOT / "instance" / "audit-spool")
    monkeypatch.setenv("DYNO", "web.1")
    folder = Path(config.Settings(**given).audit_spool_dir)
    assert not folder.is_relative_to(config.ROOT)
    assert str(os.getuid()) in folder.name


def test_a_dyno_is_told_at_its_start_that_its_disk_does_not_last(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SECRET_KEY": "s" * 40, "DATABASE_URL": "postgresql://127.0.0.1:9/x"}
    started = subprocess.run(
        [sys.executable, "-c", "import wsgi"],
        env=environment | {"DYNO": "web.1", "PUBLIC_URL": "https://app.example.com", "TMPDIR": str(tmp_path)},
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = started.stderr.splitlines()
    assert json.loads(line)["event"] == "audit_spool_is_ephemeral"
    assert "log drain" in line


def test_an_act_of_thousands_of_events_waits_as_a_whole(committed_app: Flask, audit_spool: Path) -> None:
    with committed_app.app_context(), away(committed_app):
        for number in range(3000):
            recorder.record(events.DEMO_FILLED, actor=None, details={"people": number, "conversations": 0})
        db.session.commit()
    assert len(spooled(audit_spool)) == 3000
    assert acts_recorded(committed_app) == []
