"""The current time, how long the parts of a request took, and whether anybody waits for it still; the only module
that asks a clock."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_LEAST_SECONDS = 0.5
_OVERDRAWN_SECONDS = 0.5
_LEAST_WHEN_OVERDRAWN_SECONDS = 0.05
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_has_left: ContextVar[Callable[[], bool] | None] = ContextVar("has_left", default=None)
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


def set_deadline(at: float, *, has_left: Callable[[], bool] | None = None) -> None:
    """Set when this thread's work has nobody left to wait for it, on the clock of `monotonic`; `has_left` tells
    whether its caller has gone before that."""
    _deadline.set(at)
    _has_left.set(has_left)


def caller_has_left() -> bool:
    """Say whether whoever asked for this thread's work has gone, as far as anybody can tell."""
    has_left = _has_left.get()
    return has_left is not None and has_left()


def seconds_left() -> float:
    """Return the seconds until this thread's deadline; below 0 when it has passed, infinite where nobody set one."""
    return _deadline.get() - monotonic()


def within_budget(limit: float) -> float:
    """Return how many seconds of `limit` this thread's caller still waits for; half a second in any case, so that
    what went wrong can be recorded. Once that is used up too, a step gets what it takes where nothing hangs: where the
    database does, there are many, and each would add its half second."""
    left = seconds_left()
    least = _LEAST_SECONDS if left > -_OVERDRAWN_SECONDS else _LEAST_WHEN_OVERDRAWN_SECONDS
    return min(limit, max(least, left))


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
    """Count the enclosed work towards one step of the request's timings, and its processor time beside."""
    watch = Stopwatch()
    try:
        yield
    finally:
        watch.add_to(step)


class Stopwatch:
    """Measures from its making on: the clock's time, and what this thread uses of a processor."""

    __slots__ = ("_clock", "_processor")

    def __init__(self) -> None:
        self._clock = time.perf_counter()
        self._processor = time.thread_time()

    def milliseconds(self) -> float:
        """Return the clock's milliseconds so far."""
        return (time.perf_counter() - self._clock) * 1000

    def processor_milliseconds(self) -> float:
        """Return the processor's milliseconds of this thread so far."""
        return (time.thread_time() - self._processor) * 1000

    def add_to(self, step: str) -> None:
        """Add both to one step of the request's timings."""
        add_timing(step, self.milliseconds())
        add_timing(f"{step}_cpu", self.processor_milliseconds())
