"""The current time, and how long the parts of a request took; the only module that asks a clock."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_timings: ContextVar[dict[str, float] | None] = ContextVar("timings", default=None)


def now() -> datetime:
    """Return the current time, with zone."""
    return datetime.now(UTC)


def epoch() -> float:
    """Return the seconds since 1970, which is how routers and windows of rate limits count."""
    return time.time()


def monotonic() -> float:
    """Return seconds on a clock that never goes back."""
    return time.monotonic()


def set_deadline(at: float) -> None:
    """Set when this thread's work has nobody left to wait for it, on the clock of `monotonic`."""
    _deadline.set(at)


def seconds_left() -> float:
    """Return the seconds until this thread's deadline; below 0 when it has passed, infinite where nobody set one."""
    return _deadline.get() - monotonic()


def start_timings() -> dict[str, float]:
    """Begin a fresh set of timings (milliseconds by step) for the work of this thread and return it."""
    timings: dict[str, float] = {}
    _timings.set(timings)
    return timings


def add_timing(step: str, milliseconds: float) -> None:
    """Add to one step's total; does nothing where nobody started timings."""
    timings = _timings.get()
    if timings is not None:
        timings[step] = timings.get(step, 0.0) + milliseconds


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Count the enclosed work towards one step of the request's timings."""
    started = time.perf_counter()
    try:
        yield
    finally:
        add_timing(step, (time.perf_counter() - started) * 1000)
