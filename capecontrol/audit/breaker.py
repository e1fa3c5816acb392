"""A circuit breaker in front of the audit table: when it keeps failing, nobody waits for it for a while (R12)."""

import threading
from collections import deque

from capecontrol import clock

FAILURES = 5
WITHIN_SECONDS = 10.0
OPEN_SECONDS = 30.0


class Breaker:
    """One process's memory of how writing to the audit table went lately; its threads share it.

    After five failures within ten seconds it is open: nobody tries for thirty seconds, then one caller does, and what
    comes of that decides. A success forgets the failures: a row the table refuses must not keep out those it takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: deque[float] = deque()
        self._trying = 0
        self._open_until: float | None = None
        self._is_probing = False

    def admit(self) -> bool:
        """Say whether the caller may try. Whoever may must tell `settle` what came of it, whatever that is."""
        with self._lock:
            if self._open_until is not None:
                if self._is_probing or clock.monotonic() < self._open_until:
                    return False
                self._is_probing = True
            elif self._recent() and self._recent() + self._trying >= FAILURES:
                # Those who try at this moment may fail as well, and no more than five are to pay for finding out.
                return False
            self._trying += 1
            return True

    def settle(self, is_written: bool | None) -> None:
        """End a try: it wrote, it failed, or None where it came to nothing that says anything about the table."""
        with self._lock:
            self._trying -= 1
            was_probe = self._is_probing and self._open_until is not None and clock.monotonic() >= self._open_until
            self._is_probing = self._is_probing and not was_probe
            if is_written:
                self._close()
            elif is_written is False and (self._open_until is None or was_probe):
                self._failures.append(clock.monotonic())
                if was_probe or self._recent() >= FAILURES:
                    self._open_until = clock.monotonic() + OPEN_SECONDS

    def close(self) -> None:
        """Let everybody try again: somebody has seen the table take events."""
        with self._lock:
            self._close()

    @property
    def seconds_open(self) -> float:
        """For how long nobody tries yet; 0 when it is closed or waits for the one who finds out."""
        with self._lock:
            return max(0.0, (self._open_until or 0.0) - clock.monotonic())

    def _close(self) -> None:
        self._failures.clear()
        self._open_until = None
        self._is_probing = False

    def _recent(self) -> int:
        """Return the failures that still count. Only with the lock held."""
        while self._failures and self._failures[0] <= clock.monotonic() - WITHIN_SECONDS:
            self._failures.popleft()
        return len(self._failures)
