"""The pages of the waiting room: where one stands, the account at one's turn, the turn kept, the place given up."""

from flask import Blueprint, current_app, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from capecontrol.auth import registration, waiting_cookie, waiting_room
from capecontrol.auth.entering import Answer, open_account
from capecontrol.auth.forms import WaitingForm, add_errors
from capecontrol.auth.identity import public
from capecontrol.auth.tickets import NotATicket
from capecontrol.auth.waiting_cookie import Kept
from capecontrol.auth.waiting_room import Place
from capecontrol.config import current_settings
from capecontrol.errors import Invalid, RetryLater, Unavailable
from capecontrol.web import rate_limits
from capecontrol.web.error_handlers import OPEN_TOO_LONG, answers_outdated_form, status_of
from capecontrol.web.registrations_line import begins_in_line

pages = Blueprint("waiting", __name__)

_WAITS_NO_MORE = "This page waits no more: another form was taken from this browser, or an hour is over."
_WAITING_IS_OVER = (
    NotATicket,
    waiting_room.TicketSpent,
    registration.EmailTaken,
    registration.KeyUsedDifferently,
)


def _wait_again(_: str | None) -> Response | None:
    """Draw the page again for an outdated form of its own. Another site's form comes without what the browser keeps."""
    kept = waiting_cookie.read()
    if kept is None:
        return None
    form = WaitingForm()
    form.form_errors.append(f"{OPEN_TOO_LONG}. Your place is kept: please press the button once more.")
    try:
        place = waiting_room.get_place(kept.ticket)
    except NotATicket:
        return None
    except Unavailable:
        place = waiting_room.UNKNOWN_PLACE
    return make_response(_waiting(form, kept, place), 400)


@pages.route("/register/waiting", methods=["GET", "POST"])
@public
@answers_outdated_form(_wait_again)
@begins_in_line
def wait() -> Answer:
    """Wait for one's turn, and open the account at it with the password typed once more."""
    kept = waiting_cookie.read()
    if kept is None:
        if request.method == "POST":
            flash(_WAITS_NO_MORE, "warning")
        elif "given_up" in request.args:
            flash("You left the queue in another tab.")
        elif "over" in request.args:
            flash(_WAITS_NO_MORE, "warning")
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
        if not isinstance(over, waiting_room.TicketSpent):
            waiting_cookie.hand_back(kept)
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
    if not _is_of(form, kept):
        # With its password somebody else's account would be opened, or one with the details of the other form.
        return _of_another_form(form, kept)
    try:
        answer = open_account(
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


def _is_of(form: WaitingForm, kept: Kept) -> bool:
    """Say whether a form comes from a page that waits with what the browser keeps now, and not from an older tab."""
    try:
        is_same_address = not form.ticket.data or waiting_room.is_for_same_address(form.ticket.data, kept.ticket)
    except NotATicket:
        return False
    return is_same_address and form.key.data in (None, "", kept.idempotency_key)


def _of_another_form(form: WaitingForm, kept: Kept) -> tuple[str, int]:
    """Draw the page of the form sent last for who still has the page of one before; nothing else is done."""
    form.form_errors.append(
        f"Another form was sent from this browser since, for {kept.email}, and this page now waits with that one. "
        "For any other, please fill in the form again."
    )
    return _waiting(form, kept, waiting_room.get_place(kept.ticket)), 409


@pages.post("/register/waiting/keep")
@public
@answers_outdated_form(_wait_again)
def keep_turn() -> Answer:
    """Keep one's turn for another 30 seconds."""
    form, kept = WaitingForm(), waiting_cookie.read()
    if kept is not None and not _is_of(form, kept):
        return _of_another_form(form, kept)
    if kept is not None and (ticket_id := waiting_room.id_of(kept.ticket)) is not None:
        rate_limits.hold_ticket(ticket_id)
    if kept is not None and not waiting_room.keep(kept.ticket):
        return _waiting(form, kept, waiting_room.get_place(kept.ticket)), 409
    return redirect(url_for("waiting.wait"), code=303)


@pages.post("/register/waiting/leave")
@public
@answers_outdated_form(_wait_again)
def leave_queue() -> Answer:
    """Give one's place up, and go back to the form with all that was typed but the password."""
    form, kept = WaitingForm(), waiting_cookie.read()
    if kept is not None and not _is_of(form, kept):
        return _of_another_form(form, kept)
    if kept is not None:
        if kept.is_own:
            waiting_room.leave(kept.ticket)
        flash("You left the queue.")
        waiting_cookie.hand_back(kept)
    return waiting_cookie.take_back(redirect(url_for("auth.register"), code=303))


def _waiting(
    form: WaitingForm, kept: Kept, place: Place, *, ticket: str | None = None, was_turned_away: bool = False
) -> str:
    """Draw the page; `ticket` is the one that holds from now on, where another one than that kept may."""
    form.ticket.data = ticket or kept.ticket
    form.key.data = kept.idempotency_key
    return render_template(
        "auth/wait.html",
        form=form,
        place=place,
        ticket=form.ticket.data,
        application=kept,
        was_turned_away=was_turned_away,
        has_new_place=form.ticket.data != kept.ticket,
        turn_seconds=waiting_room.TURN_LASTS_SECONDS,
        is_private=current_settings().is_private,
    )
