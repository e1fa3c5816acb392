"""An event as a sentence: for administrators in the third person, for the person it concerns in the second.

Sentences are plain text; whoever shows them escapes them. They are made only of the words below, the person's name
and the few details named here, so nothing secret can come into one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Happening:
    """What a sentence is made of.

    `who` is the person's name or address; `has_actor` says whether they are proven to have done it themselves, and
    not the system for them or somebody unknown in their name.
    """

    kind: str
    success: bool
    who: str | None
    has_actor: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Voice:
    """The person of a sentence in its cases. `is_at_readers` says that they acted on what is the reader's."""

    name: str
    object: str
    their: str
    was: str
    is_reader: bool
    is_at_readers: bool = False


def tell(happening: Happening) -> str:
    """Return the event as a sentence about somebody, for administrators."""
    name = happening.who or "Somebody"
    return _sentence(happening, _Voice(name, happening.who or "somebody", "their", "was", is_reader=False))


def tell_oneself(happening: Happening) -> str:
    """Return the event as a sentence to the person whose record it is in."""
    return _sentence(happening, _Voice("You", "you", "your", "were", is_reader=True))


def tell_concerned(happening: Happening) -> str:
    """Return what staff did as a sentence to the person whose it was. It names nobody."""
    staff = _Voice("A member of staff", "a member of staff", "their", "was", is_reader=False, is_at_readers=True)
    return _sentence(happening, staff)


def worded_events() -> frozenset[str]:
    """Return the stored names that have a wording of their own."""
    return frozenset(_ACTS) | frozenset(_OTHERS)


def worded_limits() -> frozenset[str]:
    """Return the names of limits that have a wording of their own."""
    return frozenset(_LIMITS)


def _sentence(happening: Happening, voice: _Voice) -> str:
    wording = _OTHERS.get(happening.kind)
    if wording is not None:
        return wording(happening, voice)
    if happening.kind in _ACTS:
        did, do = _ACTS[happening.kind]
        if happening.success:
            return f"{voice.name} {did.format(their=voice.their)}"
        return f"{voice.name} could not {do.format(their=voice.their)}"
    return _plain(happening, voice)


def _plain(happening: Happening, voice: _Voice) -> str:
    """Word an event no list of ours knows, such as one of the inherited database, by its stored name."""
    words = " ".join(happening.kind.replace("_", " ").replace("-", " ").split()) or "something"
    told = words[0].upper() + words[1:]
    if not voice.is_reader and happening.who:
        told = f"{happening.who}: {words}"
    return told if happening.success else f"{told} (refused)"


# What a person does: how it reads when it was done, and after "could not".
_ACTS: dict[str, tuple[str, str]] = {
    "user_logout": ("signed out", "sign out"),
    "session_ended": ("ended a session on one device", "end a session on one device"),
    "email_verified": ("confirmed {their} e-mail address", "confirm {their} e-mail address"),
    "alert_acknowledged": ("acknowledged an alert", "acknowledge an alert"),
    "profile_updated": ("changed {their} profile", "change {their} profile"),
    "conversation_started": ("started a conversation", "start a conversation"),
    "conversation_renamed": ("renamed a conversation", "rename a conversation"),
    "conversation_archived": ("archived a conversation", "archive a conversation"),
    "conversation_unarchived": (
        "took a conversation back out of the archive",
        "take a conversation back out of the archive",
    ),
    "conversation_deleted": ("deleted a conversation", "delete a conversation"),
    "conversation_restored": ("restored a deleted conversation", "restore a deleted conversation"),
}

_REASONS = {
    "email_taken": "the address already has an account",
    "key_used_differently": "the form was sent before with other details",
    "sent_before": "the same form was sent before",
    "ticket_spent": "the ticket had opened its account already",
    "no_ticket_of_ours": "the waiting ticket was not valid",
    "unavailable": "the database did not answer",
    "outcome_unknown": "the connection was lost at the last step, and it may have been done",
    "invalid_input": "something in the form was not right",
    "looks_automated": "the form looked sent by a machine",
    "overloaded": "we were too busy",
    "wrong_password_or_closed": "the password was wrong or the account is closed",
    "address_not_confirmed": "the address is not confirmed yet",
    "unknown_address": "there is no such account",
}
_ROLES = {"admin": "an administrator", "client": "a client", "developer": "a developer"}
_PLACES = {
    "audit.search": "the audit log",
    "audit.show": "an event of the audit log",
    "operations_pages.show": "the operations page",
    "operations_pages.acknowledge": "the operations page",
    "operations_pages.outbox": "the outbox",
    "operations_pages.show_kept": "a mail of the outbox",
    "operations_pages.show_kept_html": "a mail of the outbox",
    "staff_reading.ask_to_read": "the page on which staff read a conversation",
    "staff_reading.read": "the page on which staff read a conversation",
    "conversation": "somebody else's conversation",
}
_LIMITS = {
    "register": "tried too often to open an account",
    "register_with_ticket": "sent the form too often with one place in the queue",
    "sign_in": "tried too often to sign in",
    "sign_in_to_account": "tried too often to sign in to one account",
    "verify_email": "tried too often to confirm an address",
    "check_email": "asked too often whether addresses are free",
    "check_one_email": "asked too often whether one address is free",
    "check_password": "had too many passwords judged in a short time",
    "post_message": "sent too many messages in a short time",
    "start_conversation": "started too many conversations in a short time",
    "delete_audit": "tried too often to erase a part of the audit log",
}


def _registration(happening: Happening, voice: _Voice) -> str:
    whose = "your" if voice.is_reader else "an"
    return f"{voice.name} opened {whose} account" if happening.success else f"{voice.name} could not open an account"


def _registration_failed(happening: Happening, voice: _Voice) -> str:
    if voice.is_reader:
        return f"You could not open an account{_because(happening)}"
    address = f" as {happening.who}" if happening.who else ""
    return f"Somebody could not open an account{address}{_because(happening)}"


def _turned_away(happening: Happening, _voice: _Voice) -> str:
    number = _count(happening.details.get("number"))
    if number is None:
        return "We were too busy for some more registrations"
    return f"We were too busy for {number:,} more {'registration' if number == 1 else 'registrations'}"


def _login(happening: Happening, voice: _Voice) -> str:
    if not happening.success:
        return f"{voice.name} could not sign in"
    method = happening.details.get("method")
    if method in ("api", "token", "older page"):
        return f"{voice.name} signed in with a program"
    if method == "repeated registration":
        return f"{voice.name} signed in by sending {voice.their} registration again"
    stays = ", to stay signed in" if happening.details.get("remembered") is True else ""
    return f"{voice.name} signed in{stays}"


def _login_failed(happening: Happening, voice: _Voice) -> str:
    if voice.is_reader:  # nobody has proven to be the reader, so it is not told as their own act
        return f"Somebody could not sign in to your account{_because(happening)}"
    address = f" as {happening.who}" if happening.who else ""
    return f"Somebody could not sign in{address}{_because(happening)}"


def _role_changed(happening: Happening, voice: _Voice) -> str:
    if happening.success and happening.details.get("old", "some role") is None:
        return _opened_with_role(happening, voice)
    new = _ROLES.get(_text(happening.details.get("new")), "somebody with another role")
    if not happening.success:
        return (
            f"{voice.name} could not be made {new}"
            if not happening.has_actor
            else f"{voice.name} could not change a role"
        )
    if happening.has_actor:
        return f"{voice.name} made somebody {new}"
    return f"{voice.name} became {new}"


def _opened_with_role(happening: Happening, voice: _Voice) -> str:
    """Word an account that had no role before, because it was opened with this one."""
    account = "an administrator's account" if happening.details.get("new") == "admin" else "an account"
    if happening.has_actor:
        return f"{voice.name} opened {account}"
    return f"{account.capitalize()} was opened{' for you' if voice.is_reader else ''}"


def _access_denied(happening: Happening, voice: _Voice) -> str:
    wanted = _text(happening.details.get("wanted"))
    if wanted.startswith("audit_api.refuse_delete"):
        return f"{voice.name} tried to erase a part of the audit log and {voice.was} refused"
    if wanted == "session":
        return f"{voice.name} tried to sign somebody else out and {voice.was} refused"
    place = _PLACES.get(wanted) or (f"{wanted}, which is not open to {voice.object}," if wanted else "something")
    return f"{voice.name} tried to open {place} and {voice.was} refused"


def _rate_limit(happening: Happening, voice: _Voice) -> str:
    limit = _text(happening.details.get("limit"))
    return f"{voice.name} {_LIMITS.get(limit, 'did something too often')}"


def _read_by_staff(happening: Happening, voice: _Voice) -> str:
    whose = "your" if voice.is_at_readers else "somebody else's"
    return f"{voice.name} {'read' if happening.success else 'could not read'} {whose} conversation"


def _prompt_submitted(happening: Happening, voice: _Voice) -> str:
    if not happening.success:
        return f"{voice.name} could not send a message"
    return f"{voice.name} sent a message{_of_characters(happening)}"


def _prompt_refused(happening: Happening, voice: _Voice) -> str:
    return f"{voice.name} could not send a message{_because(happening)}"


def _response_generated(happening: Happening, voice: _Voice) -> str:
    if not happening.success:
        return f"The assistant could not answer {voice.object}"
    return f"The assistant answered {voice.object}"


def _response_failed(_happening: Happening, voice: _Voice) -> str:
    return f"The assistant could not answer {voice.object}"


def _export(happening: Happening, voice: _Voice) -> str:
    kinds = {"audit log": "the audit log", "seals": "the seals of the audit log"}
    what = kinds.get(str(happening.details.get("what")), "data")
    return f"{voice.name} exported {what}" if happening.success else f"{voice.name} could not export {what}"


def _export_ended(happening: Happening, voice: _Voice) -> str:
    count = _count(happening.details.get("events"))
    events = "" if count is None else f" of {count:,} event{'' if count == 1 else 's'}"
    if happening.success:
        return f"The export{events} by {voice.object} was sent whole"
    return f"The export by {voice.object} broke off" + (f" after {count:,} events" if count else "")


def _demo_filled(happening: Happening, _voice: _Voice) -> str:
    people, conversations = (_text(happening.details.get(name)) or "some" for name in ("people", "conversations"))
    return f"The database was filled with {people} invented people and {conversations} conversations"


def _email_checks(happening: Happening, _voice: _Voice) -> str:
    checked, taken, refused = (_count(happening.details.get(name)) for name in ("checked", "taken", "refused"))
    told = f"Somebody asked {_times(checked)}whether an address is free"
    if taken:
        told += f", and {_times(taken)}it was taken"
    if refused:
        told += f"; {_times(refused)}it was too often and not answered"
    return told


def _audit_degraded(happening: Happening, _voice: _Voice) -> str:
    swallowed = _count(happening.details.get("swallowed"))
    waited = "1 event had" if swallowed == 1 else f"{swallowed:,} events had" if swallowed else "events had"
    return f"The audit log could not be written for a while; {waited} to wait elsewhere"


def _audit_events_dropped(happening: Happening, _voice: _Voice) -> str:
    dropped = _count(happening.details.get("dropped"))
    told = "1 event" if dropped == 1 else f"{dropped:,} events" if dropped else "Events"
    return f"{told} for the audit log could wait nowhere but in the server's own log"


def _audit_key_changed(_happening: Happening, _voice: _Voice) -> str:
    return "The audit log is sealed with another key from now on"


def _audit_purged(happening: Happening, _voice: _Voice) -> str:
    rows = happening.details.get("rows")
    counts = [_count(each) for each in rows.values()] if isinstance(rows, Mapping) else []
    total = sum(count for count in counts if count is not None)
    what = {0: "events", 1: "1 event"}.get(total, f"{total:,} events")
    return f"The purge took {what} out of the audit log: their time was over"


def _audit_pseudonymised(happening: Happening, _voice: _Voice) -> str:
    count = _count(happening.details.get("rows"))
    what = "events" if count is None else "1 event" if count == 1 else f"{count:,} events"
    return f"What was personal in {what} of the audit log was erased"


_OTHERS: dict[str, Callable[[Happening, _Voice], str]] = {
    "user_registration": _registration,
    "user_registration_failed": _registration_failed,
    "registrations_turned_away": _turned_away,
    "user_login": _login,
    "user_login_failed": _login_failed,
    "role_changed": _role_changed,
    "access_denied": _access_denied,
    "rate_limit_exceeded": _rate_limit,
    "conversation_read_by_staff": _read_by_staff,
    "ai_prompt_submitted": _prompt_submitted,
    "ai_prompt_refused": _prompt_refused,
    "ai_response_generated": _response_generated,
    "ai_response_failed": _response_failed,
    "data_export": _export,
    "data_export_ended": _export_ended,
    "email_checks": _email_checks,
    "demo_filled": _demo_filled,
    "audit_degraded": _audit_degraded,
    "audit_events_dropped": _audit_events_dropped,
    "audit_key_changed": _audit_key_changed,
    "audit_purged": _audit_purged,
    "audit_pseudonymised": _audit_pseudonymised,
}


def _because(happening: Happening) -> str:
    reason = _REASONS.get(_text(happening.details.get("reason")))
    return f": {reason}" if reason else ""


def _of_characters(happening: Happening) -> str:
    count = _count(happening.details.get("characters"))
    if count is None:
        return ""
    return " of 1 character" if count == 1 else f" of {count:,} characters"


def _times(count: int | None) -> str:
    """Return how often, with a space behind it; nothing for none or for what is no number."""
    if not count:
        return ""
    return "once " if count == 1 else f"{count:,} times "


def _count(value: Any) -> int | None:
    """Return a detail that is a number; an inherited row may hold anything."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    """Return a detail as short text; an inherited row may hold anything."""
    return str(value)[:80] if isinstance(value, str | int) and not isinstance(value, bool) else ""
