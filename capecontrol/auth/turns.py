"""How far the waiting room has come, and whose turn it is: a figure that each process reads four times a second.

Turns are given in order, as many at a time as will be used: by the pace of the last ten seconds or what the hash
allows, whichever is more, over the time somebody takes to come, and more where some never come.
"""

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.exc import TimeoutError as PoolTimeout

from capecontrol import clock
from capecontrol.auth import passwords
from capecontrol.database import WEB_PROCESS, run_alone

FIGURE_LASTS_SECONDS = 0.25
TICKET_LASTS_SECONDS = 3600
TURN_LASTS_SECONDS = 30
SHORTEST_POLL_SECONDS = 1
"""How often those ask whose turn is next (decision 012), unless the hash is slow."""

LOCK_MS = 250
"""So long the room waits for a lock, a quarter of what others may: while its table is locked everybody who registers
asks it, and sign-ins need the same connections."""

_BELIEVED_SECONDS = 1.0
"""While somebody reads the figure, others go by the last one, unless it is older than this."""

_BELIEVED_AT_MOST_SECONDS = 5.0
"""Who cannot wait for a reading any longer goes by a figure that is no older than this, or by none: by an older one
newcomers would pass those who wait, who would be told places that are not theirs."""

_UNCLAIMED_SECONDS = 3
"""A turn nobody has come for by then holds no one up any more; it can still be used until it is over."""

_CLAIMED_SECONDS = 3
_SHARE_SURELY_POSSIBLE = 0.75
_HASHES_AT_THE_GATE = 4
"""How many hashes somebody spends at the gate: those before, one's own, and a second try where it was full."""

_COUNTED_EACH_SECONDS = 10
_AROUND_A_HASH_SECONDS = 0.02
"""Of a core, for all else that a registration brings with it: its ticket, its questions, its own writes."""

_AROUND_A_HASH_IN_A_STORM_SECONDS = 0.04
"""The same while people come: for each who is served, the tickets of some who will be later."""

_PACE_OVER_SECONDS = 10
_SLOW_PACE_OVER_SECONDS = 60
_ENOUGH_TO_LEARN_FROM = 10
"""Registrations within ten seconds that tell the pace, from the first of them on; with fewer, the hash's own time."""

_BELIEVED_SLOW_AFTER_SECONDS = 20
"""Who is next has waited so long before the room believes in less than surely is possible, and goes by how many turns
it gave of late. When a crowd has come, the pace it was taken at is forgotten by then."""

_MARGIN = 1.25
"""So many more turns than are used at the present pace, so that it can grow. More would crowd the gate, which sends
them all away for the same second: it would be full at one moment and empty at the next."""

_SMALLEST_SHARE = 0.25
"""However few have come for their turns lately, no more than four times as many are given."""

# "waitroom" in hexadecimal: turns are given by one process at a time.
_ADVISORY_LOCK = 0x77616974_726F6F6D

_TIMES = {
    "lasts": TICKET_LASTS_SECONDS,
    "turn": TURN_LASTS_SECONDS,
    "unclaimed": _UNCLAIMED_SECONDS,
    "claimed": _CLAIMED_SECONDS,
    "over": _PACE_OVER_SECONDS,
    "slowly": _SLOW_PACE_OVER_SECONDS,
    "believed": _BELIEVED_SLOW_AFTER_SECONDS,
    "lock": _ADVISORY_LOCK,
}
# Who has no connection yet hashes nothing yet. Behind a pooler that hides the names our own dyno's processes count.
_COUNT_PROCESSES = """
    SELECT count(DISTINCT application_name) FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, %s)
    """
# The second statement sees what others did before the lock was ours, and the one after it what was given. By the time
# at which all of it began, which an index can be searched with; clock_timestamp() would have every ticket looked at.
_GIVE_TURNS = """
    SELECT set_config('capecontrol.gives', pg_try_advisory_xact_lock(%(lock)s)::text, true);
    WITH lately AS MATERIALIZED (
        SELECT turn_at, claimed_at, done_at, left_at FROM registration_tickets
        WHERE turn_at > statement_timestamp() - make_interval(secs => %(turn)s)
    )
    UPDATE registration_tickets SET turn_at = clock_timestamp()
    WHERE id IN (
        SELECT id FROM registration_tickets
        WHERE turn_at IS NULL AND left_at IS NULL
          AND created_at > statement_timestamp() - make_interval(secs => %(lasts)s)
        ORDER BY number
        LIMIT CASE WHEN current_setting('capecontrol.gives')::boolean THEN greatest(0, %(most)s - (
            SELECT count(*) FROM lately
            WHERE done_at IS NULL AND left_at IS NULL
              AND coalesce(
                  claimed_at + make_interval(secs => %(claimed)s), turn_at + make_interval(secs => %(unclaimed)s)
              ) > statement_timestamp()
        )) ELSE 0 END
    );
    """
# The sequence tells how many tickets were ever drawn, also when all of them are long forgotten.
_READ = """
    SELECT
        coalesce(waiting.first - 1, drawn.last) AS come_to,
        drawn.last AS last,
        waiting.people AS waiting,
        coalesce(waiting.seconds, 0.0) AS waits,
        ARRAY(
            SELECT number FROM registration_tickets
            WHERE turn_at IS NULL AND left_at IS NOT NULL AND number > waiting.first
            ORDER BY number
        ) AS given_up,
        done.people AS done,
        extract(epoch FROM statement_timestamp() - done.first)::float AS done_within,
        CASE WHEN waiting.seconds >= %(believed)s THEN (
            SELECT count(*) FROM registration_tickets
            WHERE turn_at > statement_timestamp() - make_interval(secs => least(%(slowly)s, waiting.seconds))
        ) ELSE 0 END AS turns_of_late,
        CASE WHEN given.turns > 0 THEN given.used::float / given.turns ELSE 1.0 END AS share_who_come
    FROM (
        SELECT
            min(number) AS first,
            count(*) AS people,
            extract(epoch FROM statement_timestamp() - min(created_at))::float AS seconds
        FROM registration_tickets
        WHERE turn_at IS NULL AND left_at IS NULL
          AND created_at > statement_timestamp() - make_interval(secs => %(lasts)s)
    ) AS waiting, (
        SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('registration_tickets', 'number')), 0) AS last
    ) AS drawn, (
        SELECT count(*) AS people, min(done_at) AS first FROM registration_tickets
        WHERE done_at > statement_timestamp() - make_interval(secs => %(over)s)
    ) AS done, (
        SELECT count(*) AS turns, count(*) FILTER (WHERE coalesce(claimed_at, done_at) IS NOT NULL) AS used
        FROM registration_tickets
        WHERE turn_at > statement_timestamp() - make_interval(secs => %(turn)s / 2)
          AND turn_at < statement_timestamp() - make_interval(secs => %(unclaimed)s)
    ) AS given
    """


class _Row(NamedTuple):
    """What `_READ` finds, in its order."""

    come_to: int
    last: int
    waiting: int
    waits: float
    given_up: list[int]
    done: int
    done_within: float | None
    turns_of_late: int
    share_who_come: float


@dataclass(frozen=True, slots=True)
class Figure:
    """What a process knows of the room: the ticket number that turns have come to, the last one drawn, how many wait,
    registrations a second, the share of people who come for their turn, whether more come than are served, and the
    numbers of the places that were given up, in order."""

    come_to: int
    last: int
    waiting: int
    pace: float
    read_at: float
    share_who_come: float = 1.0
    is_filling: bool = True
    given_up: tuple[int, ...] = ()

    def waits(self, number: int) -> bool:
        """Say whether the ticket with this number was waiting when this was read."""
        return self.come_to < number <= self.last and not self._is_given_up(number)

    def place_of(self, number: int) -> int:
        """Return the place of the ticket with this number, which waits: 1 for who is next."""
        place = number - self.come_to - bisect_left(self.given_up, number)
        most = self.waiting if number <= self.last else self.waiting + 1
        return max(1, min(place, most))

    def _is_given_up(self, number: int) -> bool:
        at = bisect_left(self.given_up, number)
        return at < len(self.given_up) and self.given_up[at] == number


_NOTHING_READ = Figure(0, 0, 0, 1.0, read_at=-math.inf)


class Turns:
    """One process's view of the room; whoever reads it also gives the turns that are due."""

    def __init__(self, slots: int, processes: int = 1) -> None:
        """`slots` are the hashes at a time of one process; `processes` are those of this dyno."""
        self._slots = slots
        self._processes_here = self._processes = processes
        self._counted_at = -math.inf
        self._figure = _NOTHING_READ
        self._awake_since = -math.inf
        self._reading = threading.Lock()

    @property
    def slots(self) -> int:
        """Hashes at a time, of all processes of all dynos together."""
        return self._slots * self._processes

    @property
    def shortest_poll_seconds(self) -> int:
        """How often those ask whose turn is next: as often as one takes that time at the gate, and while a turn that
        nobody has come for still counts (decision 016)."""
        at_the_gate = math.ceil(_HASHES_AT_THE_GATE * passwords.seconds_per_hash())
        return max(SHORTEST_POLL_SECONDS, min(at_the_gate, _UNCLAIMED_SECONDS - 1))

    def soonest(self, place: int) -> float:
        """Return after how many seconds the turn can come at the soonest, as if all hashed and did nothing else."""
        return place * passwords.seconds_per_hash() / self.slots

    @property
    def has_people_waiting(self) -> bool:
        """Whether somebody waited when the room was read last."""
        return self._figure.waiting > 0

    def forget(self) -> None:
        """Read the room anew at the next question, whatever was read a moment ago."""
        self._figure = _NOTHING_READ

    def current(self, *, drawn: int = 0) -> Figure:
        """Return the figure, read anew when it is older than a quarter of a second or the ticket with the number
        `drawn` is newer than it; one thread reads at a time. Raises SQLAlchemyError."""
        figure = self._figure
        age = clock.monotonic() - figure.read_at
        is_outdated = drawn > figure.last
        if age <= FIGURE_LASTS_SECONDS and not is_outdated:
            return figure
        must_know = is_outdated or age > _BELIEVED_SECONDS
        if not self._reading.acquire(timeout=_BELIEVED_SECONDS if must_know else 0):
            if age > _BELIEVED_AT_MOST_SECONDS:
                raise PoolTimeout("the room could not be read in time")
            return figure
        try:
            if self._figure is figure or drawn > self._figure.last:
                self._figure = self._read()
            return self._figure
        finally:
            self._reading.release()

    def _read(self) -> Figure:
        """Give the turns that are due by the last figure, or by a new one where that is old, and read the room."""
        before = self._figure
        if clock.monotonic() - before.read_at > _PACE_OVER_SECONDS:
            self._awake_since = clock.monotonic()
            before = self._figure_of(_READ)
            if not before.waiting:
                return before
        if clock.monotonic() - self._counted_at > _COUNTED_EACH_SECONDS:
            self._count_processes()
        most = self._most(self._pace_of_turns(before), before.share_who_come)
        return self._figure_of(_GIVE_TURNS + _READ, most=most)

    def _count_processes(self) -> None:
        """Ask the database how many web processes it serves, of all dynos (decision 015)."""
        found = run_alone(_COUNT_PROCESSES, (WEB_PROCESS,))
        self._processes = max(self._processes_here, found[0] if found else 0)
        self._counted_at = clock.monotonic()

    def _possible_pace(self, around: float) -> float:
        """Return how many registrations a second all processes can open, with so many seconds around each hash."""
        return self.slots / (passwords.seconds_per_hash() + around)

    def _pace_of_turns(self, figure: Figure) -> float:
        """Return the pace by which turns are given: the present one or what the hash allows here; and when a crowd has
        come, and its forms are no longer most of the work, what all processes allow (decision 015)."""
        if figure.is_filling:
            return max(figure.pace, self._slots * self._processes_here / passwords.seconds_per_hash())
        return max(figure.pace, self._possible_pace(_AROUND_A_HASH_SECONDS))

    def _is_filling(self, last: int, pace: float) -> bool:
        """Say whether twice as many have come since the figure before as can be served; also where that is too old."""
        seconds = clock.monotonic() - self._figure.read_at
        return seconds > _BELIEVED_SECONDS or last - self._figure.last > 2 * pace * seconds

    def _figure_of(self, statements: str, **parameters: int) -> Figure:
        found = run_alone(statements, {**_TIMES, **parameters}, lock_ms=LOCK_MS)
        if found is None:
            raise LookupError("the room was read and nothing came")
        row = _Row(*found)
        possible = self._possible_pace(_AROUND_A_HASH_IN_A_STORM_SECONDS)
        pace = self._pace(row, possible)
        return Figure(
            row.come_to,
            row.last,
            row.waiting,
            pace,
            clock.monotonic(),
            row.share_who_come,
            self._is_filling(row.last, max(pace, possible * _SHARE_SURELY_POSSIBLE)),
            tuple(row.given_up),
        )

    def _pace(self, row: _Row, possible: float) -> float:
        """Return how many registrations a second there are, as far as it is known; `possible` is what the hash allows
        in a storm."""
        measured = row.done / max(1.0, row.done_within or 0.0) if row.done >= _ENOUGH_TO_LEARN_FROM else None
        # While nobody looked, no turns were given, and nothing is learnt from how long somebody has waited.
        waited = min(row.waits, clock.monotonic() - self._awake_since)
        if waited < _BELIEVED_SLOW_AFTER_SECONDS:
            # While a crowd arrives, taking its forms is most of the work; the pace soon picks up again.
            return max(measured or possible, possible * _SHARE_SURELY_POSSIBLE)
        # With those who do not come for their turns, since the line moves on by them as well.
        return max(measured or 0.0, max(1, row.turns_of_late) / min(waited, _SLOW_PACE_OVER_SECONDS))

    def _most(self, pace: float, share_who_come: float) -> int:
        """Return how many turns may be open at a time.

        The pace counts what is possible too: a room that only gave as many turns as were used lately would keep to
        whatever pace it began with.
        """
        turn_takes = self.shortest_poll_seconds / 2 + _HASHES_AT_THE_GATE * passwords.seconds_per_hash()
        used_up = pace * turn_takes * _MARGIN
        return max(4 * self.slots, math.ceil(used_up / max(_SMALLEST_SHARE, share_who_come)))
