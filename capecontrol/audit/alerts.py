"""Alerts: opened once for each thing they are about, counted while it goes on, quiet again when it stops."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import column, delete, func, literal_column, or_, select, table, update
from sqlalchemy.dialects.postgresql import insert

from capecontrol import clock, ids
from capecontrol.audit import alert_rules, events
from capecontrol.audit.actor import Actor
from capecontrol.audit.alert_rules import RULES, Rule, Sign
from capecontrol.audit.models import AuditAlert
from capecontrol.audit.recorder import record
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.mail import letters, outgoing

QUIET_AFTER = timedelta(hours=1)
REMEMBERED_FOR = timedelta(days=90)
MOST_IN_A_MAIL = 20
MOST_LISTED = 100

# What is read of people here; their feature is above this one.
_people = table(
    "users_v2", column("id"), column("email"), column("full_name"), column("user_role"), column("is_active")
)
_FOR_ADMINISTRATORS = tuple(rule.kind for rule in RULES.values() if not rule.is_for_person)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as administrators see it. `is_going_on` says whether it is not quiet yet."""

    id: str
    kind: str
    title: str
    sentence: str
    advice: str
    path: str
    count: int
    first_at: datetime
    last_at: datetime
    is_going_on: bool
    acknowledged_at: datetime | None
    acknowledged_by: str | None

    @property
    def needs_somebody(self) -> bool:
        """Whether no administrator has said yet that they have seen it."""
        return self.acknowledged_at is None


def count_on(sign: Sign, signs: Sequence[Sign]) -> bool:
    """Add signs to the open alert about their subject, and say whether there is one. It tells the latest of them."""
    counted = db.session.scalar(
        update(AuditAlert)
        .where(AuditAlert.kind == sign.rule.kind, AuditAlert.subject == sign.subject, AuditAlert.quiet_at.is_(None))
        .values(
            count=AuditAlert.count + len(signs),
            last_at=func.greatest(AuditAlert.last_at, max(each.at for each in signs)),
            **({"details": sign.details} if sign.details else {}),
        )
        .returning(AuditAlert.id)
    )
    return counted is not None


def open_alert(signs: Sequence[Sign]) -> AuditAlert | None:
    """Open an alert with the signs behind it, or count them towards the one that somebody opened a moment earlier.

    Returns the alert when it was this call that opened it: who opens it orders its mail.
    """
    latest = signs[-1]
    rule = latest.rule
    details = dict(latest.details)
    if rule.is_distinct:
        details["accounts"] = len({sign.mark for sign in signs})
    statement = insert(AuditAlert).values(
        id=ids.new_id(),
        kind=rule.kind,
        subject=latest.subject,
        label=latest.label,
        user_id=_existing(latest.user_id),
        details=details,
        count=len(signs),
        first_at=min(sign.at for sign in signs),
        last_at=max(sign.at for sign in signs),
        opened_at=clock.now(),
    )
    row: Any = db.session.execute(
        statement.on_conflict_do_update(
            index_elements=[AuditAlert.kind, AuditAlert.subject],
            index_where=AuditAlert.quiet_at.is_(None),
            set_={
                "count": AuditAlert.count + statement.excluded.count,
                "last_at": func.greatest(AuditAlert.last_at, statement.excluded.last_at),
            },
        ).returning(AuditAlert, literal_column("(xmax = 0)").label("is_new")),
        execution_options={"populate_existing": True},
    ).one()
    alert: AuditAlert = row[0]
    return alert if row.is_new else None


def order_mails(opened: Iterable[AuditAlert]) -> None:
    """Order the mails about alerts that were just opened: one for each administrator however many they are, and one
    for each person concerned. To be called in the transaction that opened them, so each alert is mailed once."""
    alerts = list(opened)
    for alert in alerts:
        if RULES[alert.kind].is_for_person:
            _tell_person(alert)
    for_administrators = [_told(alert) for alert in alerts if not RULES[alert.kind].is_for_person]
    if not for_administrators:
        return
    fields = {
        "alerts": for_administrators[:MOST_IN_A_MAIL],
        "more": max(0, len(for_administrators) - MOST_IN_A_MAIL),
    }
    for person in db.session.execute(select(_people).where(_people.c.user_role == "admin", _people.c.is_active)).all():
        outgoing.order(letters.ALERTS, to=person.email, fields=fields, user_id=person.id)


def report_degraded(told: str) -> None:
    """Open or count the alert that the record cannot be written now; for whoever looks at it from outside.

    `told` is a sentence for administrators. The record itself can say so only afterwards.
    """
    rule = alert_rules.AUDIT_DEGRADED
    sign = Sign(rule, "audit", "the audit log", clock.now(), "", details={"told": told})
    alert = None if count_on(sign, [sign]) else open_alert([sign])
    if alert is not None:
        order_mails([alert])
    db.session.commit()


def hush() -> None:
    """Mark as quiet what has had no sign for an hour; another sign opens another alert. Does not commit.

    Signs may come hours late. An alert about such stays open for an hour all the same, so that the rest of them is
    counted towards it.
    """
    now = clock.now()
    latest = func.greatest(AuditAlert.last_at, AuditAlert.opened_at)
    db.session.execute(
        update(AuditAlert).where(AuditAlert.quiet_at.is_(None), latest < now - QUIET_AFTER).values(quiet_at=now)
    )


def list_alerts() -> list[Alert]:
    """Return the alerts for administrators that nobody has acknowledged or that still go on: the first kind first,
    then the latest."""
    by = _people.alias()
    rows = db.session.execute(
        select(AuditAlert, by.c.full_name, by.c.email)
        .outerjoin(by, by.c.id == AuditAlert.acknowledged_by)
        .where(
            AuditAlert.kind.in_(_FOR_ADMINISTRATORS),
            or_(AuditAlert.acknowledged_at.is_(None), AuditAlert.quiet_at.is_(None)),
        )
        .order_by(AuditAlert.acknowledged_at.is_not(None), AuditAlert.last_at.desc(), AuditAlert.id)
        .limit(MOST_LISTED)
    ).all()
    return [_shown(alert, name or email) for alert, name, email in rows]


def count_new_devices(*, hours: int = 24) -> int:
    """Return how many sign-ins from new devices people were told about lately."""
    return (
        db.session.scalar(
            select(func.count())
            .select_from(AuditAlert)
            .where(
                AuditAlert.kind == alert_rules.NEW_DEVICE.kind,
                AuditAlert.last_at > clock.now() - timedelta(hours=hours),
            )
        )
        or 0
    )


def acknowledge(alert_id: str, *, actor: Actor) -> None:
    """Say that somebody has seen an alert; the second time changes nothing. Raises NotFound."""
    alert = db.session.scalar(
        select(AuditAlert).where(AuditAlert.id == alert_id, AuditAlert.kind.in_(_FOR_ADMINISTRATORS)).with_for_update()
    )
    if alert is None:
        raise NotFound("There is no such alert.")
    if alert.acknowledged_at is None:
        alert.acknowledged_at = clock.now()
        alert.acknowledged_by = actor.id
        record(events.ALERT_ACKNOWLEDGED, actor=actor, subject_id=alert.id, details={"alert": alert.kind})
    db.session.commit()


def forget_old_alerts() -> int:
    """Delete the alerts that have been quiet for 90 days, and return how many. The events themselves stay."""
    gone = db.session.scalars(
        delete(AuditAlert).where(AuditAlert.quiet_at < clock.now() - REMEMBERED_FOR).returning(AuditAlert.id)
    ).all()
    db.session.commit()
    return len(gone)


def _existing(user_id: str | None) -> str | None:
    """Return the id of an account that is still there; an event may be read after its person is gone."""
    if user_id is None:
        return None
    return db.session.scalar(select(_people.c.id).where(_people.c.id == user_id))


def _tell_person(alert: AuditAlert) -> None:
    person = db.session.execute(select(_people).where(_people.c.id == alert.user_id, _people.c.is_active)).one_or_none()
    if person is None:
        return
    fields = {
        "name": person.full_name,
        "device": alert.details["device"],
        "ip_address": alert.details["ip_address"],
        "at": alert.first_at.strftime("%-d %B %Y, %H:%M %Z"),
    }
    outgoing.order(letters.NEW_DEVICE, to=person.email, fields=fields, user_id=person.id)


def _told(alert: AuditAlert) -> Mapping[str, Any]:
    rule: Rule = RULES[alert.kind]
    return {
        "title": rule.title,
        "sentence": alert_rules.sentence(alert.kind, alert.label, alert.count, alert.details),
        "advice": rule.advice,
        "path": alert_rules.path_of(alert.kind, alert.label),
    }


def _shown(alert: AuditAlert, acknowledged_by: str | None) -> Alert:
    return Alert(
        id=alert.id,
        kind=alert.kind,
        **_told(alert),
        count=alert.count,
        first_at=alert.first_at,
        last_at=alert.last_at,
        is_going_on=alert.quiet_at is None,
        acknowledged_at=alert.acknowledged_at,
        acknowledged_by=acknowledged_by,
    )
