"""The closed list of events: stored name, category, level, and the details each one must carry.

Stored names are public interface: they are read by people, filters and other systems, and are never respelt.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

Durability = Literal["must", "durable", "best-effort"]
"""What happens when the table does not take an event (R11).

`must`: the event is on the disk of the spool, or the act is refused. `durable`: the act goes on; the event is on the
disk of the spool before the answer, or, when that fails too, in memory and on standard error. `best-effort`: it waits
in memory, where there is room for only so many.
"""

CATEGORIES = (
    "authentication",
    "authorization",
    "security",
    "ai_service",
    "profile",
    "admin",
    "data",
    "system",
    "request",
)
LEVELS = ("info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of thing that happens. Recording it with other details than `details` is a mistake and raises."""

    name: str
    category: str
    level: str = "info"
    details: frozenset[str] = field(default_factory=frozenset)
    durability: Durability = "durable"


_listed: dict[str, Event] = {}


def _event(name: str, category: str, *details: str, level: str = "info", durability: Durability = "durable") -> Event:
    event = Event(name, category, level, frozenset(details), durability)
    is_known = category in CATEGORIES and level in LEVELS and durability in get_args(Durability)
    if name in _listed or not is_known:
        raise ValueError(f"event {name} is listed twice or badly")
    _listed[name] = event
    return event


def all_events() -> dict[str, Event]:
    """Return every event by its stored name."""
    return dict(_listed)


def durability_of(name: str) -> Durability:
    """Return what happens to an event, by its stored name, when the table does not take it."""
    return _listed[name].durability


# Accounts. `method` says by which door: page, api, token, an older page, and so on.
USER_REGISTRATION = _event("user_registration", "authentication", "method", "role", "terms_source")
USER_REGISTRATION_FAILED = _event("user_registration_failed", "authentication", "method", "reason", level="warning")
# A process's registrations for which there was no room, at most one event a second: how many beside the one named.
REGISTRATIONS_TURNED_AWAY = _event("registrations_turned_away", "authentication", "number", level="warning")
USER_LOGIN = _event("user_login", "authentication", "method", "remembered")
USER_LOGIN_FAILED = _event("user_login_failed", "authentication", "method", "reason", level="warning")
USER_LOGOUT = _event("user_logout", "authentication", "method")
SESSION_ENDED = _event("session_ended", "authentication", "ended_session")
# `replaced`: whether what a newer form said took the place of what the account held until then.
EMAIL_VERIFIED = _event("email_verified", "authentication", "replaced")
# A process's checks of addresses, at most one event a minute: how many, of these taken, and how many turned away.
EMAIL_CHECKS = _event("email_checks", "security", "checked", "taken", "refused", durability="best-effort")
PROFILE_UPDATED = _event("profile_updated", "profile", "fields")
ROLE_CHANGED = _event("role_changed", "admin", "old", "new", level="warning", durability="must")

ALERT_ACKNOWLEDGED = _event("alert_acknowledged", "security", "alert")

# Refusals that no service sees.
ACCESS_DENIED = _event("access_denied", "authorization", "wanted", level="warning")
RATE_LIMIT_EXCEEDED = _event("rate_limit_exceeded", "security", "limit", level="warning")

# Conversations. What was said is never in the record; how much was said is.
CONVERSATION_STARTED = _event("conversation_started", "data")
CONVERSATION_RENAMED = _event("conversation_renamed", "data")
CONVERSATION_ARCHIVED = _event("conversation_archived", "data")
CONVERSATION_UNARCHIVED = _event("conversation_unarchived", "data")
CONVERSATION_DELETED = _event("conversation_deleted", "data", level="warning")
CONVERSATION_RESTORED = _event("conversation_restored", "data")
# Staff read somebody's conversation. Why, in their own words, is the event's description, which can be erased.
CONVERSATION_READ_BY_STAFF = _event(
    "conversation_read_by_staff", "admin", "owner_id", level="warning", durability="must"
)
AI_PROMPT_SUBMITTED = _event("ai_prompt_submitted", "ai_service", "message_id", "characters")
AI_PROMPT_REFUSED = _event("ai_prompt_refused", "ai_service", "reason", level="warning")
AI_RESPONSE_GENERATED = _event(
    "ai_response_generated",
    "ai_service",
    "message_id",
    "provider",
    "characters",
    "milliseconds",
    durability="best-effort",
)
AI_RESPONSE_FAILED = _event("ai_response_failed", "ai_service", "message_id", "provider", "reason", level="error")

ABOUT_CONVERSATIONS = frozenset(name for name in _listed if name.startswith(("conversation_", "ai_")))
"""The names of the events whose subject is a conversation."""

# The record about itself: a time in which a process could not write events, and events it had no room for.
AUDIT_DEGRADED = _event("audit_degraded", "system", "swallowed", "reasons", "began_at", "ended_at", level="error")
AUDIT_EVENTS_DROPPED = _event("audit_events_dropped", "system", "dropped", level="error")
# The record itself.
AUDIT_KEY_CHANGED = _event("audit_key_changed", "security", "key", level="warning", durability="must")
AUDIT_PURGED = _event("audit_purged", "admin", "rows", "before", level="warning", durability="must")
AUDIT_PSEUDONYMISED = _event("audit_pseudonymised", "admin", "rows", level="warning", durability="must")
# Something leaves as a file: announced before its first byte, and told again at its end. `events` is how many there
# are to be, counted only so far, and then how many there were.
DATA_EXPORT = _event(
    "data_export", "data", "what", "export_id", "format", "filters", "events", level="warning", durability="must"
)
ONLY_EVENTS_OF = "An export of the audit log: only the events of %s."
"""What such an export's description says of an address that has no account; erasure finds it by these words."""

DATA_EXPORT_ENDED = _event("data_export_ended", "data", "export_id", "format", "events", "bytes")

# Filling a database for show.
DEMO_FILLED = _event("demo_filled", "system", "people", "conversations")
