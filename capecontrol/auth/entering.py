"""How a person comes into this browser and out of it: the account opened, the session in the cookie, and its end."""

from typing import Any

from flask import current_app, flash, redirect, session, url_for
from flask_login import login_user, logout_user
from werkzeug.wrappers import Response

from capecontrol.audit.origin import current_origin
from capecontrol.auth import credentials, identity, private_registration, registration
from capecontrol.auth.credentials import Browser, Credential
from capecontrol.auth.identity import SignedIn
from capecontrol.config import current_settings

Answer = str | Response | tuple[str, int] | tuple[str, int, dict[str, str]]


def open_account(
    application: registration.Application, method: str, key: str | None, ticket: str | None = None
) -> Response:
    """Open the account and go where its owner goes on. Raises what either kind of registration raises."""
    if current_settings().is_private:
        private_registration.register(application, method=method, idempotency_key=key, ticket=ticket)
        return redirect(url_for("auth.check_mail"), code=303)
    done = registration.register(
        application,
        actor=identity.actor_or_none(),
        method=method,
        mint=credentials.session_for(this_browser(), is_remembered=False),
        idempotency_key=key,
        ticket=ticket,
    )
    enter(done.user, done.credential, is_remembered=False)
    flash(f"Welcome, {done.user.full_name}. Your account is open.", "success")
    return redirect(url_for("conversations.list_all"), code=303)


def enter(user: Any, credential: Credential, *, is_remembered: bool) -> None:
    """Put the new session's secret in the cookie; nothing of an earlier session stays (rotation)."""
    session.clear()
    if not is_remembered:
        session["_remember"] = "clear"  # Flask-Login's own word: an earlier person's remember cookie is not kept
    actor = credentials.actor_of(user, session_id=credential.session_id)
    login_user(SignedIn(actor, credential.secret), remember=is_remembered)
    identity.forget_actor()


def leave(response: Response) -> Response:
    """Take everything of the person out of this browser."""
    logout_user()
    identity.forget_actor()
    session.clear()
    # Flask-Login would clear it without Secure, which a browser ignores for a __Host- cookie.
    response.delete_cookie(
        current_app.config["REMEMBER_COOKIE_NAME"],
        path="/",
        secure=current_app.config["REMEMBER_COOKIE_SECURE"],
        httponly=True,
        samesite="Lax",
    )
    return response


def this_browser() -> Browser:
    """Return what the request says of the browser it comes from."""
    origin = current_origin()
    return Browser(ip_address=origin.ip_address, user_agent=origin.user_agent)
