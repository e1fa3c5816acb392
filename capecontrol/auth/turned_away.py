"""Registrations turned away for want of room: the first within a second by its address, the others by their number.

An event for each would be a write for each, at the very moment when there is least room for it.
"""

import threading

from capecontrol import clock, each_second
from capecontrol.audit import events
from capecontrol.audit.recorder import record_failure

_PAUSE_SECONDS = 1.0


class TurnedAway:
    """How many registrations this process has turned away since they were last recorded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._first_at: float | None = None

    def add(self) -> bool:
        """Return whether this one is the first within a second, to be recorded by itself; count it if not."""
        with self._lock:
            now = clock.monotonic()
            if self._first_at is None or now - self._first_at >= _PAUSE_SECONDS:
                self._first_at = now
                return True
            self._number += 1
            return False

    def take(self) -> int:
        """Return how many were counted, and begin anew."""
        with self._lock:
            number, self._number = self._number, 0
        return number


turned_away = TurnedAway()


def is_first() -> bool:
    """Say whether a registration that is turned away is to be recorded by itself; it is counted if not."""
    if turned_away.add():
        return True
    each_second.wake()
    return False


def record_others(_is_last: bool = False) -> None:
    """Record the last second's others as one event; each_second calls it."""
    number = turned_away.take()
    if number:
        record_failure(
            events.REGISTRATIONS_TURNED_AWAY,
            actor=None,
            error="There was no room to open an account.",
            details={"number": number},
        )
