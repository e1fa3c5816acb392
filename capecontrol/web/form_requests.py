"""Refusing what is no text, before anything reads it: forms that are not UTF-8, addresses with NUL in them."""

from urllib.parse import unquote_to_bytes

from flask import Flask, abort, request

from capecontrol.errors import NotReadable, UnsupportedContent

_FORM = "application/x-www-form-urlencoded"


def init_app(app: Flask) -> None:
    """Check each request's address and form. Werkzeug would replace bad bytes, and something nobody wrote be stored."""

    @app.before_request
    def refuse_what_is_no_text() -> None:
        if "\x00" in request.path:
            abort(404)
        if request.mimetype == "multipart/form-data":
            raise UnsupportedContent(f"Send forms as {_FORM}; no form here takes files.")
        if request.mimetype == _FORM:
            _check(request.get_data(cache=True))


def _check(body: bytes) -> None:
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        abort(413)
    try:
        unquote_to_bytes(body.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise NotReadable("The form must be UTF-8 text.") from None
