"""The audit log for administrators, and everybody's own activity."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from capecontrol import clock
from capecontrol.audit import charts, neighbours, people, queries, query_language, security, statistics
from capecontrol.audit import export as exporting
from capecontrol.audit.export_formats import FORMATS
from capecontrol.audit.export_rows import Wanted
from capecontrol.audit.forms import ExportForm, FilterForm, fields_of
from capecontrol.audit.queries import Page
from capecontrol.audit.query_language import Query
from capecontrol.audit.schemas import MOST_DAYS
from capecontrol.auth.identity import admin_required, login_required, signed_in
from capecontrol.errors import Invalid
from capecontrol.web import pagination, streams
from capecontrol.web.pagination import Position

pages = Blueprint("audit", __name__)

READY_MADE = (
    ("Failed sign-ins today", "event:user_login_failed after:today"),
    ("Refused in the last 24 hours", "outcome:refused after:24h"),
    ("New accounts this week", "event:user_registration after:7d"),
    ("Role changes", "event:role_changed"),
    ("Access denied", "event:access_denied"),
    ("Slowed down by a limit", "event:rate_limit_exceeded"),
    ("Conversations deleted", "event:conversation_deleted"),
    ("Conversations read by staff", "event:conversation_read_by_staff"),
)
SPANS = {1: "24 hours", 7: "7 days", 30: "30 days", 90: "90 days"}
HOURS = {24: "24 hours", 72: "3 days", 168: "7 days"}
TAIL_OVERLAP = timedelta(seconds=10)
"""How far back new events are asked for: one that took its time to commit is older than what is shown already."""

_FIELDS = ("event", "person", "outcome", "ip", "after", "before", "words")
Answer = str | tuple[str, int] | Response


@pages.get("/audit")
@admin_required
def search() -> Answer:
    """Show what happened, newest first, by the query in the address. The fields beside it lead to such an address."""
    event_types = queries.list_event_types()
    if any(name in request.args for name in _FIELDS):
        fields = FilterForm(request.args, event_types=event_types)
        if not fields.validate():
            return _search_page(_asked(event_types), event_types, fields=fields), 422
        kept: dict[str, Any] = {name: request.args[name] for name in ("older", "newer") if name in request.args}
        written = query_language.written(fields.as_query(beside=request.args.get("q", "")))
        return redirect(url_for("audit.search", q=written or None, **kept), 303)
    query = _asked(event_types)
    if query.problems:
        return _search_page(query, event_types), 422
    try:
        older, newer = _cursor("older"), _cursor("newer")
    except Invalid:
        sentence = "This page's address was changed on its way. Search again to begin with the newest."
        return _search_page(replace(query, problems=(sentence,)), event_types), 422
    if newer is not None:
        page = queries.search_newer(query.filters, position=newer)
    else:
        page = queries.search(query.filters, position=older)
    return _search_page(query, event_types, page)


@pages.get("/audit/tail")
@admin_required
def tail() -> Answer:
    """Show the rows that came since, for the open page to take in."""
    query = _asked(queries.list_event_types())
    position = _cursor("newer")
    if query.problems or position is None:
        raise Invalid({"q": list(query.problems) or ["This address is not complete."]})
    page = queries.search_newer(query.filters, position=position)
    return render_template(
        "audit/_tail.html",
        events=page.events,
        has_more=page.newer is not None,
        tail=_tail_address(query, page.newer or (_overlapping(page) if page.events else position)),
    )


@pages.get("/audit/export")
@admin_required
def export() -> str:
    """Show what can be exported; filters in the address are filled in."""
    event_types = queries.list_event_types()
    return _export_page(ExportForm(request.args or None, event_types=event_types), event_types)


@pages.post("/audit/export")
@admin_required
def download() -> Response | tuple[str, int]:
    """Send the record as a file."""
    event_types = queries.list_event_types()
    form = ExportForm(request.form, event_types=event_types)
    if not form.validate():
        return _export_page(form, event_types), 422
    wanted = Wanted.of(
        form.format.data,
        start=form.after.data,
        end=form.before.data,
        event=form.event.data or None,
        person=form.person.data or None,
        success={"success": True, "refused": False}.get(form.outcome.data or ""),
    )
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    actor = signed_in()
    begun = exporting.begin(wanted, actor=actor, scope=app.app_context, give_back=streams.take_file_place(actor.id))
    return streams.attachment(
        begun.chunks(), close=begun.close, content_type=FORMATS[wanted.format], filename=wanted.filename
    )


@pages.get("/audit/<uuid:event_id>")
@admin_required
def show(event_id: UUID) -> str:
    """Show one event with all that is known about it, and what stands round it."""
    event = queries.get_event(str(event_id))
    return render_template("audit/show.html", event=event, neighbours=neighbours.around(event))


@pages.get("/audit/security")
@admin_required
def list_security() -> Answer:
    """Show what an administrator should look at."""
    hours = _chosen("hours", HOURS, 24)
    page = security.list_events(hours=hours, position=_cursor("older"))
    return render_template(
        "audit/security.html",
        events=page.events,
        hours=hours,
        spans=HOURS,
        **_links("audit.list_security", page, {"hours": hours}),
    )


@pages.get("/audit/failed-sign-ins")
@admin_required
def list_failed_sign_ins() -> str:
    """Show failed sign-ins by address and by person."""
    hours = _chosen("hours", HOURS, 24)
    return render_template(
        "audit/failed_sign_ins.html",
        found=security.group_failed_sign_ins(hours=hours),
        grouped=security.GROUPED,
        most=queries.MOST_COUNTED,
        hours=hours,
        spans=HOURS,
    )


@pages.get("/audit/statistics")
@admin_required
def show_statistics() -> str:
    """Show the log in numbers."""
    found = statistics.over_days(_chosen("days", range(1, MOST_DAYS + 1), 7))
    since = found.since.date().isoformat()
    return render_template(
        "audit/statistics.html",
        found=found,
        chart=charts.draw(found.by_time),
        spans=SPANS,
        category_rows=[
            (each.name, _search_for(category=each.name, after=since), each.total, each.refused)
            for each in found.by_category
        ],
        event_rows=[
            (each.name, _search_for(event=each.name, after=since), each.total, each.refused)
            for each in found.by_event[: statistics.LISTED]
        ],
        address_rows=[
            (each.name, _search_for(ip=each.name, outcome="refused", after=since), each.count, each.count)
            for each in found.addresses
        ],
        person_rows=[(each.name, _search_for(actor=each.name, after=since), each.count, 0) for each in found.people],
    )


@pages.get("/audit/people/<path:reference>")
@admin_required
def show_person(reference: str) -> str:
    """Show what is recorded about one person, by an account's id or an address."""
    person = people.get_portrait(reference)
    page = queries.search(people.everything_about(person), position=_cursor("older"))
    return render_template(
        "audit/person.html",
        person=person,
        activity=people.summarize(person, days=30),
        most=queries.MOST_COUNTED,
        events=page.events,
        **_links("audit.show_person", page, {"reference": reference}),
    )


@pages.get("/account/activity")
@login_required
def activity() -> str:
    """Show what is recorded about oneself."""
    page = queries.list_own(signed_in().id, position=_cursor("older"))
    return render_template("audit/activity.html", events=page.events, **_links("audit.activity", page, {}))


@pages.context_processor
def _for_templates() -> dict[str, Any]:
    return {"search_for": _search_for, "page_of": _page_of}


def _search_for(**fields: str) -> str | None:
    """Return where events are found by these fields, whatever stands in them; None for what no query can hold."""
    if not all(map(query_language.can_hold, fields.values())):
        return None
    return url_for("audit.search", q=query_language.written(fields))


def _page_of(reference: str | None) -> str | None:
    """Return where somebody is followed through the log; None for what no address can hold."""
    if reference is None or not query_language.can_hold(reference):
        return None
    return url_for("audit.show_person", reference=reference)


def _asked(event_types: list[str]) -> Query:
    return query_language.parse(request.args.get("q", ""), now=clock.now(), event_types=event_types)


def _search_page(
    query: Query, event_types: list[str], page: Page | None = None, *, fields: FilterForm | None = None
) -> str:
    found = page or Page((), None, None)
    kept = {"q": query.text} if query.text else {}
    links = _links("audit.search", found, kept)
    is_live = page is not None and links["newest"] is None and query.filters.before is None
    return render_template(
        "audit/search.html",
        query=query,
        typed=request.args.get("q", ""),
        fields=fields or fields_of(query, event_types=event_types),
        event_types=event_types,
        ready_made=READY_MADE,
        events=found.events,
        has_answer=page is not None,
        count=queries.count_up_to(query.filters) if page is not None else None,
        most=queries.MOST_COUNTED,
        looked_back_to=found.looked_back_to,
        looked_through=found.looked_through,
        tail=_tail_address(query, _overlapping(found)) if is_live else None,
        export=_export_address(query),
        **links,
    )


def _export_page(form: ExportForm, event_types: list[str]) -> str:
    return render_template("audit/export.html", filters=form, event_types=event_types)


def _export_address(query: Query) -> str:
    """Return where the same events can be exported, as far as the export's filters go."""
    filters = query.filters
    event = filters.event[0] if isinstance(filters.event, tuple) and len(filters.event) == 1 else None
    kept: dict[str, Any] = {
        "event": event,
        "person": query.value_of("actor") or None,
        "outcome": filters.outcome,
        "after": filters.after.date().isoformat() if filters.after else None,
        "before": query.last_day.isoformat() if query.last_day else None,
    }
    return url_for("audit.export", **kept)


def _overlapping(page: Page) -> Position:
    newest = page.events[0].created_at if page.events else clock.now()
    return Position(newest - TAIL_OVERLAP, "0")


def _tail_address(query: Query, position: Position) -> str:
    return url_for("audit.tail", q=query.text or None, newer=pagination.encode(*position))


def _chosen(name: str, choices: Any, usual: int) -> int:
    """Return a number of the address. Raises Invalid for one that is not on offer."""
    given = request.args.get(name, "")
    if not given:
        return usual
    if not (given.isascii() and given.isdigit() and len(given) < 4 and int(given) in choices):
        raise Invalid({name: [f"There is no page for this number of {name}."]})
    return int(given)


def _links(endpoint: str, page: Page, kept: Mapping[str, Any]) -> dict[str, str | None]:
    """Return where the neighbouring pages are, with the query kept: addresses can be bookmarked and sent on."""

    def to(name: str, position: Position | None) -> str | None:
        return url_for(endpoint, **{**kept, name: pagination.encode(*position)}) if position else None

    is_further = "older" in request.args or "newer" in request.args
    return {
        "older": to("older", page.older),
        "newer": to("newer", page.newer),
        "newest": url_for(endpoint, **kept) if is_further else None,
    }


def _cursor(name: str) -> Position | None:
    return pagination.decode(request.args.get(name))
