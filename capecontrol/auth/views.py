"""The account pages: open an account, confirm its address, sign in and out, see one's account."""

import contextlib
import re
from typing import Any

from flask import Blueprint, current_app, flash, redirect, render_template, request, session, url_for
from flask_login import login_user, logout_user
from werkzeug.wrappers import Response

from capecontrol import ids
from capecontrol.audit.devices import browser_name
from capecontrol.audit.origin import current_origin
from capecontrol.auth import account as accounts
from capecontrol.auth import (
    automation,
    credentials,
    identity,
    private_registration,
    registration,
    verification,
    waiting_cookie,
    waiting_room,
)
from capecontrol.auth import sign_in as signing_in
from capecontrol.auth.credentials import Browser, Credential
from capecontrol.auth.forms import RegisterForm, SignInForm, VerifyForm, WaitingForm, add_errors
from capecontrol.auth.identity import SignedIn, login_required, public
from capecontrol.auth.tickets import NotATicket
from capecontrol.auth.waiting_cookie import Kept
from capecontrol.auth.waiting_room import Place
from capecontrol.config import Settings
from capecontrol.errors import DomainError, Invalid, RateLimited, RetryLater, SignInRequired
from capecontrol.web import rate_limits
from capecontrol.web.error_handlers import status_of

pages = Blueprint("auth", __name__)

_WAITING_IS_OVER = (
    NotATicket,
    waiting_room.TicketSpent,
    registration.EmailTaken,
    registration.KeyUsedDifferently,
)

Answer = str | Response | tuple[str, int] | tuple[str, int, dict[str, str]]


@pages.route("/register", methods=["GET", "POST"])
@public
def register() -> Answer:
    """Open an account and sign in; where accounts are private, take the form and send its writer to their mail."""
    form = RegisterForm()
    if request.method != "POST":
        if identity.actor_or_none() is not None:
            return redirect(url_for("conversations.list_all"), code=303)
        return _fresh(form)
    try:
        rate_limits.hold_to(rate_limits.REGISTER, who=rate_limits.caller())
    except RateLimited as busy:
        return _busy(form, busy)
    suspicion = automation.suspicion(
        trap=form.fax_number.data or "", mark=form.rendered_at.data or "", secret_key=_secret_key()
    )
    if not form.validate() or suspicion:
        if suspicion:
            form.form_errors.append(suspicion)
        reason = "looks_automated" if suspicion else "invalid_input"
        registration.record_refused(
            form.email.data,
            method="page",
            reason=reason,
            error=suspicion or ", ".join(name for name in form.errors if name),
        )
        return _again(form, 422)
    application = registration.Application(
        email=form.email.data,
        password=form.password.data,
        full_name=form.full_name.data,
        user_role=form.user_role.data,
        company_name=form.company_name.data or None,
    )
    try:
        answer = _open_account(application, "page", form.idempotency_key.data or None)
    except registration.EmailTaken as taken:
        add_errors(form, {"email": [taken.detail]})
        return _again(form, status_of(taken))
    except registration.KeyUsedDifferently as refusal:
        # The person went back and changed the form: the next press is a registration of its own.
        form.form_errors.append("You already sent this form with other details. Please check it and send it again.")
        form.idempotency_key.data = None
        return _again(form, status_of(refusal))
    except Invalid as refusal:
        add_errors(form, refusal.errors)
        return _again(form, status_of(refusal))
    except waiting_room.Queued as queued:
        return waiting_cookie.give(redirect(url_for("auth.wait"), code=303), _kept(form), queued)
    except RetryLater as busy:
        return _busy(form, busy)
    return _end_older_waiting(answer)


def _end_older_waiting(answer: Response) -> Response:
    """Let the browser forget a form that waits since before, perhaps somebody else's: its page would go on with that
    one, and with the password of this."""
    kept = waiting_cookie.read()
    if kept is None:
        return answer
    if kept.is_own:
        with contextlib.suppress(RetryLater):  # then the place lapses by itself
            waiting_room.leave(kept.ticket)
    return waiting_cookie.take_back(answer)


def _open_account(
    application: registration.Application, method: str, key: str | None, ticket: str | None = None
) -> Response:
    """Open the account and go where its owner goes on. Raises what either kind of registration raises."""
    if _settings().is_private:
        private_registration.register(application, method=method, idempotency_key=key, ticket=ticket)
        return redirect(url_for("auth.check_mail"), code=303)
    done = registration.register(
        application,
        actor=identity.actor_or_none(),
        method=method,
        mint=credentials.session_for(_browser(), is_remembered=False),
        idempotency_key=key,
        ticket=ticket,
    )
    _enter(done.user, done.credential, is_remembered=False)
    flash(f"Welcome, {done.user.full_name}. Your account is open.", "success")
    return redirect(url_for("conversations.list_all"), code=303)


@pages.get("/register/check-mail")
@public
def check_mail() -> Answer:
    """Say that there is a mail to read: to everybody the same, whatever the mail says."""
    if not _settings().is_private:
        return redirect(url_for("auth.register"), code=303)
    return render_template("auth/check_mail.html", has_server=_settings().mail_server is not None)


@pages.route("/verify-email", methods=["GET", "POST"])
@public
def verify_email() -> Answer:
    """Show the button that confirms an address; pressing it does, once."""
    form = VerifyForm()
    try:
        if request.method != "POST":
            form.token.data = request.args.get("token", "")
            return render_template("auth/verify_email.html", form=form, email=verification.get_address(form.token.data))
        rate_limits.hold_to(rate_limits.VERIFY_EMAIL, who=rate_limits.caller())
        user = verification.verify(form.token.data or "", administrators=_settings().admin_emails)
    except verification.LinkNotValid as refusal:
        page = render_template(
            "auth/verify_email.html", form=form, email=None, refused=refusal.detail, is_private=_settings().is_private
        )
        return page, status_of(refusal)
    flash(f"{user.email} is confirmed and your account is open. Sign in to go on.", "success")
    return redirect(url_for("auth.sign_in"), code=303)


@pages.route("/register/waiting", methods=["GET", "POST"])
@public
def wait() -> Answer:
    """Wait for one's turn, and open the account at it with the password typed once more."""
    kept = waiting_cookie.read()
    if kept is None:
        if request.method == "POST":
            flash("This page waits no more: another form was taken from this browser, or an hour is over.", "warning")
        return redirect(url_for("auth.register"), code=303)
    form = WaitingForm()
    try:
        if request.method != "POST":
            return _waiting(form, kept, waiting_room.get_place(kept.ticket))
        return _finish_waiting(form, kept)
    except waiting_room.Queued as queued:
        page = _waiting(form, kept, queued.place, ticket=queued.ticket, was_turned_away=True)
        answer = current_app.make_response((page, 503, {"Retry-After": str(queued.retry_after)}))
        return waiting_cookie.give(answer, kept, queued)
    except _WAITING_IS_OVER as over:
        flash(over.detail, "warning")
        return waiting_cookie.take_back(redirect(url_for("auth.register"), code=303))
    except waiting_room.RoomFull as full:
        form.form_errors.append(full.detail)
        page = _waiting(form, kept, waiting_room.EXPIRED_PLACE)
        return page, status_of(full), {"Retry-After": str(full.retry_after)}
    except RetryLater as busy:
        # The page is drawn from what the browser keeps: it looks again by itself, also without scripts.
        form.form_errors.append(f"Your place is kept. {busy.detail}")
        page = _waiting(form, kept, waiting_room.UNKNOWN_PLACE)
        return page, status_of(busy), {"Retry-After": str(busy.retry_after)}


def _finish_waiting(form: WaitingForm, kept: Kept) -> Answer:
    """Open the account at one's turn. Raises what keeps one waiting, and what ends it."""
    ticket_id = waiting_room.id_of(kept.ticket)
    if ticket_id is None:
        rate_limits.hold_to(rate_limits.REGISTER, who=rate_limits.caller())
    else:
        rate_limits.hold_ticket(ticket_id)
    if not form.validate():
        return _waiting(form, kept, waiting_room.get_place(kept.ticket)), 422
    if not _is_for_same_address(form.ticket.data, kept.ticket):
        # Sent from an older tab: with its password somebody else's account would be opened.
        form.form_errors.append(
            f"Another form was sent from this browser since, for {kept.email}, and this page now waits with that one. "
            "For the other address, please fill in the form again."
        )
        return _waiting(form, kept, waiting_room.get_place(kept.ticket)), 409
    try:
        answer = _open_account(
            registration.Application(
                email=kept.email,
                password=form.password.data,
                full_name=kept.full_name,
                user_role=kept.user_role,
                company_name=kept.company_name,
            ),
            "page, after waiting",
            kept.idempotency_key,
            kept.ticket,
        )
    except _WAITING_IS_OVER:
        raise
    except Invalid as refusal:
        add_errors(form, refusal.errors)
        return _waiting(form, kept, waiting_room.get_place(kept.ticket)), status_of(refusal)
    return waiting_cookie.take_back(answer)


def _is_for_same_address(ticket: str | None, kept: str) -> bool:
    try:
        return not ticket or waiting_room.is_for_same_address(ticket, kept)
    except NotATicket:
        return False


@pages.post("/register/waiting/keep")
@public
def keep_turn() -> Answer:
    """Keep one's turn for another 30 seconds."""
    kept = waiting_cookie.read()
    if kept is not None and not waiting_room.keep(kept.ticket):
        return _waiting(WaitingForm(), kept, waiting_room.get_place(kept.ticket)), 409
    return redirect(url_for("auth.wait"), code=303)


@pages.post("/register/waiting/leave")
@public
def leave_queue() -> Answer:
    """Give one's place up."""
    kept = waiting_cookie.read()
    if kept is not None and kept.is_own:
        waiting_room.leave(kept.ticket)
    return waiting_cookie.take_back(redirect(url_for("auth.register"), code=303))


@pages.route("/login", methods=["GET", "POST"])
@public
def sign_in() -> Answer:
    """Sign in and go where one was going."""
    form = SignInForm()
    if request.method != "POST":
        target = safe_target(request.args.get("next"))
        if identity.actor_or_none() is not None:
            return redirect(target or url_for("conversations.list_all"), code=303)
        form.next.data = target
        return render_template("auth/sign_in.html", form=form, refused=None)
    target = safe_target(form.next.data)
    form.next.data = target
    address = rate_limits.caller()
    rate_limits.hold_to(rate_limits.SIGN_IN, who=address)  # before anything is recorded, also that a field is empty
    if not form.validate():
        signing_in.record_refused(form.email.data, method="page", reason="invalid_input", error=", ".join(form.errors))
        return render_template("auth/sign_in.html", form=form, refused=None), 422
    rate_limits.hold_to(rate_limits.SIGN_IN_TO_ACCOUNT, who=f"{address}|{identity.account_bucket(form.email.data)}")
    is_remembered = bool(form.remember.data)
    try:
        user, credential = signing_in.sign_in(
            form.email.data,
            form.password.data,
            actor=identity.actor_or_none(),
            method="page",
            mint=credentials.session_for(_browser(), is_remembered=is_remembered),
            is_remembered=is_remembered,
            is_private=_settings().is_private,
        )
    except (SignInRequired, RetryLater) as refusal:
        return _refused(form, refusal)
    _enter(user, credential, is_remembered=is_remembered)
    return redirect(target or url_for("conversations.list_all"), code=303)


@pages.post("/logout")
@public
def sign_out() -> Response:
    """Sign out here; harmless when nobody is signed in."""
    actor = identity.actor_or_none()
    if actor is not None:
        signing_in.sign_out(actor=actor, method="page")
    return _leave(redirect(url_for("landing.show"), code=303))


@pages.get("/account")
@login_required
def account() -> str:
    """Show one's account and where it is signed in."""
    actor = identity.signed_in()
    sessions = [
        {
            "id": row.id,
            "created_at": row.created_at,
            "last_seen_at": row.last_seen_at,
            "ip_address": row.ip_address,
            "browser": browser_name(row.user_agent),
            "is_current": row.id == actor.session_id,
        }
        for row in accounts.list_sessions(actor=actor)
    ]
    return render_template(
        "auth/account.html",
        person=accounts.get_person(actor=actor),
        sessions=sessions,
        is_private=_settings().is_private,
    )


@pages.post("/account/sessions/<session_id>/end")
@login_required
def end_session(session_id: str) -> Response:
    """Sign out in another browser."""
    actor = identity.signed_in()
    accounts.end_session(session_id, actor=actor)
    if session_id == actor.session_id:
        return _leave(redirect(url_for("landing.show"), code=303))
    flash("Signed out on that device.", "success")
    return redirect(url_for("auth.account"), code=303)


def safe_target(target: str | None) -> str | None:
    """Return a path of ours to go on to, or None: another site's address would make us its accomplice."""
    if not target or len(target) > 2000 or not target.startswith("/") or target.startswith("//"):
        return None
    return None if re.search(r"[\\\x00-\x20\x7f]", target) else target


def _fresh(form: RegisterForm) -> str:
    form.idempotency_key.data = ids.new_id()
    form.rendered_at.data = automation.stamp(_secret_key())
    return render_template("auth/register.html", form=form, is_private=_settings().is_private)


def _again(form: RegisterForm, status: int) -> tuple[str, int]:
    """Draw the form after a mistake: everything but the password is kept."""
    form.password.data = None
    form.fax_number.data = ""
    form.idempotency_key.data = form.idempotency_key.data or ids.new_id()
    form.rendered_at.data = automation.stamp(_secret_key())
    return render_template("auth/register.html", form=form, is_private=_settings().is_private), status


def _busy(form: RegisterForm, busy: RetryLater) -> tuple[str, int, dict[str, str]]:
    """Draw the form with all that was typed, and say in words that it was not this time."""
    form.form_errors.append(f"Your account is not open yet. {busy.detail}")
    return *_again(form, status_of(busy)), {"Retry-After": str(busy.retry_after)}


def _kept(form: RegisterForm) -> Kept:
    """Return the form as the browser keeps it while its owner waits."""
    return Kept(
        ticket="",
        idempotency_key=form.idempotency_key.data or None,
        email=form.email.data,
        full_name=form.full_name.data,
        user_role=form.user_role.data,
        company_name=form.company_name.data or None,
    )


def _waiting(
    form: WaitingForm, kept: Kept, place: Place, *, ticket: str | None = None, was_turned_away: bool = False
) -> str:
    form.ticket.data = ticket or kept.ticket
    return render_template(
        "auth/wait.html",
        form=form,
        place=place,
        ticket=form.ticket.data,
        application=kept,
        was_turned_away=was_turned_away,
        turn_seconds=waiting_room.TURN_LASTS_SECONDS,
        is_private=_settings().is_private,
    )


def _refused(form: SignInForm, refusal: DomainError) -> Answer:
    status = status_of(refusal)
    page = render_template("auth/sign_in.html", form=form, refused=refusal.detail)
    retry_after = getattr(refusal, "retry_after", None)
    return page, status, {"Retry-After": str(retry_after)} if retry_after else {}


def _enter(user: Any, credential: Credential, *, is_remembered: bool) -> None:
    """Put the new session's secret in the cookie; nothing of an earlier session stays (rotation)."""
    session.clear()
    if not is_remembered:
        session["_remember"] = "clear"  # Flask-Login's own word: an earlier person's remember cookie is not kept
    actor = identity.actor_of(user, session_id=credential.session_id)
    login_user(SignedIn(actor, credential.secret), remember=is_remembered)
    identity.forget_actor()


def _leave(response: Response) -> Response:
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


def _browser() -> Browser:
    origin = current_origin()
    return Browser(ip_address=origin.ip_address, user_agent=origin.user_agent)


def _settings() -> Settings:
    settings: Settings = current_app.config["SETTINGS"]
    return settings


def _secret_key() -> str:
    return str(current_app.config["SECRET_KEY"])
