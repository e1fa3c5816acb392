"""The JSON of conversations: contract C1, C2 and C3's events."""

from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request

from capecontrol.auth.identity import login_required, signed_in
from capecontrol.conversations import changes, events, reading, service
from capecontrol.conversations.schemas import (
    ChangeBody,
    ConversationAnswer,
    ConversationsAnswer,
    EventsQuery,
    ListQuery,
    MessageAnswer,
    MessagesAnswer,
    MessagesQuery,
    PostAnswer,
    PostBody,
    StartAnswer,
    StartBody,
)
from capecontrol.errors import Overloaded
from capecontrol.web import rate_limits, streams
from capecontrol.web.json_requests import idempotency_key, read_json, read_query
from capecontrol.web.openapi import describes

endpoints = Blueprint("conversations_api", __name__, url_prefix="/api/conversations")


@endpoints.get("")
@login_required
@describes(
    "One shelf of my conversations, the ones used last first.", query=ListQuery, answers={200: ConversationsAnswer}
)
def list_all() -> Response:
    """C1."""
    query = read_query(ListQuery)
    page = reading.list_conversations(actor=signed_in(), status=query.status, cursor=query.cursor, limit=query.limit)
    return _json(
        ConversationsAnswer(
            conversations=[ConversationAnswer.of(conversation) for conversation in page.conversations],
            next=page.next,
        )
    )


@endpoints.post("")
@login_required
@describes("Start a conversation.", body=StartBody, answers={201: StartAnswer, 429: None}, takes_idempotency_key=True)
def start() -> tuple[Response, int]:
    """C1."""
    actor = signed_in()
    rate_limits.hold_to(rate_limits.START_CONVERSATION, who=actor.id)
    body = read_json(StartBody)
    started = service.start(actor=actor, title=body.title, content=body.content, idempotency_key=idempotency_key())
    answer = StartAnswer.of(started.conversation)
    if started.message is not None and started.reply is not None:
        answer.message = MessageAnswer.of(started.message)
        answer.reply = MessageAnswer.of(started.reply)
    return _json(answer), 201


@endpoints.get("/<conversation_id>")
@login_required
@describes("A conversation of mine.", answers={200: ConversationAnswer})
def show(conversation_id: str) -> Response:
    """C1."""
    return _json(ConversationAnswer.of(reading.get_conversation(conversation_id, actor=signed_in())))


@endpoints.patch("/<conversation_id>")
@login_required
@describes(
    "Rename, archive or bring back a conversation; `active` also restores a deleted one.",
    body=ChangeBody,
    answers={200: ConversationAnswer, 409: None},
)
def change(conversation_id: str) -> Response:
    """C1."""
    body = read_json(ChangeBody)
    conversation = changes.change(conversation_id, actor=signed_in(), title=body.title, status=body.status)
    return _json(ConversationAnswer.of(conversation))


@endpoints.delete("/<conversation_id>")
@login_required
@describes("Delete a conversation. It can be restored.", answers={204: None})
def delete(conversation_id: str) -> tuple[str, int]:
    """C1."""
    changes.delete(conversation_id, actor=signed_in())
    return "", 204


@endpoints.get("/<conversation_id>/messages")
@login_required
@describes("The messages of a conversation, oldest first.", query=MessagesQuery, answers={200: MessagesAnswer})
def list_messages(conversation_id: str) -> Response:
    """C2."""
    query = read_query(MessagesQuery)
    page = reading.list_messages(conversation_id, actor=signed_in(), after=query.after, limit=query.limit)
    return _json(MessagesAnswer(messages=[MessageAnswer.of(message) for message in page.messages], next=page.next))


@endpoints.post("/<conversation_id>/messages")
@login_required
@describes(
    "Post a message. The reply comes later: follow the events, or ask for the messages after this one.",
    body=PostBody,
    answers={202: PostAnswer, 409: None, 429: None},
    takes_idempotency_key=True,
)
def post_message(conversation_id: str) -> tuple[Response, int]:
    """C2."""
    actor = signed_in()
    rate_limits.hold_to(rate_limits.POST_MESSAGE, who=actor.id)
    body = read_json(PostBody)
    posted = service.post_message(
        conversation_id,
        body.content,
        actor=actor,
        parent_id=body.parent_id,
        idempotency_key=idempotency_key(),
    )
    answer = PostAnswer(message=MessageAnswer.of(posted.message), reply=MessageAnswer.of(posted.reply))
    return _json(answer), 202


@endpoints.get("/<conversation_id>/events")
@login_required
@describes(
    "Follow a conversation: `message` events, then `end` with the last reply or after at most 25 s. "
    "503 when all places, or the few that one person may have, are taken: then ask for the messages instead.",
    query=EventsQuery,
    answers={200: None},
    answer_type="text/event-stream",
)
def follow(conversation_id: str) -> Response:
    """C3. `Last-Event-ID`, which a browser sends when it comes back, goes before `after`."""
    after = request.headers.get("Last-Event-ID") or read_query(EventsQuery).after
    actor = signed_in()
    follower = events.follow(conversation_id, actor=actor, after=after)
    give_back = streams.places().take(actor.id)
    if give_back is None:
        raise Overloaded("There is no place left for following along. Ask for the messages instead.", retry_after=3)
    g.give_back_place = give_back
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    response = Response(
        events.stream(follower, session_scope=app.app_context, give_back=give_back, is_stopping=streams.is_stopping()),
        mimetype="text/event-stream",
    )
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(give_back)
    return response


@endpoints.teardown_request
def _give_back_after_failure(failure: BaseException | None) -> None:
    """Give the place back when the answer was never sent: nobody closes a response that was thrown away."""
    if failure is not None and "give_back_place" in g:
        g.give_back_place()


def _json(answer: Any) -> Response:
    return jsonify(answer.model_dump(mode="json"))
