"""The product as it runs in production: the Procfile's web and worker as processes, on a database of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from capecontrol.config import Settings
from capecontrol.operations.local import is_healthy
from capecontrol.operations.local_postgres import end_with_parent
from capecontrol.operations.local_processes import read_procfile

REPOSITORY = Path(__file__).resolve().parent.parent
SECRET_KEY = "only-for-tests-only-for-tests-only-for-tests"
START_SECONDS = 60
STOP_SECONDS = 25


class LiveServer:
    """Web and worker of the Procfile on a free loopback port.

    `web` and `worker` are the processes, for tests that signal them; `web` is gunicorn's master. What they print is
    in `log()`.
    """

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        """Describe the server; `settings` are environment variables beside the usual ones of tests."""
        self.database_url = database_url
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings.setdefault("AUDIT_SPOOL_DIR", str(folder / "audit-spool"))
        self.environment = environment_of_processes(database_url, PORT=str(self.port), **settings)
        self.web: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self._log = folder / f"server-{self.port}.log"
        self._commands = read_procfile(REPOSITORY / "Procfile")

    def start(self, *, worker: bool = True) -> None:
        """Start web, wait until it answers /healthz, and start the worker beside it."""
        self.start_web()
        if worker:
            self.start_worker()
        deadline = time.monotonic() + START_SECONDS
        while not is_healthy(self.port):
            if self.web is None or self.web.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The live server did not start.\n{self.log()}")
            time.sleep(0.05)

    def start_web(self) -> None:
        """Start web alone, without waiting for it."""
        self.web = self._spawn("web")

    def start_worker(self) -> None:
        """Start a worker, after an earlier one was stopped or killed."""
        self.worker = self._spawn("worker")

    def stop(self) -> None:
        """End both as a deploy does, and whatever they started."""
        processes = [process for process in (self.web, self.worker) if process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        """Return everything both have printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", f"exec {self._commands[name]}"],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not in a session of its own: Linux gives sessions equal shares, and a hash gives way within one alone.
                process_group=0,
                preexec_fn=end_with_parent,
            )


def environment_of_processes(database_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of our processes in tests: nothing of the developer's settings, rate limits off."""
    ours = {name.upper() for name in Settings.model_fields} | {"DYNO", "FLASK_DEBUG", "GUNICORN_CMD_ARGS"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET_KEY,
        "RATELIMIT_ENABLED": "0",
        "WEB_CONCURRENCY": "2",
        **settings,
    }


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
