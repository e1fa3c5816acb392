"""Cookies that any dyno can read: the session's, and what others are signed with and read by."""

from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from itsdangerous import BadSignature, URLSafeTimedSerializer

from capecontrol import clock


def load(signer: URLSafeTimedSerializer, text: str, *, lasts_seconds: float) -> Any:
    """Return what was signed, or None where it was not by us, or too long ago.

    The age is counted here, because the signer takes what another dyno's clock signed a second from now for outdated.
    """
    try:
        content, signed_at = signer.loads(text, return_timestamp=True)
    except BadSignature:
        return None
    return content if (clock.now() - signed_at).total_seconds() <= lasts_seconds else None


class SessionCookie(SecureCookieSessionInterface):
    """Flask's own session cookie; a caller without one costs nothing, since in a storm that is nearly everybody."""

    _signer: Any = None

    def get_signing_serializer(self, app: Flask) -> Any:
        """Return the signer of the application this belongs to, made once instead of for each request."""
        if self._signer is None:
            self._signer = super().get_signing_serializer(app)
        return self._signer

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """Return what the cookie holds."""
        text = request.cookies.get(self.get_cookie_name(app)) if "HTTP_COOKIE" in request.environ else None
        if not text:
            return self.session_class()
        lasts = app.permanent_session_lifetime.total_seconds()
        return self.session_class(load(self.get_signing_serializer(app), text, lasts_seconds=lasts) or {})

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Set the cookie, where there is or was something to keep. What depends on it is in no cache in any case."""
        if session or session.modified:
            super().save_session(app, session, response)
