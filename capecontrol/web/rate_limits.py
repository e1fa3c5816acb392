"""Our own small limiter: counters in an unlogged table, shared by all processes, failing open.

Most limits count in the table itself, with each request. Where a path is hot, a request only counts in its process,
which takes a microsecond, and each second a thread adds the process's counts to the table and learns the others'
(each_second.py). Between two of those, each process may let through as many as one second brings it.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from ipaddress import IPv6Address, ip_network
from typing import Any, TypeVar

import structlog
from flask import Flask, current_app, request
from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text, text
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock, each_second
from capecontrol.audit import events
from capecontrol.audit.recorder import record_refusal
from capecontrol.auth.identity import actor_or_none
from capecontrol.config import current_settings
from capecontrol.database import run_alone, short_transaction
from capecontrol.errors import RateLimited
from capecontrol.extensions import db

View = TypeVar("View", bound=Callable[..., Any])
log = structlog.get_logger("rate_limits")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `hits` in each window of `seconds`, for one address, account or person.

    `is_hot`: counted in the process and shared with the others once a second.
    """

    name: str
    hits: int
    seconds: int
    is_hot: bool = False


# Several registrations a minute from one address are a household or a classroom, so these stop only machines. Hot,
# because where many come, to count in the table would cost as much as to give them a place.
REGISTER = Limit("register", hits=120, seconds=600, is_hot=True)
# For each ticket and caller, who was counted when it was drawn: at a turn, a try each second while the gate is full.
REGISTER_WITH_TICKET = Limit("register_with_ticket", hits=120, seconds=600, is_hot=True)
SIGN_IN = Limit("sign_in", hits=60, seconds=60)
# Slows guessing at one account from one place; never locks the account, which would hand attackers a weapon.
SIGN_IN_TO_ACCOUNT = Limit("sign_in_to_account", hits=10, seconds=300)
VERIFY_EMAIL = Limit("verify_email", hits=60, seconds=600)
CHECK_EMAIL = Limit("check_email", hits=240, seconds=60, is_hot=True)
# One address is checked a few times by whoever types it. Beyond this, somebody watches it from many places.
CHECK_ONE_EMAIL = Limit("check_one_email", hits=60, seconds=60, is_hot=True)
CHECK_PASSWORD = Limit("check_password", hits=240, seconds=60)
POST_MESSAGE = Limit("post_message", hits=60, seconds=60)
START_CONVERSATION = Limit("start_conversation", hits=60, seconds=60)

counters = Table(
    "rate_limit_counters",
    db.metadata,
    Column("bucket", Text, primary_key=True),
    Column("window", BigInteger, primary_key=True),
    Column("hits", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index(None, "expires_at"),
    prefixes=["UNLOGGED"],
)

_COUNT = (
    'INSERT INTO rate_limit_counters AS counter (bucket, "window", hits, expires_at) VALUES (%s, %s, 1, %s) '
    'ON CONFLICT (bucket, "window") DO UPDATE SET hits = counter.hits + 1 RETURNING hits'
)
# Ordered, so that two processes take the same rows in the same order and never wait for each other in a circle.
_ADD = text(
    'INSERT INTO rate_limit_counters AS counter (bucket, "window", hits, expires_at) '
    "SELECT * FROM unnest(CAST(:buckets AS text[]), CAST(:windows AS bigint[]), CAST(:hits AS int[]), "
    "CAST(:ends AS bigint[])) AS fresh (bucket, at, hits, ends) ORDER BY bucket, at "
    'ON CONFLICT (bucket, "window") DO UPDATE SET hits = counter.hits + excluded.hits RETURNING bucket, hits'
)
_EXTENSION = "hot_counts"
_MOST_HOT_COUNTS = 50_000
"""Callers and addresses a process counts at a time: some 20 MB. Beyond, it forgets and lets pass."""
_MOST_AT_ONCE = 2_000
"""Counts written in one transaction: some 60 ms of a connection that others wait for. All of them took 1.5 s."""
_SECONDS_FOR_OTHERS = 0.01
"""The pool gives a connection to who asks first, and who waits for one needs this long to ask again."""


@dataclass(slots=True)
class _HotCount:
    """One caller's or address's hits in the running window: those in the table, and those not yet written."""

    window: int
    ends_at: int
    shared: int = 0
    fresh: int = 0
    is_told: bool = False


class HotCounts:
    """What one process counts by itself between two rounds of sharing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], _HotCount] = {}

    def add(self, limit: Limit, who: str, now: int) -> tuple[int, bool]:
        """Count one more; return the hits known so far and whether this is the first one here beyond the limit."""
        window = now // limit.seconds
        with self._lock:
            count = self._counts.get((limit.name, who))
            if count is None or count.window != window:
                if len(self._counts) >= _MOST_HOT_COUNTS:
                    self._forget(now)
                count = self._counts[limit.name, who] = _HotCount(window, (window + 1) * limit.seconds)
            count.fresh += 1
            hits = count.shared + count.fresh
            is_first = hits > limit.hits and not count.is_told
            count.is_told |= is_first
        return hits, is_first

    def share(self, now: int) -> None:
        """Add what is not yet written to the table, and learn what the other processes counted.

        One caller at a time. It goes in batches, and between two of them whoever waits for the same connection to
        record a failure has it. Raises SQLAlchemyError; what could not be written then waits for the next round.
        """
        with self._lock:
            for key in [key for key, count in self._counts.items() if count.ends_at <= now]:
                del self._counts[key]
            taken = [(_bucket(*key), count, count.fresh) for key, count in self._counts.items() if count.fresh]
        for start in range(0, len(taken), _MOST_AT_ONCE):
            if start:
                time.sleep(_SECONDS_FOR_OTHERS)
            self._write({bucket: (count, fresh) for bucket, count, fresh in taken[start : start + _MOST_AT_ONCE]})

    def _write(self, taken: Mapping[str, tuple[_HotCount, int]]) -> None:
        with short_transaction() as connection:
            rows = connection.execute(
                _ADD,
                {
                    "buckets": list(taken),
                    "windows": [count.window for count, _ in taken.values()],
                    "hits": [fresh for _, fresh in taken.values()],
                    "ends": [count.ends_at for count, _ in taken.values()],
                },
            ).all()
        with self._lock:
            for bucket, hits in rows:
                count, fresh = taken[bucket]
                count.shared = hits
                count.fresh -= fresh

    def _forget(self, now: int) -> None:
        """Make room: what is over goes, and everything where all of it still runs."""
        running = {key: count for key, count in self._counts.items() if count.ends_at > now}
        if len(running) >= _MOST_HOT_COUNTS:
            log.warning("hot_counts_forgotten", counts=len(running))
            running = {}
        self._counts = running


def init_app(app: Flask) -> None:
    """Give the application its hot counts; each_second shares them."""
    app.extensions[_EXTENSION] = HotCounts()


def limited(limit: Limit, *, unless: Callable[[], bool] = lambda: False) -> Callable[[View], View]:
    """Hold a view to a limit per caller's address, `unless` says that this call was counted before. The view answers
    429 beyond it."""

    def decorate(view: View) -> View:
        @wraps(view)
        def held(*args: Any, **kwargs: Any) -> Any:
            if not unless():
                hold_to(limit, who=caller())
            return view(*args, **kwargs)

        held.limit = limit  # type: ignore[attr-defined]
        return held  # type: ignore[return-value]

    return decorate


def caller() -> str:
    """Return whom a limit counts: the caller's address, of IPv6 its /64, since that is what one customer is given."""
    text = request.remote_addr or "unknown"
    if ":" not in text:
        return text
    try:
        address = IPv6Address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ip_network((address, 64), strict=False))


def hold_to(limit: Limit, *, who: str) -> None:
    """Count one more and raise RateLimited beyond the limit. Lets everybody pass while it cannot count."""
    if not current_settings().ratelimit_enabled:
        return
    now = int(clock.epoch())
    hits, is_first = _add_hot(limit, who, now) if limit.is_hot else _add(limit, who, now)
    if hits <= limit.hits:
        return
    if is_first:  # one event a window (and process, where it is hot): the record cannot be flooded
        record_refusal(
            events.RATE_LIMIT_EXCEEDED,
            actor=actor_or_none(),
            error=f"More than {limit.hits} in {limit.seconds} s.",
            details={"limit": limit.name},
        )
    raise RateLimited(retry_after=limit.seconds - now % limit.seconds)


def hold_ticket(ticket_id: str) -> None:
    """Count one more registration with this ticket from this caller. A stranger who learned the ticket, as whoever
    sends the same address does, cannot use its holder's tries up. Raises RateLimited."""
    hold_to(REGISTER_WITH_TICKET, who=f"{ticket_id}|{caller()}")


def share_counts(_is_last: bool = False) -> None:
    """Write what this process counted on hot paths, and learn the others' counts."""
    hot: HotCounts = current_app.extensions[_EXTENSION]
    try:
        hot.share(int(clock.epoch()))
    except SQLAlchemyError as error:
        # Until the table answers again, each process holds its callers to the limits by what it counts itself.
        log.warning("rate_limits_not_shared", kind=type(error).__name__)


def forget_expired() -> int:
    """Delete the counters of windows that are over; return how many."""
    with short_transaction(pool=None) as connection:
        gone = connection.execute(
            text("DELETE FROM rate_limit_counters WHERE expires_at < :now"), {"now": int(clock.epoch())}
        )
        return gone.rowcount


def _add(limit: Limit, who: str, now: int) -> tuple[int, bool]:
    """Count in the table; return the hits so far, 0 while it cannot count, and whether this one is the first beyond."""
    window = now // limit.seconds
    try:
        (hits,) = run_alone(_COUNT, (_bucket(limit.name, who), window, (window + 1) * limit.seconds)) or (0,)
    except SQLAlchemyError as error:
        log.warning("rate_limit_not_counted", limit=limit.name, kind=type(error).__name__)
        return 0, False
    return hits, hits == limit.hits + 1


def _add_hot(limit: Limit, who: str, now: int) -> tuple[int, bool]:
    hot: HotCounts = current_app.extensions[_EXTENSION]
    each_second.wake()
    return hot.add(limit, who, now)


def _bucket(name: str, who: str) -> str:
    """Return the counter's key: a hash, so that the table holds no addresses."""
    return hashlib.sha256(f"{name}|{who}".encode("utf-8", "replace")).hexdigest()[:32]
