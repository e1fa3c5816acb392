"""The headers every answer carries."""

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask

from capecontrol.config import Settings

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_TWO_YEARS = 63_072_000

Headers = list[tuple[str, str]]


def init_app(app: Flask, settings: Settings) -> None:
    """Add the headers around the application, where no answer can leave without them, not even one to a request that
    Flask itself refuses. HSTS (ASVS 3.4.1) only where people come by https."""
    always = [*_HEADERS.items()]
    if settings.is_https:
        always.append(("Strict-Transport-Security", f"max-age={_TWO_YEARS}; includeSubDomains"))
    app.wsgi_app = _Protected(app.wsgi_app, always)  # type: ignore[method-assign]


class _Protected:
    """Adds headers to every answer, unless the answer has its own of that name."""

    def __init__(self, application: WSGIApplication, always: Headers) -> None:
        self._application = application
        self._always = [(name, name.lower(), value) for name, value in always]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the application does."""

        def start(status: str, headers: Headers, *error: Any) -> Any:
            if status.startswith("204"):  # nothing is said, so it has no type either; Flask would call it HTML
                headers = [(name, value) for name, value in headers if name.lower() != "content-type"]
            own = {name.lower() for name, _ in headers}
            headers = headers + [(name, value) for name, lower, value in self._always if lower not in own]
            return start_response(status, self._cached_by_nobody(environ["PATH_INFO"], headers, own), *error)

        return self._application(environ, start)

    def _cached_by_nobody(self, path: str, headers: Headers, own: set[str]) -> Headers:
        """Keep answers to one person out of every cache; what is static says itself how long it lasts."""
        if path.startswith("/api/"):
            kept = [(name, value) for name, value in headers if name.lower() not in ("cache-control", "vary")]
            named = [value for name, value in headers if name.lower() == "vary" and value != "Cookie"]
            return [*kept, ("Cache-Control", "no-store"), ("Vary", ", ".join(["Authorization", "Cookie", *named]))]
        if path.startswith("/static/") or "cache-control" in own:
            return headers
        return [*headers, ("Cache-Control", "no-store")]
