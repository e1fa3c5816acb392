"""The request's budget: work whose caller has waited too long, or has left, is dropped before it starts."""

import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from flask import Flask, current_app, request

from capecontrol import clock
from capecontrol.errors import Overloaded

BUDGET_SECONDS = 8.0
_OLDEST_BELIEVED_SECONDS = 60.0
# The waiting room's page is drawn from what the browser keeps, and goes on looking by itself without scripts too.
_UNBUDGETED = {"static", "operations.healthz", "waiting.wait"}


View = TypeVar("View", bound=Callable[..., Any])


def counts_late(count: Callable[[], object]) -> Callable[[View], View]:
    """Have `count` called for each form that came too late to reach the view, so that the record knows of it."""

    def note(view: View) -> View:
        view.counts_late = count  # type: ignore[attr-defined]
        return view

    return note


def init_app(app: Flask) -> None:
    """Count each request's budget from the router's `X-Request-Start` (milliseconds since 1970)."""

    @app.before_request
    def begin_budget() -> None:
        waited = queued_seconds(request.headers.get("X-Request-Start"), now=clock.epoch())
        clock.add_timing("queue", waited * 1000)
        connection = request.environ.get("gunicorn.socket")
        clock.set_deadline(
            clock.monotonic() + BUDGET_SECONDS - waited,
            has_left=None if connection is None else partial(is_closed, connection),
        )
        if waited >= BUDGET_SECONDS and request.endpoint not in _UNBUDGETED:
            view = current_app.view_functions.get(request.endpoint or "")
            count = getattr(view, "counts_late", None)
            if count is not None and request.method == "POST":
                count()
            raise Overloaded("This took too long to reach us, so nothing was done. Please try again.")

    @app.teardown_request
    def end_budget(_: BaseException | None) -> None:
        clock.set_deadline(math.inf)  # what comes afterwards, such as a stream's body, has limits of its own


def is_closed(connection: socket.socket) -> bool:
    """Say whether the caller has closed the connection, without waiting or taking anything from it. Who closes only
    the half that they write to counts as gone too; no browser does, and no router that we know."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def queued_seconds(header: str | None, *, now: float) -> float:
    """Return how long the request waited before us, in seconds; 0 when the header is absent, in the future or older
    than a minute (it is the router's word, and a caller may have written it)."""
    text = (header or "").removeprefix("t=")
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        return 0.0
    waited = now - int(text) / 1000
    return waited if 0 <= waited <= _OLDEST_BELIEVED_SECONDS else 0.0
