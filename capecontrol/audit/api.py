"""The record as JSON: contract A1's lists, A2's file, and A3, that nothing can be deleted from it."""

from datetime import date, datetime, timedelta

from flask import Blueprint, Response, current_app, jsonify, request

from capecontrol.audit import events, export, queries
from capecontrol.audit.queries import EventDetail, Filters
from capecontrol.audit.recorder import record_refusal
from capecontrol.audit.schemas import EventTypesAnswer, ExportQuery, LogRow, LogsAnswer, LogsQuery
from capecontrol.auth.identity import actor_or_none, admin_required, login_required, public, signed_in
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
    wanted = export.Wanted.of(
        query.format,
        start=query.start_date,
        end=query.end_date,
        event=query.event_type,
        person=query.user_id,
        success=query.success_only,
    )
    if request.method == "HEAD":
        return Response(content_type=export.FORMATS[wanted.format])  # nothing leaves, so nothing is recorded
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    begun = export.begin(wanted, actor=signed_in(), scope=app.app_context, give_back=streams.take_file_place())
    return streams.attachment(
        begun.chunks(), close=begun.close, content_type=export.FORMATS[wanted.format], filename=wanted.filename
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
    record_refusal(events.ACCESS_DENIED, actor=actor_or_none(), error=sentence, details={"wanted": request.endpoint})
    response = jsonify(Problem(detail=sentence).model_dump())
    response.status_code = 405
    response.headers["Allow"] = "GET, HEAD, OPTIONS"
    return response


def _filters(query: LogsQuery, *, for_person: str | None) -> Filters:
    outcomes = {None: None, True: "success", False: "refused"}
    return Filters(
        event=query.event_type,
        category=query.event_category,
        outcome=outcomes[query.success_only],  # type: ignore[arg-type]
        person=query.user_id,
        after=_first_moment(query.start_date),
        before=_moment_after(query.end_date),
        min_risk_score=query.min_risk_score,
        q=query.q,
        for_person=for_person,
    )


def _first_moment(given: datetime | date | None) -> datetime | None:
    return queries.start_of(given) if given is not None and not isinstance(given, datetime) else given


def _moment_after(given: datetime | date | None) -> datetime | None:
    """Return the first moment that no longer counts; PostgreSQL keeps time to the microsecond."""
    if given is None:
        return None
    if not isinstance(given, datetime):
        return queries.end_of(given)
    step = timedelta(microseconds=1)
    return given + step if given < datetime.max.replace(tzinfo=given.tzinfo) - step else given


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
