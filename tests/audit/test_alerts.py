"""Alerts open exactly once for what needs somebody, whatever repeats or races, and never for normal life."""

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from capecontrol import clock
from capecontrol.audit import alert_rules, alert_watch, alerts, events
from capecontrol.audit.alert_rules import Sign
from capecontrol.audit.devices import network_of
from capecontrol.audit.models import AuditAlert, AuditAlertCursor, AuditLog
from capecontrol.audit.recorder import record
from capecontrol.errors import NotFound
from capecontrol.extensions import db
from capecontrol.mail.models import OutgoingMail
from tests.audit.recorded import make_event
from tests.people import PASSWORD, Person, make_person

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0"
CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/142.0 Safari/537.36"
HOME = "203.0.113.20"
AWAY = "198.51.100.7"

Watch = Callable[[], int]


@pytest.fixture
def watch(app: Flask) -> Watch:
    """Return a function that reads the record as the job does, and says how many alerts were opened."""

    def watched() -> int:
        with app.app_context():
            return alert_watch.raise_alerts()

    watched()
    return watched


def test_nothing_is_advised_that_the_product_cannot_do(app: Flask) -> None:
    """There is no page for choosing another password, and neither an alert nor a mail may send people there."""
    pages = {rule.rule for rule in app.url_map.iter_rules()}
    assert not [page for page in pages if "password" in page and not page.startswith("/api/")]
    mails = Path(app.root_path).parent.joinpath("templates", "mail").iterdir()
    for advice in [rule.advice for rule in alert_rules.RULES.values()] + [mail.read_text() for mail in mails]:
        assert not re.search(r"(choose|set) a\s+new\s+password|change\s+your\s+password", advice)
    assert "end the sessions they do not know" in alert_rules.BRUTE_FORCE.advice


def fail(session: Session, person: Person | None = None, *, seconds_ago: float = 5, **columns: Any) -> AuditLog:
    return make_event(
        session,
        at=clock.now() - timedelta(seconds=seconds_ago),
        **{
            "event_type": "user_login_failed",
            "success": False,
            "user_id": person.id if person else None,
            "user_email": person.email if person else "nobody@example.com",
            "ip_address": AWAY,
            "event_metadata": {"method": "page", "reason": "wrong_password_or_closed"},
        }
        | columns,
    )


def arrive(session: Session, person: Person, *, minutes_ago: float = 1, **columns: Any) -> AuditLog:
    at = clock.now() - timedelta(minutes=minutes_ago)
    known = {"user_id": person.id, "actor_ref": person.id, "user_email": person.email}
    return make_event(session, at=at, **known | {"user_agent": FIREFOX.format(140), "ip_address": HOME} | columns)


def found(session: Session, kind: str | None = None) -> list[AuditAlert]:
    session.expire_all()
    query = select(AuditAlert).order_by(AuditAlert.kind, AuditAlert.subject)
    return list(session.scalars(query if kind is None else query.where(AuditAlert.kind == kind)))


def let_an_hour_pass(session: Session) -> None:
    """Let the alerts there are be older by more than the hour after which they are quiet."""
    hour = timedelta(minutes=61)
    session.execute(
        update(AuditAlert).values(
            {name: getattr(AuditAlert, name) - hour for name in ("first_at", "last_at", "opened_at")}
        )
    )
    session.commit()


def mails(session: Session) -> list[OutgoingMail]:
    session.expire_all()
    return list(session.scalars(select(OutgoingMail).order_by(OutgoingMail.created_at)))


# Guessing one person's password


def test_many_failed_sign_ins_to_one_account_open_one_alert_and_one_mail(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for number in range(12):
        fail(db_session, person, ip_address=f"198.51.100.{number}")
    assert watch() == 1
    (alert,) = found(db_session)
    assert (alert.kind, alert.user_id, alert.label, alert.count) == ("brute_force", person.id, person.email, 12)
    (mail,) = mails(db_session)
    assert (mail.recipient, mail.letter) == (admin.email, "alerts")
    assert mail.fields["alerts"][0]["sentence"] == (
        f"Somebody tried 12 times to sign in as {person.email} with a wrong password"
    )


def test_reading_the_same_events_again_changes_nothing(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(12):
        fail(db_session, person)
    assert [watch() for _ in range(5)] == [1, 0, 0, 0, 0]
    assert [alert.count for alert in found(db_session)] == [12]
    assert len(mails(db_session)) == 1


def test_while_it_goes_on_the_alert_counts_and_nobody_is_mailed_again(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(10):
        fail(db_session, person, seconds_ago=60)
    watch()
    opened_at = found(db_session)[0].opened_at
    for _ in range(3):
        fail(db_session, person, seconds_ago=1)
    assert watch() == 0
    (alert,) = found(db_session)
    assert (alert.count, alert.opened_at) == (13, opened_at)
    assert alert.last_at - alert.first_at >= timedelta(seconds=58)
    assert len(mails(db_session)) == 1


def test_an_attack_that_comes_drop_by_drop_is_seen_across_rounds(
    watch: Watch, db_session: Session, person: Person
) -> None:
    opened = []
    for number in range(10):
        fail(db_session, person, seconds_ago=800 - 60 * number)
        opened.append(watch())
    assert opened == [0] * 9 + [1]
    assert found(db_session)[0].count == 10


def test_an_alert_that_is_quiet_for_an_hour_is_over_and_the_next_attack_opens_another(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(10):
        fail(db_session, person, seconds_ago=4000)
    assert watch() == 1
    let_an_hour_pass(db_session)
    watch()
    assert found(db_session)[0].quiet_at is not None
    for _ in range(9):
        fail(db_session, person)
    assert watch() == 0  # what was over does not count again
    fail(db_session, person)
    assert watch() == 1
    assert [alert.count for alert in found(db_session)] == [10, 10]
    assert len(mails(db_session)) == 2


def test_somebody_who_mistypes_three_times_is_nobodys_business(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person, client
) -> None:
    for _ in range(3):
        client.post("/api/auth/v2/login", json={"email": person.email, "password": "Not-The-Password-1"})
    assert client.post("/api/auth/v2/login", json={"email": person.email, "password": PASSWORD}).status_code == 200
    assert watch() == 0
    assert found(db_session) == []
    assert mails(db_session) == []


def test_real_refusals_are_what_the_rule_counts(watch: Watch, db_session: Session, person: Person, client) -> None:
    for _ in range(10):
        client.post("/api/auth/v2/login", json={"email": person.email.upper(), "password": "Not-The-Password-1"})
    assert watch() == 1
    assert found(db_session)[0].kind == "brute_force"


def test_mistakes_of_a_whole_day_do_not_add_up(watch: Watch, db_session: Session, person: Person) -> None:
    for number in range(20):
        fail(db_session, person, seconds_ago=3600 * number + 5)
    assert watch() == 0


def test_being_turned_away_because_we_are_busy_is_no_guess(watch: Watch, db_session: Session, person: Person) -> None:
    for reason in ("overloaded", "unavailable", "invalid_input"):
        for _ in range(20):
            fail(db_session, person, event_metadata={"method": "page", "reason": reason})
    assert watch() == 0


# One address, many accounts


def test_one_address_on_many_accounts_opens_one_alert(watch: Watch, db_session: Session, admin: Person) -> None:
    for number in range(11):
        fail(db_session, user_email=f"victim{number}@example.com", event_metadata={"reason": "unknown_address"})
    assert watch() == 1
    (alert,) = found(db_session)
    assert (alert.kind, alert.subject, alert.count, alert.details["accounts"]) == ("many_accounts", AWAY, 11, 11)
    assert "From 198.51.100.7 somebody tried 11 times" in mails(db_session)[0].fields["alerts"][0]["sentence"]


def test_a_network_of_ipv6_is_one_address(watch: Watch, db_session: Session) -> None:
    for number in range(10):
        fail(db_session, user_email=f"victim{number}@example.com", ip_address=f"2001:db8:1:2::{number:x}")
        watch()
    assert [alert.subject for alert in found(db_session)] == ["2001:db8:1:2::/64"]


def test_many_addresses_on_many_accounts_are_not_one_address(watch: Watch, db_session: Session) -> None:
    for number in range(30):
        fail(db_session, user_email=f"victim{number}@example.com", ip_address=f"198.51.100.{number}")
    assert watch() == 0


def test_one_account_tried_often_from_one_address_is_not_many_accounts(
    watch: Watch, db_session: Session, person: Person
) -> None:
    for _ in range(30):
        fail(db_session, person)
    watch()
    assert [alert.kind for alert in found(db_session)] == ["brute_force"]


def test_a_household_behind_one_address_opens_nothing(
    app: Flask, watch: Watch, db_session: Session, admin: Person
) -> None:
    for _ in range(6):
        member = make_person(app)
        for _ in range(2):
            fail(db_session, member, ip_address=HOME)
        for minutes_ago in (9, 6, 3):
            arrive(db_session, member, minutes_ago=minutes_ago)
    assert watch() == 0
    assert found(db_session) == []
    assert mails(db_session) == []


# A new device


def test_a_sign_in_from_a_new_device_is_told_to_the_person_and_to_nobody_else(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    arrive(db_session, person, minutes_ago=60)
    row = arrive(db_session, person, user_agent=CHROME, ip_address=AWAY)
    assert watch() == 1
    (alert,) = found(db_session)
    assert (alert.kind, alert.user_id, alert.count) == ("new_device", person.id, 1)
    (mail,) = mails(db_session)
    assert (mail.recipient, mail.letter, mail.user_id) == (person.email, "new_device", person.id)
    assert mail.fields == {
        "name": person.name,
        "device": "Chrome on Windows",
        "ip_address": AWAY,
        "at": row.created_at.strftime("%-d %B %Y, %H:%M UTC"),
    }


@pytest.mark.parametrize(
    "change", [{"user_agent": CHROME}, {"ip_address": AWAY}], ids=["another browser", "another network"]
)
def test_either_alone_is_new(watch: Watch, db_session: Session, person: Person, change: dict[str, str]) -> None:
    arrive(db_session, person, minutes_ago=60)
    arrive(db_session, person, **change)
    assert watch() == 1


def test_a_device_is_new_once(watch: Watch, db_session: Session, person: Person) -> None:
    arrive(db_session, person, minutes_ago=60)
    for minutes_ago in (5, 4, 3):
        arrive(db_session, person, minutes_ago=minutes_ago, user_agent=CHROME)
    assert watch() == 1
    arrive(db_session, person, minutes_ago=1, user_agent=CHROME)
    assert watch() == 0
    assert len(mails(db_session)) == 1


def test_the_first_sign_in_ever_is_no_news(watch: Watch, db_session: Session, person: Person) -> None:
    arrive(db_session, person)
    assert watch() == 0


def test_the_device_an_account_was_opened_with_is_known(watch: Watch, db_session: Session, person: Person) -> None:
    opened = {"event_type": "user_registration", "event_metadata": {"method": "page"}}
    arrive(db_session, person, minutes_ago=9, **opened)
    arrive(db_session, person, minutes_ago=5)
    assert watch() == 0
    arrive(db_session, person, minutes_ago=2, ip_address=AWAY)
    assert watch() == 1


def test_a_newer_version_and_a_neighbouring_address_are_the_same_device(
    watch: Watch, db_session: Session, person: Person
) -> None:
    arrive(db_session, person, minutes_ago=60)
    arrive(db_session, person, user_agent=FIREFOX.format(145), ip_address="203.0.113.99")
    assert watch() == 0


def test_another_persons_devices_say_nothing_about_mine(
    watch: Watch, db_session: Session, person: Person, noise: Person
) -> None:
    arrive(db_session, noise, minutes_ago=90, user_agent=CHROME)
    arrive(db_session, person, minutes_ago=60)
    arrive(db_session, person, user_agent=CHROME)
    assert watch() == 1
    assert found(db_session)[0].user_id == person.id


def test_a_real_sign_in_on_the_pages_is_seen(app: Flask, watch: Watch, db_session: Session, person: Person) -> None:
    for agent in (FIREFOX.format(140), FIREFOX.format(140), CHROME):
        app.test_client().post(
            "/api/auth/v2/login",
            json={"email": person.email, "password": PASSWORD},
            headers={"User-Agent": agent},
            environ_base={"REMOTE_ADDR": HOME},
        )
    assert watch() == 1
    assert mails(db_session)[0].fields["device"] == "Chrome on Windows"


def test_a_sign_in_of_somebody_who_is_gone_is_nobodys(watch: Watch, db_session: Session, person: Person) -> None:
    arrive(db_session, person, minutes_ago=60)
    arrive(db_session, person, user_agent=CHROME)
    db_session.execute(text("DELETE FROM users_v2 WHERE id = :id"), {"id": person.id})
    db_session.commit()
    assert watch() == 0


# Administrators and people's conversations


def test_an_administrator_at_somebody_elses_conversation_opens_an_alert(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    theirs = app.test_client().post("/api/conversations", json={"title": "Mine"}, headers=person.bearer).json["id"]
    for _ in range(2):
        assert app.test_client().get(f"/api/conversations/{theirs}", headers=admin.bearer).status_code == 404
    assert watch() == 1
    (alert,) = found(db_session)
    assert (alert.kind, alert.count) == ("staff_reads", 2)
    assert (
        f"{admin.email} tried 2 times to open somebody else's conversation and was refused"
        in (mails(db_session)[0].fields["alerts"][0]["sentence"])
    )


def test_somebody_else_at_somebody_elses_conversation_does_not(
    app: Flask, watch: Watch, person: Person, noise: Person
) -> None:
    theirs = app.test_client().post("/api/conversations", json={"title": "Mine"}, headers=person.bearer).json["id"]
    app.test_client().get(f"/api/conversations/{theirs}", headers=noise.bearer)
    assert watch() == 0


def staff_read(session: Session, admin: Person, conversation_id: str, **columns: Any) -> AuditLog:
    """Store that an administrator read a conversation, just now."""
    read = {"event_type": alert_rules.STAFF_READING, "event_category": "admin", "event_metadata": {"owner_id": "x"}}
    who = {"user_id": admin.id, "user_email": admin.email, "user_role": "admin", "subject_id": conversation_id}
    return make_event(session, at=clock.now(), **read | who | columns)


def test_staff_who_read_a_conversation_open_an_alert_about_each(
    watch: Watch, db_session: Session, admin: Person
) -> None:
    staff_read(db_session, admin, "conversation-1")
    staff_read(db_session, admin, "conversation-1")
    staff_read(db_session, admin, "conversation-2")
    assert watch() == 2
    sentences = {each["sentence"] for each in mails(db_session)[0].fields["alerts"]}
    assert sentences == {
        f"{admin.email} read somebody else's conversation 2 times",
        f"{admin.email} read somebody else's conversation once",
    }


def test_a_refused_try_beside_a_reading_does_not_hide_that_something_was_read(
    watch: Watch, db_session: Session, admin: Person
) -> None:
    refused = {"event_type": "access_denied", "success": False, "event_metadata": {"wanted": "conversation"}}
    staff_read(db_session, admin, "conversation-1")
    staff_read(db_session, admin, "conversation-1", **refused)
    assert watch() == 2
    staff_read(db_session, admin, "conversation-1")
    staff_read(db_session, admin, "conversation-1", **refused)
    assert watch() == 0
    told = {alert_rules.sentence(alert.kind, alert.label, alert.count, alert.details) for alert in found(db_session)}
    assert told == {
        f"{admin.email} read somebody else's conversation 2 times",
        f"{admin.email} tried 2 times to open somebody else's conversation and was refused",
    }


def test_a_reading_that_was_refused_for_want_of_a_record_is_told_as_a_try(
    watch: Watch, db_session: Session, admin: Person
) -> None:
    staff_read(db_session, admin, "conversation-1", success=False)
    assert watch() == 1
    assert [alert.details for alert in found(db_session)] == [{"was_refused": True}]


# The record itself


def test_a_record_that_was_degraded_opens_an_alert(app: Flask, watch: Watch, db_session: Session, admin) -> None:
    with app.app_context():
        details = {
            "reasons": {"55P03": 7},
            "swallowed": 7,
            "began_at": "2026-11-24T10:00",
            "ended_at": "2026-11-24T10:01",
        }
        record(events.AUDIT_DEGRADED, actor=None, details=details)
        db.session.commit()
    assert watch() == 1
    assert found(db_session)[0].details == {"reason": "55P03"}


def test_a_record_that_cannot_be_written_now_is_reported_once(app: Flask, db_session: Session, admin: Person) -> None:
    with app.app_context():
        for _ in range(3):
            alerts.report_degraded("Events cannot be written (42P01)")
    (alert,) = found(db_session)
    assert (alert.kind, alert.count) == ("audit_degraded", 3)
    assert len(mails(db_session)) == 1


def test_an_alert_about_the_record_says_how_it_is_by_now(
    app: Flask, watch: Watch, db_session: Session, admin: Person
) -> None:
    with app.app_context():
        for told in ("Events cannot be written (42P01)", "Events cannot be written (55P03)"):
            alerts.report_degraded(told)
        assert [alert.sentence for alert in alerts.list_alerts()] == ["Events cannot be written (55P03)"]
        details = {"reasons": {"55P03": 7}, "swallowed": 7, "began_at": "2026-11-24", "ended_at": "2026-11-24"}
        record(events.AUDIT_DEGRADED, actor=None, details=details)
        db.session.commit()
        watch()
        (alert,) = alerts.list_alerts()
    assert (alert.sentence, alert.count) == ("Events could not be written to the audit log (55P03)", 3)


# Races, late comers, crashes


def test_readers_that_race_open_one_alert_and_one_mail(committed_app: Flask) -> None:
    admin, person = make_person(committed_app, role="admin"), make_person(committed_app)
    with committed_app.app_context():
        for _ in range(25):
            fail(db.session(), person)
    opened: list[int] = []
    start = threading.Barrier(3)

    def read() -> None:
        start.wait()
        with committed_app.app_context():
            opened.append(alert_watch.raise_alerts())

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(opened) == [0, 0, 1]
    with committed_app.app_context():
        assert [alert.count for alert in found(db.session())] == [25]
        assert [mail.recipient for mail in mails(db.session())] == [admin.email]


def test_reports_that_race_open_one_alert_and_one_mail(committed_app: Flask) -> None:
    make_person(committed_app, role="admin")
    start = threading.Barrier(3)

    def report() -> None:
        start.wait()
        with committed_app.app_context():
            alerts.report_degraded("locked")

    threads = [threading.Thread(target=report) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with committed_app.app_context():
        assert [alert.count for alert in found(db.session())] == [3]
        assert len(mails(db.session())) == 1


def test_a_row_that_commits_late_is_read_although_a_higher_number_was_read_before(committed_app: Flask) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        alert_watch.raise_alerts()
        for _ in range(8):
            fail(db.session(), person)
        slow = Session(db.engine)
        late = {"user_id": person.id, "user_email": person.email, "ip_address": AWAY, "success": False}
        late |= {"event_category": "authentication", "event_level": "warning", "event_type": "user_login_failed"}
        reason = {"event_metadata": {"reason": "wrong_password_or_closed"}, "created_at": clock.now()}
        slow.add(AuditLog(event_id="late", **late, **reason))
        slow.flush()  # has its number, and is not committed yet
        fail(db.session(), person)
        assert alert_watch.raise_alerts() == 0
        slow.commit()
        slow.close()
        assert alert_watch.raise_alerts() == 1
        assert [alert.count for alert in found(db.session())] == [10]


def test_signs_that_come_hours_late_and_one_by_one_are_one_alert_and_one_mail(
    watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(10):
        fail(db_session, person, seconds_ago=7200)
    assert watch() == 1
    for seconds_ago in (7190, 7180, 7170):
        fail(db_session, person, seconds_ago=seconds_ago)
        assert watch() == 0
    (alert,) = found(db_session)
    assert (alert.count, alert.quiet_at) == (13, None)
    assert len(mails(db_session)) == 1


def test_numbers_settle_after_a_minute_and_are_remembered_no_longer(
    watch: Watch, db_session: Session, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        fail(db_session, person)
    watch()
    assert len(db_session.scalars(select(AuditAlertCursor)).one().done_ids) >= 5
    now = clock.now()
    for seconds in (61, 122, 183):
        monkeypatch.setattr(clock, "now", lambda at=now + timedelta(seconds=seconds): at)
        watch()
    db_session.expire_all()
    cursor = db_session.scalars(select(AuditAlertCursor)).one()
    assert cursor.done_ids == []
    assert cursor.settled_id == db_session.scalar(text("SELECT max(id) FROM audit_logs"))
    for _ in range(5):
        fail(db_session, person, seconds_ago=0)
    assert watch() == 1
    assert found(db_session)[0].count == 10


def test_a_gap_in_the_numbers_hides_nothing(watch: Watch, db_session: Session, person: Person) -> None:
    """Numbers of what was purged or rolled back are missing, however many they are."""
    gap = alert_watch.STEP + 1
    db_session.execute(text(f"SELECT setval('audit_logs_id_seq', nextval('audit_logs_id_seq') + {gap})"))
    for _ in range(10):
        fail(db_session, person)
    assert watch() == 1


def test_a_long_absence_is_caught_up_step_by_step(
    watch: Watch, db_session: Session, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_watch, "STEP", 4)
    for _ in range(30):
        fail(db_session, person)
    for _ in range(12):
        db_session.execute(update(AuditAlertCursor).values(seen_at=clock.now() - timedelta(minutes=2)))
        db_session.commit()
        watch()
    assert [alert.count for alert in found(db_session)] == [30]


def test_a_crash_before_the_commit_leaves_nothing_and_the_next_round_does_all(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        fail(db_session, person)

    def crash(_opened: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(alerts, "order_mails", crash)
        with pytest.raises(RuntimeError):
            watch()
    assert found(db_session) == []
    assert watch() == 1
    assert (len(found(db_session)), len(mails(db_session))) == (1, 1)


def test_what_happened_long_ago_is_history(watch: Watch, db_session: Session, person: Person) -> None:
    for _ in range(20):
        fail(db_session, person, seconds_ago=3 * 86400)
    assert watch() == 0


def test_an_inherited_record_is_not_read_from_its_beginning(app: Flask, db_session: Session, person: Person) -> None:
    db_session.execute(delete(AuditAlertCursor))
    old = [fail(db_session, person, seconds_ago=10 * 86400) for _ in range(3)]
    with app.app_context():
        alert_watch.raise_alerts()
    assert db_session.scalars(select(AuditAlertCursor)).one().settled_id >= old[-1].id


def test_many_alerts_at_once_are_one_mail(app: Flask, watch: Watch, db_session: Session, admin: Person) -> None:
    for number in range(25):
        victim = make_person(app)
        for _ in range(10):
            fail(db_session, victim, ip_address=f"198.51.{number}.1")
    assert watch() == 25
    (mail,) = mails(db_session)
    assert (len(mail.fields["alerts"]), mail.fields["more"]) == (20, 5)


def test_every_administrator_is_told_and_nobody_who_is_none(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    second = make_person(app, role="admin")
    closed = make_person(app, role="admin")
    db_session.execute(text("UPDATE users_v2 SET is_active = false WHERE id = :id"), {"id": closed.id})
    db_session.commit()
    for _ in range(10):
        fail(db_session, person)
    watch()
    assert {mail.recipient for mail in mails(db_session)} == {admin.email, second.email}


# Seeing and acknowledging


def test_an_alert_is_acknowledged_once_with_its_event(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(10):
        fail(db_session, person)
    watch()
    with app.app_context():
        (alert,) = alerts.list_alerts()
        assert alert.needs_somebody
        for _ in range(2):
            alerts.acknowledge(alert.id, actor=admin.actor)
        (alert,) = alerts.list_alerts()
        assert (alert.needs_somebody, alert.acknowledged_by, alert.is_going_on) == (False, admin.name, True)
    recorded = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "alert_acknowledged")).all()
    assert [(row.subject_id, row.event_metadata) for row in recorded] == [(alert.id, {"alert": "brute_force"})]


def test_what_is_acknowledged_and_over_is_no_longer_listed(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    for _ in range(10):
        fail(db_session, person, seconds_ago=4000)
    watch()
    let_an_hour_pass(db_session)
    watch()
    with app.app_context():
        (alert,) = alerts.list_alerts()
        assert not alert.is_going_on  # over, and still there until somebody has seen it
        alerts.acknowledge(alert.id, actor=admin.actor)
        assert alerts.list_alerts() == []


def test_a_persons_own_alert_is_not_for_administrators(
    app: Flask, watch: Watch, db_session: Session, admin: Person, person: Person
) -> None:
    arrive(db_session, person, minutes_ago=60)
    arrive(db_session, person, user_agent=CHROME)
    watch()
    (alert,) = found(db_session)
    with app.app_context():
        assert alerts.list_alerts() == []
        assert alerts.count_new_devices() == 1
        with pytest.raises(NotFound):
            alerts.acknowledge(alert.id, actor=admin.actor)


def test_alerts_that_have_long_been_quiet_are_forgotten(app: Flask, db_session: Session, admin: Person) -> None:
    with app.app_context():
        alerts.report_degraded("locked")
        assert alerts.forget_old_alerts() == 0
        db_session.execute(update(AuditAlert).values(quiet_at=clock.now() - timedelta(days=91)))
        db_session.commit()
        assert alerts.forget_old_alerts() == 1


def test_a_person_who_is_erased_takes_their_alerts_with_them(watch: Watch, db_session: Session, person: Person) -> None:
    for _ in range(10):
        fail(db_session, person)
    watch()
    db_session.execute(text("DELETE FROM users_v2 WHERE id = :id"), {"id": person.id})
    db_session.commit()
    assert found(db_session) == []


# The rules alone


def test_a_threshold_is_reached_within_its_window_only() -> None:
    now = clock.now()

    def signs(*minutes: float) -> list[Sign]:
        return [Sign(alert_rules.BRUTE_FORCE, "x", "x", now + timedelta(minutes=each), str(each)) for each in minutes]

    assert alert_rules.first_crossing(alert_rules.BRUTE_FORCE, signs(*range(9))) is None
    assert alert_rules.first_crossing(alert_rules.BRUTE_FORCE, signs(*(2 * each for each in range(30)))) is None
    crossing = alert_rules.first_crossing(alert_rules.BRUTE_FORCE, signs(-60, -30, *range(12)))
    assert crossing is not None
    assert len(crossing) == 12


def test_a_distinct_threshold_forgets_what_has_left_the_window() -> None:
    now = clock.now()
    slow = [
        Sign(alert_rules.MANY_ACCOUNTS, "x", "x", now + timedelta(minutes=2 * number), str(number))
        for number in range(30)
    ]
    assert alert_rules.first_crossing(alert_rules.MANY_ACCOUNTS, slow) is None
    same = [Sign(alert_rules.MANY_ACCOUNTS, "x", "x", now, "one") for _ in range(30)]
    assert alert_rules.first_crossing(alert_rules.MANY_ACCOUNTS, same) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_placed_in_its_network(address: str | None, network: str | None) -> None:
    assert network_of(address, bits_of_4=24, bits_of_6=48) == network


@pytest.mark.parametrize("kind", sorted(alert_rules.RULES))
@pytest.mark.parametrize("count", [1, 2])
def test_every_alert_reads_as_a_sentence_and_leads_somewhere(kind: str, count: int) -> None:
    told = alert_rules.sentence(kind, "thandi@example.com", count, {})
    assert told[0].isupper() or told.startswith("thandi@")
    assert not told.endswith(".")
    assert "None" not in told
    assert alert_rules.path_of(kind, "a&b@example.com").startswith("/audit?")
    assert "a&b" not in alert_rules.path_of(kind, "a&b@example.com")
