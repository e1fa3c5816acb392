"""One log line a request, with where its time went, and the request's id."""

import logging
import re
import sys
from typing import Any

import structlog
from flask import Flask, Response, g, request
from prometheus_client import Counter

from capecontrol import clock, ids
from capecontrol.config import Settings

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,100}$")
_QUIET_ENDPOINTS = {"static", "operations.healthz"}

lost_total = Counter("capecontrol_log_lines_lost_total", "Log lines that standard error did not take.")

_processors: list[Any] = []
"""One list for every configuration, so that a logger bound earlier goes on with the present one."""


class _StandardError:
    """Standard error, behind which the disk may be full: that costs the line, and not the answer it is about."""

    def write(self, text: str) -> None:
        """Write, or count what cannot be written."""
        try:
            sys.stderr.write(text)
        except OSError:
            lost_total.inc()

    def flush(self) -> None:
        """Flush, or count what cannot be written."""
        try:
            sys.stderr.flush()
        except OSError:
            lost_total.inc()


def configure_logging(settings: Settings) -> None:
    """Send every log line to stderr: JSON for machines, logfmt-like for a terminal."""
    on_console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if on_console else structlog.processors.JSONRenderer()
    )
    _processors[:] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        renderer,
    ]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def init_app(app: Flask) -> None:
    """Begin each request with an id and a stopwatch, and end it with a line."""
    log = structlog.get_logger("request").bind()  # once, and not anew for every line

    @app.before_request
    def start() -> None:
        g.watch = clock.Stopwatch()
        g.timings = clock.start_timings()
        g.request_id = _request_id()

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.get("request_id", "")
        if request.endpoint in _QUIET_ENDPOINTS and response.status_code < 400:
            return response
        log.info("request", **_line(response))
        return response


def _line(response: Response) -> dict[str, Any]:
    """Return the line's fields; times in milliseconds, those of the processor as `cpu`. The path is left out: it may
    hold an address."""
    timings: dict[str, float] = g.get("timings", {})
    watch: clock.Stopwatch = g.get("watch") or clock.Stopwatch()
    cpu = watch.processor_milliseconds() + timings.get("hash_cpu", 0.0)
    return {
        "endpoint": request.endpoint or "-",
        "method": request.method,
        "status": response.status_code,
        "total_ms": round(watch.milliseconds(), 1),
        **{f"{step}_ms": round(timings.get(step, 0.0), 1) for step in ("queue", "gate", "hash", "db", "audit")},
        "cpu_ms": round(cpu, 2),
        **{f"{step}_cpu_ms": round(timings.get(f"{step}_cpu", 0.0), 2) for step in ("hash", "db", "audit")},
        "request_id": g.get("request_id"),
    }


def _request_id() -> str:
    """Return the router's id when it has the form of one, else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.match(given) else ids.new_id()
