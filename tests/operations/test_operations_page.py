"""The operations page: how the product is, in words, for administrators; also while something is broken."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from capecontrol import create_app
from capecontrol.audit import alerts, delivery, spilling
from capecontrol.audit.models import AuditAlert, AuditLog
from capecontrol.extensions import db
from capecontrol.mail import letters, outgoing, tasks
from capecontrol.mail.models import OutgoingMail
from capecontrol.operations.readiness import Watch
from tests.conftest import dispose, settings_for
from tests.live_server import free_port
from tests.people import PASSWORD, Person, make_person
from tests.visitor import Page, Visitor

PAGE = "/admin/operations"
DEVICE = {"name": "Thandi", "device": "Firefox on Linux", "ip_address": "192.0.2.7", "at": "24 November 2026"}


@pytest.fixture(autouse=True)
def _looks_afresh(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests made this process swallow, deliver, and see of their parts."""
    delivery.configure(app.config["SETTINGS"])
    monkeypatch.setattr(spilling, "health", spilling.Health())
    app.extensions["readiness"] = Watch()


@pytest.fixture
def staff(app: Flask, sign_in, admin: Person, db_session: Session) -> Visitor:
    """Return a browser in which an administrator is signed in, beside a worker that has just reported."""
    db_session.execute(text("INSERT INTO procrastinate_workers DEFAULT VALUES"))
    db_session.commit()
    return sign_in(admin)


@pytest.fixture
def broken(databases) -> Iterator[Callable[..., Visitor]]:
    """Yield a function that breaks a database for real, after an administrator has signed in; and the browser."""
    made: list[Flask] = []
    with databases.clone() as url:

        def after(*statements: str, **settings: object) -> Visitor:
            app = create_app(settings_for(url, **settings))
            made.append(app)
            admin = make_person(app, role="admin")
            visitor = Visitor(app)
            visitor.visit("/login")
            visitor.send("/login", email=admin.email, password=PASSWORD)
            with app.app_context():
                for statement in ("INSERT INTO procrastinate_workers DEFAULT VALUES", *statements):
                    db.session.execute(text(statement))
                db.session.commit()
            return visitor

        yield after
        for app in made:
            dispose(app)


def report(app: Flask, reason: str = "Events cannot be written (42P01)") -> None:
    with app.app_context():
        alerts.report_degraded(reason)


def parts_on(page: Page) -> dict[str, str]:
    return {
        row.h3.get_text(" ", strip=True): row.select_one(".row__line").get_text(strip=True)
        for row in page.select("li.part")
    }


def figures_on(page: Page) -> dict[str, tuple[str, str]]:
    return {
        each.dt.get_text(strip=True): tuple(value.get_text(strip=True) for value in each.find_all("dd"))
        for each in page.select(".gauges__list > div")
    }


# Reading


def test_an_administrator_finds_every_part_in_words(staff: Visitor) -> None:
    page = staff.visit(PAGE)
    assert "All is well." in page.words
    found = parts_on(page)
    assert {name.split()[0] for name in found} >= {"Database", "Migrations", "Models", "Audit", "Job", "Worker", "Mail"}
    assert all(words.endswith(".") for words in found.values())
    assert "No alert is open." in page.words


def test_every_figure_has_words(staff: Visitor) -> None:
    found = figures_on(staff.visit(PAGE))
    assert {"Workers", "Jobs waiting", "Jobs failed", "In the outbox", "Late events", "People waiting"} <= set(found)
    for name, (value, words) in found.items():
        assert value.replace(",", "").isdigit(), name
        assert words.endswith("."), name
        assert len(words) > 15, name


def test_a_receiver_that_takes_no_events_needs_somebody(broken) -> None:
    staff = broken(audit_stream_url=f"http://127.0.0.1:{free_port()}/events?key=of-the-receiver")
    app = staff.client.application
    with app.app_context():
        delivery.deliver_all()
    page = staff.visit(PAGE)
    waiting, words = figures_on(page)["Waiting for http"]
    assert int(waiting) > 0
    assert "takes none (Connection refused); it is tried again by itself, and none is lost." in words
    assert page.select(".gauges__needs-you dt")[0].get_text() == "Waiting for http"
    assert "of-the-receiver" not in page.words, "an address may carry a key"


def test_where_the_record_goes_nowhere_else_nothing_is_said_of_it(staff: Visitor) -> None:
    assert "elsewhere" not in staff.visit(PAGE).words


def test_others_are_refused_and_their_try_is_recorded(sign_in, db_session: Session, person: Person) -> None:
    answer = sign_in(person).get(PAGE)
    assert answer.status_code == 403
    row = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied")).one()
    assert (row.user_id, row.event_metadata) == (person.id, {"wanted": "operations_pages.show"})


def test_administrators_find_the_way_and_others_see_none(staff: Visitor, sign_in) -> None:
    assert staff.visit("/conversations").find("a", href=PAGE)
    assert not sign_in().visit("/conversations").find("a", href=PAGE)
    link = staff.visit(PAGE).find("nav", attrs={"aria-label": "Main"}).find("a", attrs={"aria-current": "page"})
    assert link.select_one(".rail__long").get_text() == "Operations"


def test_looking_changes_nothing(staff: Visitor, db_session: Session) -> None:
    before = db_session.scalar(text("SELECT count(*) FROM audit_logs"))
    for _ in range(3):
        staff.visit(PAGE)
    assert db_session.scalar(text("SELECT count(*) FROM audit_logs")) == before


def test_a_failed_job_needs_somebody_and_is_named(staff: Visitor, db_session: Session) -> None:
    db_session.execute(
        text("INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('x', 'tests.break', 'failed')")
    )
    db_session.commit()
    page = staff.visit(PAGE)
    assert "1 thing needs you." in page.words
    value, words = figures_on(page)["Jobs failed"]
    assert value == "1"
    assert "tests.break (1)" in words


def test_without_a_worker_the_page_says_what_to_do(staff: Visitor, db_session: Session) -> None:
    db_session.execute(text("DELETE FROM procrastinate_workers"))
    db_session.commit()
    page = staff.visit(PAGE)
    assert "flask --app wsgi worker" in parts_on(page)["Worker degraded"]
    assert "start the worker" in figures_on(page)["Workers"][1]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE audit_logs RENAME TO audit_logs_away", "Audit log degraded"),
        ("ALTER TABLE audit_alerts RENAME TO audit_alerts_away", "Models down"),
        ("ALTER TABLE outgoing_mails RENAME TO outgoing_mails_away", "Models down"),
        ("DROP TABLE procrastinate_jobs CASCADE", "Job queue degraded"),
    ],
)
def test_the_page_is_there_while_something_is_broken(broken, statement: str, words: str) -> None:
    page = broken(statement).visit(PAGE)
    assert words in page.words
    assert "could not be read (42P01)" in page.words or "The alerts cannot be read." in page.words
    assert figures_on(page)


def test_a_dead_mail_server_is_told_with_what_to_do(broken) -> None:
    visitor = broken(smtp_url=f"smtp://cape:hidden@127.0.0.1:{free_port()}")
    app = visitor.client.application
    with app.app_context():
        mail_id = outgoing.order(letters.NEW_DEVICE, to="thandi@example.com", fields=DEVICE, user_id=None)
        db.session.commit()
        tasks.deliver(mail_id)
    page = visitor.visit(PAGE)
    assert "check SMTP_URL and the server" in parts_on(page)["Mail degraded"]
    assert figures_on(page)["Waiting"][0] == "1"
    assert "hidden" not in page.words
    assert "thandi@example.com" not in page.words


# Alerts


def test_an_open_alert_is_shown_and_acknowledged(
    app: Flask, staff: Visitor, db_session: Session, admin: Person
) -> None:
    report(app)
    page = staff.visit(PAGE)
    assert "1 thing needs you." in page.words
    assert "The audit log could not be written going on Events cannot be written (42P01)." in page.words
    (alert,) = db_session.scalars(select(AuditAlert)).all()
    page = staff.send(f"{PAGE}/alerts/{alert.id}/acknowledge")
    assert "Acknowledged." in page.words
    assert "All is well." in page.words
    assert f"Seen by {admin.name}" in page.words
    assert not page.find("form", action=f"{PAGE}/alerts/{alert.id}/acknowledge")
    recorded = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "alert_acknowledged")).one()
    assert (recorded.user_id, recorded.subject_id) == (admin.id, alert.id)


def test_acknowledging_needs_the_forms_token(app: Flask, staff: Visitor, db_session: Session) -> None:
    report(app)
    (alert,) = db_session.scalars(select(AuditAlert)).all()
    assert staff.client.post(f"{PAGE}/alerts/{alert.id}/acknowledge").status_code == 400
    assert db_session.scalar(select(AuditAlert.acknowledged_at)) is None


def test_an_alert_there_is_not_is_a_404_page(app: Flask, staff: Visitor) -> None:
    report(app)
    token = staff.visit(PAGE).find("input", attrs={"name": "csrf_token"})["value"]
    path = f"{PAGE}/alerts/01a20b54-59b6-73dc-bed7-75fc94ed232e/acknowledge"
    assert staff.client.post(path, data={"csrf_token": token}).status_code == 404


def test_what_strangers_wrote_stays_text(app: Flask, staff: Visitor, db_session: Session) -> None:
    report(app, reason="<img src=x onerror=alert(1)>")
    page = staff.visit(PAGE)
    assert "<img src=x onerror=alert(1)>" in page.words
    assert not page.find("img")


# The outbox


def keep(app: Flask, **fields: str) -> str:
    with app.app_context():
        mail_id = outgoing.order(letters.NEW_DEVICE, to="thandi@example.com", fields=DEVICE | fields, user_id=None)
        db.session.commit()
        assert tasks.deliver(mail_id) == "kept"
    return mail_id


def test_a_kept_mail_is_read_as_text_and_as_html(app: Flask, staff: Visitor) -> None:
    mail_id = keep(app, name="<b>Eve</b>")
    page = staff.visit(f"{PAGE}/outbox")
    assert "A new sign-in to your Cape Control account" in page.words
    assert "thandi@example.com" in page.words
    page = staff.visit(f"{PAGE}/outbox/{mail_id}")
    assert "Hello <b>Eve</b>," in page.words
    assert page.find("a", href="http://127.0.0.1:8000/account")
    answer = staff.get(f"{PAGE}/outbox/{mail_id}/html")
    assert "Hello &lt;b&gt;Eve&lt;/b&gt;" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_an_empty_outbox_says_what_will_be_there(staff: Visitor) -> None:
    assert "No mail yet" in staff.visit(f"{PAGE}/outbox").words


def test_a_mail_that_was_sent_or_never_was_is_not_in_the_outbox(
    app: Flask, staff: Visitor, db_session: Session
) -> None:
    mail_id = keep(app)
    db_session.execute(update(OutgoingMail).values(state="sent"))
    db_session.commit()
    for path in (mail_id, f"{mail_id}/html", "01a20b54-59b6-73dc-bed7-75fc94ed232e"):
        assert staff.get(f"{PAGE}/outbox/{path}").status_code == 404


def test_on_a_dyno_nobody_reads_other_peoples_mails(
    app: Flask, staff: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNO", "web.1")
    assert not staff.visit(PAGE).find("a", href=f"{PAGE}/outbox")
    assert staff.get(f"{PAGE}/outbox").status_code == 404
    app.extensions["readiness"] = Watch()
    assert "nobody gets any mail: set SMTP_URL" in parts_on(staff.visit(PAGE))["Mail degraded"]


def test_with_a_mail_server_there_is_no_outbox(broken) -> None:
    visitor = broken(smtp_url=f"smtp://127.0.0.1:{free_port()}")
    assert not visitor.visit(PAGE).find("a", href=f"{PAGE}/outbox")
    for path in ("outbox", "outbox/01a20b54-59b6-73dc-bed7-75fc94ed232e"):
        assert visitor.get(f"{PAGE}/{path}").status_code == 404
