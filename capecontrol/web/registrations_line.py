"""Which addresses stand in the server's line before they begin, and how they say that the next may (line.py)."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flask import Flask, request

from capecontrol import line

View = TypeVar("View", bound=Callable[..., Any])

_CONFIG = "BEGIN_IN_LINE"
"""Where server_config.Worker reads the paths whose requests stand in line."""


def begins_in_line(view: View) -> View:
    """Mark a view that opens accounts, or says when one can: where many come at once, a few begin at a time. Its form
    is drawn in line as well, since that takes a processor as long."""

    @wraps(view)
    def in_line(*args: Any, **kwargs: Any) -> Any:
        with line.standing_in_it(request.environ.get("capecontrol.let_next_begin")):
            return view(*args, **kwargs)

    in_line.begins_in_line = True  # type: ignore[attr-defined]
    return in_line  # type: ignore[return-value]


def init_app(app: Flask) -> None:
    """Tell the server the addresses of all views so marked, once they are all registered."""
    app.config[_CONFIG] = frozenset(
        rule.rule
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "begins_in_line", False)
    )
