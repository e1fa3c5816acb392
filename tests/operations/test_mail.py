"""Mails exist if and only if their transaction commits, arrive once, and a dead server harms nobody."""

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from capecontrol import clock, config, create_app
from capecontrol.extensions import db
from capecontrol.mail import delivery, letters, outgoing, tasks
from capecontrol.mail.letters import Stationery, Written
from capecontrol.mail.models import OutgoingMail
from capecontrol.operations import readiness
from tests.conftest import dispose, settings_for
from tests.live_server import LiveServer, free_port
from tests.mail_server import PASSWORD, USER, MailServer, running
from tests.people import make_person

TO = "thandi@example.com"
DEVICE = {"name": "Thandi Nkosi", "device": "Firefox on Linux", "ip_address": "192.0.2.7", "at": "24 November 2026"}
LETTERS = {
    "new_device": DEVICE,
    "verify_email": {"path": "/verify-email?token=abc"},
    "account_exists": {},
    "alerts": {
        "alerts": [{"title": "An attack", "sentence": "12 tries", "advice": "Look at it.", "path": "/audit?q=1"}],
        "more": 2,
    },
}


@pytest.fixture
def server() -> Iterator[MailServer]:
    with running(MailServer()) as server:
        yield server


@pytest.fixture
def app_with(databases) -> Iterator[Callable[..., Flask]]:
    """Yield a function that makes an application with other settings, on a committed database."""
    made: list[Flask] = []
    with databases.clone() as url:

        def make(**settings: object) -> Flask:
            made.append(create_app(settings_for(url, **settings)))
            return made[-1]

        yield make
        for app in made:
            dispose(app)


@pytest.fixture
def sending(app_with, server: MailServer) -> Flask:
    """Return an application that hands its mails to the server."""
    return app_with(smtp_url=f"smtp://127.0.0.1:{server.port}", mail_from="Cape Control <hello@example.com>")


def order(app: Flask, to: str = TO) -> str:
    with app.app_context():
        mail_id = outgoing.order(letters.NEW_DEVICE, to=to, fields=DEVICE, user_id=None)
        db.session.commit()
    return mail_id


def deliver(app: Flask, mail_id: str) -> str:
    with app.app_context():
        return tasks.deliver(mail_id)


def write(app: Flask, name: str, fields: dict[str, Any]) -> Written:
    return letters.write(name, fields, on=Stationery(app.config["SETTINGS"].address, app.jinja_env))


def row(app: Flask, mail_id: str) -> OutgoingMail:
    with app.app_context():
        return db.session.get_one(OutgoingMail, mail_id)


def count_of(app: Flask, what: str) -> int:
    with app.app_context():
        return db.session.scalar(text(f"SELECT count(*) FROM {what}"))


def mail_part(app: Flask) -> readiness.Part:
    with app.app_context():
        return next(part for part in readiness.look().parts if part.name == "mail")


def part_of(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return body.get_content()


# Ordering


def test_a_mail_and_its_job_exist_if_and_only_if_the_transaction_commits(sending: Flask) -> None:
    with sending.app_context():
        outgoing.order(letters.NEW_DEVICE, to=TO, fields=DEVICE, user_id=None)
        db.session.rollback()
    assert (count_of(sending, "outgoing_mails"), count_of(sending, "procrastinate_jobs")) == (0, 0)
    order(sending)
    assert (count_of(sending, "outgoing_mails"), count_of(sending, "procrastinate_jobs")) == (1, 1)


def test_ordering_asks_no_mail_server(app_with) -> None:
    app = app_with(smtp_url=f"smtp://127.0.0.1:{free_port()}")
    assert row(app, order(app)).state == "waiting"


def test_a_letter_takes_its_own_fields_and_one_address(app: Flask) -> None:
    with app.app_context():
        with pytest.raises(ValueError, match="new_device takes"):
            outgoing.order(letters.NEW_DEVICE, to=TO, fields={**DEVICE, "password": "x"}, user_id=None)
        for address in ("thandi@example.com\nBcc: other@example.com", "nobody"):
            with pytest.raises(ValueError, match="one address"):
                outgoing.order(letters.NEW_DEVICE, to=address, fields=DEVICE, user_id=None)
        db.session.rollback()


def test_a_persons_mails_go_with_the_person(sending: Flask) -> None:
    person = make_person(sending)
    with sending.app_context():
        outgoing.order(letters.NEW_DEVICE, to=person.email, fields=DEVICE, user_id=person.id)
        db.session.commit()
        db.session.execute(text("DELETE FROM users_v2"))
        db.session.commit()
    assert count_of(sending, "outgoing_mails") == 0


# Letters


@pytest.mark.parametrize("name", sorted(letters.all_letters()))
def test_every_letter_reads_well_as_text_and_as_html(app_with, name: str) -> None:
    app = app_with(public_url="https://app.example.com")
    written = write(app, name, LETTERS[name])
    assert written.subject
    assert "\n" not in written.subject
    assert "Cape Control" in written.subject
    for body in (written.text, written.html):
        assert "{" not in body.replace("{{", "")
        assert "None" not in body
        assert "https://app.example.com/" in body
        assert "127.0.0.1" not in body
    assert "\n\n\n" not in written.text
    assert "<script" not in written.html


def test_what_people_write_stays_text_in_a_letter(app: Flask) -> None:
    written = write(app, "new_device", DEVICE | {"name": "<b>Eve</b>", "device": "a\nSubject: b"})
    assert "<b>Eve</b>" in written.text
    assert "&lt;b&gt;Eve&lt;/b&gt;" in written.html
    assert written.subject == "A new sign-in to your Cape Control account"


def test_a_subject_is_one_line_whatever_stands_in_it(app: Flask) -> None:
    fields = {"alerts": [LETTERS["alerts"]["alerts"][0] | {"title": "One\nBcc: other@example.com"}], "more": 0}
    written = write(app, "alerts", fields)
    assert "\n" not in written.subject


# Sending


def test_a_mail_arrives_as_text_and_html_under_our_name(sending: Flask, server: MailServer) -> None:
    mail_id = order(sending)
    assert deliver(sending, mail_id) == "sent"
    (mail,) = server.mails
    assert server.recipients == [TO]
    assert mail["From"] == "Cape Control <hello@example.com>"
    assert mail["To"] == TO
    assert mail["Subject"] == "A new sign-in to your Cape Control account"
    assert mail["Message-ID"] == f"<{mail_id}@capecontrol>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"]
    assert "Firefox on Linux" in part_of(mail, "plain")
    assert "<td>Firefox on Linux</td>" in part_of(mail, "html")


def test_what_a_mail_said_is_forgotten_when_it_has_left(sending: Flask) -> None:
    mail_id = order(sending)
    deliver(sending, mail_id)
    sent = row(sending, mail_id)
    assert (sent.state, sent.attempts, sent.fields, sent.text_body) == ("sent", 1, {}, None)
    assert sent.ended_at is not None


def test_a_job_that_runs_twice_sends_once(sending: Flask, server: MailServer) -> None:
    mail_id = order(sending)
    assert [deliver(sending, mail_id), deliver(sending, mail_id)] == ["sent", "over"]
    assert len(server.mails) == 1


def test_a_mail_nobody_ordered_is_not_sent(sending: Flask, server: MailServer) -> None:
    assert deliver(sending, "01a20b54-59b6-73dc-bed7-75fc94ed232e") == "over"
    assert server.mails == []


def test_the_worker_sends_what_a_web_process_ordered(start_server: Callable[..., LiveServer]) -> None:
    with running(MailServer()) as server:
        url = f"smtp://{USER}:{PASSWORD}@127.0.0.1:{server.port}"
        live = start_server(WEB_CONCURRENCY="1", SMTP_URL=url, MAIL_FROM="hello@example.com")
        app = create_app(settings_for(live.database_url))
        mail_id = order(app)
        _wait_for(lambda: row(app, mail_id).state == "sent" or row(app, mail_id).last_trouble is not None)
        told = row(app, mail_id)
        dispose(app)
        # The library refuses passwords without TLS, and so the sign-in is what fails here: told, never quoted.
        assert told.state == "waiting"
        assert told.last_trouble
        assert PASSWORD not in live.log()


def test_a_live_worker_delivers(start_server: Callable[..., LiveServer]) -> None:
    with running(MailServer()) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        live = start_server(WEB_CONCURRENCY="1", SMTP_URL=url, MAIL_FROM="hello@example.com")
        app = create_app(settings_for(live.database_url))
        order(app)
        dispose(app)
        _wait_for(lambda: bool(server.mails))
        assert server.recipients == [TO]
        assert TO not in live.log()


# A server in trouble


def test_a_dead_server_is_tried_again_and_the_mail_arrives_once_when_it_is_back(
    sending: Flask, server: MailServer
) -> None:
    server.stop()
    mail_id = order(sending)
    assert deliver(sending, mail_id) == "waiting"
    waiting = row(sending, mail_id)
    assert (waiting.attempts, waiting.last_trouble) == (1, "connection refused")
    assert waiting.next_try_at is not None
    with sending.app_context():
        scheduled = db.session.scalars(
            text("SELECT count(*) FROM procrastinate_jobs WHERE scheduled_at > now() AND task_name = 'mail.send'")
        ).one()
    assert scheduled == 1
    server.start()
    assert deliver(sending, mail_id) == "sent"
    assert len(server.mails) == 1


def test_a_dead_server_is_degraded_and_told_with_200(sending: Flask, server: MailServer) -> None:
    assert mail_part(sending).state == "ok"
    server.stop()
    mail_id = order(sending)
    deliver(sending, mail_id)
    part = mail_part(sending)
    assert part.state == "degraded"
    assert "connection refused" in part.detail
    assert TO not in part.detail
    answer = sending.test_client().get("/readyz")
    assert answer.status_code == 200
    server.start()
    deliver(sending, mail_id)
    assert mail_part(sending).state == "ok"


def test_people_notice_nothing_of_a_dead_server(sending: Flask, server: MailServer) -> None:
    server.stop()
    order(sending)
    client = sending.test_client()
    body = {"email": "new@example.com", "password": "Table-Mountain-1085!", "full_name": "New", "role": "client"}
    assert client.post("/api/auth/v2/register", json=body).status_code == 201


def test_a_refused_address_is_not_tried_again_and_degrades_nothing(sending: Flask, server: MailServer) -> None:
    server.answer = "550 nobody here"
    mail_id = order(sending)
    assert deliver(sending, mail_id) == "refused"
    refused = row(sending, mail_id)
    assert (refused.last_trouble, refused.fields) == ("address refused, 550", {})
    assert mail_part(sending).state == "ok"
    assert count_of(sending, "procrastinate_jobs") == 1  # the one that was ordered first


def test_an_address_refused_for_now_is_tried_again(sending: Flask, server: MailServer) -> None:
    server.answer = "451 come again"
    mail_id = order(sending)
    assert deliver(sending, mail_id) == "waiting"
    server.answer = "250 OK"
    assert deliver(sending, mail_id) == "sent"


def test_after_a_day_in_vain_a_mail_is_given_up(sending: Flask, server: MailServer) -> None:
    server.stop()
    mail_id = order(sending)
    with sending.app_context():
        db.session.execute(update(OutgoingMail).values(attempts=delivery.TRIES - 1))
        db.session.commit()
    assert deliver(sending, mail_id) == "given_up"
    assert row(sending, mail_id).fields == {}
    assert mail_part(sending).state == "degraded"


def test_the_tries_span_about_a_day() -> None:
    long_ones = delivery.TRIES - 1 - len(delivery.WAITS)
    assert 23 * 3600 < sum(delivery.WAITS) + long_ones * delivery.LONG_WAIT < 25 * 3600


def test_a_server_that_hangs_holds_two_places_and_no_more(sending: Flask, server: MailServer) -> None:
    server.go_on.clear()
    ids = [order(sending, f"person{number}@example.com") for number in range(5)]
    states: list[str] = []
    threads = [threading.Thread(target=lambda mail_id=each: states.append(deliver(sending, mail_id))) for each in ids]
    for thread in threads:
        thread.start()
    _wait_for(lambda: len(states) == 3)  # these came back at once, each with a job for later
    assert states == ["waiting"] * 3
    server.go_on.set()
    for thread in threads:
        thread.join(20)
    assert sorted(states) == ["sent", "sent", "waiting", "waiting", "waiting"]
    assert count_of(sending, "procrastinate_jobs WHERE scheduled_at > now()") == 3
    assert sum(row(sending, each).attempts for each in ids) == 2  # to find no place is no try


def test_nothing_secret_and_no_address_comes_into_a_log(app_with, server: MailServer) -> None:
    known = app_with(smtp_url=f"smtp://{USER}:{PASSWORD}@127.0.0.1:{server.port}")
    plain = app_with(smtp_url=f"smtp://127.0.0.1:{server.port}")
    server.answer = "451 thandi@example.com come again"
    with capture_logs() as lines:
        deliver(known, order(known))
        deliver(plain, order(plain))
        server.stop()
        deliver(known, order(known))
    told = repr(lines)
    assert told.count("mail_not_sent") == 3
    assert "address refused, 451" in told
    for secret in (PASSWORD, TO, "192.0.2.7", "Thandi"):
        assert secret not in told
    assert PASSWORD not in repr(known.config["SETTINGS"])


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and its key, made for this run."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "chain.pem", folder / "key.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return chain, key


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.mark.parametrize(("scheme", "query", "is_starttls"), [("smtp", "?starttls", True), ("smtps", "", False)])
def test_over_tls_the_password_is_said_only_to_a_server_with_a_good_certificate(
    app_with, certificate, tls: ssl.SSLContext, monkeypatch, scheme: str, query: str, is_starttls: bool
) -> None:
    with running(MailServer(tls=tls, is_starttls=is_starttls)) as server:
        app = app_with(smtp_url=f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{server.port}{query}")
        mail_id = order(app)
        assert deliver(app, mail_id) == "waiting"
        assert row(app, mail_id).last_trouble == "its certificate is not to be trusted, or it speaks no TLS"
        assert server.passwords == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert deliver(app, mail_id) == "sent"
        assert server.passwords == [PASSWORD]


def test_without_starttls_on_the_server_nothing_is_said_in_the_open(app_with, server: MailServer) -> None:
    app = app_with(smtp_url=f"smtp://{USER}:{PASSWORD}@127.0.0.1:{server.port}?starttls")
    mail_id = order(app)
    assert deliver(app, mail_id) == "waiting"
    assert row(app, mail_id).last_trouble == "the server does not offer what SMTP_URL asks for"
    assert (server.mails, server.passwords) == ([], [])


# Without a server


def test_without_a_server_a_mail_is_kept_in_the_outbox(app_with) -> None:
    app = app_with()
    mail_id = order(app)
    assert deliver(app, mail_id) == "kept"
    with app.app_context():
        (kept,) = outgoing.list_kept()
    assert kept.subject == "A new sign-in to your Cape Control account"
    assert "Firefox on Linux" in kept.text_body
    assert kept.fields == {}
    assert "outbox" in mail_part(app).detail


# Housekeeping


def test_a_mail_whose_job_was_lost_is_ordered_again(sending: Flask, server: MailServer) -> None:
    lost, fine = order(sending), order(sending)
    with sending.app_context():
        db.session.execute(text("DELETE FROM procrastinate_jobs WHERE args->>'mail_id' = :id"), {"id": lost})
        assert outgoing.order_lost_mails() == 0  # not yet: its job may be on its way
        db.session.execute(update(OutgoingMail).values(created_at=clock.now() - timedelta(hours=1)))
        db.session.commit()
        assert outgoing.order_lost_mails() == 1
        assert outgoing.order_lost_mails() == 0
    assert deliver(sending, lost) == "sent"
    assert deliver(sending, fine) == "sent"


def test_what_is_over_is_forgotten_and_what_waits_is_not(sending: Flask) -> None:
    ages = {"sent": 31, "refused": 31, "kept": 8, "waiting": 90, "given_up": 29}
    with sending.app_context():
        for state, days in ages.items():
            at = clock.now() - timedelta(days=days)
            db.session.add(OutgoingMail(letter="new_device", recipient=TO, state=state, created_at=at))
        db.session.commit()
        assert outgoing.forget_old_mails() == 3
        left = set(db.session.scalars(select(OutgoingMail.state)))
        assert left == {"waiting", "given_up"}


def test_the_figures_count_what_is_there(sending: Flask, server: MailServer) -> None:
    deliver(sending, order(sending))
    server.answer = "550 nobody"
    deliver(sending, order(sending))
    server.stop()
    deliver(sending, order(sending))
    order(sending)
    with sending.app_context():
        figures = outgoing.get_figures()
        assert db.session.scalar(select(func.count()).select_from(OutgoingMail)) == 4
    assert (figures.waiting, figures.stuck, figures.sent, figures.refused, figures.given_up) == (2, 1, 1, 1, 0)
    assert figures.last_trouble == "connection refused"


# Settings


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("smtp://mail.example.com", config.MailServer("mail.example.com", 25)),
        ("smtp://127.0.0.1:1025", config.MailServer("127.0.0.1", 1025)),
        ("smtp://mail.example.com?starttls", config.MailServer("mail.example.com", 587, is_starttls=True)),
        ("smtp://mail.example.com/?starttls=1", config.MailServer("mail.example.com", 587, is_starttls=True)),
        ("smtp://mail.example.com?starttls=0", config.MailServer("mail.example.com", 25)),
        ("smtps://a%40b:p%2Fw%3A@[::1]", config.MailServer("::1", 465, "a@b", "p/w:", is_tls=True)),
    ],
)
def test_smtp_url_is_read(url: str, found: config.MailServer) -> None:
    assert config.read_mail_server(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.com",
        "http://u:hidden@mail.example.com",
        "smtp://",
        "smtp://u:hidden@mail.example.com:99999",
        "smtp://u:hidden@mail.example.com:0",
        "smtp://u:hidden@mail.example.com?tls=1",
        "smtp://u:hidden@mail.example.com/inbox",
        "smtps://u:hidden@mail.example.com?starttls",
    ],
)
def test_an_smtp_url_that_makes_no_sense_is_named_and_not_quoted(monkeypatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://cape@127.0.0.1/cape")
    monkeypatch.setenv("SECRET_KEY", "tests-only-" * 4)
    monkeypatch.setenv("SMTP_URL", url)
    with pytest.raises(config.SettingsError) as caught:
        config.load_settings()
    assert "SMTP_URL" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("sender", ["nobody", "a@b\nBcc: c@d", "Cape <a@example.com>, b@example.com", "@example.com"])
def test_a_sender_that_is_no_address_is_named(monkeypatch, sender: str) -> None:
    monkeypatch.setenv("MAIL_FROM", sender)
    with pytest.raises(config.SettingsError, match="MAIL_FROM"):
        config.load_settings()


def test_the_sender_is_no_reply_at_our_own_host() -> None:
    settings = settings_for("postgres://cape@127.0.0.1/cape", public_url="https://app.example.com")
    assert settings.mail_from == "Cape Control <no-reply@app.example.com>"
    assert settings.address == "https://app.example.com"


def _wait_for(is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, f"not within {seconds} s"
        time.sleep(0.05)
