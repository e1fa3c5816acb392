"""Answers that take long: each holds a thread, so a process gives them at most an eighth of its own, and one person a
few of those."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

from flask import Flask, Response, current_app, g, request

from capecontrol.config import Settings
from capecontrol.errors import Overloaded

SENDING_SECONDS = 60.0
"""How long one piece of a file may wait for a reader who takes nothing; beyond, it counts as gone."""

EACH = 3
"""The places one person may hold in a process: enough for several tabs, and no more than half of two or more."""

_EXTENSION = "streams"
_FILES = "file_streams"


class Places:
    """The streams a process may hold open at a time: each holds a thread, and the others answer requests."""

    def __init__(self, most: int) -> None:
        """Allow `most` at a time."""
        self.most = most
        self.each = max(1, min(EACH, most // 2))
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, who: str) -> Callable[[], None] | None:
        """Return what gives the place back, however often it is called; None when all are taken, or all that the
        person with the id `who` may have."""
        with self._lock:
            if self._taken.total() >= self.most or self._taken[who] >= self.each:
                return None
            self._taken[who] += 1
        is_given_back = False

        def give_back() -> None:
            nonlocal is_given_back
            with self._lock:
                if not is_given_back:
                    is_given_back = True
                    self._taken[who] -= 1
                    if not self._taken[who]:
                        del self._taken[who]  # nobody is remembered who holds nothing

        return give_back

    @property
    def taken(self) -> int:
        """How many are open now."""
        with self._lock:
            return self._taken.total()


def init_app(app: Flask, settings: Settings) -> None:
    """Count the application's places, the same for every kind of stream. Files each hold a database connection
    besides, so they get a quarter of those and no more.

    An eighth of the threads, because the gates in front of the password hash may hold three quarters of them; a page
    that finds no place asks every few seconds instead.
    """
    app.extensions[_EXTENSION] = Places(max(1, settings.web_threads // 8))
    app.extensions[_FILES] = Places(max(1, settings.database_pool // 4))

    @app.teardown_request
    def close_what_was_never_sent(failure: BaseException | None) -> None:
        """Nobody closes an answer that was thrown away."""
        if failure is not None and "close_stream" in g:
            g.close_stream()


def places() -> Places:
    """Return the running application's places."""
    found: Places = current_app.extensions[_EXTENSION]
    return found


def is_stopping() -> Callable[[], bool]:
    """Return what says, also when the request is over, whether this process was told to stop; an answer that would go
    on comes to an end then. Our server tells with each request (`server_config.Worker`), other servers do not."""
    says_so: Callable[[], bool] = request.environ.get("capecontrol.is_stopping", lambda: False)
    return says_so


def take_file_place(who: str) -> Callable[[], None]:
    """Return what gives back a place for a file for the person with the id `who`. Raises Overloaded when there is
    none."""
    files: Places = current_app.extensions[_FILES]
    give_back_file = files.take(who)
    give_back = places().take(who) if give_back_file else None
    if give_back_file is None or give_back is None:
        if give_back_file is not None:
            give_back_file()
        raise Overloaded("There is no room to make a file right now. Please try again in a moment.", retry_after=10)

    def give_both_back() -> None:
        give_back()
        give_back_file()

    return give_both_back


def attachment(chunks: Iterator[bytes], *, close: Callable[[], None], content_type: str, filename: str) -> Response:
    """Return the chunks as an answer that browsers save as a file. `close` is called however it ends; it may be called
    twice."""
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(SENDING_SECONDS)  # the server sets it anew with the connection's next request
    response = Response(chunks, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(close)
    g.close_stream = close
    return response
