"""The JSON of the record: what may be asked (contract A1) and how an event is told."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from capecontrol.web.text_rules import one_line

MOST_LOGS = 1000
MOST_DAYS = 90
MOST_HOURS = 168


def _one_line(value: str, info: ValidationInfo) -> str:
    label = (info.field_name or "text").replace("_", " ").capitalize()
    return one_line(value, label=label, limit=1000)


def _moment_or_day(value: Any) -> datetime | date:
    """Read `2026-11-24` as that day and anything longer as a moment, which is UTC unless it names a zone."""
    try:
        text = str(value)
        if len(text) == len("2026-11-24"):
            return date.fromisoformat(text)
        if "T" in text:
            text = text.replace(" ", "+")  # as which a plus sign arrives that nobody escaped
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("Give a day such as 2026-11-24 or a moment such as 2026-11-24T09:30:00Z.") from None


Line = Annotated[str, AfterValidator(_one_line)]
MomentOrDay = Annotated[
    Any,
    BeforeValidator(_moment_or_day),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}),
]


class LogsQuery(BaseModel):
    """Which events to list; all of it optional, all of it together."""

    event_category: Line | None = Field(default=None, max_length=50, description="Exactly this category.")
    event_type: Line | None = Field(default=None, max_length=100, description="Exactly this event, or its synonym.")
    user_id: Line | None = Field(default=None, max_length=320, description="An account's id, or an e-mail address.")
    start_date: MomentOrDay | None = Field(default=None, description="From this day or moment on.")
    end_date: MomentOrDay | None = Field(default=None, description="Until this day or moment, itself included.")
    success_only: bool | None = Field(
        default=None, description="true: what was done; false: what was refused; absent: both."
    )
    min_risk_score: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Above 0, events without a score are left out; only those of an inherited log have one.",
    )
    q: Line | None = Field(
        default=None, max_length=200, description="Part of the description, the e-mail address or the event's name."
    )
    limit: int = Field(default=50, ge=1, le=MOST_LOGS)
    cursor: str | None = Field(default=None, max_length=200, description="`next` of the page before.")


class ExportQuery(BaseModel):
    """Which events to export and as what; all the filters together."""

    format: Literal["ndjson", "csv", "json"] = Field(default="ndjson", description="What the file is.")
    start_date: MomentOrDay | None = Field(default=None, description="From this day or moment on.")
    end_date: MomentOrDay | None = Field(default=None, description="Until this day or moment, itself included.")
    event_type: Line | None = Field(default=None, max_length=100, description="Exactly this event.")
    user_id: Line | None = Field(default=None, max_length=320, description="An account's id, or an e-mail address.")
    success_only: bool | None = Field(
        default=None, description="true: what was done; false: what was refused; absent: both."
    )


class LogRow(BaseModel):
    """One event. `id` is its number and `event_id` its identity; `created_at` is when it happened. Only events of an
    inherited log have a `status_code`, a `response_time_ms` and a `risk_score`; null says that nobody judged it."""

    id: int
    event_id: str
    user_id: str | None
    user_email: str | None
    user_role: str | None
    subject_id: str | None
    event_type: str
    event_category: str
    event_level: str
    event_description: str
    ip_address: str | None
    user_agent: str | None
    endpoint: str | None
    http_method: str | None
    status_code: int | None
    response_time_ms: int | None
    success: bool
    error_message: str | None
    metadata: dict[str, Any]
    risk_score: int | None
    created_at: datetime
    event_timestamp: datetime


class LogsAnswer(BaseModel):
    """A page of events, newest first. With `q`, a category or a risk score a page may be short, even empty, and
    still have a `next`: each request looks through a bounded part of the log."""

    logs: list[LogRow]
    next: str | None


class StatisticsQuery(BaseModel):
    """How many days back, today included."""

    days: int = Field(default=7, ge=1, le=MOST_DAYS)


class TopUser(BaseModel):
    """A person, and how many of the newest 5,000 events of the period are theirs."""

    email: str
    event_count: int


class StatisticsAnswer(BaseModel):
    """The log in numbers. The days are UTC's, today as far as it has come; one day is the last 24 hours by the hour.
    `success_rate` is of 100. `high_risk_events` are those of a risk score of 70 or more, which only an inherited log
    has: 0 says nothing about the risk of events without a score."""

    period_days: int
    total_events: int
    failed_events: int
    high_risk_events: int
    success_rate: float
    events_by_category: dict[str, int]
    top_users: list[TopUser]


class SecurityEventsQuery(BaseModel):
    """How many hours back, and of which level."""

    hours: int = Field(default=24, ge=1, le=MOST_HOURS)
    severity: Literal["info", "warning", "error", "critical"] | None = None
    limit: int = Field(default=50, ge=1, le=MOST_LOGS)
    cursor: str | None = Field(default=None, max_length=200, description="`next` of the page before.")


class SecurityEvent(BaseModel):
    """Something an administrator should look at; into what `requires_investigation`, somebody should look closely: by
    its level, its name or its risk score, which only events of an inherited log have."""

    id: int
    event_type: str
    event_description: str
    ip_address: str | None
    user_id: str | None
    user_email: str | None
    risk_score: int | None
    threat_indicators: list[str]
    created_at: datetime
    requires_investigation: bool


class SecurityEventsAnswer(BaseModel):
    """A page of security events, newest first."""

    logs: list[SecurityEvent]
    next: str | None


class UserActivityQuery(BaseModel):
    """How many days back, and of which categories."""

    days: int = Field(default=30, ge=1, le=MOST_DAYS)
    categories: Line | None = Field(default=None, max_length=500, description="Names, with commas between them.")


class UserActivityAnswer(BaseModel):
    """What one person did: the newest 1,000 events, how many there are (10,001 stands for more than 10,000; of given
    categories, among the newest 5,000), and how many of each category among the newest 5,000."""

    user_id: str
    period_days: int
    total_events: int
    event_categories: dict[str, int]
    events: list[LogRow]


class FailedLoginsQuery(BaseModel):
    """How many hours back, and from which address."""

    hours: int = Field(default=24, ge=1, le=MOST_HOURS)
    ip_address: Line | None = Field(default=None, max_length=45)


class FailedLoginsAnswer(BaseModel):
    """Failed sign-ins: the newest 1,000, and how many there are; 10,001 stands for more than 10,000."""

    period_hours: int
    ip_filter: str | None
    total_failed_attempts: int
    attempts: list[LogRow]


class EventTypesAnswer(BaseModel):
    """The words the record is written in."""

    event_types: list[str]
    event_categories: list[str]
    event_levels: list[str]
