"""gunicorn's configuration, loaded by path: `gunicorn -c capecontrol/server_config.py wsgi:app`.

Imports nothing of ours, because gunicorn runs it before the application exists. Names are gunicorn's settings;
seconds throughout.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

# A dyno's router comes from outside; anywhere else the web server is for this machine alone.
bind = f"{'0.0.0.0' if os.environ.get('DYNO') else '127.0.0.1'}:{os.environ.get('PORT') or 8000}"  # noqa: S104

workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "gthread"
threads = int(os.environ.get("WEB_THREADS") or 16)

# Admission belongs to the gate in front of the password hash. A limit on sockets is blind to what a request wants,
# makes new clients wait and cuts connections that a router keeps open.
worker_connections = 1000

# Each process builds an application of its own. Shared by fork, a database pool would be one socket with two
# users, a thread started at boot would be missing in the children, and ids made from a copied state could repeat.
preload_app = False

# The router keeps its connections for 90 s. Whoever closes first loses a request, so it must not be us.
keepalive = 100

# The process has to be gone within 25 s of SIGTERM. gunicorn waits this long for its workers, then kills them; the
# rest is for noticing the signal and for cleaning up. It is more than the longest request, which may take 8 s.
graceful_timeout = 22

# With threads this is only the worker's heartbeat, which its main thread gives: it finds a process that hangs as a
# whole. Slow requests have deadlines of their own.
timeout = 30

# The heartbeat is a file, and a slow disk under it looks like a hanging worker.
if Path("/dev/shm").is_dir():  # noqa: S108 - gunicorn makes a private file in it
    worker_tmp_dir = "/dev/shm"  # noqa: S108

# Who is believed about the caller's address and scheme is decided once, by TRUSTED_PROXY_HOPS in the application.
# gunicorn's own list would trust every peer on 127.0.0.1, and everybody where FORWARDED_ALLOW_IPS is "*".
forwarded_allow_ips = ""

control_socket_disable = True
accesslog = None  # the application writes a line for each request, with timings
loglevel = "warning"
proc_name = "capecontrol"

# The worker processes add up their metrics through files here. They must be in place before the application is
# imported, and new for each server, because files of an earlier one would be counted again. A reload keeps them.
_OWNER = "CAPECONTROL_METRICS_OWNER"
if os.environ.get(_OWNER) != str(os.getpid()):
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="capecontrol-metrics-")
    os.environ[_OWNER] = str(os.getpid())


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the gauges of a worker process that ended; its counts stay in the sum."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(_server: Any) -> None:
    """Remove the metrics of this server."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
