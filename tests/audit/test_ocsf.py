"""Every event has a place in OCSF, and says there what it says here."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from capecontrol.audit import events, ocsf
from capecontrol.audit.receivers import syslog_line

EVERY = sorted(events.all_events())


def row(**columns: Any) -> dict[str, Any]:
    return {
        "event_id": "01a20b54-59b6-73dc-bed7-75fc94ed232e",
        "event_type": "user_login",
        "event_level": "info",
        "event_metadata": {"method": "page", "remembered": False},
        "success": True,
        "user_id": "7d0c1f1e",
        "actor_ref": "7d0c1f1e",
        "user_email": "thandi@example.com",
        "user_role": "client",
        "subject_id": None,
        "session_id": "session-1",
        "error_message": None,
        "ip_address": "192.0.2.9",
        "user_agent": "Mozilla/5.0",
        "endpoint": "auth.sign_in",
        "http_method": "POST",
        "request_id": "request-0001",
        "status_code": None,
        "response_time_ms": None,
        "risk_score": None,
        "created_at": datetime(2026, 11, 24, 9, 30, 0, 123000, tzinfo=UTC),
        "recorded_at": datetime(2026, 11, 24, 9, 30, 1, tzinfo=UTC),
    } | columns


def test_every_event_has_a_place_and_every_place_an_event() -> None:
    missing = set(EVERY) - set(ocsf.mapped_events())
    assert not missing, f"give {sorted(missing)} a class and an activity in audit/ocsf.py"
    unknown = set(ocsf.mapped_events()) - set(EVERY)
    assert not unknown, f"{sorted(unknown)} are mapped but no event of audit/events.py"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("success", [True, False])
def test_every_event_is_described_whole(name: str, success: bool) -> None:
    details = dict.fromkeys(events.all_events()[name].details, "x")
    level = events.all_events()[name].level
    told = ocsf.describe(row(event_type=name, event_level=level, event_metadata=details, success=success))
    assert told["type_uid"] == told["class_uid"] * 100 + told["activity_id"]
    assert told["category_uid"] == told["class_uid"] // 1000
    assert told["class_uid"] in (3001, 3002, 3005, 6003)
    assert told["activity_name"] == ocsf.ACTIVITY_NAMES[told["class_uid"]][told["activity_id"]]
    assert told["severity_id"] == {"info": 1, "warning": 3, "error": 4, "critical": 5}[level]
    assert told["status"] == ("Success" if success else "Failure")
    assert told["metadata"]["event_code"] == name
    assert told["message"]
    assert told.get("unmapped", {}) == details
    for required in ("time", "metadata", "severity_id", "actor"):
        assert told[required]
    if told["category_uid"] == 3:
        assert told["user"]
    else:
        assert told["api"]["operation"]
        assert told["src_endpoint"]


def test_a_sign_in_in_full() -> None:
    assert ocsf.describe(row()) == {
        "category_uid": 3,
        "class_uid": 3002,
        "class_name": "Authentication",
        "activity_id": 1,
        "activity_name": "Logon",
        "type_uid": 300201,
        "time": 1795512600123,
        "severity_id": 1,
        "severity": "Informational",
        "status_id": 1,
        "status": "Success",
        "message": "thandi@example.com signed in",
        "metadata": {
            "version": "1.3.0",
            "product": {"name": "Cape Control", "vendor_name": "Cape Control"},
            "uid": "01a20b54-59b6-73dc-bed7-75fc94ed232e",
            "event_code": "user_login",
            "log_name": "audit_logs",
            "logged_time": 1795512601000,
            "correlation_uid": "request-0001",
        },
        "actor": {
            "user": {
                "uid": "7d0c1f1e",
                "email_addr": "thandi@example.com",
                "name": "thandi@example.com",
                "type_id": 1,
                "type": "User",
            },
            "session": {"uid": "session-1"},
        },
        "user": {
            "uid": "7d0c1f1e",
            "email_addr": "thandi@example.com",
            "name": "thandi@example.com",
            "type_id": 1,
            "type": "User",
        },
        "src_endpoint": {"ip": "192.0.2.9"},
        "http_request": {"http_method": "POST", "user_agent": "Mozilla/5.0", "uid": "request-0001"},
        "unmapped": {"method": "page", "remembered": False},
    }


def test_a_refused_sign_in_names_a_claim_and_nobody() -> None:
    told = ocsf.describe(
        row(
            event_type="user_login_failed",
            event_level="warning",
            success=False,
            user_id=None,
            actor_ref=None,
            user_role=None,
            error_message="The address or the password is wrong.",
            event_metadata={"method": "page", "reason": "unknown_address"},
        )
    )
    assert told["status_detail"] == "The address or the password is wrong."
    assert "uid" not in told["user"]
    assert told["message"] == "Somebody could not sign in as thandi@example.com: there is no such account"


def test_whoever_guesses_at_an_account_is_not_its_owner() -> None:
    guessed = row(
        event_type="user_login_failed",
        success=False,
        actor_ref=None,
        user_role=None,
        session_id=None,
        event_metadata={"method": "page", "reason": "wrong_password"},
    )
    told = ocsf.describe(guessed)
    assert told["actor"] == {"user": {"name": "Unknown", "type_id": 0, "type": "Unknown"}}
    assert (told["user"]["uid"], told["user"]["email_addr"]) == ("7d0c1f1e", "thandi@example.com")
    line = syslog_line(guessed, "app.example.com")
    assert b" user_id=" not in line
    assert b' account_id="7d0c1f1e"' in line
    assert b' user_id="7d0c1f1e"' in syslog_line(row(), "app.example.com")


def test_syslog_tells_the_time_in_utc() -> None:
    elsewhere = datetime(2026, 11, 25, 8, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    line = syslog_line(row(created_at=elsewhere), "app.example.com")
    assert line.startswith(b"<110>1 2026-11-24T23:30:00.123456Z app.example.com ")


def test_what_the_system_does_for_somebody_is_the_systems_and_concerns_them() -> None:
    told = ocsf.describe(row(event_type="session_ended", actor_ref=None, session_id=None))
    assert told["actor"] == {"user": {"name": "Cape Control", "type_id": 3, "type": "System"}}
    assert told["user"]["uid"] == "7d0c1f1e"


def test_what_the_system_does_is_the_systems() -> None:
    nobody = dict.fromkeys(("user_id", "actor_ref", "user_email", "user_role", "session_id", "ip_address"))
    told = ocsf.describe(row(**nobody))
    assert told["actor"] == {"user": {"name": "Cape Control", "type_id": 3, "type": "System"}}


def test_secrets_of_an_inherited_row_are_not_described() -> None:
    details = {"token": "hunter2", "request": {"json": [{"password": "hunter2", "method": "page"}]}}
    told = ocsf.describe(row(event_metadata=details))
    assert told["unmapped"] == {"request": {"json": [{"method": "page"}]}}


def test_an_inherited_event_is_a_base_event() -> None:
    told = ocsf.describe(row(event_type="ddos_attempt", event_level="loud", event_metadata=["no object"]))
    assert (told["class_uid"], told["activity_id"], told["type_uid"]) == (0, 99, 99)
    assert told["severity"] == "Other"
    assert told["unmapped"] == ["no object"]
