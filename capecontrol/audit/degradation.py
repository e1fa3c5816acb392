"""What one process last saw of the audit table, and how long it could not write there (R13)."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from capecontrol import clock

log = structlog.get_logger("audit")


@dataclass(slots=True)
class Episode:
    """A time in which events were swallowed: how many for which reason, from the first one to the next write."""

    began_at: datetime
    ended_at: datetime | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def swallowed(self) -> int:
        """How many events it was."""
        return sum(self.reasons.values())


@dataclass(slots=True)
class Health:
    """How writing events goes in this process; `swallowed` counts since its start."""

    swallowed: int = 0
    is_degraded: bool = False
    last_reason: str | None = None
    _running: Episode | None = None
    _over: list[Episode] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def failed(self, events: int, reason: str) -> None:
        """Note that so many events could not be written. The first time in a row is an alert in the log."""
        with self._lock:
            is_new = not self.is_degraded
            self.swallowed += events
            self.is_degraded = True
            self.last_reason = reason
            if self._running is None:
                self._running = Episode(clock.now())
            self._running.reasons[reason] = self._running.reasons.get(reason, 0) + events
        if is_new:
            with suppress(OSError):  # a full disk behind standard error; the event itself is counted as unprinted
                log.error("audit_degraded", reason=reason, note="events go to the spool and to stderr; see /readyz")

    def written(self) -> None:
        """Note that an event was written; what was swallowed before is then over and waits to be recorded."""
        if not self.is_degraded:
            return
        with self._lock:
            self.is_degraded = False
            self._end_running()

    def take_over(self, *, is_last: bool = False) -> list[Episode]:
        """Return the episodes that are over and not yet recorded; the caller records them or puts them back.

        `is_last` is for a process that ends, and with it the episode that still runs.
        """
        with self._lock:
            if is_last:
                self._end_running()
            taken, self._over = self._over, []
        return taken

    def put_back(self, episodes: list[Episode]) -> None:
        """Keep episodes that could not be recorded for later."""
        with self._lock:
            self._over = episodes + self._over

    def _end_running(self) -> None:
        """End the running episode, if there is one. Only with the lock held."""
        if self._running is not None:
            self._running.ended_at = clock.now()
            self._over.append(self._running)
            self._running = None
