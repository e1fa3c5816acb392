"""The audit log for administrators, and everybody's own activity."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, current_app, render_template, request, url_for

from capecontrol.audit import export as exporting
from capecontrol.audit import queries
from capecontrol.audit.forms import ExportForm, FilterForm
from capecontrol.audit.queries import Filters, Page
from capecontrol.auth.identity import admin_required, login_required, signed_in
from capecontrol.errors import Invalid
from capecontrol.web import pagination, streams
from capecontrol.web.pagination import Position

pages = Blueprint("audit", __name__)


@pages.get("/audit")
@admin_required
def search() -> str | tuple[str, int]:
    """Show what happened, newest first, by the filters in the address."""
    event_types = queries.list_event_types()
    form = FilterForm(request.args, event_types=event_types)
    if not form.validate():
        return _search_page(form, event_types, Page((), None, None)), 422
    try:
        older, newer = _cursor("older"), _cursor("newer")
    except Invalid:
        form.form_errors.append("This page's address was changed on its way. Filter again to begin with the newest.")
        return _search_page(form, event_types, Page((), None, None)), 422
    if newer is not None:
        page = queries.search_newer(_filters(form), position=newer)
    else:
        page = queries.search(_filters(form), position=older)
    return _search_page(form, event_types, page)


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
    wanted = exporting.Wanted.of(
        form.format.data,
        start=form.after.data,
        end=form.before.data,
        event=form.event.data or None,
        person=form.person.data or None,
        success={"success": True, "refused": False}.get(form.outcome.data or ""),
    )
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    begun = exporting.begin(wanted, actor=signed_in(), scope=app.app_context, give_back=streams.take_file_place())
    return streams.attachment(
        begun.chunks(), close=begun.close, content_type=exporting.FORMATS[wanted.format], filename=wanted.filename
    )


@pages.get("/audit/<uuid:event_id>")
@admin_required
def show(event_id: UUID) -> str:
    """Show one event with all that is known about it."""
    return render_template("audit/show.html", event=queries.get_event(str(event_id)))


@pages.get("/account/activity")
@login_required
def activity() -> str:
    """Show what is recorded about oneself."""
    page = queries.list_own(signed_in().id, position=_cursor("older"))
    return render_template("audit/activity.html", events=page.events, **_links("audit.activity", page, {}))


def _search_page(form: FilterForm, event_types: list[str], page: Page) -> str:
    kept: dict[str, Any] = {name: request.args.get(name) for name in form.data if request.args.get(name)}
    return render_template(
        "audit/search.html",
        events=page.events,
        filters=form,
        event_types=event_types,
        export=url_for("audit.export", **kept),
        **_links("audit.search", page, kept),
    )


def _export_page(form: ExportForm, event_types: list[str]) -> str:
    return render_template("audit/export.html", filters=form, event_types=event_types)


def _links(endpoint: str, page: Page, kept: dict[str, Any]) -> dict[str, str | None]:
    """Return where the neighbouring pages are, with the filters kept: addresses can be bookmarked and sent on."""

    def to(name: str, position: Position | None) -> str | None:
        return url_for(endpoint, **(kept | {name: pagination.encode(*position)})) if position else None

    is_further = "older" in request.args or "newer" in request.args
    return {
        "older": to("older", page.older),
        "newer": to("newer", page.newer),
        "newest": url_for(endpoint, **kept) if is_further else None,
    }


def _cursor(name: str) -> Position | None:
    return pagination.decode(request.args.get(name))


def _filters(form: FilterForm) -> Filters:
    return Filters(
        event=form.event.data or None,
        person=form.person.data or None,
        outcome=form.outcome.data or None,
        after=queries.start_of(form.after.data) if form.after.data else None,
        before=queries.end_of(form.before.data) if form.before.data else None,
    )
