"""Registrations turned away for want of room: the first within a second by its address, the others by their number,
and with them those that came too late to be read.

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

    def count_unless_first(self) -> bool:
        """Count this one, unless it is the first within a second; return whether it was counted."""
        with self._lock:
            now = clock.monotonic()
            if self._first_at is None or now - self._first_at >= _PAUSE_SECONDS:
                self._first_at = now
                return False
            self._number += 1
            return True

    def count(self) -> None:
        """Count one of which nothing else is known."""
        with self._lock:
            self._number += 1

    def take(self) -> int:
        """Return how many were counted, and begin anew."""
        with self._lock:
            number, self._number = self._number, 0
        return number


turned_away = TurnedAway()


def count_unless_first() -> bool:
    """Count a registration that is turned away, unless it is the first within a second; return whether it was counted.
    One that was not is to be recorded by itself."""
    is_counted = turned_away.count_unless_first()
    if is_counted:
        each_second.wake()
    return is_counted


def count_late() -> None:
    """Count a registration that was not read, since it came too late."""
    turned_away.count()
    each_second.wake()


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
