"""The record as JSON: A1's lists and their rights, and A3, that nothing is deleted."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from capecontrol import clock, create_app, ids
from capecontrol.audit.models import AuditLog
from tests.audit.recorded import make_event
from tests.conftest import dispose, settings_for
from tests.people import Person, make_person

KEYS = {
    "id",
    "event_id",
    "user_id",
    "user_email",
    "user_role",
    "subject_id",
    "event_type",
    "event_category",
    "event_level",
    "event_description",
    "ip_address",
    "user_agent",
    "endpoint",
    "http_method",
    "status_code",
    "response_time_ms",
    "success",
    "error_message",
    "metadata",
    "risk_score",
    "created_at",
    "event_timestamp",
}


@pytest.fixture
def ask(client: FlaskClient) -> Callable[..., dict]:
    """Return a function that fetches JSON as somebody."""

    def asked(path: str, whom: Person | None, *, status: int = 200, **query: object) -> dict:
        answer = client.get(path, headers=whom.bearer if whom else {}, query_string=query)
        assert answer.status_code == status, answer.get_data(as_text=True)
        assert answer.mimetype == "application/json"
        return answer.json

    return asked


def test_administrators_see_all_in_the_agreed_shape(ask, admin: Person, person: Person) -> None:
    answer = ask("/api/audit/logs", admin)
    assert set(answer) == {"logs", "next"}
    assert all(set(row) == KEYS for row in answer["logs"])
    row = next(row for row in answer["logs"] if row["user_id"] == person.id)
    assert row["event_type"] == "user_registration"
    assert row["user_email"] == person.email
    assert row["success"] is True
    assert row["event_description"] == "Thandi Nkosi opened an account"
    assert row["metadata"]["role"] == "client"
    assert datetime.fromisoformat(row["created_at"]).tzinfo is not None


def test_others_see_their_own_alone(ask, person: Person, noise: Person) -> None:
    rows = ask("/api/audit/logs", person)["logs"]
    assert {row["user_id"] for row in rows} == {person.id}
    assert ask("/api/audit/logs", person, user_id=noise.id)["logs"] == []
    assert ask("/api/audit/logs", person, user_id=noise.email)["logs"] == []
    assert ask("/api/audit/logs", person, user_id=person.id)["logs"] == rows


def test_one_event_by_either_id_and_nobody_elses(ask, admin: Person, person: Person, noise: Person) -> None:
    row = ask("/api/audit/logs", person)["logs"][0]
    for reference in (row["event_id"], row["id"]):
        assert ask(f"/api/audit/logs/{reference}", person) == row
        assert ask(f"/api/audit/logs/{reference}", admin)["event_id"] == row["event_id"]
        assert ask(f"/api/audit/logs/{reference}", noise, status=404)["detail"] == "There is no such event."
    for reference in ("0", "abc", "1e9", "-1", "9" * 30, ids.new_id(), "%00", "..."):
        ask(f"/api/audit/logs/{reference}", admin, status=404)


def test_secrets_of_an_inherited_row_are_not_answered(ask, admin: Person, db_session: Session) -> None:
    details = {"token": "hunter2", "request": {"json": [{"password": "hunter2", "method": "page"}]}}
    row = make_event(db_session, event_metadata=details)
    assert ask(f"/api/audit/logs/{row.event_id}", admin)["metadata"] == {"request": {"json": [{"method": "page"}]}}


@pytest.mark.parametrize("path", ["/api/audit/logs", "/api/audit/logs/1", "/api/audit/event-types"])
def test_strangers_see_nothing(ask, path: str) -> None:
    ask(path, None, status=401)


def test_filters(ask, admin: Person, db_session: Session) -> None:
    def found(**query: object) -> list[str]:
        return [row["event_id"] for row in ask("/api/audit/logs", admin, user_id="filter@example.com", **query)["logs"]]

    one = make_event(
        db_session,
        user_email="filter@example.com",
        event_type="rate_limit_exceeded",
        event_category="security",
        success=False,
        risk_score=75,
        event_description="Knocking at night",
        at=datetime(2022, 3, 4, 12, 30, tzinfo=UTC),
    ).event_id
    two = make_event(db_session, user_email="filter@example.com", at=datetime(2022, 3, 4, 12, 0, tzinfo=UTC)).event_id
    assert found() == [one, two]
    assert found(event_category="security") == [one]
    assert found(event_type="rate_limit_exceeded") == [one]
    assert found(success_only="true") == [two]
    assert found(success_only="false") == [one]
    assert found(min_risk_score=70) == [one]
    assert found(min_risk_score=76) == []
    assert found(q="at NIGHT") == [one]
    assert found(start_date="2022-03-04", end_date="2022-03-04") == [one, two]
    assert found(start_date="2022-03-05") == []
    assert found(end_date="2022-03-03") == []
    assert found(start_date="2022-03-04T12:30:00Z") == [one]
    assert found(end_date="2022-03-04T12:00:00Z") == [two]
    assert found(start_date="2022-03-04T14:30:00+02:00") == [one]
    assert found(event_type="", q="", limit="") == [one, two]


def test_the_description_says_which_events_have_a_risk_score(client: FlaskClient) -> None:
    described = client.get("/api/openapi.json").json["components"]["schemas"]
    for name in ("LogRow", "StatisticsAnswer", "SecurityEvent"):
        assert "an inherited log" in described[name]["description"].replace("\n", " ")


def test_paging_by_cursor_reads_every_event_once(ask, admin: Person, db_session: Session) -> None:
    stored = [make_event(db_session, user_email="page@example.com").event_id for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        answer = ask("/api/audit/logs", admin, user_id="page@example.com", limit=2, cursor=cursor)
        seen += [row["event_id"] for row in answer["logs"]]
        cursor = answer["next"]
        if cursor is None:
            break
    assert seen == stored


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"min_risk_score": "101"}, "min_risk_score"),
        ({"success_only": "perhaps"}, "success_only"),
        ({"start_date": "yesterday"}, "start_date"),
        ({"end_date": "0001-01-01T00:00:00+14:00"}, "end_date"),
        ({"end_date": "12345678901234567890"}, "end_date"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "a" * 300}, "cursor"),
        ({"q": "a\x00b"}, "q"),
        ({"q": "a" * 201}, "q"),
        ({"event_type": "a\nb"}, "event_type"),
        ({"user_id": "\x00"}, "user_id"),
    ],
)
def test_a_bad_filter_is_told_by_field(ask, admin: Person, query: dict[str, str], field: str) -> None:
    answer = ask("/api/audit/logs", admin, status=422, **query)
    assert list(answer["errors"]) == [field]
    assert answer["detail"]


def test_a_bad_filter_is_told_by_its_own_name(ask, admin: Person) -> None:
    answer = ask("/api/audit/logs", admin, status=422, event_type="a\nb")
    assert answer["detail"] == "Event type must be one line without control characters."


@pytest.mark.parametrize(
    "query",
    [
        {"start_date": "0001-01-01"},
        {"start_date": "0001-01-01T00:00:00Z"},
        {"end_date": "9999-12-31"},
        {"end_date": "9999-12-31T23:59:59.999999Z"},
    ],
)
def test_the_ends_of_time_are_no_errors(ask, admin: Person, query: dict[str, str]) -> None:
    assert ask("/api/audit/logs", admin, **query)["logs"]


@pytest.mark.parametrize("query", [{"end_date": "0001-01-01T00:00:00Z"}, {"start_date": "9999-12-31T23:59:59.999999Z"}])
def test_beyond_the_ends_of_time_there_is_nothing(ask, admin: Person, query: dict[str, str]) -> None:
    assert ask("/api/audit/logs", admin, **query)["logs"] == []


def test_the_words_of_the_record(ask, person: Person) -> None:
    answer = ask("/api/audit/event-types", person)
    assert set(answer) == {"event_types", "event_categories", "event_levels"}
    assert "user_login" in answer["event_types"]
    assert len(answer["event_categories"]) == 9
    assert answer["event_levels"] == ["info", "warning", "error", "critical"]


NUMBERS = ("/api/audit/statistics", "/api/audit/security-events", "/api/audit/failed-logins")


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_about_everybody_are_for_administrators(ask, db_session: Session, person: Person, path: str) -> None:
    ask(path, None, status=401)
    ask(path, person, status=403)
    tried = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "access_denied")).one()
    assert (tried.user_id, tried.success) == (person.id, False)


def test_statistics(ask, admin: Person, person: Person, db_session: Session) -> None:
    for _ in range(3):
        make_event(db_session, user_email="busy@example.com", event_category="data", event_type="conversation_started")
    make_event(db_session, success=False, risk_score=70)
    make_event(db_session, success=False, risk_score=69)
    make_event(db_session, at=clock.now() - timedelta(days=30), user_email="old@example.com", event_category="system")
    answer = ask("/api/audit/statistics", admin)
    assert set(answer) == {
        "period_days",
        "total_events",
        "failed_events",
        "high_risk_events",
        "success_rate",
        "events_by_category",
        "top_users",
    }
    rows = ask("/api/audit/logs", admin, start_date=str((clock.now() - timedelta(days=6)).date()))["logs"]
    assert answer["period_days"] == 7
    assert answer["total_events"] == len(rows)
    assert answer["failed_events"] == 2
    assert answer["high_risk_events"] == 1
    assert answer["success_rate"] == round(100 * (len(rows) - 2) / len(rows), 2)
    assert answer["events_by_category"]["data"] == 3
    assert sum(answer["events_by_category"].values()) == len(rows)
    assert "system" not in answer["events_by_category"]
    assert answer["top_users"][0] == {"email": "busy@example.com", "event_count": 3}
    assert ask("/api/audit/statistics", admin, days=90)["events_by_category"]["system"] == 1


def test_security_events(ask, admin: Person, person: Person, db_session: Session) -> None:
    stranger = make_event(
        db_session,
        event_type="brute_force_attempt",
        event_category="security",
        event_level="critical",
        success=False,
        ip_address="192.0.2.9",
        risk_score=80,
        event_metadata={"threat_indicators": ["many passwords", 7]},
    )
    failed = make_event(
        db_session, event_type="user_login_failed", event_level="warning", success=False, user_email=person.email
    )
    make_event(db_session, event_type="email_checks", event_category="security")
    make_event(db_session, event_type="access_denied", at=clock.now() - timedelta(hours=30))
    answer = ask("/api/audit/security-events", admin)
    assert set(answer) == {"logs", "next"}
    ours = [row for row in answer["logs"] if row["event_type"] != "role_changed"]  # the administrator's own
    assert [row["id"] for row in ours] == [stranger.id, failed.id]
    assert ours[0] == {
        "id": stranger.id,
        "event_type": "brute_force_attempt",
        "event_description": "Brute force attempt (refused)",
        "ip_address": "192.0.2.9",
        "user_id": None,
        "user_email": None,
        "risk_score": 80,
        "threat_indicators": ["many passwords", "7"],
        "created_at": ours[0]["created_at"],
        "requires_investigation": True,
    }
    assert ours[1]["requires_investigation"] is False
    assert ours[1]["threat_indicators"] == []
    critical = ask("/api/audit/security-events", admin, severity="critical")["logs"]
    assert [row["id"] for row in critical] == [stranger.id]
    assert len(ask("/api/audit/security-events", admin, hours=48)["logs"]) == len(answer["logs"]) + 1
    first = ask("/api/audit/security-events", admin, limit=1)
    second = ask("/api/audit/security-events", admin, limit=1, cursor=first["next"])
    assert first["logs"] + second["logs"] == answer["logs"][:2]


def test_what_one_person_did(ask, admin: Person, person: Person, noise: Person, db_session: Session) -> None:
    make_event(db_session, user_id=person.id, event_category="data", event_type="conversation_started")
    make_event(db_session, user_id=person.id, event_category="data", at=clock.now() - timedelta(days=40))
    path = f"/api/audit/user-activity/{person.id}"
    answer = ask(path, person)
    assert set(answer) == {"user_id", "period_days", "total_events", "event_categories", "events"}
    assert (answer["user_id"], answer["period_days"]) == (person.id, 30)
    assert answer["total_events"] == len(answer["events"]) == 2  # and the registration
    assert answer["event_categories"] == {"authentication": 1, "data": 1}
    assert all(set(row) == KEYS for row in answer["events"])
    assert ask(path, admin) == answer
    assert ask(path, person, days=60)["event_categories"] == {"authentication": 1, "data": 2}
    narrowed = ask(path, person, categories="data, system")
    assert (narrowed["total_events"], [row["event_category"] for row in narrowed["events"]]) == (1, ["data"])


def test_what_has_only_ones_address_is_told_to_administrators_alone(
    ask, admin: Person, person: Person, db_session: Session
) -> None:
    make_event(db_session, event_type="user_registration_failed", success=False, user_email=person.email)
    path = f"/api/audit/user-activity/{person.id}"
    own, all_of_it = ask(path, person), ask(path, admin)
    assert "user_registration_failed" not in [row["event_type"] for row in own["events"]]
    assert "user_registration_failed" in [row["event_type"] for row in all_of_it["events"]]
    assert all_of_it["total_events"] == own["total_events"] + 1


def test_what_somebody_else_did_is_not_found(ask, admin: Person, person: Person, noise: Person) -> None:
    for reference in (noise.id, noise.email, admin.id, "nobody", ids.new_id()):
        answer = ask(f"/api/audit/user-activity/{reference}", person, status=404)
        assert answer["detail"] == "The record knows nobody of that id or address."
    for reference in ("nobody", ids.new_id(), "nobody@example.com", "%00", "a" * 400):
        ask(f"/api/audit/user-activity/{reference}", admin, status=404)
    assert ask(f"/api/audit/user-activity/{noise.email.upper()}", admin)["total_events"] == 1


def test_failed_sign_ins(ask, admin: Person, person: Person, db_session: Session) -> None:
    failed = {"event_type": "user_login_failed", "success": False}
    one = make_event(db_session, ip_address="192.0.2.1", **failed)
    two = make_event(db_session, ip_address="192.0.2.2", event_type="login_failed", success=False)
    make_event(db_session, ip_address="192.0.2.1")
    make_event(db_session, ip_address="192.0.2.1", at=clock.now() - timedelta(hours=25), **failed)
    answer = ask("/api/audit/failed-logins", admin)
    assert set(answer) == {"period_hours", "ip_filter", "total_failed_attempts", "attempts"}
    assert (answer["period_hours"], answer["ip_filter"], answer["total_failed_attempts"]) == (24, None, 2)
    assert [row["event_id"] for row in answer["attempts"]] == [one.event_id, two.event_id]
    assert all(set(row) == KEYS for row in answer["attempts"])
    from_one = ask("/api/audit/failed-logins", admin, ip_address="192.0.2.1", hours=168)
    assert (from_one["ip_filter"], from_one["total_failed_attempts"], len(from_one["attempts"])) == ("192.0.2.1", 2, 2)


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/api/audit/statistics", {"days": "0"}, "days"),
        ("/api/audit/statistics", {"days": "91"}, "days"),
        ("/api/audit/statistics", {"days": "week"}, "days"),
        ("/api/audit/security-events", {"hours": "169"}, "hours"),
        ("/api/audit/security-events", {"severity": "terrible"}, "severity"),
        ("/api/audit/security-events", {"cursor": "nonsense"}, "cursor"),
        ("/api/audit/failed-logins", {"hours": "0"}, "hours"),
        ("/api/audit/failed-logins", {"ip_address": "a\x00"}, "ip_address"),
        ("/api/audit/user-activity/ME", {"days": "91"}, "days"),
        ("/api/audit/user-activity/ME", {"categories": "data,weather"}, "categories"),
    ],
)
def test_a_number_out_of_bounds_is_told_by_field(
    ask, admin: Person, path: str, query: dict[str, str], field: str
) -> None:
    answer = ask(path.replace("ME", admin.id), admin, status=422, **query)
    assert list(answer["errors"]) == [field]


@pytest.mark.parametrize("path", ["/api/audit/logs", "/api/audit/logs/1", "/api/audit/logs/x"])
def test_there_is_no_delete_and_the_try_is_recorded(
    client: FlaskClient, db_session: Session, admin: Person, path: str
) -> None:
    before = db_session.scalar(select(func.count()).select_from(AuditLog))
    answer = client.delete(path, headers=admin.bearer, query_string={"reason": "tidying up"})
    assert answer.status_code == 405
    assert answer.mimetype == "application/json"
    assert "no delete" in answer.json["detail"]
    assert "GET" in answer.headers["Allow"]
    assert "DELETE" not in answer.headers["Allow"]
    tried = db_session.scalars(select(AuditLog).order_by(AuditLog.id.desc())).first()
    assert tried is not None
    assert (tried.event_type, tried.user_id, tried.success) == ("access_denied", admin.id, False)
    assert db_session.scalar(select(func.count()).select_from(AuditLog)) == before + 1


def test_a_stranger_cannot_delete_either(client: FlaskClient, db_session: Session) -> None:
    answer = client.delete("/api/audit/logs/1")
    assert answer.status_code == 405
    tried = db_session.scalars(select(AuditLog)).one()
    assert tried.user_id is None


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_nothing_else_can_be_done_to_the_record(client: FlaskClient, admin: Person, method: str) -> None:
    for path in ("/api/audit/logs", "/api/audit/logs/1"):
        answer = getattr(client, method)(path, json={}, headers=admin.bearer)
        assert answer.status_code == 405
        assert answer.json["detail"]


def test_trying_to_delete_again_and_again_does_not_fill_the_record(databases) -> None:
    with databases.clone() as url:
        app: Flask = create_app(settings_for(url, ratelimit_enabled=True))
        client = app.test_client()
        answers = [client.delete("/api/audit/logs").status_code for _ in range(70)]
        assert answers.count(429) >= 10
        assert set(answers) == {405, 429}
        person = make_person(app, role="admin")
        logs = client.get("/api/audit/logs?limit=1000", headers=person.bearer).json["logs"]
        assert len([row for row in logs if row["event_type"] == "access_denied"]) <= 60
        assert [row["event_type"] for row in logs].count("rate_limit_exceeded") in (1, 2)
        dispose(app)
