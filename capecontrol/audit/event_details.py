"""An event as it is read: with the person's name, told as a sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, column, select, table

from capecontrol.audit import events
from capecontrol.audit.models import AuditLog
from capecontrol.audit.secret_keys import without_secrets
from capecontrol.audit.sentences import Happening

Tell = Callable[[Happening], str]

log = AuditLog.__table__
# What is read here of people; their feature is above this one.
people = table(
    "users_v2",
    column("id"),
    column("full_name"),
    column("email"),
    column("email_key"),
    column("user_role"),
    column("is_active"),
    column("created_at"),
    column("last_login_at"),
)


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as a list shows it. `person` is the label to show, an address; `level` is the event's own."""

    event_id: str
    created_at: datetime
    event_type: str
    sentence: str
    success: bool
    person: str | None
    ip_address: str | None
    level: str

    @property
    def url(self) -> str:
        """Where administrators read all of it, without the host."""
        return f"/audit/{self.event_id}"


@dataclass(frozen=True, slots=True)
class EventDetail(EventLine):
    """An event with all that is known about it."""

    id: int
    recorded_at: datetime
    event_category: str
    event_description: str | None
    user_id: str | None
    actor_ref: str | None
    user_email: str | None
    user_role: str | None
    subject_id: str | None
    session_id: str | None
    user_agent: str | None
    endpoint: str | None
    http_method: str | None
    request_id: str | None
    status_code: int | None
    response_time_ms: int | None
    error_message: str | None
    event_metadata: dict[str, Any]
    risk_score: int | None

    @property
    def person_ref(self) -> str | None:
        """What finds everything about the person: the account's id, also of one that is gone, or else the address."""
        return self.user_id or self.actor_ref or self.user_email

    @property
    def conversation_id(self) -> str | None:
        """The conversation the event is about, if it is about one."""
        is_about_one = self.event_type in events.ABOUT_CONVERSATIONS or (
            self.event_type == events.ACCESS_DENIED.name and self.event_metadata.get("wanted") == "conversation"
        )
        return self.subject_id if is_about_one else None

    @property
    def reason(self) -> str | None:
        """Why staff read a conversation, in their own words; None for every other event, and once it is erased."""
        return self.event_description if self.event_type == events.CONVERSATION_READ_BY_STAFF.name else None

    @property
    def who(self) -> str:
        """Who it was, to show; whoever acted was somebody, also when nothing personal is left of them."""
        return self.person or ("an erased account" if self.actor_ref else "nobody signed in")


def with_names(found: Select[tuple[Any, ...]]) -> Select[tuple[Any, ...]]:
    """Add to rows of the log the name of the person each belongs to."""
    inner = found.subquery()
    return select(inner, people.c.full_name).outerjoin(people, people.c.id == inner.c.user_id)


def detail_of(row: Row[Any], tell: Tell) -> EventDetail:
    """Return a row of `with_names` as an event, told by `tell`, its times in UTC whatever the server's zone is."""
    fields = {name: getattr(row, name) for name in _STORED}
    fields |= {name: fields[name].astimezone(UTC) for name in ("created_at", "recorded_at")}
    details = row.event_metadata if isinstance(row.event_metadata, dict) else {}
    is_unproven = row.actor_ref is None and not row.success  # somebody gave this address; it names nobody
    happening = Happening(
        kind=row.event_type,
        success=row.success,
        who=row.user_email if is_unproven else row.full_name or row.user_email,
        has_actor=row.actor_ref is not None,
        details=details,
    )
    fields["event_metadata"] = without_secrets(details)
    return EventDetail(
        **fields, sentence=tell(happening), person=row.user_email or row.full_name, level=row.event_level
    )


_STORED = tuple(
    name for name in EventDetail.__dataclass_fields__ if name not in ("sentence", "person", "level") and name in log.c
)
