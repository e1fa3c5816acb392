"""`make run`'s supervisor, in a small stand-in checkout: what it starts, survives, refuses and ends."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from capecontrol.operations import local_processes
from capecontrol.operations.local import is_healthy, read_port
from capecontrol.operations.local_account import LocalPostgresError, folder_for
from capecontrol.operations.local_processes import Child, Part, RunError, read_procfile, wait_until_gone
from tests.live_server import REPOSITORY, free_port

PROCFILE = """\
release: python release.py && echo released
web: python web.py
worker: python worker.py
"""
RELEASE = """\
import os, psycopg2
with psycopg2.connect(os.environ["DATABASE_URL"]) as connection, connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS runs (at timestamptz DEFAULT now())")
    cursor.execute("INSERT INTO runs DEFAULT VALUES")
    cursor.execute("SELECT count(*) FROM runs")
    print("run number", cursor.fetchone()[0], file=open("release.txt", "w"))
"""
WEB = """\
import http.server, os, signal
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): ...
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"""
FORKING_WEB = (
    WEB.replace("http.server.HTTPServer", "server = http.server.HTTPServer").replace(".serve_forever()", "")
    + """\
if os.fork():
    signal.pause()
server.serve_forever()
"""
)
WORKER = """\
import signal, sys
def end(*_):
    print("worker finished its job")
    sys.exit()
signal.signal(signal.SIGTERM, end)
signal.pause()
"""


class Run:
    """One `make run` in the stand-in checkout."""

    def __init__(self, checkout: Path, **environ: str) -> None:
        self.port = free_port()
        self._checkout = checkout
        self._output = checkout / f"output-{self.port}"
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "capecontrol.operations.local", "run"],
                cwd=checkout,
                env=inherited | {"PORT": str(self.port)} | environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text()

    def ready(self) -> "Run":
        deadline = time.monotonic() + 60
        while "Cape Control is ready" not in self.output():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return self

    def state(self) -> dict[str, str]:
        return json.loads((self._checkout / "instance" / "run.json").read_text())

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, name: str) -> psutil.Process | None:
        """Return the process of web or worker that the supervisor itself has started."""
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # a zombie is none either
                if f"{name}.py" in child.cmdline():
                    return child
        return None

    def part_after(self, ended: psutil.Process, name: str) -> psutil.Process:
        """Return the one that has taken the place of a process that ended."""
        deadline = time.monotonic() + 30
        while (part := self.part(name)) is None or part == ended:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return part

    def ends(self) -> int:
        return self.process.wait(30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ends()


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return wait_until_gone(processes, seconds=0)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """Make a checkout with the real supervisor and a product of three small scripts."""
    folder = tmp_path / "checkout"
    operations = folder / "capecontrol" / "operations"
    operations.mkdir(parents=True)
    for package in (operations.parent, operations):
        (package / "__init__.py").touch()
    for module in (REPOSITORY / "capecontrol" / "operations").glob("local*.py"):
        shutil.copy(module, operations)
    shutil.copy(REPOSITORY / "Makefile", folder)
    for name, text in {"Procfile": PROCFILE, "release.py": RELEASE, "web.py": WEB, "worker.py": WORKER}.items():
        (folder / name).write_text(text)
    yield folder
    note = folder / "instance" / "postgres-folder"
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)


@pytest.fixture
def start(checkout: Path) -> Iterator[Callable[..., Run]]:
    """Yield a function that starts the product; what is left at the end is stopped."""
    with ExitStack() as stack:

        def start_run(**environ: str) -> Run:
            run = Run(checkout, **environ)
            stack.callback(run.process.wait)
            stack.callback(run.process.terminate)
            return run

        yield start_run


def test_ctrl_c_ends_every_process_and_the_next_run_keeps_the_data(start, checkout):
    run = start().ready()
    children = run.children()
    names = {child.name() for child in children}
    assert "postgres" in names
    assert len(names) > 1
    assert (checkout / "release.txt").read_text() == "run number 1\n"
    assert f"http://127.0.0.1:{run.port}\n" in run.output()
    assert "flask --app wsgi auth create-admin you@example.com" in run.output()

    assert run.stop() == 0
    assert " worker | worker finished its job" in run.output()
    assert run.output().endswith("Stopped; the data is kept.\n")
    assert not running(children)
    assert not (checkout / "instance" / "run.json").exists()

    start().ready()
    assert (checkout / "release.txt").read_text() == "run number 2\n"


def test_other_commands_find_the_running_product(start, checkout):
    run = start().ready()
    state = run.state()
    assert state["pid"] == run.process.pid
    assert state["database_url"].startswith("postgresql://capecontrol@/capecontrol?host=/")
    assert len(Path(state["secret_key_file"]).read_text().strip()) >= 32
    for private in (Path(state["secret_key_file"]), checkout / "instance" / "run.json"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_the_database_never_runs_as_root_nor_opens_to_others(start):
    run = start().ready()
    (postgres,) = [child for child in run.children() if child.name() == "postgres" and child.ppid() == run.process.pid]
    assert postgres.uids().effective != 0
    assert not [one for one in postgres.net_connections() if one.family != socket.AF_UNIX]
    sockets = Path(run.state()["database_url"].partition("host=")[2])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700


def test_a_second_run_is_refused_while_the_first_goes_on(start):
    first = start().ready()
    second = start()
    assert second.ends() == 1
    assert second.output() == (
        f"Cape Control cannot run: it is already running here, at http://127.0.0.1:{first.port}; "
        "stop that one first, with Ctrl-C.\n"
    )
    assert first.process.poll() is None


def test_after_a_killed_supervisor_the_next_one_takes_over(start, checkout):
    killed = start().ready()
    left = killed.children()
    killed.process.kill()
    killed.process.wait()
    assert running(left)

    run = start(PORT=str(killed.port)).ready()
    assert "PostgreSQL was running here already and goes on" in run.output()
    assert (checkout / "release.txt").read_text() == "run number 2\n"
    assert run.stop() == 0
    assert not running(left)


@pytest.mark.parametrize("content", ['{"port": 80', '{"port": 8000, "processes": [[1, 5.0], [4194304, 5.0]]}'])
def test_a_stale_or_cut_off_lock_file_blocks_nobody(start, checkout, content):
    (checkout / "instance").mkdir()
    (checkout / "instance" / "run.lock").write_text(content)
    (checkout / "instance" / "run.json").write_text('{"database_u')
    start().ready()


def test_a_busy_port_gets_one_sentence_before_anything_starts(start, checkout):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = start(PORT=str(port))
        assert run.ends() == 1
    assert run.output() == (
        f"Cape Control cannot run: port {port} is taken by another program: make run PORT={port + 1}\n"
    )
    assert not (checkout / "instance" / "postgres.log").exists()


@pytest.mark.parametrize(("name", "other"), [("web", "worker"), ("worker", "web")])
def test_a_part_that_is_killed_is_started_again(start, checkout, name, other):
    run = start().ready()
    killed, untouched = run.part(name), run.part(other)
    killed.kill()
    again = run.part_after(killed, name)
    assert f"{name} ended by itself (signal SIGKILL). It is started again in 1 s.\n" in run.output()
    assert run.part(other) == untouched
    noted = json.loads((checkout / "instance" / "run.lock").read_text())["processes"]
    assert [again.pid, again.create_time()] in noted, "after a killed supervisor the next one ends this one"
    children = run.children()
    assert run.stop() == 0
    assert not running(children)
    assert run.output().count("Cape Control is ready") == 1


def test_a_web_server_that_is_killed_leaves_its_port_to_the_next_one(start, checkout):
    (checkout / "web.py").write_text(FORKING_WEB)
    run = start().ready()
    killed = run.part("web")
    left = killed.children()
    assert left
    killed.kill()
    run.part_after(killed, "web")
    deadline = time.monotonic() + 20
    while not is_healthy(run.port):
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.05)
    assert not running(left)
    assert run.output().count("web ended by itself") == 1


@pytest.mark.parametrize("part", ["web", "worker"])
def test_when_a_part_does_not_stay_everything_stops(start, checkout, part):
    (checkout / f"{part}.py").write_text("print('no such setting'); raise SystemExit(3)")
    run = start()
    children: list[psutil.Process] = []
    while run.process.poll() is None:
        children = run.children() or children
        time.sleep(0.1)
    assert run.process.returncode == 1
    for seconds in (1, 2, 4):
        assert f"{part} ended by itself (exit code 3). It is started again in {seconds} s.\n" in run.output()
    assert run.output().count("| no such setting") == 4
    assert run.output().endswith(
        f"Cape Control cannot run: {part} ended 4 times in a row, each time within 30 s of its start "
        "(the last time with exit code 3). Its own lines above say why.\n"
    )
    assert not running(children)


def test_ctrl_c_does_not_wait_for_a_part_that_is_to_be_started_again(start, checkout):
    (checkout / "worker.py").write_text("raise SystemExit(3)")
    run = start()
    while "It is started again in 4 s." not in run.output():
        assert run.process.poll() is None, run.output()
        time.sleep(0.05)
    children = run.children()
    began = time.monotonic()
    assert run.stop() == 0
    assert time.monotonic() - began < 3
    assert "cannot run" not in run.output()
    assert not running(children)


def test_an_accident_after_a_steady_time_is_no_further_failed_start(tmp_path, monkeypatch):
    monkeypatch.setattr(local_processes, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(local_processes, "STEADY_SECONDS", 0.3)
    lives = iter([0, 0, 0, 0.6, 0, 0, 0, 0])
    part = Part(lambda: Child("worker", f"sleep {next(lives)}", tmp_path, dict(os.environ)))

    def keep() -> None:
        while True:
            part.keep_running()
            time.sleep(0.005)

    with pytest.raises(RunError, match="ended 4 times in a row"):
        keep()
    assert list(lives) == []


def test_a_failed_release_starts_neither_web_nor_worker(start, checkout):
    (checkout / "release.py").write_text("raise SystemExit('no such column')")
    run = start()
    assert run.ends() == 1
    assert "release | no such column" in run.output()
    assert "Cape Control cannot run: the release step failed (exit code 1), see above." in run.output()
    assert "ready" not in run.output()


def test_a_second_ctrl_c_does_not_wait_for_a_stubborn_process(start):
    run = start(STUBBORN="yes").ready()
    children = run.children()
    run.process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert run.process.poll() is None
    assert run.stop() == 0
    assert not running(children)


def test_with_a_database_of_ones_own_no_postgresql_starts(start, checkout):
    (checkout / "release.py").write_text("import os; print(os.environ['DATABASE_URL'], file=open('release.txt', 'w'))")
    run = start(DATABASE_URL="postgresql://db.example.com/product").ready()
    assert (checkout / "release.txt").read_text() == "postgresql://db.example.com/product\n"
    assert "postgres" not in {child.name() for child in run.children()}
    assert not (checkout / "instance" / "run.json").exists()


def test_an_old_python_gets_one_sentence(checkout, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\necho 3.6\n")
    (programs / "python3").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # Also when these tests were themselves started by make, whose own variables would make it talkative, or with a
    # Python of somebody's choice.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "MAKE" and name != "PYTHON"}
    made = subprocess.run(
        ["make", "run"], cwd=checkout, env=environment | {"PATH": path}, capture_output=True, text=True
    )
    assert made.returncode != 0
    assert made.stdout == ""
    assert made.stderr.splitlines()[0] == (
        "Cape Control needs Python 3.11 or newer, and python3 is 3.6. With another one: make run PYTHON=python3.12"
    )
    assert len(made.stderr.splitlines()) == 2  # the other is make's own


def test_a_moved_checkout_does_not_seem_empty(checkout, tmp_path):
    instance = checkout / "instance"
    instance.mkdir()
    if os.geteuid() != 0:
        assert folder_for(checkout) == instance / "postgres"  # moves with the checkout
        return
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (instance / "postgres-folder").write_text(str(elsewhere))
    with pytest.raises(LocalPostgresError, match="moved or copied; its database is still in"):
        folder_for(checkout)
    assert (instance / "postgres-folder").read_text() == str(elsewhere)


@pytest.mark.parametrize("port", ["0", "65536", "eight", "-1", "80.0"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(RunError, match="PORT must be a number from 1 to 65535"):
        read_port({"PORT": port})


def test_the_port_is_8000_when_unset():
    assert read_port({}) == read_port({"PORT": ""}) == 8000


def test_a_procfile_without_a_worker_is_refused(tmp_path):
    procfile = tmp_path / "Procfile"
    procfile.write_text("# ours\nrelease: true\nweb: gunicorn -b :80 wsgi:app\n")
    with pytest.raises(RunError, match="Procfile has no worker"):
        read_procfile(procfile)


def test_our_procfile_names_the_three_processes():
    assert read_procfile(REPOSITORY / "Procfile").keys() == {"release", "web", "worker"}
