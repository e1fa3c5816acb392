"""Rows of the record as tests need them: valid by default, keywords to vary."""

from datetime import datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy.orm import Session

from capecontrol import clock, ids
from capecontrol.audit.models import AuditLog

_minutes = count(1)


def make_event(session: Session, *, at: datetime | None = None, **columns: Any) -> AuditLog:
    """Store an event, by default a sign-in, each a minute older than the one before."""
    at = at or clock.now() - timedelta(minutes=next(_minutes))
    event_id = ids.new_id_of(at)
    row = AuditLog(
        **{
            "event_id": event_id,
            "event_type": "user_login",
            "event_category": "authentication",
            "event_level": "info",
            "success": True,
            "created_at": at,
            "event_metadata": {"method": "page", "remembered": False},
        }
        | columns
    )
    session.add(row)
    session.commit()
    return row
