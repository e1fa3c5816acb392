"""The help pages, and the JSON described for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from flask import Blueprint, current_app, render_template
from markupsafe import Markup

from capecontrol.auth.identity import public
from capecontrol.help.pages import get_page, list_pages
from capecontrol.web import rendering
from capecontrol.web.openapi import list_operations

pages = Blueprint("help", __name__, url_prefix="/help")


@dataclass(frozen=True, slots=True)
class ReadablePage:
    """A help page as it is drawn; `sections` are the anchors and titles of its contents."""

    slug: str
    title: str
    summary: str
    html: Markup
    sections: Sequence[tuple[str, str]]


@pages.get("")
@public
def index() -> str:
    """List the help pages."""
    return render_template("help/index.html", pages=list_pages())


@pages.get("/api")
@public
def api() -> str:
    """Describe the JSON for people."""
    return render_template("help/api.html", operations=list_operations(current_app))


@pages.get("/<page>")
@public
def show(page: str) -> str:
    """Show a help page."""
    return render_template("help/show.html", page=_readable(page))


@lru_cache(maxsize=128)
def _readable(slug: str) -> ReadablePage:
    """Return the page drawn once for all readers: its text does not change while the application runs."""
    page = get_page(slug)
    section = Markup('<h2 id="{}">{}</h2>\n{}')
    drawn = (
        section.format(part.anchor, part.title, Markup(rendering.render(part.markdown)))  # noqa: S704 -- cleaned by nh3
        for part in page.sections
    )
    return ReadablePage(
        slug=page.slug,
        title=page.title,
        summary=page.summary,
        html=Markup("\n").join(drawn),
        sections=[(part.anchor, part.title) for part in page.sections],
    )
