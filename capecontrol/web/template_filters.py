"""How times, numbers and text look in templates."""

from datetime import datetime
from typing import Any

from flask import Flask
from markupsafe import Markup, escape

from capecontrol import clock
from capecontrol.web import rendering

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (7, "day"), (4.35, "week"), (12, "month"))


def init_app(app: Flask) -> None:
    """Register the filters and what every template may use."""
    app.add_template_filter(relative)
    app.add_template_filter(exact)
    app.add_template_filter(plural)
    app.add_template_filter(markdown)
    app.add_template_filter(breakable)
    app.context_processor(lambda: {"now": clock.now()})


def relative(at: datetime | None) -> Markup:
    """Return a time as "3 minutes ago", with the exact one on hover; relative_times.js lets it go on."""
    if at is None:
        return Markup('<span class="muted">never</span>')
    return Markup('<time datetime="{}" title="{}" data-relative>{}</time>').format(at.isoformat(), exact(at), _ago(at))


def exact(at: datetime | None) -> str:
    """Return a time to the second, with its zone."""
    return at.strftime("%-d %B %Y, %H:%M:%S %Z") if at else "never"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return "1 message" or "2 messages"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def wait(seconds: int) -> str:
    """Return how long to wait, "40 seconds" or "4 minutes"; never less than it is."""
    return plural(seconds, "second") if seconds < 60 else plural(-(-seconds // 60), "minute")


def breakable(text: Any) -> Markup:
    """Return text whose lines may break behind an "@", where an e-mail address is best divided."""
    return escape(text).replace("@", Markup("@<wbr>"))


def markdown(text: Any) -> Markup:
    """Return markdown as safe HTML."""
    return Markup(rendering.render(str(text or "")))  # noqa: S704 -- cleaned by nh3 inside render


def _ago(at: datetime) -> str:
    amount = (clock.now() - at).total_seconds()
    if amount < 10:
        return "just now"
    for size, unit in _STEPS:
        if amount < size:
            return f"{plural(int(amount), unit)} ago"
        amount /= size
    return f"{plural(int(amount), 'year')} ago"
