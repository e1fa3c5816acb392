"""What the browser keeps while its owner waits: the signed ticket and the form, without the password."""

from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from flask import current_app, request, session
from itsdangerous import URLSafeTimedSerializer
from werkzeug.wrappers import Response

from capecontrol.auth.waiting_room import Queued
from capecontrol.config import current_settings
from capecontrol.web import cookies

LASTS_SECONDS = 3600
_HANDED_BACK = "form_of_who_left"
_LARGEST = 3800  # bytes; a browser may drop a cookie of more than 4,096

Answer = TypeVar("Answer", bound=Response)


@dataclass(frozen=True, slots=True)
class Kept:
    """A filled-in form and the place it waits for. A password is no part of it.

    `is_own` says whether this browser drew the ticket. Whoever sends the same address is given the same place, but may
    not give up somebody else's.
    """

    ticket: str
    idempotency_key: str | None
    email: str
    full_name: str
    user_role: str
    company_name: str | None
    is_own: bool = False


def read() -> Kept | None:
    """Return what this browser keeps, or None when it waits for nothing."""
    fields = cookies.load(_signer(), request.cookies.get(_name(), ""), lasts_seconds=LASTS_SECONDS)
    try:
        return Kept(**fields) if fields is not None else None
    except TypeError:  # kept by another version of ours
        return None


def give(answer: Answer, kept: Kept, queued: Queued) -> Answer:
    """Let the browser keep the form with the ticket it was given."""
    before = read()
    is_own = queued.is_new or (before is not None and before.is_own and before.ticket == queued.ticket)
    kept = replace(kept, ticket=queued.ticket, is_own=is_own)
    value = _signer().dumps(asdict(kept))
    if len(value) > _LARGEST:
        value = _signer().dumps(asdict(replace(kept, company_name=None)))  # optional, and the only one so long
    answer.set_cookie(
        _name(), value, max_age=LASTS_SECONDS, path="/", secure=_is_https(), httponly=True, samesite="Lax"
    )
    return answer


def take_back(answer: Answer) -> Answer:
    """Make the browser forget the form: it waits no more."""
    answer.delete_cookie(_name(), path="/", secure=_is_https(), httponly=True, samesite="Lax")
    return answer


def hand_back(kept: Kept) -> None:
    """Let the form be drawn once with what was kept, for who left the queue and wants to change something."""
    session[_HANDED_BACK] = {
        "full_name": kept.full_name,
        "email": kept.email,
        "user_role": kept.user_role,
        "company_name": kept.company_name,
    }


def handed_back() -> dict[str, str | None] | None:
    """Return what was handed back since, once."""
    return session.pop(_HANDED_BACK, None)


def _name() -> str:
    return "__Host-waiting" if _is_https() else "waiting"


def _is_https() -> bool:
    return current_settings().is_https


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(str(current_app.config["SECRET_KEY"]), salt="waiting-form")
