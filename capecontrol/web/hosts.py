"""Which host names and which origins are answered."""

import re

from flask import Flask, Response, abort, request

from capecontrol.config import Settings

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9.\-]+)(:\d{1,5})?")
_ALLOWED_HEADERS = "Content-Type, Authorization, Idempotency-Key, X-Registration-Ticket"
_ALLOWED_METHODS = "GET, POST, PATCH, DELETE"


def init_app(app: Flask, settings: Settings) -> None:
    """Refuse hosts that are not ours, and answer preflights of the configured origins only."""

    allowed = {name_of(host) for host in settings.allowed_hosts}

    @app.before_request
    def refuse_foreign_hosts() -> None:
        if name_of(request.headers.get("Host", "")) not in allowed:
            abort(400, "This address is not served here.")

    @app.before_request
    def answer_preflight() -> Response | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not is_preflight or not request.path.startswith("/api/") or not _origin(settings):
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = _ALLOWED_METHODS
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = "600"
        return response

    @app.after_request
    def allow_origin(response: Response) -> Response:
        if request.path.startswith("/api/") and settings.cors_origins:
            response.vary.add("Origin")
            if origin := _origin(settings):
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-ID"
        return response


def name_of(host: str) -> str:
    """Return a host's name without its port, lower-cased; "" where there is none that could be ours."""
    match = _HOST.fullmatch(host.lower())
    return match["name"] if match else ""


def _origin(settings: Settings) -> str | None:
    origin = request.headers.get("Origin")
    return origin if origin in settings.cors_origins else None
