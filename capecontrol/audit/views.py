"""The audit log for administrators, and everybody's own activity."""

from typing import Any
from uuid import UUID

from flask import Blueprint, render_template, request, url_for

from capecontrol.audit import filtering, queries
from capecontrol.audit.filtering import Filters
from capecontrol.audit.forms import FilterForm
from capecontrol.audit.queries import Page
from capecontrol.auth.identity import admin_required, login_required, signed_in
from capecontrol.errors import Invalid
from capecontrol.web import pagination
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
    kept = {name: request.args.get(name) for name in form.data if request.args.get(name)}
    return render_template(
        "audit/search.html",
        events=page.events,
        filters=form,
        event_types=event_types,
        **_links("audit.search", page, kept),
    )


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
        after=filtering.start_of(form.after.data) if form.after.data else None,
        before=filtering.end_of(form.before.data) if form.before.data else None,
    )
