"""Following a conversation: every change is told, the stream ends, and it never takes what others need."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pytest
import requests
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from capecontrol.auth import passwords
from capecontrol.config import libpq_url
from capecontrol.conversations import events, replies, service
from capecontrol.conversations.models import ConversationMessage
from capecontrol.extensions import db
from capecontrol.web import streams
from tests.live_server import LiveServer
from tests.people import PASSWORD, Person, make_person

Event = tuple[str, str | None, Any]


def parsed(chunk: str) -> Event:
    """Return a chunk of the stream as its event's name, id and data."""
    fields = dict(line.split(": ", 1) for line in chunk.strip().splitlines())
    data = json.loads(fields["data"]) if "data" in fields else None
    return fields.get("event", next(iter(fields))), fields.get("id"), data


def chunks(answer: Any) -> Iterator[str]:
    for chunk in answer.response:
        yield chunk.decode() if isinstance(chunk, bytes) else chunk


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_EVERY_SECONDS", 0.01)


@pytest.fixture
def posted(app: Flask, person: Person) -> service.Started:
    with app.app_context():
        return service.start(actor=person.actor, content="How do I sign out?")


@pytest.fixture
def follow(app: Flask, person: Person) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a stream as the person, and close what it opened."""
    opened: list[Any] = []

    def open_stream(conversation_id: str, query: str = "", who: Person = person, **headers: str) -> Any:
        answer = app.test_client().get(
            f"/api/conversations/{conversation_id}/events{query}", headers=who.bearer | headers
        )
        opened.append(answer)
        return answer

    yield open_stream
    for answer in opened:
        answer.close()
    assert app.extensions["streams"].taken == 0


def make(app: Flask, reply_id: str) -> None:
    with app.app_context():
        replies.make_reply(reply_id)


def test_a_stream_tells_of_the_reply_and_ends_with_it(app: Flask, follow, posted) -> None:
    answer = follow(posted.conversation.id, f"?after={posted.message.id}")
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    stream = chunks(answer)
    assert parsed(next(stream))[0] == "retry"
    name, _, waiting = parsed(next(stream))
    assert (name, waiting["id"], waiting["status"], waiting["html"]) == ("message", posted.reply.id, "queued", "")
    make(app, posted.reply.id)
    name, last_id, done = parsed(next(stream))
    assert (name, last_id, done["status"]) == ("message", posted.reply.id, "complete")
    assert "<blockquote>" in done["html"]
    assert parsed(next(stream)) == ("end", None, {"reason": "complete"})
    assert list(stream) == []


def test_a_message_in_the_stream_is_the_same_as_in_the_list(app: Flask, follow, posted, client, person) -> None:
    make(app, posted.reply.id)
    told = [parsed(chunk)[2] for chunk in chunks(follow(posted.conversation.id)) if "event: message" in chunk]
    listed = client.get(f"/api/conversations/{posted.conversation.id}/messages", headers=person.bearer).json["messages"]
    assert told == listed


def test_where_no_reply_is_to_come_the_stream_ends_at_once(app: Flask, follow, posted) -> None:
    make(app, posted.reply.id)
    told = [parsed(chunk) for chunk in chunks(follow(posted.conversation.id, f"?after={posted.reply.id}"))]
    assert [name for name, _, _ in told] == ["retry", "end"]


def test_each_change_is_told_once(app: Flask, follow, posted, db_session: Session) -> None:
    stream = chunks(follow(posted.conversation.id, f"?after={posted.message.id}"))
    next(stream), next(stream)
    reply = db_session.get_one(ConversationMessage, posted.reply.id)
    for status, content in (("streaming", ""), ("streaming", "Half"), ("streaming", "Half of it"), ("complete", "All")):
        reply.status, reply.content = status, content
        db_session.commit()
        told = parsed(next(stream))[2]
        assert (told["status"], told["content"]) == (status, content)
    assert parsed(next(stream))[0] == "end"


def test_a_failed_reply_ends_the_stream_too(app: Flask, follow, posted) -> None:
    stream = chunks(follow(posted.conversation.id, f"?after={posted.message.id}"))
    next(stream), next(stream)
    with app.app_context():
        replies.give_up(posted.reply.id, reason="TimeoutError")
    told = parsed(next(stream))[2]
    assert (told["status"], told["error"]) == ("failed", replies.FAILED)
    assert parsed(next(stream))[0] == "end"


def test_coming_back_loses_nothing_though_replies_overtake_each_other(app: Flask, follow, person, posted) -> None:
    """The id of an event is the last message that is settled, so what is still to come is told again."""
    with app.app_context():
        second = service.post_message(posted.conversation.id, "And in?", actor=person.actor)
    make(app, second.reply.id)
    told = []
    for chunk in chunks(follow(posted.conversation.id, f"?after={posted.message.id}")):
        told.append(parsed(chunk))
        if told[-1][2] and told[-1][2].get("id") == second.reply.id:
            break
    assert {last_id for _, last_id, _ in told} == {None, posted.message.id}
    make(app, posted.reply.id)
    again = follow(posted.conversation.id, f"?after={second.reply.id}", **{"Last-Event-ID": posted.message.id})
    ids = [parsed(chunk)[2]["id"] for chunk in chunks(again) if "event: message" in chunk]
    assert ids == [posted.reply.id, second.message.id, second.reply.id]


def test_a_reply_to_come_is_told_though_it_stands_before_what_the_caller_has(app: Flask, follow, posted) -> None:
    stream = chunks(follow(posted.conversation.id, f"?after={posted.reply.id}"))
    next(stream)
    assert parsed(next(stream))[2]["id"] == posted.reply.id
    make(app, posted.reply.id)
    assert parsed(next(stream))[2]["status"] == "complete"


def told_and_last_id(stream: Iterator[str], most: int | None = None) -> tuple[list[tuple[str, str]], str | None]:
    """Read so many messages of a stream and leave; return each one's id and status, and the last id a browser has."""
    told, last_id = [], None
    for name, event_id, data in map(parsed, stream):
        if name == "message":
            told.append((data["id"], data["status"]))
            last_id = event_id or last_id
        if len(told) == most:
            break
    return told, last_id


@pytest.fixture
def long_talk(app: Flask, person: Person) -> tuple[str, list[str]]:
    """Return a conversation of 24 messages, all of them finished, and their ids."""
    with app.app_context():
        conversation = service.start(actor=person.actor).conversation
    ids = []
    for number in range(12):
        with app.app_context():
            posted = service.post_message(conversation.id, str(number), actor=person.actor)
        make(app, posted.reply.id)
        ids += [posted.message.id, posted.reply.id]
    return conversation.id, ids


def test_a_long_conversation_is_told_from_the_beginning(follow, long_talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MOST_AT_ONCE", 4)
    conversation_id, ids = long_talk
    told, _ = told_and_last_id(chunks(follow(conversation_id)))
    assert [message_id for message_id, _ in told] == ids


def test_a_stream_that_is_cut_goes_on_with_the_message_after_the_last_one_read(follow, long_talk) -> None:
    conversation_id, ids = long_talk
    for cut in (1, 3, 23):
        stream = follow(conversation_id)
        read, last_id = told_and_last_id(chunks(stream), most=cut)
        stream.close()
        assert last_id == ids[cut - 1]
        rest, _ = told_and_last_id(chunks(follow(conversation_id, **{"Last-Event-ID": last_id})))
        assert [message_id for message_id, _ in read + rest] == ids


@pytest.mark.parametrize("cut", range(1, 9))
def test_wherever_a_stream_is_cut_nothing_is_missed(app: Flask, follow, person, posted, monkeypatch, cut: int) -> None:
    """The third of four replies is still to come, and a look at the database sees three messages at a time."""
    monkeypatch.setattr(events, "_MOST_AT_ONCE", 3)
    monkeypatch.setattr(events, "LONGEST_SECONDS", 0.05)
    made, ids = [posted], [posted.message.id, posted.reply.id]
    for number in range(3):
        with app.app_context():
            made.append(service.post_message(posted.conversation.id, str(number), actor=person.actor))
        ids += [made[-1].message.id, made[-1].reply.id]
    for number in (0, 1, 3):
        make(app, made[number].reply.id)
    stream = follow(posted.conversation.id)
    read, last_id = told_and_last_id(chunks(stream), most=cut)
    stream.close()
    make(app, made[2].reply.id)
    rest, _ = told_and_last_id(chunks(follow(posted.conversation.id, **{"Last-Event-ID": last_id})))
    finished = {message_id for message_id, status in read + rest if status == "complete"}
    assert finished == set(ids)
    assert [message_id for message_id, _ in rest] == ids[min(cut, 5) :]


def test_a_stream_ends_after_a_while_and_says_why(follow, posted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LONGEST_SECONDS", 0.05)
    told = [parsed(chunk) for chunk in chunks(follow(posted.conversation.id, f"?after={posted.message.id}"))]
    assert told[-1] == ("end", None, {"reason": "timeout"})


def test_a_stream_of_a_process_that_stops_tells_what_there_is_and_ends(app: Flask, person: Person, posted) -> None:
    answer = app.test_client().get(
        f"/api/conversations/{posted.conversation.id}/events",
        headers=person.bearer,
        environ_overrides={"capecontrol.is_stopping": lambda: True},
    )
    told = [parsed(chunk) for chunk in chunks(answer)]
    assert [name for name, _, _ in told] == ["retry", "message", "message", "end"]
    assert told[-1][2] == {"reason": "timeout"}
    answer.close()


def test_the_end_comes_before_the_router_would_cut_it() -> None:
    assert events.LONGEST_SECONDS <= 25


def test_a_quiet_stream_gives_signs_of_life(follow, posted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.03)
    stream = chunks(follow(posted.conversation.id, f"?after={posted.message.id}"))
    next(stream), next(stream)
    assert next(stream) == ": still here\n\n"


def test_a_database_that_goes_away_ends_the_stream_in_order(follow, posted, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_follower: events.Follower) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(events, "_look", gone)
    told = [parsed(chunk) for chunk in chunks(follow(posted.conversation.id))]
    assert told[-1] == ("end", None, {"reason": "unavailable"})


@pytest.mark.parametrize("query", ["?after=nothing", "?after=%00", "?after=" + "x" * 1000])
def test_following_from_a_message_that_is_not_there_is_refused(follow, posted, query: str) -> None:
    answer = follow(posted.conversation.id, query)
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {"after"}


# Places


@pytest.mark.parametrize("threads", [8, 32, 128])
def test_a_process_with_every_place_taken_has_threads_for_everybody_else(app: Flask, threads: int) -> None:
    before = app.config["SETTINGS"]
    settings = before.model_copy(update={"web_threads": threads})
    elsewhere = Flask("elsewhere")
    streams.init_app(elsewhere, settings)
    registration, sign_in = passwords.places_of(threads)
    held = registration + sign_in + elsewhere.extensions["streams"].most
    assert elsewhere.extensions["streams"].most >= 1
    assert threads - held >= threads // 8


@pytest.fixture
def others(app: Flask) -> list[tuple[Person, str]]:
    """Return three more people, each with a conversation in which a reply is to come."""
    found = []
    for _ in range(3):
        somebody = make_person(app)
        with app.app_context():
            found.append((somebody, service.start(actor=somebody.actor, content="Hello").conversation.id))
    return found


def test_the_next_one_is_told_to_come_again(app: Flask, follow, posted, others) -> None:
    places = app.extensions["streams"]
    open_streams = [
        follow(conversation_id, who=somebody) for somebody, conversation_id in others for _ in range(places.each)
    ]
    assert places.most == 4
    assert [answer.status_code for answer in open_streams] == [200, 200, 200, 200, 503, 503]
    refused = follow(posted.conversation.id)
    assert refused.status_code == 503
    assert refused.is_json
    assert int(refused.headers["Retry-After"]) >= 1
    open_streams[0].close()
    assert follow(posted.conversation.id).status_code == 200


def test_one_person_cannot_take_every_place(app: Flask, follow, posted, others) -> None:
    with app.app_context():
        second = service.start(actor=others[0][0].actor, content="And another?").conversation.id
    somebody, first = others[0]
    tabs = [
        follow(conversation_id, who=somebody) for conversation_id in (first, second) * app.extensions["streams"].most
    ]
    assert [answer.status_code for answer in tabs[:4]] == [200, 200, 503, 503]
    refused = tabs[-1]
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert follow(posted.conversation.id).status_code == 200
    messages = app.test_client().get(f"/api/conversations/{second}/messages", headers=somebody.bearer)
    assert messages.status_code == 200
    tabs[0].close()
    assert follow(second, who=somebody).status_code == 200


def test_a_place_comes_back_from_a_reader_who_leaves_in_the_middle(app: Flask, follow, posted) -> None:
    answer = follow(posted.conversation.id)
    next(chunks(answer))
    assert app.extensions["streams"].taken == 1
    answer.close()
    assert app.extensions["streams"].taken == 0


def test_a_place_comes_back_from_a_stream_that_ended(app: Flask, follow, posted) -> None:
    make(app, posted.reply.id)
    list(chunks(follow(posted.conversation.id)))
    assert app.extensions["streams"].taken == 0


def test_a_place_comes_back_when_the_answer_is_never_sent(app: Flask, follow, posted, monkeypatch) -> None:
    def broken(_response: Any) -> Any:
        raise RuntimeError("broken on the way out")

    monkeypatch.setitem(app.after_request_funcs, "conversations_api", [broken])
    assert follow(posted.conversation.id).status_code == 500
    assert app.extensions["streams"].taken == 0


def test_a_place_comes_back_from_a_reader_who_never_reads(app: Flask, person: Person, posted) -> None:
    answer = app.test_client().head(f"/api/conversations/{posted.conversation.id}/events", headers=person.bearer)
    assert answer.status_code == 200
    answer.close()
    assert app.extensions["streams"].taken == 0


def test_refusals_take_no_place(app: Flask, follow, posted, noise: Person) -> None:
    follow("nothing")
    follow(posted.conversation.id, "?after=nothing")
    app.test_client().get(f"/api/conversations/{posted.conversation.id}/events", headers=noise.bearer)
    assert app.extensions["streams"].taken == 0


def test_giving_back_twice_gives_back_once() -> None:
    places = streams.Places(2)
    first, second = places.take("a"), places.take("b")
    assert first is not None
    assert second is not None
    assert places.take("c") is None
    first()
    first()
    assert places.taken == 1


@pytest.mark.parametrize(("most", "each"), [(1, 1), (2, 1), (5, 2), (8, 3), (32, 3)])
def test_each_person_has_a_few_places_and_at_most_half(most: int, each: int) -> None:
    places = streams.Places(most)
    held = [places.take("a") for _ in range(most + 1)]
    given = [give_back for give_back in held if give_back is not None]
    assert len(given) == each
    if most > 1:
        assert places.take("b") is not None
    given[0]()
    assert places.take("a") is not None


def test_who_holds_no_place_is_not_remembered() -> None:
    places = streams.Places(8)
    for number in range(100):
        give_back = places.take(str(number))
        assert give_back is not None
        give_back()
    for _ in range(streams.EACH):
        places.take("a")
    assert places.take("a") is None
    assert places._taken == {"a": streams.EACH}


def test_between_two_looks_nothing_is_held(committed_app: Flask) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        posted = service.start(actor=person.actor, content="Hello")
        pool = db.engines[None].pool
    answer = committed_app.test_client().get(
        f"/api/conversations/{posted.conversation.id}/events", headers=person.bearer
    )
    stream = chunks(answer)
    for _ in range(3):
        next(stream)
        assert pool.checkedout() == 0  # type: ignore[attr-defined]
    answer.close()


# The real thing


def signed_in(server: LiveServer) -> requests.Session:
    """Open an account on the live server and return a program that acts for it."""
    program = requests.Session()
    answer = program.post(
        f"{server.url}/api/auth/v2/register",
        json={"email": f"p{time.monotonic_ns()}@example.com", "password": PASSWORD, "full_name": "Sipho Mokoena"},
        timeout=10,
    )
    assert answer.status_code == 201, answer.text
    program.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return program


def test_a_question_is_answered_while_the_page_watches(live_server: LiveServer) -> None:
    program = signed_in(live_server)
    started = program.post(
        f"{live_server.url}/api/conversations", json={"content": "How do I rename a conversation?"}, timeout=10
    ).json()
    path = f"{live_server.url}/api/conversations/{started['id']}/events?after={started['message']['id']}"
    with program.get(path, stream=True, timeout=30) as answer:
        stream = "".join(answer.iter_content(None, decode_unicode=True))
    told = [parsed(chunk) for chunk in stream.split("\n\n") if chunk.startswith("event")]
    assert told[-1] == ("end", None, {"reason": "complete"})
    assert told[-2][2]["status"] == "complete"
    assert "No AI model is connected" in told[-2][2]["content"]


def test_a_stream_ends_properly_when_its_process_is_told_to_stop(start_server) -> None:
    server = start_server(worker=False, WEB_CONCURRENCY="1")
    for _ in range(7):
        check = f"{server.url}/api/auth/v2/validate-email?email=a%40example.org"
        assert requests.get(check, timeout=10).ok
    program = signed_in(server)
    started = program.post(f"{server.url}/api/conversations", json={"content": "Hello"}, timeout=10).json()
    path = f"{server.url}/api/conversations/{started['id']}/events?after={started['message']['id']}"
    with program.get(path, stream=True, timeout=60) as answer:
        stream = answer.iter_content(None, decode_unicode=True)
        told = next(stream)
        server.web.terminate()
        told += "".join(stream)  # raises ChunkedEncodingError where it is cut
    assert parsed(told.strip().split("\n\n")[-1]) == ("end", None, {"reason": "timeout"})
    server.web.wait(60)
    with closing(psycopg2.connect(libpq_url(server.database_url))) as connection, connection.cursor() as cursor:
        query = "SELECT sum((event_metadata->>'checked')::int) FROM audit_logs WHERE event_type = 'email_checks'"
        cursor.execute(query)
        assert cursor.fetchone() == (7,), "what the process only counted is written down"


def test_with_every_place_taken_the_others_are_served_as_before(start_server) -> None:
    server = start_server(worker=False, WEB_CONCURRENCY="1", WEB_THREADS="16")

    def asking() -> tuple[requests.Session, str]:
        program = signed_in(server)
        started = program.post(f"{server.url}/api/conversations", json={"content": "Hello"}, timeout=10).json()
        return program, f"{server.url}/api/conversations/{started['id']}"

    program, conversation = asking()
    path = f"{conversation}/events"

    def took(method: str, where: str, status: int, **kwargs: Any) -> float:
        begun = time.monotonic()
        answer = requests.request(method, f"{server.url}{where}", timeout=10, **kwargs)
        assert answer.status_code == status, answer.text
        return time.monotonic() - begun

    def registration() -> dict[str, Any]:
        return {
            "json": {
                "email": f"p{time.monotonic_ns()}@example.com",
                "password": PASSWORD,
                "full_name": "Lindiwe Zulu",
            }
        }

    def times() -> list[float]:
        return [
            took("GET", "/healthz", 200),
            took("GET", "/register", 200),
            took("POST", "/api/auth/v2/register", 201, **registration()),
        ]

    before = times()
    with ExitStack() as held:
        streams = []
        for one, where in (asking(), asking()):
            answer = held.enter_context(one.get(f"{where}/events", stream=True, timeout=30))
            assert answer.status_code == 200
            streams.append(answer.iter_content(None))  # kept: dropped, it would close the connection
            next(streams[-1])
        refused = program.get(path, timeout=10)
        assert refused.status_code == 503
        assert refused.headers["Content-Type"] == "application/json"
        assert int(refused.headers["Retry-After"]) >= 1
        assert program.get(f"{conversation}/messages", timeout=10).ok
        during = times()
    for normal, now in zip(before, during, strict=True):
        assert now < normal + 2
    # The reader is gone: at the next sign of life the server notices and gives the place to somebody else.
    deadline = time.monotonic() + 3 * events.HEARTBEAT_SECONDS
    while program.get(path, stream=True, timeout=10).status_code == 503:
        assert time.monotonic() < deadline, "the place never came back"
        time.sleep(0.2)


def test_many_readers_at_once_leave_no_place_taken(committed_app: Flask) -> None:
    person = make_person(committed_app)
    with committed_app.app_context():
        posted = service.start(actor=person.actor, content="Hello")
    statuses: list[int] = []

    def read() -> None:
        answer = committed_app.test_client().get(
            f"/api/conversations/{posted.conversation.id}/events", headers=person.bearer
        )
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            list(chunks(answer))
        answer.close()

    readers = [threading.Thread(target=read) for _ in range(10)]
    for reader in readers:
        reader.start()
    time.sleep(0.2)
    make(committed_app, posted.reply.id)
    for reader in readers:
        reader.join(30)
    assert len(statuses) == 10
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 2
    assert committed_app.extensions["streams"].taken == 0
    with committed_app.app_context():
        assert (
            db.session.scalar(text("SELECT status FROM conversation_messages WHERE role = 'assistant'")) == "complete"
        )
