"""What in the record needs somebody: the rules, as plain functions of rows. They ask nothing and nobody.

Thresholds are set so that normal life stays below them: somebody who mistypes a password, a household or an office
behind one address, a person who has just opened an account.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from capecontrol.audit import events
from capecontrol.audit.devices import browser_name, network_of


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of alert. It opens at `threshold` signs within `within`; with `is_distinct` signs of one `mark` count
    once. `is_for_person` ones are told to the person concerned, the others to administrators."""

    kind: str
    title: str
    advice: str
    threshold: int = 1
    within: timedelta = timedelta()
    is_distinct: bool = False
    is_for_person: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """An event as the rules see it."""

    id: int
    event_id: str
    event_type: str
    created_at: datetime
    success: bool
    user_id: str | None
    user_email: str | None
    user_role: str | None
    subject_id: str | None
    ip_address: str | None
    user_agent: str | None
    event_metadata: Any

    def detail(self, name: str) -> Any:
        """Return a detail, or None; an inherited row may hold anything."""
        return self.event_metadata.get(name) if isinstance(self.event_metadata, dict) else None


@dataclass(frozen=True, slots=True)
class Sign:
    """One event that counts towards an alert about `subject`."""

    rule: Rule
    subject: str
    label: str
    at: datetime
    mark: str
    user_id: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


BRUTE_FORCE = Rule(
    "brute_force",
    "Somebody guesses a password",
    "Tries are slowed down by themselves. If one succeeds, ask the person to end the sessions they do not know.",
    threshold=10,
    within=timedelta(minutes=15),
)
MANY_ACCOUNTS = Rule(
    "many_accounts",
    "One address tries many accounts",
    "Somebody may go through a list of stolen passwords. If it goes on, block the address in front of the product.",
    threshold=10,
    within=timedelta(minutes=15),
    is_distinct=True,
)
NEW_DEVICE = Rule(
    "new_device", "A sign-in from a new device", "The person was told by mail and knows best.", is_for_person=True
)
STAFF_READS = Rule(
    "staff_reads",
    "An administrator at a person's conversation",
    "Conversations belong to the people who hold them. Read the reason in the record; where there is none, ask.",
)
AUDIT_DEGRADED = Rule(
    "audit_degraded",
    "The audit log could not be written",
    "Nothing is lost: the events wait and are put back. Operations says, under Parts, how it is by now.",
)

RULES = {rule.kind: rule for rule in (BRUTE_FORCE, MANY_ACCOUNTS, NEW_DEVICE, STAFF_READS, AUDIT_DEGRADED)}

FAILED = events.USER_LOGIN_FAILED.name
SIGN_IN = events.USER_LOGIN.name
STAFF_READING = events.CONVERSATION_READ_BY_STAFF.name
KNOWN_BY = (SIGN_IN, events.USER_REGISTRATION.name)
"""What makes a device known: a registration signs in too."""

READ_TYPES = (FAILED, SIGN_IN, events.ACCESS_DENIED.name, events.AUDIT_DEGRADED.name, STAFF_READING)

# A try that was turned away because we were too busy says nothing about who tried.
_GUESSED = ("wrong_password_or_closed", "unknown_address")


def signs_of(row: Row) -> Iterator[Sign]:
    """Yield what an event counts towards, but for new devices, which take the person's past to tell."""
    at = row.created_at
    if row.event_type == FAILED and row.detail("reason") in _GUESSED:
        if row.user_id is not None:
            yield Sign(BRUTE_FORCE, row.user_id, row.user_email or row.user_id, at, row.event_id, row.user_id)
        if (place := place_of(row)) is not None and row.user_email:
            yield Sign(MANY_ACCOUNTS, place, place, at, row.user_email.strip().lower())
    elif row.event_type == STAFF_READING or _is_staff_refused(row):
        who = row.user_email or row.user_id or "somebody"
        # Apart, so that a refused try beside a reading never makes it look as if nothing was read.
        subject = f"{row.user_id or who}|{row.subject_id}{'|read' if row.success else ''}"
        details = {"was_refused": not row.success}
        yield Sign(STAFF_READS, subject, who, at, row.event_id, row.user_id, details)
    elif row.event_type == events.AUDIT_DEGRADED.name:
        reasons = row.detail("reasons")
        told = ", ".join(sorted(map(str, reasons))) if isinstance(reasons, dict) else None
        yield Sign(AUDIT_DEGRADED, "audit", "the audit log", at, row.event_id, details={"reason": told})


def new_device(row: Row, past: Iterable[tuple[str | None, str | None]]) -> Sign | None:
    """Return the sign of a sign-in whose browser and network have not been together in the person's past.

    `past` is (browser, address) of the sign-ins before it. An account's first one is no news, and neither is one
    that says nothing about where it comes from.
    """
    device = _device(row.user_agent, row.ip_address)
    known = {_device(*each) for each in past}
    known.discard(None)
    if row.user_id is None or device is None or not known or device in known:
        return None
    details = {"device": device[0], "ip_address": row.ip_address, "at": row.created_at.isoformat()}
    subject = f"{row.user_id}|{device[0]}|{device[1]}"
    return Sign(NEW_DEVICE, subject, row.user_email or row.user_id, row.created_at, row.event_id, row.user_id, details)


def first_crossing(rule: Rule, signs: Sequence[Sign]) -> Sequence[Sign] | None:
    """Return the signs from the beginning of the first window that reaches the rule's threshold, or None."""
    ordered = sorted(signs, key=lambda sign: sign.at)
    marks: Counter[str] = Counter()
    begin = 0
    for end, sign in enumerate(ordered):
        marks[sign.mark] += 1
        while sign.at - ordered[begin].at > rule.within:
            gone = ordered[begin].mark
            marks[gone] -= 1
            if not marks[gone]:
                del marks[gone]
            begin += 1
        if (len(marks) if rule.is_distinct else end + 1 - begin) >= rule.threshold:
            return ordered[begin:]
    return None


def place_of(row: Row) -> str | None:
    """Return the address tries are counted by: one of IPv4, and of IPv6 the network that one line is given."""
    return network_of(row.ip_address, bits_of_4=32, bits_of_6=64)


def sentence(kind: str, label: str, count: int, details: dict[str, Any]) -> str:
    """Return an alert as a sentence for administrators, without its full stop."""
    times = "once" if count == 1 else f"{count:,} times"
    if kind == BRUTE_FORCE.kind:
        return f"Somebody tried {times} to sign in as {label} with a wrong password"
    if kind == MANY_ACCOUNTS.kind:
        accounts = details.get("accounts", MANY_ACCOUNTS.threshold)
        return f"From {label} somebody tried {times} to sign in, to {accounts:,} accounts or more, and failed"
    if kind == STAFF_READS.kind:
        if details.get("was_refused"):
            return f"{label} tried {times} to open somebody else's conversation and was refused"
        return f"{label} read somebody else's conversation {times}"
    if kind == AUDIT_DEGRADED.kind:
        if told := details.get("told"):
            return str(told).rstrip(".")
        reason = details.get("reason")
        return "Events could not be written to the audit log" + (f" ({reason})" if reason else "")
    return f"{label} signed in from a new device"


def path_of(kind: str, label: str) -> str:
    """Return where the events behind an alert are read."""
    if kind == BRUTE_FORCE.kind:
        return f"/audit?{urlencode({'event': FAILED, 'person': label})}"
    if kind == MANY_ACCOUNTS.kind:
        return f"/audit?{urlencode({'event': FAILED})}"
    if kind == STAFF_READS.kind:
        return f"/audit?{urlencode({'person': label})}"
    return f"/audit?{urlencode({'event': events.AUDIT_DEGRADED.name})}"


def _is_staff_refused(row: Row) -> bool:
    is_refused = row.event_type == events.ACCESS_DENIED.name and row.detail("wanted") == "conversation"
    return is_refused and row.user_role == "admin"


def _device(user_agent: str | None, address: str | None) -> tuple[str, str] | None:
    """Return a device as it is recognised: by browser and system without their versions, and by the network's part
    that stays the same when a provider hands out another address."""
    network = network_of(address, bits_of_4=24, bits_of_6=48)
    return (browser_name(user_agent), network) if network is not None else None
