"""What no page of ours sends, refused in words: forms that are no text, addresses with NUL, keys made by others."""

from urllib.parse import unquote_to_bytes

from flask import Flask, abort, request
from wtforms import Field

from capecontrol.errors import Invalid, NotReadable, UnsupportedContent
from capecontrol.web.text_rules import CHANGED_FORM, printable_key

_FORM = "application/x-www-form-urlencoded"


def init_app(app: Flask) -> None:
    """Check each request's address and form. Werkzeug would replace bad bytes, and something nobody wrote be stored."""

    @app.before_request
    def refuse_what_is_no_text() -> None:
        if "\x00" in request.path:
            abort(404)
        if not request.content_type:
            return
        if request.mimetype == "multipart/form-data":
            raise UnsupportedContent(f"Send forms as {_FORM}; no form here takes files.")
        if request.mimetype == _FORM:
            _check(request.get_data(cache=True))


def take_key(field: Field) -> str | None:
    """Return a form's hidden key, or None. Raises Invalid for what no page of ours has put there, and forgets it."""
    try:
        return printable_key(field.data, label="The key") if field.data else None
    except ValueError:
        field.data = None
        raise Invalid({"form": [CHANGED_FORM]}) from None


def _check(body: bytes) -> None:
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        abort(413)
    try:
        unquote_to_bytes(body.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise NotReadable("The form must be UTF-8 text.") from None
