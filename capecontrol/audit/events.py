"""The closed list of events: stored name, category, level, and the details each one must carry.

Stored names are public interface: they are read by people, filters and other systems, and are never respelt.
"""

from dataclasses import dataclass, field

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


_listed: dict[str, Event] = {}


def _event(name: str, category: str, *details: str, level: str = "info") -> Event:
    event = Event(name, category, level, frozenset(details))
    if name in _listed or category not in CATEGORIES or level not in LEVELS:
        raise ValueError(f"event {name} is listed twice or badly")
    _listed[name] = event
    return event


def all_events() -> dict[str, Event]:
    """Return every event by its stored name."""
    return dict(_listed)


# Accounts. `method` says by which door: page, api, token, an older page, and so on.
USER_REGISTRATION = _event("user_registration", "authentication", "method", "role", "terms_source")
USER_REGISTRATION_FAILED = _event("user_registration_failed", "authentication", "method", "reason", level="warning")
USER_LOGIN = _event("user_login", "authentication", "method", "remembered")
USER_LOGIN_FAILED = _event("user_login_failed", "authentication", "method", "reason", level="warning")
USER_LOGOUT = _event("user_logout", "authentication", "method")
SESSION_ENDED = _event("session_ended", "authentication", "ended_session")
# A process's checks of addresses, at most one event a minute: how many, of these taken, and how many turned away.
EMAIL_CHECKS = _event("email_checks", "security", "checked", "taken", "refused")
PROFILE_UPDATED = _event("profile_updated", "profile", "fields")
ROLE_CHANGED = _event("role_changed", "admin", "old", "new", level="warning")

# The record itself. `audit_degraded` comes with the first event that could be written again.
AUDIT_DEGRADED = _event("audit_degraded", "system", "reason", "swallowed", "seconds", level="error")
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
AI_PROMPT_SUBMITTED = _event("ai_prompt_submitted", "ai_service", "message_id", "characters")
AI_PROMPT_REFUSED = _event("ai_prompt_refused", "ai_service", "reason", level="warning")
AI_RESPONSE_GENERATED = _event(
    "ai_response_generated", "ai_service", "message_id", "provider", "characters", "milliseconds"
)
AI_RESPONSE_FAILED = _event("ai_response_failed", "ai_service", "message_id", "provider", "reason", level="error")

# Filling a database for show.
DEMO_FILLED = _event("demo_filled", "system", "people", "conversations")
