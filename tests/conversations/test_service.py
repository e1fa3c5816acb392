"""The rules of conversations: starting, posting, ordering, moving between shelves; whose they are."""

import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.conversations import changes, reading, service
from capecontrol.conversations.models import Conversation, ConversationMessage
from capecontrol.errors import Invalid, NotFound
from tests.people import Person

JOBS = text("SELECT args->>'reply_id' FROM procrastinate_jobs WHERE task_name = 'conversations.make_reply'")


@pytest.fixture
def conversation(app: Flask, person: Person) -> Conversation:
    with app.app_context():
        return service.start(actor=person.actor, title="Tiles").conversation


def post(app: Flask, person: Person, conversation_id: str, content: str = "Hello", **kwargs) -> service.Posted:
    with app.app_context():
        return service.post_message(conversation_id, content, actor=person.actor, **kwargs)


def events_of(db_session: Session, person: Person) -> list[tuple[str, bool]]:
    rows = db_session.scalars(select(AuditLog).where(AuditLog.user_id == person.id).order_by(AuditLog.id))
    return [(row.event_type, row.success) for row in rows if row.event_type != "user_registration"]


def stored(db_session: Session, conversation_id: str) -> Conversation:
    return db_session.get_one(Conversation, conversation_id, populate_existing=True)


# Starting


def test_a_conversation_starts_empty(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context():
        started = service.start(actor=person.actor)
    assert (started.message, started.reply) == (None, None)
    row = stored(db_session, started.conversation.id)
    assert (row.title, row.status, row.total_messages, row.user_id) == ("New conversation", "active", 0, person.id)
    assert events_of(db_session, person) == [("conversation_started", True)]


def test_a_conversation_starts_with_its_first_message(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context():
        started = service.start(actor=person.actor, content="How do I rename a conversation?")
    assert started.message is not None
    assert started.reply is not None
    row = stored(db_session, started.conversation.id)
    assert (row.title, row.total_messages) == ("How do I rename a conversation?", 2)
    assert db_session.scalars(JOBS).all() == [started.reply.id]
    assert events_of(db_session, person) == [("conversation_started", True), ("ai_prompt_submitted", True)]


def test_an_empty_conversation_takes_its_title_from_the_first_message(
    app: Flask, person: Person, db_session: Session
) -> None:
    with app.app_context():
        empty = service.start(actor=person.actor).conversation
    post(app, person, empty.id, "# Kitchen\n\nWhich tiles?")
    post(app, person, empty.id, "And the floor?")
    assert stored(db_session, empty.id).title == "Kitchen"


def test_a_title_somebody_gave_stays(app: Flask, person: Person, conversation, db_session: Session) -> None:
    post(app, person, conversation.id, "Which ones?")
    assert stored(db_session, conversation.id).title == "Tiles"


def test_a_refused_start_stores_nothing_and_is_recorded(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context(), pytest.raises(service.MessageRefused):
        service.start(actor=person.actor, content=" \n ")
    with app.app_context(), pytest.raises(service.TitleRefused):
        service.start(actor=person.actor, title="a\x00b")
    assert db_session.scalar(select(func.count()).select_from(Conversation)) == 0
    assert events_of(db_session, person) == [("conversation_started", False)] * 2


def test_starting_twice_under_one_key_starts_one(app: Flask, person: Person, db_session: Session) -> None:
    with app.app_context():
        first = service.start(actor=person.actor, content="Hello", idempotency_key="k")
    with app.app_context():
        again = service.start(actor=person.actor, content="Hello", idempotency_key="k")
    assert again.conversation.id == first.conversation.id
    assert again.message is not None
    assert first.message is not None
    assert again.message.id == first.message.id
    assert db_session.scalar(select(func.count()).select_from(Conversation)) == 1


def test_a_start_key_is_refused_with_another_text(app: Flask, person: Person) -> None:
    with app.app_context():
        service.start(actor=person.actor, content="Hello", idempotency_key="k")
    for other in ({"content": "Hello!"}, {"title": "Hello"}, {}):
        with app.app_context(), pytest.raises(service.KeyUsedDifferently):
            service.start(actor=person.actor, idempotency_key="k", **other)


def started_under_key(app: Flask, person: Person, **body: str) -> service.Started:
    with app.app_context():
        return service.start(actor=person.actor, idempotency_key="k", **body)


def test_a_start_is_repeated_though_the_title_has_changed(app: Flask, person: Person) -> None:
    body = {"title": "Tiles", "content": "Which ones?"}
    first = started_under_key(app, person, **body)
    with app.app_context():
        changes.rename(first.conversation.id, "Floors", actor=person.actor)
    again = started_under_key(app, person, **body)
    assert first.message is not None
    assert again.message is not None
    assert (again.conversation.id, again.message.id) == (first.conversation.id, first.message.id)
    assert again.conversation.title == "Floors"
    for other in (body | {"title": "Floors"}, {"content": "Which ones?"}, body | {"content": "Which?"}):
        with pytest.raises(service.KeyUsedDifferently):
            started_under_key(app, person, **other)


def test_an_empty_start_is_repeated_though_its_first_message_came_under_the_same_key(
    app: Flask, person: Person
) -> None:
    for body in ({}, {"title": "Tiles"}):
        with app.app_context():
            first = service.start(actor=person.actor, idempotency_key=str(body), **body)
        post(app, person, first.conversation.id, "Which ones?", idempotency_key=str(body))
        with app.app_context():
            again = service.start(actor=person.actor, idempotency_key=str(body), **body)
        assert again.conversation.id == first.conversation.id
        assert (again.message, again.reply) == (None, None)
        with app.app_context(), pytest.raises(service.KeyUsedDifferently):
            service.start(actor=person.actor, idempotency_key=str(body), content="Which ones?", **body)


def test_a_start_from_before_fingerprints_is_compared_with_what_is_there(
    app: Flask, person: Person, db_session: Session
) -> None:
    first = started_under_key(app, person, title="Tiles", content="Which ones?")
    stored(db_session, first.conversation.id).start_fingerprint = None
    db_session.commit()
    for same in ({"title": "Tiles", "content": "Which ones?"}, {"content": "Which ones?"}):
        assert started_under_key(app, person, **same).conversation.id == first.conversation.id
    for other in ({"title": "Tiles"}, {"title": "Floors", "content": "Which ones?"}, {"content": "Which?"}):
        with pytest.raises(service.KeyUsedDifferently):
            started_under_key(app, person, **other)


def test_a_conversation_without_a_key_keeps_no_fingerprint(
    app: Flask, person: Person, conversation, db_session
) -> None:
    assert stored(db_session, conversation.id).start_fingerprint is None
    kept = stored(db_session, started_under_key(app, person, content="Hello").conversation.id).start_fingerprint
    assert kept is not None
    assert "Hello" not in kept


def test_two_people_may_choose_the_same_key(app: Flask, person: Person, noise: Person) -> None:
    with app.app_context():
        mine = service.start(actor=person.actor, content="Hello", idempotency_key="k")
    with app.app_context():
        theirs = service.start(actor=noise.actor, content="Hello", idempotency_key="k")
    assert mine.conversation.id != theirs.conversation.id


# Posting


def test_posting_stores_message_reply_job_and_event(
    app: Flask, person: Person, conversation: Conversation, db_session: Session
) -> None:
    posted = post(app, person, conversation.id, "Hello")
    message = db_session.get_one(ConversationMessage, posted.message.id)
    reply = db_session.get_one(ConversationMessage, posted.reply.id)
    assert (message.role, message.content, message.status, message.parent_id) == ("user", "Hello", "complete", None)
    assert (reply.role, reply.content, reply.status, reply.parent_id) == ("assistant", "", "queued", message.id)
    assert db_session.scalars(JOBS).all() == [reply.id]
    assert stored(db_session, conversation.id).total_messages == 2
    submitted = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "ai_prompt_submitted")).one()
    assert submitted.event_metadata == {"message_id": message.id, "characters": 5}
    assert submitted.subject_id == conversation.id
    assert "Hello" not in str(submitted.event_metadata)


def test_messages_follow_one_another(app: Flask, person: Person, conversation: Conversation) -> None:
    first, second = (post(app, person, conversation.id, words) for words in ("one", "two"))
    assert second.message.parent_id == first.reply.id
    with app.app_context():
        page = reading.list_messages(conversation.id, actor=person.actor)
    assert [message.content for message in page.messages] == ["one", "", "two", ""]
    times = [message.created_at for message in page.messages]
    assert times == sorted(set(times))


def test_a_message_may_answer_an_earlier_one(app: Flask, person: Person, conversation: Conversation) -> None:
    first = post(app, person, conversation.id, "one")
    post(app, person, conversation.id, "two")
    third = post(app, person, conversation.id, "three", parent_id=first.reply.id)
    assert third.message.parent_id == first.reply.id


@pytest.mark.parametrize("parent_id", ["", "nothing", "a\x00b", "\ud800", "x" * 5000])
def test_a_parent_must_be_in_the_conversation(app: Flask, person: Person, conversation, parent_id: str) -> None:
    with pytest.raises(service.UnknownParent):
        post(app, person, conversation.id, parent_id=parent_id)


def test_a_parent_in_another_conversation_is_none(app: Flask, person: Person, conversation: Conversation) -> None:
    with app.app_context():
        other = service.start(actor=person.actor, content="Elsewhere")
    assert other.message is not None
    with pytest.raises(service.UnknownParent):
        post(app, person, conversation.id, parent_id=other.message.id)


@pytest.mark.parametrize(
    "content",
    [
        "'; DROP TABLE users_v2; --",
        "<script>alert(1)</script>",
        "🦭 👩🏽‍🚀 ﷽ é",
        "a\r\nb",
        "  kept  ",
        "%s %(x)s {0} \\x00 \\",
    ],
)
def test_what_is_written_is_stored_exactly(
    app: Flask, person: Person, conversation: Conversation, db_session: Session, content: str
) -> None:
    posted = post(app, person, conversation.id, content)
    assert db_session.get_one(ConversationMessage, posted.message.id).content == content


@pytest.mark.parametrize("content", ["", " \n\t", "\u200b", "a\x00", "a\x07", "\ud83d", "x" * 32_001])
def test_what_may_not_be_said_changes_nothing_and_is_recorded(
    app: Flask, person: Person, conversation: Conversation, db_session: Session, content: str
) -> None:
    with pytest.raises(service.MessageRefused) as refusal:
        post(app, person, conversation.id, content)
    assert refusal.value.errors.keys() == {"content"}
    assert stored(db_session, conversation.id).total_messages == 0
    assert db_session.scalars(JOBS).all() == []
    refused = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "ai_prompt_refused")).one()
    assert not refused.success
    assert refused.event_metadata == {"reason": "MessageRefused"}
    assert refused.subject_id == conversation.id


def test_the_same_key_gives_the_same_message_and_reply(
    app: Flask, person: Person, conversation: Conversation, db_session: Session
) -> None:
    first = post(app, person, conversation.id, "Hello", idempotency_key="k")
    post(app, person, conversation.id, "Another")
    again = post(app, person, conversation.id, "Hello", idempotency_key="k")
    assert (again.message.id, again.reply.id) == (first.message.id, first.reply.id)
    assert stored(db_session, conversation.id).total_messages == 4
    assert len(db_session.scalars(JOBS).all()) == 2


def test_the_same_key_with_another_text_is_refused(app: Flask, person: Person, conversation, db_session) -> None:
    post(app, person, conversation.id, "Hello", idempotency_key="k")
    with pytest.raises(service.KeyUsedDifferently):
        post(app, person, conversation.id, "Hullo", idempotency_key="k")
    assert stored(db_session, conversation.id).total_messages == 2
    assert events_of(db_session, person)[-1] == ("ai_prompt_refused", False)


def test_the_same_key_in_another_conversation_is_another_message(app: Flask, person: Person, conversation) -> None:
    with app.app_context():
        other = service.start(actor=person.actor).conversation
    assert (
        post(app, person, conversation.id, idempotency_key="k").message.id
        != post(app, person, other.id, idempotency_key="k").message.id
    )


def test_a_key_is_not_stored_as_it_was_sent(app: Flask, person: Person, conversation, db_session: Session) -> None:
    posted = post(app, person, conversation.id, idempotency_key="my own key")
    assert "my own" not in str(db_session.get_one(ConversationMessage, posted.message.id).idempotency_key)


def test_posting_takes_a_conversation_out_of_the_archive(app: Flask, person: Person, conversation, db_session) -> None:
    with app.app_context():
        changes.archive(conversation.id, actor=person.actor)
    post(app, person, conversation.id)
    assert stored(db_session, conversation.id).status == "active"
    assert ("conversation_unarchived", True) in events_of(db_session, person)


def test_posting_into_a_deleted_conversation_is_refused_in_words(
    app: Flask, person: Person, conversation: Conversation, db_session: Session
) -> None:
    with app.app_context():
        changes.delete(conversation.id, actor=person.actor)
    with pytest.raises(service.ConversationDeleted, match="Restore it first"):
        post(app, person, conversation.id)
    assert events_of(db_session, person)[-1] == ("ai_prompt_refused", False)


# Whose it is


def test_somebody_elses_conversation_is_not_there_and_the_try_is_recorded(
    app: Flask, person: Person, noise: Person, conversation: Conversation, db_session: Session
) -> None:
    actor = noise.actor
    tries = [
        lambda: reading.access_conversation(conversation.id, actor=actor),
        lambda: reading.get_conversation(conversation.id, actor=actor),
        lambda: reading.list_messages(conversation.id, actor=actor),
        lambda: reading.list_latest_messages(conversation.id, actor=actor),
        lambda: service.post_message(conversation.id, "Hello", actor=actor),
        lambda: service.post_message(conversation.id, "", actor=actor),
        lambda: changes.rename(conversation.id, "Mine", actor=actor),
        lambda: changes.rename(conversation.id, "", actor=actor),
        lambda: changes.change(conversation.id, actor=actor, title="Mine", status="active"),
        lambda: changes.archive(conversation.id, actor=actor),
        lambda: changes.unarchive(conversation.id, actor=actor),
        lambda: changes.delete(conversation.id, actor=actor),
        lambda: changes.restore(conversation.id, actor=actor),
    ]
    for attempt in tries:
        with app.app_context(), pytest.raises(NotFound):
            attempt()
    assert events_of(db_session, noise) == [("access_denied", False)] * len(tries)
    denied = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied")).first()
    assert denied is not None
    assert (denied.subject_id, denied.event_metadata) == (conversation.id, {"wanted": "conversation"})
    row = stored(db_session, conversation.id)
    assert (row.title, row.status, row.total_messages) == ("Tiles", "active", 0)


def test_not_even_an_administrator_reads_it(app: Flask, admin: Person, conversation: Conversation) -> None:
    with app.app_context(), pytest.raises(NotFound):
        reading.access_conversation(conversation.id, actor=admin.actor)


@pytest.mark.parametrize("conversation_id", ["", "nothing", "a\x00b", "\ud800", "é", "x" * 5000, "' OR 1=1 --"])
def test_what_is_no_id_is_nothing(app: Flask, person: Person, db_session: Session, conversation_id: str) -> None:
    with app.app_context(), pytest.raises(NotFound):
        reading.access_conversation(conversation_id, actor=person.actor)
    assert events_of(db_session, person) == []


def test_lists_hold_only_ones_own(app: Flask, person: Person, noise: Person, conversation: Conversation) -> None:
    with app.app_context():
        service.start(actor=noise.actor, title="Theirs")
        listed = reading.list_conversations(actor=person.actor)
    assert [row.title for row in listed.conversations] == ["Tiles"]


# Shelves


def test_shelves_hold_what_was_put_on_them(app: Flask, person: Person, conversation, db_session: Session) -> None:
    def shelf_of() -> list[str]:
        with app.app_context():
            return [
                status
                for status in reading.SHELVES
                if reading.list_conversations(actor=person.actor, status=status).conversations
            ]

    actor, seen = person.actor, []
    for command in (changes.archive, changes.delete, changes.restore, changes.unarchive, changes.delete):
        with app.app_context():
            command(conversation.id, actor=actor)
        seen += shelf_of()
    assert seen == ["archived", "deleted", "archived", "active", "deleted"]
    assert [name.removeprefix("conversation_") for name, _ in events_of(db_session, person)[1:]] == [
        "archived",
        "deleted",
        "restored",
        "unarchived",
        "deleted",
    ]


def test_a_restored_conversation_has_everything_in_it(app: Flask, person: Person, conversation) -> None:
    post(app, person, conversation.id, "Keep me")
    with app.app_context():
        changes.delete(conversation.id, actor=person.actor)
    with app.app_context():
        changes.restore(conversation.id, actor=person.actor)
    with app.app_context():
        page = reading.list_messages(conversation.id, actor=person.actor)
    assert page.messages[0].content == "Keep me"
    assert page.conversation.deleted_at is None


@pytest.mark.parametrize("command", [changes.unarchive, changes.restore])
def test_what_changes_nothing_is_not_recorded(app: Flask, person: Person, conversation, db_session, command) -> None:
    with app.app_context():
        command(conversation.id, actor=person.actor)
    with app.app_context():
        changes.rename(conversation.id, "Tiles", actor=person.actor)
    assert events_of(db_session, person) == [("conversation_started", True)]


def test_deleting_twice_remembers_where_it_came_from(app: Flask, person: Person, conversation, db_session) -> None:
    for command in (changes.archive, changes.delete, changes.delete, changes.restore):
        with app.app_context():
            command(conversation.id, actor=person.actor)
    assert stored(db_session, conversation.id).status == "archived"


@pytest.mark.parametrize(
    ("change", "event"),
    [
        (lambda *args, **kwargs: changes.rename(*args, "New", **kwargs), "conversation_renamed"),
        (changes.archive, "conversation_archived"),
        (changes.unarchive, "conversation_unarchived"),
    ],
    ids=["rename", "archive", "unarchive"],
)
def test_a_deleted_conversation_is_only_restored(
    app: Flask, person: Person, conversation: Conversation, db_session: Session, change, event: str
) -> None:
    with app.app_context():
        changes.delete(conversation.id, actor=person.actor)
    with app.app_context(), pytest.raises(service.ConversationDeleted):
        change(conversation.id, actor=person.actor)
    assert events_of(db_session, person)[-1] == (event, False)


def test_a_title_breaking_a_rule_is_refused_and_recorded(app: Flask, person: Person, conversation, db_session) -> None:
    for title in ("", "a\nb", "x" * 201):
        with app.app_context(), pytest.raises(service.TitleRefused):
            changes.rename(conversation.id, title, actor=person.actor)
    assert events_of(db_session, person)[1:] == [("conversation_renamed", False)] * 3
    with app.app_context():
        changes.rename(conversation.id, " Floor 🧱 ", actor=person.actor)
    assert stored(db_session, conversation.id).title == "Floor 🧱"


def test_a_title_and_a_shelf_change_together(app: Flask, person: Person, conversation, db_session) -> None:
    with app.app_context():
        changes.change(conversation.id, actor=person.actor, title="Floor", status="archived")
    row = stored(db_session, conversation.id)
    assert (row.title, row.status) == ("Floor", "archived")
    with app.app_context():
        changes.change(conversation.id, actor=person.actor, title="Floor", status="archived")
        changes.change(conversation.id, actor=person.actor)
    assert events_of(db_session, person)[1:] == [("conversation_renamed", True), ("conversation_archived", True)]


def test_bringing_back_a_deleted_one_is_each_step_on_the_way(app, person: Person, conversation, db_session) -> None:
    with app.app_context():
        changes.archive(conversation.id, actor=person.actor)
        changes.delete(conversation.id, actor=person.actor)
        changes.change(conversation.id, actor=person.actor, title="Floor", status="active")
    row = stored(db_session, conversation.id)
    assert (row.title, row.status, row.status_before_delete, row.deleted_at) == ("Floor", "active", None, None)
    assert events_of(db_session, person)[3:] == [
        ("conversation_restored", True),
        ("conversation_renamed", True),
        ("conversation_unarchived", True),
    ]


def test_a_change_of_which_a_part_is_refused_changes_nothing(app, person: Person, conversation, db_session) -> None:
    with app.app_context():
        changes.delete(conversation.id, actor=person.actor)
    with app.app_context(), pytest.raises(service.TitleRefused):
        changes.change(conversation.id, actor=person.actor, title="", status="active")
    with app.app_context(), pytest.raises(service.ConversationDeleted):
        changes.change(conversation.id, actor=person.actor, title="Floor", status="archived")
    row = stored(db_session, conversation.id)
    assert (row.title, row.status) == ("Tiles", "deleted")
    assert events_of(db_session, person)[2:] == [("conversation_renamed", False)] * 2


# Reading


def test_the_conversation_used_last_comes_first_and_pages_meet(app: Flask, person: Person, noise: Person) -> None:
    with app.app_context():
        made = [service.start(actor=person.actor, title=f"Number {n}").conversation.id for n in range(5)]
        service.start(actor=noise.actor, title="Theirs")
    post(app, person, made[0])
    seen, cursor = [], None
    while True:
        with app.app_context():
            page = reading.list_conversations(actor=person.actor, cursor=cursor, limit=2)
        seen += [row.id for row in page.conversations]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [made[0], made[4], made[3], made[2], made[1]]


def test_a_cursor_of_somebodys_making_is_refused(app: Flask, person: Person) -> None:
    for cursor in ("x", "AAAA", "…", "a" * 9000):
        with app.app_context(), pytest.raises(Invalid):
            reading.list_conversations(actor=person.actor, cursor=cursor)


def test_messages_are_read_forwards_and_backwards_in_pages(app: Flask, person: Person, conversation) -> None:
    for number in range(4):
        post(app, person, conversation.id, str(number))
    with app.app_context():
        everything = [m.id for m in reading.list_messages(conversation.id, actor=person.actor).messages]
    forwards, after = [], None
    while True:
        with app.app_context():
            page = reading.list_messages(conversation.id, actor=person.actor, after=after, limit=3)
        forwards += [message.id for message in page.messages]
        after = page.next
        if after is None:
            break
    backwards, before = [], None
    while True:
        with app.app_context():
            page = reading.list_latest_messages(conversation.id, actor=person.actor, before=before, limit=3)
        backwards = [message.id for message in page.messages] + backwards
        before = page.next
        if before is None:
            break
    assert len(everything) == 8
    assert forwards == backwards == everything


def test_a_page_of_long_messages_ends_early(app: Flask, person: Person, conversation: Conversation) -> None:
    for _ in range(5):
        post(app, person, conversation.id, "x" * 32_000)
    with app.app_context():
        page = reading.list_messages(conversation.id, actor=person.actor)
        latest = reading.list_latest_messages(conversation.id, actor=person.actor)
    assert len(page.messages) == 6
    assert page.next == page.messages[-1].id
    assert len(latest.messages) < 10
    assert latest.next == latest.messages[0].id


@pytest.mark.parametrize("message_id", ["", "nothing", "a\x00b", "\ud800"])
def test_reading_from_a_message_that_is_not_there_is_refused(app: Flask, person, conversation, message_id) -> None:
    with app.app_context(), pytest.raises(Invalid) as refusal:
        reading.list_messages(conversation.id, actor=person.actor, after=message_id)
    assert refusal.value.errors.keys() == {"after"}
