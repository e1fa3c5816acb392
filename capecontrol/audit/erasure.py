"""Erasing what is personal about somebody in the record, while the events and every proof over them stay."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.evidence import PERSONAL_FIELDS
from capecontrol.audit.recorder import record
from capecontrol.errors import NotFound
from capecontrol.extensions import db

BATCH = 5_000

# Locked, so that nothing about them is stored meanwhile: an event refers to its account.
_ACCOUNT = text("SELECT id FROM users_v2 WHERE id = :person FOR UPDATE")
_OF_AN_ACCOUNT = "user_id = :person"
_OF_ONE_THAT_IS_GONE = "user_id IS NULL AND actor_ref = :person"
# Theirs; or nobody's, by an address their own events or their account carry: tries to sign in, to register again; or
# of staff who read a conversation of theirs, since the reason they gave may say anything about its owner, or who
# asked for that address.
_ROWS = (
    "WITH theirs AS MATERIALIZED ("
    "SELECT id, lower(user_email) AS address FROM audit_logs WHERE salt IS NOT NULL AND {theirs}), "
    "known AS MATERIALIZED ("
    "SELECT address FROM theirs WHERE address IS NOT NULL UNION SELECT lower(email) FROM users_v2 WHERE id = :person) "
    "SELECT id FROM theirs UNION "
    "SELECT id FROM audit_logs WHERE salt IS NOT NULL AND user_id IS NULL "
    "AND lower(user_email) IN (SELECT address FROM known) UNION "
    "SELECT id FROM audit_logs WHERE salt IS NOT NULL AND event_type = 'conversation_read_by_staff' "
    "AND event_metadata ->> 'owner_id' = :person UNION "
    "SELECT id FROM audit_logs WHERE salt IS NOT NULL AND event_type = :export "
    "AND lower(event_description) IN (SELECT lower(format(:only_events_of, address)) FROM known) ORDER BY id"
)
_ONLY_EVENTS_OF = re.compile(re.escape(events.ONLY_EVENTS_OF).replace("%s", "(.*)"))
_ERASURES = text(
    "SELECT subject_id, lower(email) AS address, max(audit_logs.created_at) AS at "
    "FROM audit_logs LEFT JOIN users_v2 ON users_v2.id = subject_id "
    "WHERE event_type = :kind AND (subject_id = ANY(:people) OR lower(email) = ANY(:addresses)) GROUP BY 1, 2"
)
_ERASED = dict.fromkeys((*PERSONAL_FIELDS, "salt"))


def pseudonymise(person_id: str, *, actor: Actor | None) -> int:
    """Set everything personal in a person's events to NULL, with its salt, and return in how many.

    What stays is the opaque id, who is who to nobody once the account is gone. To be called before the account is
    deleted, since only then is every address known, and from a job or a command: an event's origin would be the
    person's own address. The event names no `actor` who is the person. Raises NotFound where nothing is of this id.
    """
    has_account = db.session.scalar(_ACCOUNT, {"person": person_id}) is not None
    theirs = _OF_AN_ACCOUNT if has_account else _OF_ONE_THAT_IS_GONE
    wanted = {"person": person_id, "export": events.DATA_EXPORT.name, "only_events_of": events.ONLY_EVENTS_OF}
    row_ids = list(db.session.scalars(text(_ROWS.format(theirs=theirs)), wanted))
    if not (has_account or row_ids):
        db.session.rollback()
        raise NotFound("There is no account of this id, and no event of one that still holds anything personal.")
    for start in range(0, len(row_ids), BATCH):
        db.session.execute(
            text(
                "UPDATE audit_logs SET user_email = NULL, ip_address = NULL, user_agent = NULL, "
                "event_description = NULL, error_message = NULL, salt = NULL WHERE id = ANY(:ids)"
            ),
            {"ids": row_ids[start : start + BATCH]},
        )
    record(
        events.AUDIT_PSEUDONYMISED,
        actor=None if actor is None or actor.id == person_id else actor,
        subject_id=person_id,
        details={"rows": len(row_ids)},
    )
    db.session.commit()
    return len(row_ids)


def as_erased(rows: Sequence[dict[str, Any]], connection: Connection) -> list[dict[str, Any]]:
    """Return events that are stored late, without what is personal in those of somebody who was erased meanwhile."""
    known = [(people_of(row), _addresses_of(row)) for row in rows]
    wanted = {
        "kind": events.AUDIT_PSEUDONYMISED.name,
        "people": sorted({person for people, _ in known for person in people}),
        "addresses": sorted({address for _, addresses in known for address in addresses}),
    }
    erased_at: dict[str, datetime] = {}
    for person_id, address, at in connection.execute(_ERASURES, wanted):
        erased_at |= {person_id: at} | ({address: at} if address else {})
    return [
        row | _ERASED if any(_happened_by(row, erased_at.get(each)) for each in people | addresses) else row
        for row, (people, addresses) in zip(rows, known, strict=True)
    ]


def people_of(row: Mapping[str, Any]) -> set[str]:
    """Return the ids of the people about whom an event that is stored late says something personal."""
    people = {row["user_id"] or row.get("actor_ref")}
    if row["event_type"] == events.CONVERSATION_READ_BY_STAFF.name:
        people.add(json.loads(row["event_metadata"]).get("owner_id"))
    return {person for person in people if isinstance(person, str)}


def _addresses_of(row: Mapping[str, Any]) -> set[str]:
    """Return the addresses by which an event that is stored late is about somebody: nobody's, or one asked for."""
    named = [] if people_of(row) else [row.get("user_email")]
    if row["event_type"] == events.DATA_EXPORT.name:
        named += _ONLY_EVENTS_OF.findall(str(row.get("event_description")))
    return {address.lower() for address in named if isinstance(address, str)}


def _happened_by(row: Mapping[str, Any], moment: datetime | None) -> bool:
    return moment is not None and datetime.fromisoformat(row["created_at"]) <= moment
