"""What a process does for the record each second: store what waits, and put the record's own troubles on record."""

import threading

import structlog

from capecontrol import clock
from capecontrol.audit import events, recorder, replay, spilling, spool
from capecontrol.audit.replay import Replayed

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
DROPS_TOLD_EVERY_SECONDS = 60.0

log = structlog.get_logger("audit")


class Keeper:
    """Keeps the spool empty and the record of its own troubles complete, for one application; called each second."""

    def __init__(self) -> None:
        """Begin."""
        self._one_at_a_time = threading.Lock()
        self._pause = FIRST_PAUSE_SECONDS
        self._next_try_at = 0.0
        self._drops_told_at = -DROPS_TOLD_EVERY_SECONDS

    def keep_up(self, is_last: bool = False) -> None:
        """Store what waits, when the table takes it again, and record what there is to say about the time between.

        The last time what is in memory goes to the disk, whatever the database says, and with it what there is to say.
        """
        with self._one_at_a_time:
            if spilling.installation.id is None:
                replay.ask_installation(Replayed())
            if is_last or clock.monotonic() >= self._next_try_at:
                self._replay()
            self._tell_of_trouble(is_last)
            self._tell_of_drops(is_last)
            if is_last:
                _save_memory()

    def _replay(self) -> None:
        installation = spilling.installation.id
        if installation is None or not (len(spool.memory) or spool.spool.waiting(installation)):
            self._pause = FIRST_PAUSE_SECONDS
            # Another process stored what this one swallowed: they share the folder.
            if spilling.health.is_degraded and replay.ask_installation(Replayed()) is not None:
                spilling.health.written()
            return
        done = replay.replay()
        if done.stored or done.unreadable:
            log.warning("audit_replayed", **done.as_json())
        got_on = done.trouble is None and not done.waiting
        self._pause = FIRST_PAUSE_SECONDS if got_on else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._next_try_at = clock.monotonic() + self._pause

    def _tell_of_trouble(self, is_last: bool) -> None:
        """Record each time of trouble that is over (R13), or that this process does not see the end of."""
        episodes = spilling.health.take_over(is_last=is_last)
        while episodes:
            episode = episodes[0]
            details = {
                "swallowed": episode.swallowed,
                "reasons": episode.reasons,
                "began_at": episode.began_at.isoformat(),
                "ended_at": (episode.ended_at or clock.now()).isoformat(),
            }
            if not recorder.record_apart(events.AUDIT_DEGRADED, details=details, or_spill=is_last):
                spilling.health.put_back(episodes)
                return
            episodes = episodes[1:]

    def _tell_of_drops(self, is_last: bool) -> None:
        """Record at most once a minute how many events there was no room for (R11)."""
        is_due = is_last or clock.monotonic() - self._drops_told_at >= DROPS_TOLD_EVERY_SECONDS
        dropped = spool.memory.take_dropped() if is_due else 0
        if not dropped:
            return
        self._drops_told_at = clock.monotonic()
        if not recorder.record_apart(events.AUDIT_EVENTS_DROPPED, details={"dropped": dropped}, or_spill=is_last):
            spool.memory.put_back_dropped(dropped)


def _save_memory() -> None:
    """Put what is in memory on the disk, where the next process finds it."""
    lines = spool.memory.take()
    if lines:
        try:
            spool.spool.append(lines, spilling.installation.id)
        except OSError:
            spool.memory.add(lines)
            log.error("audit_memory_lost", events=len(lines), note="they are on stderr as AUDIT_SPILL lines")  # noqa: TRY400 -- the reason was counted before
