"""The gate in front of the password hash: few run, few wait, and nobody waits in vain.

The hash is the slowest step of a registration and fills the processor's cores, so only as many run at once as there
are cores, and registrations have permits apart from sign-ins: a storm of one never stops the other.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from capecontrol import clock, line
from capecontrol.errors import CallerLeft, Overloaded

LONGEST_WAIT_SECONDS = 1.0

_DONE_WITHIN_SECONDS = 1.4  # from the gate to its hash; who cannot be done by then is better off coming again
_EXPECTED_WITHIN_SECONDS = 1.2  # or nobody waits behind another: to wait in vain is worse than to be told at once
_SHORTEST_WAIT_SECONDS = 0.25  # however slow the hash is: somebody has to stand there when it is free
_DEVIATIONS = 3  # beyond the average, within which 99 of 100 hashes end
_GIVE_WAY_BY = 5

Result = TypeVar("Result")


class _Permits:
    """A semaphore that gives each permit to who has waited longest. Python's own wakes them and lets whoever comes at
    that moment take it first: the line's order would be lost, and some would wait in vain."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: deque[threading.Lock] = deque()
        self._changing = threading.Lock()

    def acquire(self, *, seconds: float) -> bool:
        """Take a permit, now or when those before have theirs; say whether there was one in time."""
        with self._changing:
            if self._free > 0:
                self._free -= 1
                return True
            mine = threading.Lock()
            mine.acquire()
            self._line.append(mine)
        if mine.acquire(timeout=seconds):
            return True
        with self._changing:
            if mine not in self._line:
                return True  # given at the last moment
            self._line.remove(mine)
            return False

    def release(self) -> None:
        """Give the permit on, or back."""
        with self._changing:
            if self._line:
                self._line.popleft().release()
            else:
                self._free += 1


class Gate:
    """Permits for hashing: few run, few wait, nobody waits longer than a second.

    What is admitted runs on threads that do nothing else, as many as a gate has permits. The C library keeps a hash's
    19 MiB for the thread that asked for them: on the requests' threads that is 300 MB in a process, and giving them
    back each time costs half as much again as the hash, in page faults. So memory is bounded, and stays warm.
    """

    def __init__(
        self, permits: int, waiters: int, *, seconds: float = 0.0, threads: ThreadPoolExecutor | None = None
    ) -> None:
        """Admit so many at a time and let so many wait; `seconds` is what one takes, until it is known.

        Gates may share their `threads`: then somebody admitted waits for what the others have under way, and no more.
        """
        self._permits = permits
        self._free = _Permits(permits)
        self._places = permits + waiters
        self._inside = 0
        self._began_at: dict[int, float] = {}
        self._counting = threading.Lock()
        self._threads = threads or hashing_threads(permits)
        self.seconds = seconds
        self._deviation = 0.0

    def run(self, work: Callable[[], Result]) -> Result:
        """Do the work with a permit and return its result.

        Raises Overloaded at once where too many wait already, or where it would take longer than anybody waits; and
        after the wait, which is a second, less where hashes are slow, and ends with the request's budget. Work whose
        caller has left meanwhile is not begun: raises CallerLeft.
        """
        ends_at = clock.monotonic() + clock.seconds_left()
        self._enter()
        line.let_next_begin()
        try:
            with clock.timed("gate"):
                wait = min(self._longest_wait(), clock.seconds_left())
                is_admitted = wait > 0 and self._free.acquire(seconds=wait)
            if not is_admitted:
                raise CallerLeft if clock.caller_has_left() else Overloaded
            try:
                if clock.caller_has_left():
                    raise CallerLeft
                with clock.timed("hash"):
                    result, processor_milliseconds = self._threads.submit(self._measured, work, ends_at).result()
                clock.add_timing("hash_cpu", processor_milliseconds)
                return result
            finally:
                self._free.release()
        finally:
            self._leave()

    @property
    def has_room(self) -> bool:
        """Whether somebody who came now could hash, or would wait for it."""
        with self._counting:
            return self._has_room()

    def _enter(self) -> None:
        with self._counting:
            if not self._has_room():
                raise Overloaded
            self._inside += 1

    def _has_room(self) -> bool:
        if self._inside >= self._places:
            return False
        waiting = self._inside - self._permits
        # Somebody waits for each permit however slow the hash is, or it would be idle until the next one comes.
        return waiting < self._permits or self._takes_behind(waiting) <= _EXPECTED_WITHIN_SECONDS

    def _takes_behind(self, waiting: int) -> float:
        """Return the seconds until somebody is done who comes behind so many who wait."""
        now = clock.monotonic()
        free_in = sorted(max(0.0, began_at + self.seconds - now) for began_at in self._began_at.values())
        # Who has a permit and hashes on another thread in a moment has not begun.
        free_in += [self.seconds] * (self._permits - len(free_in))
        rounds, permit = divmod(waiting, self._permits)
        return free_in[permit] + (rounds + 1) * self.seconds + _DEVIATIONS * self._deviation

    def _longest_wait(self) -> float:
        takes = self.seconds + _DEVIATIONS * self._deviation
        return min(LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, _DONE_WITHIN_SECONDS - takes))

    def _leave(self) -> None:
        with self._counting:
            self._inside -= 1

    def _measured(self, work: Callable[[], Result], ends_at: float) -> tuple[Result, float]:
        if clock.monotonic() >= ends_at:  # behind the other gate's work on the threads they share
            raise Overloaded
        thread = threading.get_ident()
        with self._counting:
            self._began_at[thread] = clock.monotonic()
        watch = clock.Stopwatch()
        try:
            result = work()
        finally:
            with self._counting:
                del self._began_at[thread]
            # Averages that forget slowly; two threads writing them at once lose a sample, which costs nothing.
            beyond = watch.milliseconds() / 1000 - self.seconds
            self._deviation += (abs(beyond) - self._deviation) / 16
            self.seconds += beyond / 16
        return result, watch.processor_milliseconds()


def hashing_threads(count: int) -> ThreadPoolExecutor:
    """Return threads for hashing, which give way to everything quick: a check or a place is answered in between."""
    return ThreadPoolExecutor(count, thread_name_prefix="hash", initializer=_give_way)


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _GIVE_WAY_BY)
