"""The Procfile's processes as children of `make run`: starting them, showing what they say, ending them."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

STEADY_SECONDS = 30.0
"""Who ends sooner after its start has not come up; later, it was at work and met with an accident."""

MOST_QUICK_ENDS = 4
FIRST_PAUSE_SECONDS = 1.0
"""Before a process is started again; doubled with each end that follows another without a steady time between."""


class RunError(RuntimeError):
    """The product cannot run here; the text is one sentence that says why and what to do."""


class Child:
    """A process of the Procfile, in a group of its own, whose lines appear with its name in front."""

    def __init__(
        self, name: str, command: str, folder: Path, environment: Mapping[str, str], *, is_quiet: bool = False
    ) -> None:
        """Start the command in a shell, as the Procfile's format has it. What a quiet one says is in `lines`."""
        self.name = name
        self.lines: list[str] = []
        self._is_quiet = is_quiet
        self._is_chain = "&&" in command
        self.process = subprocess.Popen(
            # exec: a signal then reaches the program itself, and not a shell in front of it.
            ["/bin/sh", "-c", command if self._is_chain else f"exec {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A Ctrl-C in the terminal is for the supervisor, which ends its children in the right order.
            start_new_session=True,
        )
        self.began: float = psutil.Process(self.process.pid).create_time()
        self._reader = threading.Thread(target=self._show_output, daemon=True)
        self._reader.start()

    def has_ended(self) -> bool:
        """Say whether the process is gone."""
        return self.process.poll() is not None

    def terminate(self) -> None:
        """Ask the process to finish what it is doing and end."""
        if self._is_chain:
            self._signal_group(signal.SIGTERM)
        else:
            self.process.terminate()

    def end_remains(self) -> None:
        """Ask what an ended process left behind to end, too: a web server's own processes still hold its port."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Kill what is left of the process and of those it started, and show their last lines."""
        self._signal_group(signal.SIGKILL)
        self.process.wait()
        self.finish_output()

    def finish_output(self) -> None:
        """Show the last lines of a process that has ended; waits a second at most."""
        self._reader.join(1)

    def how_it_ended(self) -> str:
        """Return its exit code or signal, for people."""
        code = self.process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def _signal_group(self, number: int) -> None:
        # macOS answers EPERM for a group of which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _show_output(self) -> None:
        with self.process.stdout or io.StringIO() as lines:
            for line in lines:
                if self._is_quiet:
                    self.lines.append(line.rstrip())
                else:
                    show(self.name, line.rstrip())


class Part:
    """A process of the product that is started again when it ends by itself, as a platform would do."""

    def __init__(self, start: Callable[[], Child]) -> None:
        """Start the process; `start` is called again for each further one."""
        self._start = start
        self.child = start()
        self._started_at = time.monotonic()
        self._quick_ends = 0
        self._due_at: float | None = None

    def keep_running(self) -> bool:
        """Notice and tell when the process has ended, and start it again after a pause. Returns whether it did so.

        Raises RunError when it came to an end at its start again and again.
        """
        if not self.child.has_ended():
            return False
        if self._due_at is None:
            self._due_at = time.monotonic() + self._pause_after_end()
        if time.monotonic() < self._due_at:
            return False
        self.child.kill()  # only what it left behind and what did not end in the pause
        self.child = self._start()
        self._started_at = time.monotonic()
        self._due_at = None
        return True

    def _pause_after_end(self) -> float:
        """Say how the process ended. Returns the seconds until it is started again."""
        child = self.child
        is_quick = time.monotonic() - self._started_at < STEADY_SECONDS
        self._quick_ends = self._quick_ends + 1 if is_quick else 0
        child.end_remains()
        child.finish_output()
        if self._quick_ends >= MOST_QUICK_ENDS:
            raise RunError(
                f"{child.name} ended {self._quick_ends} times in a row, each time within {STEADY_SECONDS:g} s of its "
                f"start (the last time with {child.how_it_ended()}). Its own lines above say why."
            )
        pause = FIRST_PAUSE_SECONDS * 2 ** max(0, self._quick_ends - 1)
        say(f"{child.name} ended by itself ({child.how_it_ended()}). It is started again in {pause:g} s.")
        return pause


def is_running(process: Any) -> bool:
    """Say whether a psutil.Process still runs. A zombie has ended; only its parent has not asked for it yet."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(processes: Iterable[Any], *, seconds: float) -> list[Any]:
    """Return those of the processes that still run after a time."""
    deadline = time.monotonic() + seconds
    running = list(processes)
    while (running := [process for process in running if is_running(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return running


def read_procfile(path: Path) -> dict[str, str]:
    """Return the commands of release, web and worker. Raises RunError when one is missing."""
    commands = {}
    for line in path.read_text().splitlines():
        name, colon, command = line.partition(":")
        if colon and not line.startswith("#"):
            commands[name.strip()] = command.strip()
    missing = {"release", "web", "worker"} - commands.keys()
    if missing:
        raise RunError(f"Procfile has no {' and no '.join(sorted(missing))}.")
    return commands


def say(text: str) -> None:
    """Write a line of our own."""
    # Nobody may be reading any more, at a closed terminal; what runs has to be ended in order all the same.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def show(name: str, line: str) -> None:
    """Write a line of a part, with its name in front."""
    say(f"{name:>7} | {line}")
