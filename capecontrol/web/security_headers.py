"""The headers every answer carries."""

from flask import Flask, Response, request

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


def init_app(app: Flask, settings: Settings) -> None:
    """Add the headers; HSTS (ASVS 3.4.1) only where people come by https."""

    @app.after_request
    def protect(response: Response) -> Response:
        own = {name.lower() for name in response.headers.keys()}  # noqa: SIM118 -- iterating gives pairs
        for name, value in _HEADERS.items():
            if name.lower() not in own:
                response.headers.add(name, value)
        if settings.is_https:
            response.headers["Strict-Transport-Security"] = f"max-age={_TWO_YEARS}; includeSubDomains"
        if request.path.startswith("/api/"):
            response.headers["Cache-Control"] = "no-store"
            if "vary" in own:
                response.vary.update(("Authorization", "Cookie"))
            else:
                response.headers.add("Vary", "Authorization, Cookie")
        elif request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        return response
