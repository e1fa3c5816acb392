"""An event as plain values, frozen when it happens: nothing of it loads later, and the table takes all of it."""

import json
from collections.abc import Mapping
from typing import Any

from capecontrol import ids
from capecontrol.audit.actor import Actor
from capecontrol.audit.commitments import commitment_of
from capecontrol.audit.events import Event
from capecontrol.audit.origin import Origin, current_origin

_LENGTHS = {"user_agent": 1000, "endpoint": 255, "user_email": 320, "error_message": 1000, "request_id": 100}


def freeze(
    kind: Event,
    person: Actor | None,
    details: Mapping[str, Any] | None,
    subject_id: str | None,
    description: str | None,
) -> dict[str, Any]:
    """Return the event as a row of the table, with its origin and the time of this moment.

    `person` is whose record it belongs to. Raises ValueError when the details are not exactly the event's own.
    """
    details = dict(details or {})
    if details.keys() != kind.details:
        raise ValueError(
            f"{kind.name} takes the details {sorted(kind.details)}, not {sorted(details)}: see audit/events.py"
        )
    origin: Origin = current_origin()
    event_id = ids.new_id()
    frozen = {
        "event_id": event_id,
        "user_id": person.id if person else None,
        "actor_ref": person.id if person else None,
        "user_email": person.email if person else None,
        "user_role": person.role if person else None,
        "subject_id": subject_id,
        "event_type": kind.name,
        "event_category": kind.category,
        "event_level": kind.level,
        "event_description": description,
        "ip_address": origin.ip_address,
        "user_agent": _clean(origin.user_agent, "user_agent"),
        "endpoint": _clean(origin.endpoint, "endpoint"),
        "http_method": origin.http_method,
        "request_id": _clean(origin.request_id, "request_id"),
        "session_id": person.session_id if person else None,
        "success": True,
        "error_message": None,
        "event_metadata": json.dumps(storable(details), default=str),
        "created_at": ids.created_at(event_id),
    }
    return frozen | commitment_of(frozen)


def as_refused(
    frozen: dict[str, Any], *, error: str, email: str | None = None, account_id: str | None = None
) -> dict[str, Any]:
    """Return the event as something that was tried and not done, for the reason `error`."""
    refused = frozen | {
        "success": False,
        "error_message": _clean(error, "error_message"),
        "user_email": _clean(email, "user_email") or frozen["user_email"],
        "user_id": frozen["user_id"] or account_id,
    }
    return refused | commitment_of(refused)


def storable(value: Any) -> Any:
    """Return the value with all its text free of NUL and lone surrogates, which PostgreSQL refuses."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _clean(value: str | None, column: str) -> str | None:
    """Return text PostgreSQL can hold: no NUL, no lone surrogates, no longer than the column is meant to be."""
    if value is None:
        return None
    return storable(value)[: _LENGTHS.get(column)]
