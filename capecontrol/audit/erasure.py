"""Erasing what is personal about somebody in the record, while the events and every proof over them stay."""

from sqlalchemy import text

from capecontrol.audit import events
from capecontrol.audit.actor import Actor
from capecontrol.audit.recorder import record
from capecontrol.extensions import db

BATCH = 5_000

# Theirs by account; or nobody's, by an address their own events carry: tries to sign in, to register again.
_ROWS = text(
    "SELECT id FROM audit_logs WHERE salt IS NOT NULL AND user_id = :person UNION "
    "SELECT id FROM audit_logs WHERE salt IS NOT NULL AND user_id IS NULL AND lower(user_email) IN "
    "(SELECT lower(user_email) FROM audit_logs WHERE user_id = :person) ORDER BY id"
)


def pseudonymise(person_id: str, *, actor: Actor | None) -> int:
    """Set everything personal in a person's events to NULL, with its salt, and return in how many.

    What stays is the opaque id, who is who to nobody once the account is gone. To be called before the account is
    deleted, since that clears `user_id`, and from a job: an event's origin would be the person's own address. The
    event names no `actor` who is the person.
    """
    row_ids = list(db.session.scalars(_ROWS, {"person": person_id}))
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
