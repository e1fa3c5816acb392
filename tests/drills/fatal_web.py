"""The product with points at which a request may kill its process, for the drill that kills web: `application`.

A request names the point in a header. The points lie around what the product does and change nothing of it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from flask import Response, request
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from capecontrol.auth import passwords
from tests.drills.fatal_points import HEADER
from wsgi import app

_STATEMENTS = {
    "INSERT INTO users_v2": "account inserted",
    "INSERT INTO api_tokens": "token inserted",
    "INSERT INTO audit_logs": "event inserted",
}

_this_thread = threading.local()


def _come_to(point: str) -> None:
    """Die here when the request says so."""
    if getattr(_this_thread, "fatal", None) == point:
        os.kill(os.getpid(), signal.SIGKILL)


@app.before_request
def _read_header() -> None:
    _this_thread.fatal = request.headers.get(HEADER)
    _this_thread.has_inserted = False
    _come_to("request read")


@app.after_request
def _answer_made(response: Response) -> Response:
    _come_to("answer made")
    return response


def _around_hash(hash_password: Callable[[str], str]) -> Callable[[str], str]:
    @wraps(hash_password)
    def hashed(password: str) -> str:
        _come_to("before the hash")
        result = hash_password(password)
        _come_to("after the hash")
        return result

    return hashed


passwords.hash_for_registration = _around_hash(passwords.hash_for_registration)  # type: ignore[assignment]


@event.listens_for(Engine, "after_cursor_execute")
def _after_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    for beginning, point in _STATEMENTS.items():
        if beginning in statement:
            _this_thread.has_inserted = True
            _come_to(point)


@event.listens_for(Engine, "commit")
def _before_commit(_connection: Any) -> None:
    if getattr(_this_thread, "has_inserted", False):
        _come_to("before the commit")


@event.listens_for(Session, "after_commit")
def _after_commit(_session: Session) -> None:
    if getattr(_this_thread, "has_inserted", False):
        _come_to("after the commit")


def _in_halves(body: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(body)
    yield whole[: len(whole) // 2]
    _come_to("answer half sent")
    yield whole[len(whole) // 2 :]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Be the product; the answer to a request with a point goes out in two pieces."""
    body = app(environ, start_response)
    return _in_halves(body) if environ.get("HTTP_X_DRILL_KILL_AT") else body
