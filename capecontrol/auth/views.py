"""The account pages: open an account, confirm its address, sign in and out, see one's account."""

import contextlib
import re

from flask import Blueprint, current_app, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from capecontrol import ids
from capecontrol.audit.devices import browser_name
from capecontrol.auth import account as accounts
from capecontrol.auth import (
    automation,
    credentials,
    identity,
    registration,
    turned_away,
    verification,
    waiting_cookie,
    waiting_room,
)
from capecontrol.auth import sign_in as signing_in
from capecontrol.auth.entering import Answer, enter, leave, open_account, this_browser
from capecontrol.auth.forms import RegisterForm, SignInForm, VerifyForm, add_errors
from capecontrol.auth.identity import login_required, public
from capecontrol.auth.waiting_cookie import Kept
from capecontrol.config import current_settings
from capecontrol.errors import DomainError, Invalid, RateLimited, RetryLater, SignInRequired
from capecontrol.web import rate_limits
from capecontrol.web.deadlines import counts_late
from capecontrol.web.error_handlers import OPEN_TOO_LONG, answers_outdated_form, status_of
from capecontrol.web.registrations_line import begins_in_line
from capecontrol.web.template_filters import wait

pages = Blueprint("auth", __name__)


def _register_again(page: str | None) -> Response | None:
    """Draw an outdated form of ours again with what was typed. Nothing is drawn for another site: its form comes
    without cookies, and the session that a form needs would take the place of the person's own."""
    if page is None:
        return None
    form = RegisterForm()
    form.form_errors.append(_once_more())
    return make_response(_again(form, 400, trouble=_why_not_taken()))


@pages.route("/register", methods=["GET", "POST"])
@public
@counts_late(turned_away.count_late)
@answers_outdated_form(_register_again)
@begins_in_line
def register() -> Answer:
    """Open an account and sign in; where accounts are private, take the form and send its writer to their mail."""
    form = RegisterForm()
    if request.method != "POST":
        if identity.actor_or_none() is not None:
            return redirect(url_for("conversations.list_all"), code=303)
        return _fresh(RegisterForm(data=waiting_cookie.handed_back()))
    try:
        rate_limits.hold_to(rate_limits.REGISTER, who=rate_limits.caller())
    except RateLimited as busy:
        return _busy(form, _too_many("from here", busy))
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
        answer = open_account(application, "page", form.idempotency_key.data or None)
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
        return waiting_cookie.give(redirect(url_for("waiting.wait"), code=303), _kept(form), queued)
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


@pages.get("/register/check-mail")
@public
def check_mail() -> Answer:
    """Say that there is a mail to read: to everybody the same, whatever the mail says."""
    if not current_settings().is_private:
        return redirect(url_for("auth.register"), code=303)
    return render_template("auth/check_mail.html", has_server=current_settings().mail_server is not None)


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
        user = verification.verify(form.token.data or "", administrators=current_settings().admin_emails)
    except verification.LinkNotValid as refusal:
        page = render_template(
            "auth/verify_email.html",
            form=form,
            email=None,
            refused=refusal.detail,
            is_private=current_settings().is_private,
        )
        return page, status_of(refusal)
    here = identity.actor_or_none()
    if here is not None and here.id != user.id:
        flash(
            f"{user.email} is confirmed and its account is open. You are signed in here as {here.email}: to use the "
            "other, sign out first.",
            "success",
        )
        return redirect(url_for("auth.account"), code=303)
    flash(f"{user.email} is confirmed and your account is open. Sign in to go on.", "success")
    return redirect(url_for("auth.sign_in"), code=303)


def _sign_in_again(page: str | None) -> Response | None:
    """Draw an outdated form of ours again with the address that was typed; of another site's, as above, nothing."""
    if page is None:
        return None
    form = SignInForm()
    form.next.data = safe_target(form.next.data)
    return make_response(
        render_template("auth/sign_in.html", form=form, refused=_once_more(), trouble=_why_not_taken()), 400
    )


@pages.route("/login", methods=["GET", "POST"])
@public
@answers_outdated_form(_sign_in_again)
def sign_in() -> Answer:
    """Sign in and go where one was going."""
    form = SignInForm()
    if request.method != "POST":
        target = safe_target(request.args.get("next"))
        if identity.actor_or_none() is not None:
            return redirect(target or url_for("conversations.list_all"), code=303)
        if "signed_out" in request.args:
            flash("You are signed out.")
        form.next.data = target
        return render_template("auth/sign_in.html", form=form, refused=None)
    target = safe_target(form.next.data)
    form.next.data = target
    address = rate_limits.caller()
    try:
        rate_limits.hold_to(rate_limits.SIGN_IN, who=address)  # before anything is recorded, also that a field is empty
    except RateLimited as limit:
        return _refused(form, _too_many("from here", limit))
    if not form.validate():
        signing_in.record_refused(form.email.data, method="page", reason="invalid_input", error=", ".join(form.errors))
        return render_template("auth/sign_in.html", form=form, refused=None), 422
    try:
        account = identity.account_bucket(form.email.data)
        rate_limits.hold_to(rate_limits.SIGN_IN_TO_ACCOUNT, who=f"{address}|{account}")
    except RateLimited as limit:
        return _refused(form, _too_many("for this account from here", limit))
    is_remembered = bool(form.remember.data)
    try:
        user, credential = signing_in.sign_in(
            form.email.data,
            form.password.data,
            actor=identity.actor_or_none(),
            method="page",
            mint=credentials.session_for(this_browser(), is_remembered=is_remembered),
            is_remembered=is_remembered,
            is_private=current_settings().is_private,
        )
    except (SignInRequired, RetryLater) as refusal:
        return _refused(form, refusal)
    enter(user, credential, is_remembered=is_remembered)
    return redirect(target or url_for("conversations.list_all"), code=303)


def _offer_sign_out_again(page: str | None) -> Response:
    """Answer a button of a page left open too long: tell who is signed out so, else show the page with one that works.

    Another site's form comes without cookies, as if nobody were signed in. So nothing is set here then: a session of
    this answer, even one that only holds a message, would take the place of the person's own.
    """
    if identity.actor_or_none() is None:
        return _to_signing_in()
    flash("That page was open for too long. Press “Sign out” once more.", "warning")
    return redirect(page or url_for("conversations.list_all"), code=303)


@pages.post("/logout")
@public
@answers_outdated_form(_offer_sign_out_again)
def sign_out() -> Response:
    """Sign out here; harmless when nobody is signed in."""
    actor = identity.actor_or_none()
    if actor is None:
        return leave(_to_signing_in())
    signing_in.sign_out(actor=actor, method="page")
    return leave(redirect(url_for("landing.show"), code=303))


def _to_signing_in() -> Response:
    """Go to the page for signing in, which says that one is signed out; who is not is led on from there."""
    return redirect(url_for("auth.sign_in", signed_out=1), code=303)


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
        is_private=current_settings().is_private,
    )


@pages.post("/account/sessions/<session_id>/end")
@login_required
def end_session(session_id: str) -> Response:
    """Sign out in another browser."""
    actor = identity.signed_in()
    accounts.end_session(session_id, actor=actor)
    if session_id == actor.session_id:
        return leave(redirect(url_for("landing.show"), code=303))
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
    return _drawn(form)


def _has_session_cookie() -> bool:
    return current_app.config["SESSION_COOKIE_NAME"] in request.cookies


def _why_not_taken() -> str:
    """Return why a form was not taken: open for too long, or sent by a browser that keeps no cookie of ours."""
    return OPEN_TOO_LONG if _has_session_cookie() else "This form came without our cookie"


def _once_more() -> str:
    """Return what to do with a form that was not taken."""
    words = "Please type your password and press the button once more."
    if _has_session_cookie():
        return words
    return f"{words} If this comes up again, let your browser keep the cookies of this site: without, no form works."


def _again(form: RegisterForm, status: int, *, trouble: str | None = None) -> tuple[str, int]:
    """Draw the form after a mistake, or after `trouble` that was none: everything but the password is kept."""
    form.password.data = None
    form.fax_number.data = ""
    form.idempotency_key.data = form.idempotency_key.data or ids.new_id()
    form.rendered_at.data = automation.stamp(_secret_key())
    return _drawn(form, trouble=trouble, is_busy=status in (429, 503)), status


def _drawn(form: RegisterForm, *, trouble: str | None = None, is_busy: bool = False) -> str:
    return render_template(
        "auth/register.html",
        form=form,
        trouble=trouble,
        is_busy=is_busy,
        waiting=waiting_cookie.read(),
        is_private=current_settings().is_private,
    )


def _busy(form: RegisterForm, busy: RetryLater) -> tuple[str, int, dict[str, str]]:
    """Draw the form with all that was typed, and say in words that it was not this time."""
    form.form_errors.append(busy.detail)
    return *_again(form, status_of(busy), trouble="Your account is not open yet"), {
        "Retry-After": str(busy.retry_after)
    }


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


def _too_many(what: str, limit: RateLimited) -> RateLimited:
    return RateLimited(f"Too many tries {what}. Try again in {wait(limit.retry_after)}.", retry_after=limit.retry_after)


def _refused(form: SignInForm, refusal: DomainError) -> Answer:
    status = status_of(refusal)
    page = render_template("auth/sign_in.html", form=form, refused=refusal.detail, offers_help=status in (401, 429))
    retry_after = getattr(refusal, "retry_after", None)
    return page, status, {"Retry-After": str(retry_after)} if retry_after else {}


def _secret_key() -> str:
    return str(current_app.config["SECRET_KEY"])
