"""Staff read somebody's conversation only with a reason, on record before a word of it is shown, and for once."""

import re
from collections.abc import Callable

import pytest
from flask import Flask, before_render_template, template_rendered
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol.audit import alert_watch, events
from capecontrol.audit.models import AuditAlert, AuditLog
from capecontrol.conversations import changes, service, staff_reading
from capecontrol.conversations.models import Conversation
from capecontrol.errors import Forbidden
from capecontrol.mail.models import OutgoingMail
from tests.audit import faults
from tests.audit.test_spool import full_disk
from tests.people import PASSWORD, Person, make_person
from tests.visitor import Page, Visitor, filled_in

REASON = "Help desk ticket 1085: she asked us to look why the answer stops"
TITLE = "Where the wreck lies"
SAID = "The wreck lies off Danger Point"
READING = events.CONVERSATION_READ_BY_STAFF.name


def hold_conversation(app: Flask, owner: Person) -> str:
    """Let somebody say something worth reading, and return where they said it."""
    with app.app_context():
        conversation = service.start(actor=owner.actor, title=TITLE).conversation
        service.post_message(conversation.id, SAID, actor=owner.actor)
        return conversation.id


@pytest.fixture
def theirs(app: Flask, person: Person) -> str:
    return hold_conversation(app, person)


@pytest.fixture
def staff(sign_in, admin: Person) -> Visitor:
    return sign_in(admin)


def place(conversation_id: str) -> str:
    return f"/admin/conversations/{conversation_id}"


def read(visitor: Visitor, conversation_id: str, reason: str = REASON, *, status: int = 200) -> Page:
    visitor.visit(place(conversation_id))
    return visitor.send(place(conversation_id), reason=reason, status=status)


def readings(session: Session) -> list[AuditLog]:
    session.expire_all()
    return list(session.scalars(select(AuditLog).where(AuditLog.event_type == READING).order_by(AuditLog.id)))


def shows_anything(page: Page) -> bool:
    return any(words in page.get_text() for words in (TITLE, SAID))


def test_a_reading_is_recorded_with_its_reason_and_shown(
    staff: Visitor, admin: Person, person: Person, theirs: str, db_session: Session
) -> None:
    page = read(staff, theirs)
    assert page.h1 is not None
    assert page.h1.get_text() == TITLE
    assert SAID in page.words
    assert "You are reading this as staff. Recorded at" in page.words
    (event,) = readings(db_session)
    assert (event.user_id, event.actor_ref, event.subject_id) == (admin.id, admin.id, theirs)
    assert (event.event_metadata, event.event_description) == ({"owner_id": person.id}, REASON)
    assert (event.event_category, event.event_level, event.success) == ("admin", "warning", True)
    assert event.created_at.strftime("%H:%M") in page.words


def test_the_record_is_committed_before_a_word_is_shown(committed_app: Flask) -> None:
    theirs = hold_conversation(committed_app, make_person(committed_app))
    visitor = signed_in(committed_app, make_person(committed_app, role="admin"))
    visitor.visit(place(theirs))
    committed: list[object] = []

    def look(_app: Flask, template, **_: object) -> None:
        if template.name == "conversations/read.html":
            committed.extend(faults.run(committed_app, "SELECT event_type FROM audit_logs ORDER BY id DESC LIMIT 1"))

    with before_render_template.connected_to(look, committed_app):
        assert SAID in visitor.send(place(theirs), reason=REASON).words
    assert committed == [(READING,)]


def test_asking_shows_nothing_and_records_nothing(staff: Visitor, theirs: str, db_session: Session) -> None:
    page = staff.visit(place(theirs))
    assert not shows_anything(page)
    for words in ("It is recorded first", "The person will see it", "An alert goes out", "It is for once"):
        assert words in page.words
    assert staff.client.head(place(theirs)).status_code == 200
    assert readings(db_session) == []


def test_a_reason_in_the_address_opens_nothing(staff: Visitor, theirs: str, db_session: Session) -> None:
    assert not shows_anything(staff.visit(f"{place(theirs)}?reason={REASON}"))
    assert readings(db_session) == []


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", "Say why you need to read this conversation."),
        (" \r\n ", "Say why you need to read this conversation."),
        ("\u200b" * 12, "Say why you need to read this conversation."),
        ("ticket 7", "Say why in a few words: at least 10 characters."),
        (f"ticket{' ' * 20}7", "Say why in a few words: at least 10 characters."),
        ("x" * 501, "The reason is too long: at most 500 characters, and this has 501."),
        ("a bell \x07 in the night", "The reason must be one line without control characters."),
    ],
    ids=["nothing", "space", "invisible", "short", "short but spread", "long", "a control character"],
)
def test_without_a_reason_in_words_nothing_is_read(
    staff: Visitor, theirs: str, db_session: Session, reason: str, told: str
) -> None:
    page = read(staff, theirs, reason, status=422)
    assert not shows_anything(page)
    assert readings(db_session) == []
    summary = page.find(attrs={"data-error-summary": True})
    assert summary is not None
    assert [(link["href"], link.get_text()) for link in summary.find_all("a")] == [("#reason", told)]
    field = page.find("textarea")
    assert field is not None
    assert (field["aria-invalid"], field["aria-describedby"]) == ("true", "reason-hint reason-error")
    assert filled_in(page.form(place(theirs)))["reason"] == reason.replace("\r\n", "\n")


@pytest.mark.parametrize("reason", ["x" * 10, "x" * 500, "  two\r\nlines, in words  "])
def test_a_reason_is_ten_to_five_hundred_characters_on_one_line(
    staff: Visitor, theirs: str, db_session: Session, reason: str
) -> None:
    read(staff, theirs, reason)
    assert [event.event_description for event in readings(db_session)] == [" ".join(reason.split())]


def test_each_time_it_is_sent_is_a_reading_of_its_own(staff: Visitor, theirs: str, db_session: Session) -> None:
    fields = filled_in(staff.visit(place(theirs)).form(place(theirs))) | {"reason": REASON}
    for number in (1, 2, 3):
        answer = staff.client.post(place(theirs), data=fields)
        assert SAID in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        assert len(readings(db_session)) == number
    assert not shows_anything(staff.visit(place(theirs)))
    assert staff.get(f"/conversations/{theirs}").status_code == 404


def test_what_is_shown_can_only_be_read(staff: Visitor, person: Person, theirs: str) -> None:
    page = read(staff, theirs)
    main = page.find("main")
    assert main is not None
    assert main.find_all(["form", "button", "input", "textarea", "script"]) == []
    assert [link["href"] for link in main.find_all("a")] == ["/audit"]
    authors = [author.get_text() for author in main.select(".message__author")]
    assert authors == [person.name, "Guide"]
    scripts = [script["src"] for script in page.find_all("script")]
    assert scripts == ["/static/js/theme.js", "/static/js/relative_times.js"], "neither sends anything"


def test_older_messages_are_another_reading(
    app: Flask, staff: Visitor, person: Person, theirs: str, db_session: Session
) -> None:
    for number in range(30):
        with app.app_context():
            service.post_message(theirs, f"message {number}.", actor=person.actor)
    page = read(staff, theirs)
    assert "message 29." in page.words
    assert SAID not in page.words
    older = page.find("a", string="Older messages, as another reading")
    assert older is not None
    page = staff.visit(str(older["href"]))
    assert not shows_anything(page)
    assert "message 1." not in page.words
    page = staff.send(str(older["href"]), reason=REASON)
    assert SAID in page.words
    assert "message 29." not in page.words
    assert len(readings(db_session)) == 2


@pytest.mark.parametrize("before", ["nothing", "%00"])
def test_before_a_message_that_is_not_there_nothing_is_read(
    staff: Visitor, theirs: str, db_session: Session, before: str
) -> None:
    staff.visit(f"{place(theirs)}?before={before}")
    assert staff.page is not None
    action = str(staff.page.find("form", attrs={"data-submit-once": True})["action"])
    page = staff.send(action, reason=REASON, status=422)
    assert "There is no such message in this conversation." in page.words
    assert not shows_anything(page)
    assert readings(db_session) == []


def test_a_form_without_its_token_reads_nothing(staff: Visitor, theirs: str, db_session: Session) -> None:
    answer = staff.client.post(place(theirs), data={"reason": REASON})
    assert answer.status_code == 400
    assert SAID not in answer.text
    assert readings(db_session) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_but_administrators_reads(
    sign_in, person: Person, noise: Person, theirs: str, db_session: Session, method: str
) -> None:
    for whom in (noise, person):
        visitor = sign_in(whom)
        token = visitor.visit("/account").find("input", attrs={"name": "csrf_token"})["value"]
        answer = visitor.client.open(place(theirs), method=method, data={"csrf_token": token, "reason": REASON})
        assert answer.status_code == 403
        assert SAID not in answer.text
    assert readings(db_session) == []
    denied = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied")).all()
    wanted = {"GET": "staff_reading.ask_to_read", "POST": "staff_reading.read"}[method]
    assert [(event.user_id, event.event_metadata) for event in denied] == [
        (noise.id, {"wanted": wanted}),
        (person.id, {"wanted": wanted}),
    ]
    assert "You tried to open the page on which staff read a conversation and were refused" in (
        visitor.visit("/account/activity").words
    )


def test_the_service_itself_opens_nothing_to_anybody_else(
    app: Flask, person: Person, noise: Person, theirs: str, db_session: Session
) -> None:
    for whom in (person, noise):
        with app.app_context(), pytest.raises(Forbidden):
            staff_reading.read(theirs, REASON, actor=whom.actor)
    assert readings(db_session) == []


def test_what_is_not_there_or_deleted_is_not_found(
    app: Flask, staff: Visitor, person: Person, theirs: str, db_session: Session
) -> None:
    token = filled_in(staff.visit(place(theirs)).form(place(theirs)))["csrf_token"]
    with app.app_context():
        changes.delete(theirs, actor=person.actor)
    for conversation_id in (theirs, "nothing", "a%00b", "x" * 300):
        for answer in (
            staff.get(place(conversation_id)),
            staff.client.post(place(conversation_id), data={"csrf_token": token, "reason": REASON}),
        ):
            assert answer.status_code == 404
            assert SAID not in answer.text
            assert TITLE not in answer.text
    assert readings(db_session) == []
    with app.app_context():
        changes.restore(theirs, actor=person.actor)
    assert SAID in read(staff, theirs).words


def test_an_archived_conversation_can_be_read_and_stays_as_it_is(
    app: Flask, staff: Visitor, person: Person, theirs: str, db_session: Session
) -> None:
    with app.app_context():
        before = changes.archive(theirs, actor=person.actor)
    assert "archived" in read(staff, theirs).words
    after = db_session.get_one(Conversation, theirs, populate_existing=True)
    assert (after.status, after.updated_at) == ("archived", before.updated_at)


def test_ones_own_conversation_is_simply_opened(
    app: Flask, staff: Visitor, admin: Person, theirs: str, db_session: Session
) -> None:
    own = hold_conversation(app, admin)
    token = filled_in(staff.visit(place(theirs)).form(place(theirs)))["csrf_token"]
    for answer in (staff.get(place(own)), staff.client.post(place(own), data={"csrf_token": token})):
        assert (answer.status_code, answer.location) == (303, f"/conversations/{own}#latest")
    assert readings(db_session) == []


def test_its_owner_sees_that_it_was_read_and_why_and_not_by_whom(
    staff: Visitor, sign_in, admin: Person, person: Person, noise: Person, theirs: str
) -> None:
    staff.client.post(
        place(theirs),
        data=filled_in(staff.visit(place(theirs)).form(place(theirs))) | {"reason": REASON},
        environ_base={"REMOTE_ADDR": "192.0.2.77"},
        headers={"User-Agent": "Staff/1.0"},
    )
    owner = sign_in(person)
    page = owner.visit("/account/activity")
    assert f"A member of staff read your conversation. Reason: {REASON}" in page.words
    assert READING in page.words
    for secret in (admin.email, admin.name, "192.0.2.77"):
        assert secret not in page.answer.text
    link = page.find("a", string="Open the conversation")
    assert link is not None
    assert SAID in owner.visit(str(link["href"])).words
    assert READING not in sign_in(noise).visit("/account/activity").words
    page = staff.visit("/account/activity")
    assert f"You read somebody else's conversation. Reason: {REASON}" in page.words
    assert "from 192.0.2.77" in page.words
    assert page.find("a", string="Open the conversation") is None


def test_the_owners_activity_leads_on_through_readings_and_acts_alike(
    app: Flask, sign_in, admin: Person, person: Person, theirs: str
) -> None:
    for number in range(60):
        with app.app_context():
            staff_reading.read(theirs, f"Help desk ticket {number:02}", actor=admin.actor)
    owner = sign_in(person)
    page = owner.visit("/account/activity")
    told = [each.get_text() for each in page.select(".timeline__sentence")]
    while (older := page.find("a", rel="next")) is not None:
        page = owner.visit(str(older["href"]))
        told += [each.get_text() for each in page.select(".timeline__sentence")]
    numbers = [int(found[1]) for each in told if (found := re.search(r"ticket (\d+)", each))]
    assert numbers == list(range(59, -1, -1))
    assert "You opened your account" in told[-1]


def test_the_json_of_ones_own_record_holds_what_one_did_oneself(
    staff: Visitor, as_program: Callable[..., object], theirs: str
) -> None:
    read(staff, theirs)
    answer = as_program("GET", "/api/audit/logs")
    assert "conversation_started" in answer.text
    assert READING not in answer.text
    assert REASON not in answer.text


def test_every_administrator_is_told_by_an_alert(
    app: Flask, staff: Visitor, admin: Person, theirs: str, db_session: Session
) -> None:
    other = make_person(app, role="admin")
    with app.app_context():
        alert_watch.raise_alerts()
    read(staff, theirs)
    read(staff, theirs)
    with app.app_context():
        assert alert_watch.raise_alerts() == 1
    told = f"{admin.email} read somebody else's conversation 2 times"
    (alert,) = db_session.scalars(select(AuditAlert)).all()
    assert (alert.kind, alert.count) == ("staff_reads", 2)
    mails = db_session.scalars(select(OutgoingMail)).all()
    assert {mail.recipient for mail in mails} == {admin.email, other.email}
    assert [each["sentence"] for each in mails[0].fields["alerts"]] == [told]
    assert told in staff.visit("/admin/operations").words


def test_an_event_about_a_conversation_leads_to_the_question(staff: Visitor, theirs: str, db_session: Session) -> None:
    staff.get(f"/conversations/{theirs}")  # refused, and recorded
    read(staff, theirs)
    leading = set()
    for event in db_session.scalars(select(AuditLog)).all():
        page = staff.visit(f"/audit/{event.event_id}")
        if page.find("a", href=place(theirs)):
            leading.add(event.event_type)
        if event.event_type == READING:
            assert f"Reason {REASON}" in page.words
    assert leading == {"conversation_started", "ai_prompt_submitted", "access_denied", READING}


def signed_in(app: Flask, whom: Person) -> Visitor:
    visitor = Visitor(app)
    visitor.visit("/login")
    visitor.send("/login", email=whom.email, password=PASSWORD)
    return visitor


def test_where_nothing_takes_the_record_nothing_is_read(committed_app: Flask) -> None:
    theirs = hold_conversation(committed_app, make_person(committed_app))
    visitor = signed_in(committed_app, make_person(committed_app, role="admin"))
    visitor.visit(place(theirs))
    drawn: list[str] = []

    def note(_app: Flask, template, **_: object) -> None:
        drawn.append(template.name)

    with faults.away(committed_app), full_disk(), template_rendered.connected_to(note, committed_app):
        page = visitor.send(place(theirs), reason=REASON, status=503)
    assert "This has to be on record, and nothing can take the record right now." in page.words
    assert not shows_anything(page)
    assert "conversations/read.html" not in drawn


def test_where_only_the_table_fails_the_spool_keeps_the_reading(committed_app: Flask, audit_spool) -> None:
    theirs = hold_conversation(committed_app, make_person(committed_app))
    visitor = signed_in(committed_app, make_person(committed_app, role="admin"))
    visitor.visit(place(theirs))
    with faults.away(committed_app):
        assert SAID in visitor.send(place(theirs), reason=REASON).words
    (line,) = faults.spooled(audit_spool)
    assert (line["event_type"], line["event_description"], line["success"]) == (READING, REASON, True)


def test_where_the_messages_cannot_be_read_the_try_is_recorded_as_failed(committed_app: Flask) -> None:
    person = make_person(committed_app)
    theirs = hold_conversation(committed_app, person)
    visitor = signed_in(committed_app, make_person(committed_app, role="admin"))
    visitor.visit(place(theirs))
    with faults.locked(committed_app, "conversation_messages"):
        visitor.send(place(theirs), reason=REASON, status=503)
    found = faults.run(
        committed_app,
        "SELECT success, subject_id, event_metadata->>'owner_id' FROM audit_logs WHERE event_type = %(kind)s",
        kind=READING,
    )
    assert found == [(False, theirs, person.id)]
