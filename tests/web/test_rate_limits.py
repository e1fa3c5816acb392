"""Rate limits: shared by processes, answered in the right form, failing open."""

import time
from threading import Thread

import pytest
from bs4 import BeautifulSoup
from flask import Flask
from sqlalchemy import event, select, text

from capecontrol import create_app, each_second
from capecontrol.audit.models import AuditLog
from capecontrol.database import AUDIT, short_transaction
from capecontrol.extensions import db
from capecontrol.web import rate_limits
from capecontrol.web.template_filters import wait
from tests.conftest import dispose, settings_for
from tests.postgres import Databases
from tests.visitor import Visitor, filled_in

ANYBODY = {"email": "a@example.com", "password": "wrong-wrong-wrong"}


@pytest.fixture
def two_processes(databases: Databases):
    """Two applications on one database, as two web processes are."""
    with databases.clone() as url:
        pair = [create_app(settings_for(url, ratelimit_enabled=True)) for _ in range(2)]
        yield pair
        for app in pair:
            dispose(app)


def sign_in(app: Flask):
    return app.test_client().post("/api/auth/v2/login", json=ANYBODY)


def test_processes_count_together_and_say_when_to_come_back(two_processes: list[Flask]) -> None:
    first, second = two_processes
    limit = rate_limits.SIGN_IN_TO_ACCOUNT
    statuses = [sign_in(app).status_code for app in [first, second] * (limit.hits // 2)]
    assert set(statuses) == {401}
    answers = [sign_in(first), sign_in(second), sign_in(second)]
    assert {answer.status_code for answer in answers} == {429}
    for answer in answers:
        assert answer.json["detail"]
        assert 1 <= int(answer.headers["Retry-After"]) <= limit.seconds
    with first.app_context():
        refusals = list(db.session.scalars(select(AuditLog).where(AuditLog.event_type == "rate_limit_exceeded")))
        assert len(refusals) == 1, "one event a window: the record cannot be flooded"
        assert refusals[0].event_metadata == {"limit": "sign_in_to_account"}


def test_another_account_is_not_held_up(two_processes: list[Flask]) -> None:
    for _ in range(rate_limits.SIGN_IN_TO_ACCOUNT.hits + 1):
        sign_in(two_processes[0])
    other = {**ANYBODY, "email": "b@example.com"}
    assert two_processes[0].test_client().post("/api/auth/v2/login", json=other).status_code == 401


def test_a_person_gets_a_page(two_processes: list[Flask]) -> None:
    visitor = Visitor(two_processes[0])
    for _ in range(rate_limits.SIGN_IN_TO_ACCOUNT.hits):
        visitor.visit("/login")
        visitor.send("/login", status=401, **ANYBODY)
    visitor.visit("/login")
    page = visitor.send("/login", status=429, **ANYBODY)
    left = int(page.answer.headers["Retry-After"])
    told = page.find(attrs={"role": "alert"}).p.get_text()
    assert told == f"Too many tries for this account from here. Try again in {wait(left)}."
    kept = filled_in(page.form("/login"))
    assert (kept["email"], kept["password"]) == (ANYBODY["email"], "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (61, "2 minutes"), (240, "4 minutes"), (600, "10 minutes")],
)
def test_nobody_is_told_to_come_back_too_early(seconds: int, words: str) -> None:
    assert wait(seconds) == words


def test_a_form_with_a_mistake_counts_before_it_is_recorded(
    two_processes: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "SIGN_IN", rate_limits.Limit("sign_in", hits=2, seconds=600))
    visitor = Visitor(two_processes[0])
    for status in (422, 422, 429, 429):
        visitor.visit("/login")
        page = visitor.send("/login", status=status, email="", password="")
    assert "Too many tries from here. Try again in " in page.words
    with two_processes[0].app_context():
        refusals = db.session.scalars(select(AuditLog).where(AuditLog.event_type == "user_login_failed")).all()
        assert [row.event_metadata["reason"] for row in refusals] == ["invalid_input"] * 2


@pytest.mark.parametrize(
    ("came_from", "words", "leads_to"),
    [
        ("http://localhost/verify-email?token=abc", "Back to the form", "/verify-email?token=abc"),
        ("https://evil.test/verify-email", "To the front page", "/"),
    ],
)
def test_where_no_form_can_be_drawn_a_page_says_how_long_and_leads_back(
    two_processes: list[Flask], monkeypatch: pytest.MonkeyPatch, came_from: str, words: str, leads_to: str
) -> None:
    monkeypatch.setattr(rate_limits, "VERIFY_EMAIL", rate_limits.Limit("verify_email", hits=0, seconds=600))
    visitor = Visitor(two_processes[0])
    token = filled_in(visitor.visit("/login").form("/login"))["csrf_token"]
    answer = visitor.client.post("/verify-email", data={"csrf_token": token}, headers={"Referer": came_from})
    assert answer.status_code == 429
    page = BeautifulSoup(answer.text, "html.parser")
    left = int(answer.headers["Retry-After"])
    assert page.h1.get_text() == "A little too often"
    assert page.find("p", class_="lead").get_text() == f"Nothing was done. Please try again in {wait(left)}."
    button = page.select_one(".actions a")
    assert (button.get_text(strip=True), button["href"]) == (words, leads_to)
    if leads_to == "/":
        assert button.svg is None, "an arrow back would say that something is undone"


def test_the_availability_check_answers_in_its_own_words(
    two_processes: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "CHECK_EMAIL", rate_limits.Limit("check_email", hits=1, seconds=600, is_hot=True))
    client = two_processes[0].test_client()
    assert client.get("/api/auth/v2/validate-email?email=a@example.com").json["available"] is True
    answer = client.get("/api/auth/v2/validate-email?email=a@example.com")
    assert answer.status_code == 429
    assert (answer.json["available"], answer.json["reason"]) == (None, "rate_limited")
    assert answer.json["message"]
    assert answer.json["detail"]


def test_a_limiter_that_cannot_count_lets_everybody_pass(two_processes: list[Flask]) -> None:
    app = two_processes[0]
    with app.app_context():
        db.session.execute(text("ALTER TABLE rate_limit_counters RENAME TO away"))
        db.session.commit()
    assert {sign_in(app).status_code for _ in range(rate_limits.SIGN_IN_TO_ACCOUNT.hits + 2)} == {401}


def test_a_household_is_never_stopped(two_processes: list[Flask]) -> None:
    """Several registrations a minute from one address are normal."""
    assert rate_limits.REGISTER.hits / rate_limits.REGISTER.seconds * 60 >= 10


def test_limits_can_be_switched_off_for_load_tests(app: Flask) -> None:
    assert {sign_in(app).status_code for _ in range(rate_limits.SIGN_IN_TO_ACCOUNT.hits + 2)} == {401}


def test_counters_of_windows_that_are_over_are_forgotten_and_hold_no_address(two_processes: list[Flask]) -> None:
    app = two_processes[0]
    sign_in(app)
    with app.app_context():
        assert rate_limits.forget_expired() == 0
        kept = db.session.execute(text("SELECT bucket FROM rate_limit_counters")).scalars().all()
        assert not any("127.0.0.1" in bucket or "@" in bucket for bucket in kept)
        db.session.execute(text("UPDATE rate_limit_counters SET expires_at = 1"))
        db.session.commit()
        assert rate_limits.forget_expired() == len(kept) == 2


# Hot paths: counted in the process, shared each second.

ONE_MINUTE = rate_limits.Limit("check_email", hits=6, seconds=60, is_hot=True)


@pytest.fixture
def hot_pair(two_processes: list[Flask], monkeypatch: pytest.MonkeyPatch) -> list[Flask]:
    """Two processes in the middle of a minute, which share their counts when the test says so."""
    for app in two_processes:
        each_second.of(app).close()
    monkeypatch.setattr(rate_limits, "CHECK_EMAIL", ONE_MINUTE)
    monkeypatch.setattr(rate_limits.clock, "epoch", lambda: 1_800_000_030)
    return two_processes


def check_email(app: Flask, number: int = 0, caller: str = "203.0.113.7") -> int:
    answer = app.test_client().get(
        f"/api/auth/v2/validate-email?email=p{number}@example.com", environ_overrides={"REMOTE_ADDR": caller}
    )
    return answer.status_code


def share(*apps: Flask) -> None:
    for app in apps:
        with app.app_context():
            rate_limits.share_counts()


def counted(app: Flask) -> dict[str, int]:
    with app.app_context():
        return dict(db.session.execute(text("SELECT bucket, hits FROM rate_limit_counters")).all())  # type: ignore[arg-type]


def test_a_hot_limit_counts_without_the_database(hot_pair: list[Flask]) -> None:
    statuses = [check_email(hot_pair[0], number) for number in range(ONE_MINUTE.hits + 2)]
    assert statuses == [200] * ONE_MINUTE.hits + [429] * 2
    assert counted(hot_pair[0]) == {}


def test_hot_counts_of_all_processes_add_up(hot_pair: list[Flask]) -> None:
    first, second = hot_pair
    assert [check_email(app, number) for number in range(2) for app in hot_pair] == [200] * 4
    share(first, second, first)  # whoever shares first hears of the other's a second later
    assert counted(first)[rate_limits._bucket("check_email", "203.0.113.7")] == 4
    share(first)
    assert [check_email(second, 9), check_email(second, 9), check_email(second, 9)] == [200, 200, 429]
    assert check_email(first, 8) == 200, "what the other counted since is not known yet"
    share(second, first)
    assert check_email(first, 8) == 429
    assert counted(first)[rate_limits._bucket("check_email", "203.0.113.7")] == 8


def test_a_hot_count_is_written_once(hot_pair: list[Flask]) -> None:
    check_email(hot_pair[0])
    share(hot_pair[0], hot_pair[0], hot_pair[0])
    assert set(counted(hot_pair[0]).values()) == {1}


def test_other_callers_and_other_addresses_are_not_held_up(hot_pair: list[Flask]) -> None:
    app = hot_pair[0]
    for number in range(ONE_MINUTE.hits + 1):
        status = check_email(app, number)
    assert status == 429
    assert check_email(app, caller="203.0.113.8") == 200


def test_one_address_watched_from_many_places_is_held_up(
    hot_pair: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        rate_limits, "CHECK_ONE_EMAIL", rate_limits.Limit("check_one_email", hits=2, seconds=60, is_hot=True)
    )
    app = hot_pair[0]
    assert [check_email(app, caller=f"203.0.113.{n}") for n in range(4)] == [200, 200, 429, 429]
    spelt = app.test_client().get("/api/auth/v2/validate-email?email=P0@EXAMPLE.com")
    older = app.test_client().post("/api/auth/register/step1", json={"email": "P0@example.com"})
    assert (older.status_code, older.json["available"], older.json["success"]) == (429, None, False)
    assert older.json["reason"] == "rate_limited"
    assert (spelt.status_code, spelt.json["reason"]) == (429, "rate_limited")
    assert 1 <= int(spelt.headers["Retry-After"]) <= 60
    assert check_email(app, 1) == 200


def test_a_new_minute_counts_anew_and_the_old_one_is_let_go(
    hot_pair: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = hot_pair[0]
    for number in range(ONE_MINUTE.hits + 1):
        status = check_email(app, number)
    assert status == 429
    monkeypatch.setattr(rate_limits.clock, "epoch", lambda: 1_800_000_060)
    assert check_email(app) == 200
    share(app)
    assert len(app.extensions["hot_counts"]._counts) == 2
    monkeypatch.setattr(rate_limits.clock, "epoch", lambda: 1_800_000_120)
    share(app)
    assert app.extensions["hot_counts"]._counts == {}


def test_the_first_refusal_of_a_window_is_recorded_with_its_origin(hot_pair: list[Flask]) -> None:
    for number in range(ONE_MINUTE.hits + 3):
        check_email(hot_pair[0], number)
    with hot_pair[0].app_context():
        refusal = db.session.scalars(select(AuditLog).where(AuditLog.event_type == "rate_limit_exceeded")).one()
        assert refusal.event_metadata == {"limit": "check_email"}
        assert refusal.ip_address == "203.0.113.7"


def test_a_process_that_cannot_share_counts_on_by_itself_and_shares_later(hot_pair: list[Flask]) -> None:
    app = hot_pair[0]
    check_email(app)
    with app.app_context():
        db.session.execute(text("ALTER TABLE rate_limit_counters RENAME TO away"))
        db.session.commit()
    share(app)
    assert [check_email(app) for _ in range(ONE_MINUTE.hits)] == [200] * (ONE_MINUTE.hits - 1) + [429]
    with app.app_context():
        db.session.execute(text("ALTER TABLE away RENAME TO rate_limit_counters"))
        db.session.commit()
    share(app)
    assert counted(app)[rate_limits._bucket("check_email", "203.0.113.7")] == ONE_MINUTE.hits + 1


def test_hot_counts_are_bounded(hot_pair: list[Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_MOST_HOT_COUNTS", 10)
    for n in range(60):
        assert check_email(hot_pair[0], n, caller=f"203.0.113.{n}") == 200
        assert len(hot_pair[0].extensions["hot_counts"]._counts) <= 10


@pytest.fixture
def crowd(hot_pair: list[Flask], monkeypatch: pytest.MonkeyPatch) -> Flask:
    """A process that counted 200 callers once and writes ten at a time."""
    monkeypatch.setattr(rate_limits, "_MOST_AT_ONCE", 10)
    counts = hot_pair[0].extensions["hot_counts"]
    for number in range(200):
        counts.add(ONE_MINUTE, f"203.0.113.{number}", rate_limits.clock.epoch())
    return hot_pair[0]


def test_who_has_a_failure_to_record_waits_for_some_of_the_counts_and_not_for_all(crowd: Flask) -> None:
    batches: list[int] = []
    seen: list[int] = []

    def record() -> None:
        with crowd.app_context(), short_transaction():
            seen.append(len(batches))

    waiting = Thread(target=record)
    with crowd.app_context():
        engine = db.engines[AUDIT]

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, _statement: str, parameters: object, *_: object) -> None:
        if isinstance(parameters, dict) and "buckets" in parameters:
            batches.append(len(parameters["buckets"]))
            if len(batches) == 1:
                waiting.start()

    share(crowd)
    waiting.join()
    assert batches == [10] * 20
    assert seen[0] < len(batches)
    assert set(counted(crowd).values()) == {1}


def test_where_a_batch_fails_the_rest_waits_and_nothing_is_counted_twice(crowd: Flask) -> None:
    refuse_after = (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF (SELECT count(*) FROM rate_limit_counters) > 45 THEN RAISE 'no'; END IF; RETURN NULL; END $$; "
        "CREATE TRIGGER refuse AFTER INSERT ON rate_limit_counters EXECUTE FUNCTION refuse()"
    )
    with crowd.app_context():
        db.session.execute(text(refuse_after))
        db.session.commit()
    share(crowd)
    assert len(counted(crowd)) == 40
    with crowd.app_context():
        db.session.execute(text("DROP FUNCTION refuse CASCADE"))
        db.session.commit()
    share(crowd)
    assert list(counted(crowd).values()) == [1] * 200


def test_processes_that_share_at_once_lose_nothing(hot_pair: list[Flask]) -> None:
    """Each takes the rows in the same order, so none waits for another in a circle."""

    def work(app: Flask) -> None:
        for turn in range(20):
            for number in range(5):
                check_email(app, number, caller=f"203.0.113.{number}")
            if turn % 2:
                share(app)

    threads = [Thread(target=work, args=(app,)) for app in hot_pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share(*hot_pair)
    buckets = counted(hot_pair[0])
    assert [buckets[rate_limits._bucket("check_email", f"203.0.113.{n}")] for n in range(5)] == [40] * 5


def test_counts_are_shared_by_themselves_within_about_a_second(
    two_processes: list[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits.clock, "epoch", lambda: 1_800_000_030)  # what a minute counted ends with it
    assert check_email(two_processes[0]) == 200
    deadline = time.monotonic() + 10
    while not counted(two_processes[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(counted(two_processes[0]).values()) == {1}


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a:socket", "a:socket"),
    ],
)
def test_a_caller_is_an_address_or_the_network_of_one_customer(app: Flask, address: str, counted_as: str) -> None:
    with app.test_request_context(environ_overrides={"REMOTE_ADDR": address}):
        assert rate_limits.caller() == counted_as
