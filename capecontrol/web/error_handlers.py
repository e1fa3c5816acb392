"""Each kind of failure to a status: as a page or, under /api/, as JSON."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from flask import Flask, Response, current_app, g, jsonify, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf.csrf import CSRFError
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from capecontrol import errors
from capecontrol.database import in_safe_words, is_passing
from capecontrol.extensions import db, login_manager
from capecontrol.web.template_filters import wait

View = TypeVar("View", bound=Callable[..., Any])
Wording = Callable[[int, str], dict[str, Any]]
OutdatedFormAnswer = Callable[[str | None], AnyResponse | None]

log = structlog.get_logger("errors")

_STATUS: dict[type[errors.DomainError], int] = {
    errors.NotFound: 404,
    errors.SignInRequired: 401,
    errors.Forbidden: 403,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.NotReadable: 400,
    errors.UnsupportedContent: 415,
    errors.RateLimited: 429,
    errors.RetryLater: 503,
}

OPEN_TOO_LONG = "This page was open for too long"

# What a person reads for a status that no rule of ours worded: a title, and what they can do.
_WORDS = {
    400: ("That request could not be read", "Please go back, reload the page and try once more."),
    401: ("Please sign in", "Sign in, and you come back to where you were going."),
    403: ("This is not yours to open", "If you think it should be, ask an administrator."),
    404: ("There is nothing here", "The address may be mistyped, or the thing may be gone or not yours."),
    405: ("That cannot be done here", "This address does not take that kind of request."),
    409: ("That exists already", "Nothing was changed."),
    413: ("That is too large", "Please send less at a time."),
    415: ("That format is not taken here", "Send JSON as application/json."),
    422: ("Something needs correcting", "Please correct it and send it again."),
    429: ("A little too often", "Please wait a moment and try again."),
    500: ("Something broke on our side", "It is written down and not your fault. Please try again."),
    503: ("We are busy", "Nothing was lost. Please try again in a few seconds."),
}


def words_errors(wording: Wording) -> Callable[[View], View]:
    """Let an endpoint's errors say more, where its callers know another form: `wording(status, detail)` returns what
    stands beside `detail` and `errors`.

    Only leaves a note on the view, so that it holds as well for what is refused before the view is reached.
    """

    def note(view: View) -> View:
        view.words_errors = wording  # type: ignore[attr-defined]
        return view

    return note


def answers_outdated_form(answer: OutdatedFormAnswer) -> Callable[[View], View]:
    """Let a view's form without a valid token be answered otherwise than by the error page: `answer(page)` is given the
    page of ours that the form came from, or None, and may return None to leave it at that page. It does nothing of what
    the form asks for, which another site may have sent.
    """

    def note(view: View) -> View:
        view.answers_outdated_form = answer  # type: ignore[attr-defined]
        return view

    return note


def init_app(app: Flask) -> None:
    """Register the handlers. One application-level handler chooses by path: a blueprint's never sees an unknown
    address."""

    @app.errorhandler(errors.DomainError)
    def refused(error: errors.DomainError) -> AnyResponse:
        status = status_of(error)
        if status == 401 and not _wants_json():
            return redirect(url_for("auth.sign_in", next=_here()), code=303)
        retry_after = getattr(error, "retry_after", None)
        return _answer(
            status, detail=error.detail, field_errors=getattr(error, "errors", None), retry_after=retry_after
        )

    @app.errorhandler(CSRFError)
    def form_without_token(_: CSRFError) -> AnyResponse:
        answer: OutdatedFormAnswer | None = getattr(_view(), "answers_outdated_form", None)
        if answer is not None:
            try:
                own_answer = answer(_page_of_the_form())
            except SQLAlchemyError as error:
                return database_in_trouble(error)
            if own_answer is not None:
                return own_answer
        if _lacks_somebody():
            return refused(errors.SignInRequired())
        return _answer(
            400,
            title=OPEN_TOO_LONG,
            detail="Nothing was done. Go back, load that page anew and send it again.",
            form_page=_page_of_the_form(),
        )

    @app.errorhandler(HTTPException)
    def refused_by_the_frame(error: HTTPException) -> AnyResponse:
        if error.code is None or error.code < 400:
            return error.get_response()  # a redirect
        own_words = error.description if error.code == 400 and type(error).description != error.description else None
        return _answer(error.code, detail=own_words, headers=_kept_headers(error))

    @app.errorhandler(ParseException)
    def malformed_on_the_way(_: ParseException) -> AnyResponse:
        """A body in chunks is read by gunicorn only when a view asks for it."""
        return _answer(400, detail="The request could not be read: a part of its body is malformed.")

    @app.errorhandler(SQLAlchemyError)
    def database_in_trouble(error: SQLAlchemyError) -> AnyResponse:
        db.session.rollback()
        if is_passing(error):
            log.warning("database_unavailable", kind=type(error).__name__, request_id=g.get("request_id"))
            return _answer(503, retry_after=2)
        return broken(error)

    @app.errorhandler(Exception)
    def broken(error: Exception) -> AnyResponse:
        log.error("unhandled_error", **in_safe_words(error), endpoint=request.endpoint, request_id=g.get("request_id"))
        return _answer(500)


def _answer(
    status: int,
    *,
    title: str | None = None,
    detail: str | None = None,
    field_errors: dict[str, list[str]] | None = None,
    retry_after: int | None = None,
    headers: dict[str, str] | None = None,
    form_page: str | None = None,
) -> Response:
    usual_title, explanation = _WORDS.get(status, (HTTPStatus(status).phrase, "Please try again."))
    title = title or usual_title
    if _wants_json():
        detail = detail or f"{title}. {explanation}"
        response = jsonify({"detail": detail, "errors": field_errors or {}, **_more(status, detail)})
    else:
        if status == 429 and retry_after is not None:
            detail = f"Nothing was done. Please try again in {wait(retry_after)}."
        if form_page is None and request.method == "POST" and (status == 429 or status >= 500):
            form_page = _page_of_the_form()
        response = Response(_page(status, title, detail or explanation, form_page), mimetype="text/html")
    response.status_code = status
    response.headers.update(headers or {})
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 15.5.2
    if retry_after is None and status in (429, 503):
        retry_after = 2
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _more(status: int, detail: str) -> dict[str, Any]:
    wording: Wording | None = getattr(_view(), "words_errors", None)
    return wording(status, detail) if wording else {}


def _page(status: int, title: str, explanation: str, form_page: str | None) -> str:
    context: dict[str, Any] = {"status": status, "title": title, "explanation": explanation}
    context |= {"form_page": form_page, "request_id": g.get("request_id")}
    if status >= 500:
        _draw_as_nobody()
    try:
        return render_template("errors/error.html", **context)
    except SQLAlchemyError:  # the page's frame asks who is signed in, and the database does not answer
        _draw_as_nobody()
        return render_template("errors/error.html", **context)


def _draw_as_nobody() -> None:
    """Let the page's frame skip the question who is signed in, where Flask-Login has no answer yet."""
    if "_login_user" not in g:
        g._login_user = login_manager.anonymous_user()


def status_of(error: errors.DomainError) -> int:
    """Return the HTTP status of a refusal."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def _kept_headers(error: HTTPException) -> dict[str, str]:
    return {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}


def _wants_json() -> bool:
    return request.path.startswith("/api/") or request.path == "/api"


def _view() -> Callable[..., Any] | None:
    return current_app.view_functions.get(request.endpoint or "")


def _lacks_somebody() -> bool:
    """Say whether nobody is signed in though the view asks for somebody; where the database is silent, it is not so."""
    try:
        return getattr(_view(), "access", "public") != "public" and not current_user.is_authenticated
    except SQLAlchemyError:
        _draw_as_nobody()
        return False


def _here() -> str | None:
    """Return where the person is: on the page that was asked for, or on the one that holds the form."""
    return request.full_path.rstrip("?") if request.method == "GET" else _page_of_the_form()


def _page_of_the_form() -> str | None:
    """Return the page of ours that the request came from, as far as the browser says; None for what no page is at."""
    try:
        came_from = urlsplit(request.referrer or "")
        is_ours = (came_from.scheme, came_from.netloc) == (request.scheme, request.host)
    except ValueError:
        return None
    ours = current_app.create_url_adapter(request)
    # What another method drew, such as a form with its mistakes, is not to be had again under its address.
    if not is_ours or ours is None or not ours.test(unquote(came_from.path), "GET"):
        return None
    return came_from._replace(scheme="", netloc="", fragment="").geturl()
