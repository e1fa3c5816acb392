"""The JSON of accounts: contract V1 to V9, with the older pages' addresses beside."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from flask import Blueprint, Response, jsonify, request

from capecontrol.auth import (
    account,
    availability,
    credentials,
    identity,
    passwords,
    private_registration,
    registration,
    sign_in,
    turned_away,
    waiting_room,
)
from capecontrol.auth.identity import login_required, public
from capecontrol.auth.schemas import (
    AppliedAnswer,
    AvailabilityAnswer,
    EmailQuery,
    MeAnswer,
    OlderAppliedAnswer,
    OlderAvailabilityAnswer,
    OlderQueuedAnswer,
    OlderRegistrationAnswer,
    PasswordAnswer,
    PasswordBody,
    PersonAnswer,
    PlaceAnswer,
    ProfileAnswer,
    ProfileBody,
    QueuedAnswer,
    RegistrationAnswer,
    RegistrationBody,
    SignInAnswer,
    SignInBody,
    TokenForm,
)
from capecontrol.auth.tickets import NotATicket
from capecontrol.config import current_settings
from capecontrol.errors import Invalid, NotReadable, RateLimited, UnsupportedContent
from capecontrol.web import rate_limits
from capecontrol.web.deadlines import View, counts_late
from capecontrol.web.error_handlers import words_errors
from capecontrol.web.json_requests import check_shape, idempotency_key, read_json, text_in_body
from capecontrol.web.openapi import LONGEST_TICKET, describes
from capecontrol.web.rate_limits import limited
from capecontrol.web.registrations_line import begins_in_line

endpoints = Blueprint("auth_api", __name__, url_prefix="/api")


def _unchecked(status: int, detail: str) -> dict[str, Any]:
    """Say what a check of an address that failed found out, in V1's vocabulary: as a rule nothing, which blocks
    nobody."""
    if status == 422:
        return {"available": False, "reason": "invalid_format", "message": detail}
    return {"available": None, "reason": "rate_limited" if status == 429 else "validation_error", "message": detail}


def _failed(_status: int, detail: str) -> dict[str, Any]:
    """Say it the way the older pages read it."""
    return {"success": False, "message": detail}


def counted_by_ticket() -> bool:
    """Count this registration for the ticket it comes with, and say whether it has one: its holder was counted when it
    was drawn, and a turn must not be lost to what neighbours do. Raises RateLimited beyond the ticket's own limit."""
    ticket_id = waiting_room.id_of(request.headers.get("X-Registration-Ticket", ""))
    if ticket_id is not None:
        rate_limits.hold_ticket(ticket_id)
    return ticket_id is not None


OURS: dict[int, Any] = {201: RegistrationAnswer, 202: AppliedAnswer, 409: None, 503: QueuedAnswer}
OLDER: dict[int, Any] = {201: OlderRegistrationAnswer, 202: OlderAppliedAnswer, 409: None, 503: OlderQueuedAnswer}
"""The shapes of what a registration is answered, by status; a 409 has none of its own."""


def opens_account(summary: str, *, answers: dict[int, Any]) -> Callable[[View], View]:
    """Mark an endpoint as one that opens accounts: described, standing in line, and counted where it came too late to
    be read."""
    describe = describes(
        summary, body=RegistrationBody, answers=answers, takes_idempotency_key=True, takes_ticket="optional"
    )
    return lambda view: describe(counts_late(turned_away.count_late)(begins_in_line(view)))


def _query_as_sent() -> dict[str, str]:
    """Return the query string's first value of each name: empty where it is, as in the twin's JSON, and with U+FFFD for
    bytes that are no text, of which werkzeug makes the signs "%FF", an address like any other."""
    sent = parse_qs(request.query_string.decode("utf-8", "replace"), keep_blank_values=True, errors="replace")
    return {name: values[0] for name, values in sent.items()}


@endpoints.get("/auth/v2/validate-email")
@public
@describes(
    "Whether an address can be registered.",
    query=EmailQuery,
    answers=dict.fromkeys((200, 422, 429, 503), AvailabilityAnswer),
)
@words_errors(_unchecked)
def validate_email() -> Response:
    """V1."""
    return _availability(lambda: check_shape(EmailQuery, _query_as_sent()).email)


@endpoints.post("/auth/v2/validate-email")
@public
@describes(
    "Whether an address can be registered, without the address in the path.",
    body=EmailQuery,
    answers=dict.fromkeys((200, 422, 429, 503), AvailabilityAnswer),
)
@words_errors(_unchecked)
def validate_email_by_post() -> Response:
    """V1's twin: routers log paths, so this one keeps the address out of them."""
    return _availability(lambda: read_json(EmailQuery).email)


@endpoints.post("/auth/v2/validate-password")
@public
@describes("How good a password is, by our rule.", body=PasswordBody, answers={200: PasswordAnswer})
@limited(rate_limits.CHECK_PASSWORD)
def validate_password() -> Response:
    """V2."""
    body = read_json(PasswordBody)
    wrong = passwords.problems(body.password, email=body.email or "", name=body.full_name or "")
    answer = PasswordAnswer(
        valid=not wrong,
        score=passwords.score(body.password, is_refused=bool(wrong)),
        requirements=passwords.requirements(body.password),
        message=wrong[0] if wrong else "This password will do.",
    )
    return jsonify(answer.model_dump())


@endpoints.post("/auth/v2/register")
@public
@opens_account(
    "Open an account; 503 with a ticket when many people do, to be sent again with X-Registration-Ticket.",
    answers=OURS,
)
@limited(rate_limits.REGISTER, unless=counted_by_ticket)
def register() -> tuple[Response, int]:
    """V3."""
    return _register("api", OURS)


@endpoints.get("/auth/v2/registration-place")
@public
@describes("Where a ticket stands in the waiting room.", answers={200: PlaceAnswer, 422: None}, takes_ticket="required")
@begins_in_line
def registration_place() -> Response:
    """V9; the ticket comes in a header, because routers log paths."""
    ticket = _ticket()
    if ticket is None:
        raise NotATicket
    place = waiting_room.get_place(ticket)
    answer = PlaceAnswer.model_validate(place, from_attributes=True)
    response = Response(answer.model_dump_json(), mimetype="application/json")
    response.headers["Retry-After"] = str(place.poll_seconds)
    return response


@endpoints.post("/auth/register")
@public
@opens_account("Open an account, for the older page.", answers=OLDER)
@words_errors(_failed)
@limited(rate_limits.REGISTER, unless=counted_by_ticket)
def register_from_older_page() -> tuple[Response, int]:
    """V7."""
    return _register("older page", OLDER)


@endpoints.post("/auth/register/step1")
@public
@describes(
    "Whether an address can be registered, for the older page.",
    body=EmailQuery,
    answers=dict.fromkeys((200, 422, 429, 503), OlderAvailabilityAnswer),
)
@words_errors(lambda status, detail: _unchecked(status, detail) | _failed(status, detail))
def register_step1() -> Response:
    """V7, first step: an address."""
    found = _check_email(lambda: read_json(EmailQuery).email)
    answer = OlderAvailabilityAnswer(
        success=found.available,
        available=found.available,
        reason=found.reason,
        message=found.message,
        suggestion=found.suggestion,
    )
    return jsonify(answer.model_dump(exclude_none=True))


@endpoints.post("/auth/register/step2")
@public
@opens_account("Open an account, the older page's second step.", answers=OLDER)
@words_errors(_failed)
@limited(rate_limits.REGISTER, unless=counted_by_ticket)
def register_step2() -> tuple[Response, int]:
    """V7, second step: the account."""
    return _register("older page, step 2", OLDER)


@endpoints.post("/auth/v2/login")
@public
@describes("Sign in and get a bearer token of 12 hours.", body=SignInBody, answers={200: SignInAnswer, 401: None})
@limited(rate_limits.SIGN_IN)
def login() -> Response:
    """V4."""
    return _token_by_json("api")


@endpoints.post("/auth/login")
@public
@describes("Sign in, for the older pages.", body=SignInBody, answers={200: SignInAnswer, 401: None})
@words_errors(_failed)
@limited(rate_limits.SIGN_IN)
def login_from_older_page() -> Response:
    """V4; the older pages read the failure's `message`."""
    return _token_by_json("older page")


@endpoints.post("/token")
@public
@describes("Sign in by form, as OAuth libraries do.", form=TokenForm, answers={200: SignInAnswer, 401: None})
@limited(rate_limits.SIGN_IN)
def token() -> Response:
    """V4; the only endpoint that takes a form. It sets no cookie."""
    with _refusals_recorded(request.form.get("username"), "token"):
        if request.mimetype != "application/x-www-form-urlencoded":
            raise UnsupportedContent("Send this as application/x-www-form-urlencoded.")
        body = check_shape(TokenForm, request.form.to_dict())
    return _token_for(body.username, body.password, "token")


@endpoints.get("/auth/v2/me")
@endpoints.get("/auth/me")
@login_required
@describes("Who I am.", answers={200: MeAnswer})
def me() -> Response:
    """V5."""
    person = account.get_person(actor=identity.signed_in())
    answer = MeAnswer(
        **_person(person).model_dump(),
        full_name=person.full_name,
        user_role=person.user_role,
        company_name=person.company_name,
        created_at=person.created_at,
    )
    return jsonify(answer.model_dump(mode="json"))


@endpoints.post("/auth/v2/logout")
@login_required
@describes("Sign out: the token is dead.", answers={204: None})
def logout() -> tuple[str, int]:
    """V6."""
    sign_in.sign_out(actor=identity.signed_in(), method="api", token_secret=identity.bearer_secret())
    return "", 204


@endpoints.post("/enhanced/complete-phase2-profile")
@login_required
@describes("Store the profile of the second page.", body=ProfileBody, answers={200: ProfileAnswer})
def complete_profile() -> Response:
    """V8."""
    actor = identity.signed_in()
    try:
        fields = read_json(ProfileBody).model_dump(exclude_none=True)
    except (Invalid, NotReadable, UnsupportedContent) as refusal:
        account.record_profile_refused(getattr(refusal, "errors", {}), actor=actor, error=refusal.detail)
        raise
    person = account.complete_profile(fields, actor=actor)
    answer = ProfileAnswer(message="Your profile is saved.", profile=person.profile or {})
    return jsonify(answer.model_dump())


def _availability(read: Callable[[], str]) -> Response:
    found = _check_email(read)
    answer = AvailabilityAnswer(
        available=found.available, reason=found.reason, message=found.message, suggestion=found.suggestion
    )
    return Response(answer.model_dump_json(exclude_none=True), mimetype="application/json")


def _check_email(read: Callable[[], str]) -> availability.Availability:
    """Check an address within the limits of its caller and of itself. Raises RetryLater, and what reading raises."""
    try:
        rate_limits.hold_to(rate_limits.CHECK_EMAIL, who=rate_limits.caller())
        return availability.check_email(
            read(),
            admit=lambda key: rate_limits.hold_to(rate_limits.CHECK_ONE_EMAIL, who=key),
            is_neutral=current_settings().is_private,
        )
    except RateLimited:
        availability.count_refused()
        raise


def _register(method: str, shapes: Mapping[int, Any]) -> tuple[Response, int]:
    try:
        body = read_json(RegistrationBody)
        key, ticket = idempotency_key(), _ticket()
    except (Invalid, NotReadable, UnsupportedContent) as refusal:
        wrong = ", ".join(getattr(refusal, "errors", {})) or refusal.detail
        registration.record_refused(text_in_body("email"), method=method, reason="invalid_input", error=wrong)
        raise
    application = registration.Application(
        email=body.email,
        password=body.password,
        full_name=body.name_given,
        user_role=body.role_given,
        company_name=body.company_given,
        terms_source=body.terms_source,
        profile=body.profile,
    )
    try:
        if current_settings().is_private:
            private_registration.register(application, method=method, idempotency_key=key, ticket=ticket)
            return jsonify(shapes[202](detail=private_registration.DETAIL).model_dump()), 202
        done = registration.register(
            application,
            actor=None,
            method=method,
            mint=credentials.token,
            idempotency_key=key,
            ticket=ticket,
        )
    except waiting_room.Queued as queued:
        return _queued(queued, shapes[503]), 503
    user = done.user
    answer = shapes[201](
        id=user.id,
        email=user.email,
        full_name=user.full_name,
        user_role=user.user_role,
        company_name=user.company_name,
        created_at=user.created_at,
        access_token=done.credential.secret,
        accessToken=done.credential.secret,
    )
    return jsonify(answer.model_dump(mode="json")), 201


def _queued(queued: waiting_room.Queued, shape: type[QueuedAnswer]) -> Response:
    place = queued.place
    answer = shape(detail=queued.detail, ticket=queued.ticket, place=place.place, eta_seconds=place.eta_seconds)
    response = Response(answer.model_dump_json(), mimetype="application/json")
    response.headers["Retry-After"] = str(queued.retry_after)
    return response


def _ticket() -> str | None:
    ticket = request.headers.get("X-Registration-Ticket")
    if ticket is not None and len(ticket) > LONGEST_TICKET:
        raise NotATicket
    return ticket or None


def _token_by_json(method: str) -> Response:
    with _refusals_recorded(text_in_body("email"), method):
        body = read_json(SignInBody)
    return _token_for(body.email, body.password, method)


@contextmanager
def _refusals_recorded(email: str | None, method: str) -> Iterator[None]:
    """Record a sign-in whose shape alone was wrong."""
    try:
        yield
    except (Invalid, NotReadable, UnsupportedContent) as refusal:
        sign_in.record_refused(email, method=method, reason="invalid_input", error=refusal.detail)
        raise


def _token_for(email: str, password: str, method: str) -> Response:
    rate_limits.hold_to(rate_limits.SIGN_IN_TO_ACCOUNT, who=f"{rate_limits.caller()}|{identity.account_bucket(email)}")
    user, credential = sign_in.sign_in(
        email, password, actor=None, method=method, mint=credentials.token, is_private=current_settings().is_private
    )
    answer = SignInAnswer(access_token=credential.secret, token=credential.secret, user=_person(user))
    return jsonify(answer.model_dump())


def _person(user: Any) -> PersonAnswer:
    first, _, last = (user.full_name or "").partition(" ")
    return PersonAnswer(id=user.id, email=user.email, firstName=first, lastName=last, role=user.user_role)
