"""The conversation pages, used as somebody without JavaScript does."""

import pytest
from bs4 import Tag
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from capecontrol.conversations import changes, replies, service
from capecontrol.conversations.models import Conversation, ConversationMessage
from tests.people import Person
from tests.visitor import Page, Visitor, filled_in


@pytest.fixture
def thandi(sign_in, person: Person) -> Visitor:
    return sign_in(person)


def only_conversation(db_session: Session) -> Conversation:
    return db_session.scalars(select(Conversation).execution_options(populate_existing=True)).one()


def messages(db_session: Session) -> list[ConversationMessage]:
    query = select(ConversationMessage).order_by(ConversationMessage.created_at)
    return list(db_session.scalars(query.execution_options(populate_existing=True)))


def start(visitor: Visitor, content: str = "How do I rename a conversation?") -> Page:
    visitor.visit("/conversations")
    return visitor.send("/conversations", content=content)


def box(page: Page) -> str:
    form = page.find("form", attrs={"data-composer": True})
    assert isinstance(form, Tag)
    return filled_in(form)["content"]


def test_the_first_visit_says_what_to_do(thandi: Visitor) -> None:
    page = thandi.visit("/conversations")
    assert "Ask something in the box above" in page.words


def test_a_double_click_on_a_starter_starts_one_conversation(thandi: Visitor, db_session: Session) -> None:
    page = thandi.visit("/conversations")
    first, second, *_ = [filled_in(form) for form in page.select(".starters form")]
    for fields in (first, first, second):
        assert thandi.client.post("/conversations", data=fields).status_code == 303
    said = [message.content for message in messages(db_session) if message.role == "user"]
    assert sorted(said) == sorted([first["content"], second["content"]])
    assert db_session.scalar(select(func.count()).select_from(Conversation)) == 2


@pytest.mark.parametrize(
    "key", ["k" * 201, "k" * 100_000, "ключ", "a\tb"], ids=["long", "very long", "no ASCII", "a tab"]
)
def test_a_hidden_key_no_page_of_ours_has_made_is_refused_and_replaced(
    thandi: Visitor, db_session: Session, key: str
) -> None:
    thandi.visit("/conversations")
    page = thandi.send("/conversations", status=422, content="Which way is the wind?", idempotency_key=key)
    assert "This form was changed on its way to us. Please send it again." in page.words
    assert box(page) == "Which way is the wind?"
    page = thandi.send("/conversations", content="Which way is the wind?")
    action = f"{page.answer.request.path}/messages"
    page = thandi.send(action, status=422, content="And tomorrow?", idempotency_key=key)
    assert box(page) == "And tomorrow?"
    thandi.send(action, content="And tomorrow?")
    said = [message.content for message in messages(db_session) if message.role == "user"]
    assert said == ["Which way is the wind?", "And tomorrow?"]


def test_starting_leads_to_the_conversation_and_its_coming_reply(app: Flask, thandi: Visitor, db_session) -> None:
    page = start(thandi)
    conversation = only_conversation(db_session)
    assert page.answer.request.path == f"/conversations/{conversation.id}"
    assert "How do I rename a conversation?" in page.words
    assert "looking it up" in page.words
    with app.app_context():
        replies.make_reply(messages(db_session)[1].id)
    page = thandi.visit(f"/conversations/{conversation.id}")
    assert "No AI model is connected" in page.words
    assert page.find("blockquote") is not None
    assert "How do I rename a conversation?" in thandi.visit("/conversations").words


def test_starting_with_an_empty_box_opens_an_empty_conversation(thandi: Visitor, db_session: Session) -> None:
    page = start(thandi, "")
    assert "New conversation" in page.words
    assert messages(db_session) == []


def test_a_form_sent_twice_starts_one_conversation(thandi: Visitor, db_session: Session) -> None:
    page = thandi.visit("/conversations")
    fields = filled_in(page.form("/conversations")) | {"content": "Hello"}
    answers = [thandi.client.post("/conversations", data=fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].location == answers[1].location
    assert len(messages(db_session)) == 2


def test_posting_leads_back_to_the_latest_message(thandi: Visitor, db_session: Session) -> None:
    page = start(thandi)
    action = f"/conversations/{only_conversation(db_session).id}/messages"
    fields = filled_in(page.form(action)) | {"content": "And then?"}
    answer = thandi.client.post(action, data=fields)
    assert answer.status_code == 303
    assert answer.location.endswith("#latest")
    assert [message.content for message in messages(db_session)][2] == "And then?"


def test_a_message_sent_twice_is_one_message(thandi: Visitor, db_session: Session) -> None:
    page = start(thandi)
    action = f"/conversations/{only_conversation(db_session).id}/messages"
    fields = filled_in(page.form(action)) | {"content": "And then?"}
    answers = [thandi.client.post(action, data=fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len(messages(db_session)) == 4


def test_going_back_and_sending_something_else_asks_once_more(thandi: Visitor, db_session: Session) -> None:
    page = start(thandi)
    action = f"/conversations/{only_conversation(db_session).id}/messages"
    fields = filled_in(page.form(action)) | {"content": "First"}
    thandi.client.post(action, data=fields)
    thandi.visit(f"/conversations/{only_conversation(db_session).id}")
    page = thandi.send(action, status=422, content="Second", idempotency_key=fields["idempotency_key"])
    assert "already sent this form" in page.words
    assert box(page) == "Second"
    thandi.send(action)
    assert messages(db_session)[-2].content == "Second"


def test_lines_typed_in_the_box_are_stored_with_line_feeds(thandi: Visitor, db_session: Session) -> None:
    start(thandi, "one\r\n\r\n  two\r\n")
    assert messages(db_session)[0].content == "one\n\n  two\n"


@pytest.mark.parametrize("content", ["🦭 👩🏽‍🚀", "<b>x</b> & '; DROP TABLE x; --", "**not bold**", "{{ 7*7 }}"])
def test_what_was_typed_is_stored_and_shown_as_typed(thandi: Visitor, db_session: Session, content: str) -> None:
    page = start(thandi, content)
    assert messages(db_session)[0].content == content
    assert only_conversation(db_session).title == content
    assert content in page.get_text()


@pytest.mark.parametrize("content", ["   ", "a\x07b", "x" * 32_001], ids=["nothing", "bell", "too long"])
def test_after_a_mistake_every_character_is_still_in_the_box(thandi: Visitor, db_session, content: str) -> None:
    start(thandi)
    action = f"/conversations/{only_conversation(db_session).id}/messages"
    page = thandi.send(action, status=422, content=content)
    assert box(page) == content
    assert page.find(attrs={"data-error-summary": True}) is not None
    assert len(messages(db_session)) == 2
    page = thandi.send(action, content="Better")
    assert "Better" in page.words


def test_after_a_mistake_at_the_start_the_text_is_still_in_the_box(thandi: Visitor, db_session: Session) -> None:
    thandi.visit("/conversations")
    page = thandi.send("/conversations", status=422, content="a\x07b")
    assert box(page) == "a\x07b"
    assert messages(db_session) == []


def test_posting_into_what_was_deleted_elsewhere_keeps_the_text(thandi: Visitor, db_session, app, person) -> None:
    start(thandi)
    conversation = only_conversation(db_session)
    with app.app_context():
        changes.delete(conversation.id, actor=person.actor)
    page = thandi.send(f"/conversations/{conversation.id}/messages", status=409, content="Do not lose me")
    assert "Restore it" in page.words
    assert "Do not lose me" in page.get_text()


def test_renaming(thandi: Visitor, db_session: Session) -> None:
    start(thandi)
    action = f"/conversations/{only_conversation(db_session).id}/rename"
    page = thandi.send(action, title="Names & <titles>")
    assert page.h1 is not None
    assert page.h1.get_text(strip=True) == "Names & <titles>"
    page = thandi.send(action, status=422, title="  ")
    assert "Give the conversation a title." in page.words
    assert only_conversation(db_session).title == "Names & <titles>"


def test_deleting_offers_an_undo_that_works(thandi: Visitor, db_session: Session) -> None:
    start(thandi)
    conversation = only_conversation(db_session)
    page = thandi.send(f"/conversations/{conversation.id}/delete")
    assert page.answer.request.path == "/conversations"
    assert "Conversation deleted." in page.words
    assert page.find("a", href=lambda href: href and conversation.id in href) is None
    page = thandi.send(f"/conversations/{conversation.id}/restore")
    assert page.answer.request.path == f"/conversations/{conversation.id}"
    assert only_conversation(db_session).status == "active"


def test_a_deleted_conversation_is_found_on_its_shelf_and_brought_back(thandi: Visitor, db_session: Session) -> None:
    start(thandi)
    conversation = only_conversation(db_session)
    thandi.send(f"/conversations/{conversation.id}/delete")
    page = thandi.visit("/conversations?shelf=deleted")
    assert conversation.title in page.words
    page = thandi.visit(f"/conversations/{conversation.id}")
    assert "This conversation is deleted" in page.words
    assert page.find("textarea") is None
    thandi.send(f"/conversations/{conversation.id}/restore")
    assert conversation.title in thandi.visit("/conversations").words


def test_archiving_and_bringing_back(thandi: Visitor, db_session: Session) -> None:
    start(thandi)
    conversation = only_conversation(db_session)
    page = thandi.send(f"/conversations/{conversation.id}/archive")
    assert "Archived" in page.words
    page = thandi.visit("/conversations?shelf=archived")
    assert conversation.title in page.words
    thandi.send(f"/conversations/{conversation.id}/unarchive")
    assert only_conversation(db_session).status == "active"


def test_an_unknown_shelf_is_the_everyday_one(thandi: Visitor) -> None:
    assert "Ask something in the box above" in thandi.visit("/conversations?shelf=nonsense").words


def test_long_lists_and_conversations_lead_on_to_older_ones(app: Flask, thandi: Visitor, person: Person) -> None:
    with app.app_context():
        for number in range(51):
            conversation = service.start(actor=person.actor, title=f"Number {number}").conversation
    page = thandi.visit("/conversations")
    assert "Number 50" in page.words
    assert "Number 0 " not in page.words
    older = page.find("a", rel="next")
    assert isinstance(older, Tag)
    assert "Number 0 " in thandi.visit(str(older["href"])).words
    for number in range(30):
        with app.app_context():
            service.post_message(conversation.id, f"message {number}.", actor=person.actor)
    page = thandi.visit(f"/conversations/{conversation.id}")
    assert "message 29." in page.words
    assert "message 0." not in page.words
    earlier = page.find("a", string="Older messages")
    assert isinstance(earlier, Tag)
    assert "message 0." in thandi.visit(str(earlier["href"])).words


@pytest.mark.parametrize("query", ["?before=nothing", "?before=%00"])
def test_earlier_than_a_message_that_is_not_there_is_refused(thandi: Visitor, db_session: Session, query: str) -> None:
    start(thandi)
    thandi.visit(f"/conversations/{only_conversation(db_session).id}{query}", status=422)


@pytest.mark.parametrize("act", ["", "/messages", "/rename", "/archive", "/unarchive", "/delete", "/restore"])
def test_somebody_elses_conversation_is_not_there(app: Flask, thandi: Visitor, noise: Person, db_session, act) -> None:
    with app.app_context():
        theirs = service.start(actor=noise.actor, content="Private").conversation
    token = filled_in(thandi.visit("/conversations").form("/conversations"))["csrf_token"]
    for conversation_id in (theirs.id, "nothing", "a%00b"):
        path = f"/conversations/{conversation_id}{act}"
        fields = {"csrf_token": token, "content": "Hello", "title": "Mine"}
        answer = thandi.client.post(path, data=fields) if act else thandi.get(path)
        assert answer.status_code == 404
        assert "Private" not in answer.get_data(as_text=True)
    assert db_session.get_one(Conversation, theirs.id, populate_existing=True).total_messages == 2


def test_the_list_shows_nobody_elses(app: Flask, thandi: Visitor, noise: Person) -> None:
    with app.app_context():
        service.start(actor=noise.actor, title="Noise")
    assert "Noise" not in thandi.visit("/conversations").words


def test_a_form_without_its_token_is_refused(thandi: Visitor, db_session: Session) -> None:
    answer = thandi.client.post("/conversations", data={"content": "Hello"})
    assert answer.status_code == 400
    assert db_session.scalar(select(func.count()).select_from(Conversation)) == 0


def test_a_visitor_is_sent_to_sign_in_and_comes_back(visitor: Visitor, person: Person) -> None:
    answer = visitor.get("/conversations?shelf=archived")
    assert answer.status_code == 303
    assert answer.location == "/login?next=/conversations?shelf%3Darchived"


def test_a_reply_that_failed_says_so(app: Flask, thandi: Visitor, db_session: Session) -> None:
    start(thandi)
    with app.app_context():
        replies.give_up(messages(db_session)[1].id, reason="TimeoutError")
    assert replies.FAILED in thandi.visit(f"/conversations/{only_conversation(db_session).id}").words
