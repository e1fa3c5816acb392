"""What a process does once a second beside its requests: writing down what they only counted.

A thread of its own does it, so that no caller ever waits for it: done by the request that notices a second has
passed, it would slow down one request in a hundred of a busy process and every one of a quiet process, whose last
counts would wait for the next caller besides.
"""

import atexit
import os
import threading
from collections.abc import Callable, Sequence

import structlog
from flask import Flask, current_app

Work = Callable[[bool], None]
"""Called in an application context of its own; the flag says whether this is the last time."""

_EXTENSION = "each_second"
_PAUSE_SECONDS = 1.0
_LONGEST_END_SECONDS = 2.0
"""Less than what server_config.py leaves a stopping process for its last writes."""

log = structlog.get_logger("each_second")


class EachSecond:
    """One application's thread and what it does."""

    def __init__(self, app: Flask, works: Sequence[Work]) -> None:
        self._app = app
        self._works = works
        self._starting = threading.Lock()
        self._round = threading.Lock()
        self._end = threading.Event()
        self._process: int | None = None
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Start the thread if this process has none, or has none any more. A thread does not survive a fork, so it is
        never earlier."""
        if self._is_running() or self._end.is_set():
            return
        with self._starting:
            if self._is_running():
                return
            if self._process != os.getpid():
                self._process = os.getpid()
                atexit.register(self.close)
            self._thread = threading.Thread(target=self._run, name=_EXTENSION, daemon=True)
            self._thread.start()

    def run_once(self, *, is_last: bool = False) -> None:
        """Do all of it now. One that fails, be it at the end of its application context, is said and keeps nobody from
        the rest."""
        with self._round:
            self._work(is_last=is_last)

    def close(self) -> None:
        """End the thread and do everything a last time. What is counted later stays in the process, and what a round
        that hangs has not written is lost with it: that is said."""
        self._end.set()
        if self._thread is None or self._process != os.getpid():
            return
        self._thread.join(_LONGEST_END_SECONDS)
        atexit.unregister(self.close)
        self._thread = None
        if not self._round.acquire(blocking=False):
            log.error("each_second_hangs", waited_seconds=_LONGEST_END_SECONDS)
            return
        try:
            self._work(is_last=True)
        finally:
            self._round.release()

    def _work(self, *, is_last: bool) -> None:
        for work in self._works:
            try:
                with self._app.app_context():
                    work(is_last)
            except Exception:
                log.exception("each_second_failed", work=work.__name__)

    def _is_running(self) -> bool:
        return self._process == os.getpid() and self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._end.wait(_PAUSE_SECONDS):
            self.run_once()


def init_app(app: Flask, works: Sequence[Work]) -> None:
    """Give the application its work; the thread starts with the first thing to write."""
    app.extensions[_EXTENSION] = EachSecond(app, works)


def wake() -> None:
    """See to it that what was just counted is written within a second or so."""
    of(current_app).wake()


def of(app: Flask) -> EachSecond:
    """Return an application's own."""
    each_second: EachSecond = app.extensions[_EXTENSION]
    return each_second
