"""The record as JSON: contract A1's lists and numbers, A2's file, and A3, that nothing can be deleted from it."""

from flask import Blueprint, Response, current_app, jsonify, request

from capecontrol.audit import events, export, filtering, people, queries, security, statistics
from capecontrol.audit.event_details import EventDetail
from capecontrol.audit.export_formats import FORMATS
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.filtering import Filters
from capecontrol.audit.schemas import (
    EventTypesAnswer,
    ExportQuery,
    FailedLoginsAnswer,
    FailedLoginsQuery,
    LogRow,
    LogsAnswer,
    LogsQuery,
    SecurityEvent,
    SecurityEventsAnswer,
    SecurityEventsQuery,
    StatisticsAnswer,
    StatisticsQuery,
    TopUser,
    UserActivityAnswer,
    UserActivityQuery,
)
from capecontrol.auth.identity import admin_required, login_required, public, record_denied, signed_in
from capecontrol.errors import Invalid, NotFound
from capecontrol.web import pagination, streams
from capecontrol.web.json_requests import read_query
from capecontrol.web.openapi import Problem, describes
from capecontrol.web.rate_limits import Limit, limited

endpoints = Blueprint("audit_api", __name__, url_prefix="/api/audit")

# Each try is an event, and strangers may try: this keeps them from filling the record.
DELETE_AUDIT = Limit("delete_audit", hits=30, seconds=60)


@endpoints.get("/logs")
@login_required
@describes(
    "What happened, newest first: everything for administrators, one's own for others.",
    query=LogsQuery,
    answers={200: LogsAnswer},
)
def list_logs() -> Response:
    """A1."""
    actor = signed_in()
    query = read_query(LogsQuery)
    page = queries.search(
        _filters(query, for_person=None if actor.is_admin else actor.id),
        position=pagination.decode(query.cursor),
        limit=query.limit,
    )
    answer = LogsAnswer(
        logs=[_row(event) for event in page.events], next=pagination.encode(*page.older) if page.older else None
    )
    return jsonify(answer.model_dump(mode="json"))


@endpoints.get("/logs/<reference>")
@login_required
@describes("One event, by its event id or its number.", answers={200: LogRow})
def show_log(reference: str) -> Response:
    """A1."""
    actor = signed_in()
    event = queries.get_event(reference, for_person=None if actor.is_admin else actor.id)
    return jsonify(_row(event).model_dump(mode="json"))


@endpoints.get("/statistics")
@admin_required
@describes("The log in numbers.", query=StatisticsQuery, answers={200: StatisticsAnswer})
def show_statistics() -> Response:
    """A1."""
    query = read_query(StatisticsQuery)
    found = statistics.over_days(query.days)
    answer = StatisticsAnswer(
        period_days=found.days,
        total_events=found.total,
        failed_events=found.refused,
        high_risk_events=found.high_risk,
        success_rate=found.success_rate,
        events_by_category={tally.name: tally.total for tally in found.by_category},
        top_users=[TopUser(email=each.name, event_count=each.count) for each in found.people],
    )
    return jsonify(answer.model_dump())


@endpoints.get("/security-events")
@admin_required
@describes(
    "What an administrator should look at, newest first: refusals, warnings, failed sign-ins.",
    query=SecurityEventsQuery,
    answers={200: SecurityEventsAnswer},
)
def list_security_events() -> Response:
    """A1."""
    query = read_query(SecurityEventsQuery)
    page = security.list_events(
        hours=query.hours, level=query.severity, position=pagination.decode(query.cursor), limit=query.limit
    )
    answer = SecurityEventsAnswer(
        logs=[_security_event(event) for event in page.events],
        next=pagination.encode(*page.older) if page.older else None,
    )
    return jsonify(answer.model_dump(mode="json"))


@endpoints.get("/user-activity/<user_id>")
@login_required
@describes(
    "What one person did: anybody for administrators, oneself for others.",
    query=UserActivityQuery,
    answers={200: UserActivityAnswer},
)
def show_user_activity(user_id: str) -> Response:
    """A1."""
    actor = signed_in()
    if not actor.is_admin and user_id != actor.id:
        raise NotFound("The record knows nobody of that id or address.")
    query = read_query(UserActivityQuery)
    categories = _categories(query.categories)
    person = people.get_portrait(user_id)
    for_person = None if actor.is_admin else actor.id
    activity = people.summarize(person, days=query.days, categories=categories, for_person=for_person)
    listed = people.list_activity(person, days=query.days, categories=categories, for_person=for_person)
    answer = UserActivityAnswer(
        user_id=user_id,
        period_days=activity.days,
        total_events=activity.total,
        event_categories=activity.by_category,
        events=[_row(event) for event in listed],
    )
    return jsonify(answer.model_dump(mode="json"))


@endpoints.get("/failed-logins")
@admin_required
@describes("Failed sign-ins, newest first.", query=FailedLoginsQuery, answers={200: FailedLoginsAnswer})
def list_failed_logins() -> Response:
    """A1."""
    query = read_query(FailedLoginsQuery)
    page, total = security.list_failed_sign_ins(hours=query.hours, ip=query.ip_address)
    answer = FailedLoginsAnswer(
        period_hours=query.hours,
        ip_filter=query.ip_address,
        total_failed_attempts=total,
        attempts=[_row(event) for event in page.events],
    )
    return jsonify(answer.model_dump(mode="json"))


@endpoints.get("/event-types")
@login_required
@describes("The words the record is written in.", answers={200: EventTypesAnswer})
def list_event_types() -> Response:
    """A1."""
    answer = EventTypesAnswer(
        event_types=queries.list_event_types(),
        event_categories=list(events.CATEGORIES),
        event_levels=list(events.LEVELS),
    )
    return jsonify(answer.model_dump())


@endpoints.get("/export")
@admin_required
@describes(
    "The record as a file, oldest event first. That it was exported is recorded too. A file that breaks off says so in "
    "its last line.",
    query=ExportQuery,
    answers={200: None},
    answer_type=("application/x-ndjson", "text/csv", "application/json"),
)
def export_logs() -> Response:
    """A2."""
    query = read_query(ExportQuery)
    wanted = Wanted.of(
        query.format,
        start=query.start_date,
        end=query.end_date,
        event=query.event_type,
        person=query.user_id,
        success=query.success_only,
    )
    if request.method == "HEAD":
        return Response(content_type=FORMATS[wanted.format])  # nothing leaves, so nothing is recorded
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    actor = signed_in()
    begun = export.begin(wanted, actor=actor, scope=app.app_context, give_back=streams.take_file_place(actor.id))
    return streams.attachment(
        begun.chunks(), close=begun.close, content_type=FORMATS[wanted.format], filename=wanted.filename
    )


@endpoints.delete("/logs")
@public
@describes("Refused: the log has no delete.", answers={405: None})
@limited(DELETE_AUDIT)
def refuse_delete_of_all() -> Response:
    """A3."""
    return _refuse_delete()


@endpoints.delete("/logs/<reference>")
@public
@describes("Refused: the log has no delete.", answers={405: None})
@limited(DELETE_AUDIT)
def refuse_delete(reference: str) -> Response:  # noqa: ARG001 -- whichever it is
    """A3."""
    return _refuse_delete()


def _refuse_delete() -> Response:
    sentence = "The audit log has no delete: what happened stays recorded. This try is recorded too."
    record_denied(sentence)
    response = jsonify(Problem(detail=sentence).model_dump())
    response.status_code = 405
    response.headers["Allow"] = "GET, HEAD, OPTIONS"
    return response


def _categories(text: str | None) -> tuple[str, ...]:
    """Return the categories of a list with commas. Raises Invalid for one there is not."""
    named = tuple(name for name in (each.strip() for each in (text or "").split(",")) if name)
    unknown = [name for name in named if name not in events.CATEGORIES]
    if unknown:
        listed = ", ".join(events.CATEGORIES)
        raise Invalid({"categories": [f"There is no category {unknown[0]}. There are {listed}."]})
    return named


def _security_event(event: EventDetail) -> SecurityEvent:
    return SecurityEvent(
        id=event.id,
        event_type=event.event_type,
        event_description=event.event_description or event.sentence,
        ip_address=event.ip_address,
        user_id=event.user_id,
        user_email=event.user_email,
        risk_score=event.risk_score,
        threat_indicators=security.threat_indicators(event),
        created_at=event.created_at,
        requires_investigation=security.needs_investigation(event),
    )


def _filters(query: LogsQuery, *, for_person: str | None) -> Filters:
    outcomes = {None: None, True: "success", False: "refused"}
    return Filters(
        event=query.event_type,
        category=query.event_category,
        outcome=outcomes[query.success_only],  # type: ignore[arg-type]
        person=query.user_id,
        after=filtering.first_moment(query.start_date),
        before=filtering.moment_after(query.end_date),
        min_risk_score=query.min_risk_score,
        q=query.q,
        for_person=for_person,
    )


def _row(event: EventDetail) -> LogRow:
    return LogRow(
        id=event.id,
        event_id=event.event_id,
        user_id=event.user_id,
        user_email=event.user_email,
        user_role=event.user_role,
        subject_id=event.subject_id,
        event_type=event.event_type,
        event_category=event.event_category,
        event_level=event.level,
        event_description=event.event_description or event.sentence,
        ip_address=event.ip_address,
        user_agent=event.user_agent,
        endpoint=event.endpoint,
        http_method=event.http_method,
        status_code=event.status_code,
        response_time_ms=event.response_time_ms,
        success=event.success,
        error_message=event.error_message,
        metadata=event.event_metadata,
        risk_score=event.risk_score,
        created_at=event.created_at,
        event_timestamp=event.created_at,
    )
