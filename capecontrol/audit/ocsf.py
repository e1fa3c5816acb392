"""An event in the words of OCSF 1.3, the Open Cybersecurity Schema Framework (https://schema.ocsf.io).

The table below gives each event of audit/events.py its class and activity. A class has a number of four digits, of
which the first is its category; `type_uid` is the class times 100 plus the activity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capecontrol.audit import sentences
from capecontrol.audit.secret_keys import without_secrets
from capecontrol.audit.sentences import Happening

SCHEMA = "1.3.0"
PRODUCT = {"name": "Cape Control", "vendor_name": "Cape Control"}

BASE = 0
ACCOUNT_CHANGE = 3001
AUTHENTICATION = 3002
USER_ACCESS = 3005
API_ACTIVITY = 6003

CLASS_NAMES = {
    BASE: "Base Event",
    ACCOUNT_CHANGE: "Account Change",
    AUTHENTICATION: "Authentication",
    USER_ACCESS: "User Access Management",
    API_ACTIVITY: "API Activity",
}
_OTHER = 99
ACTIVITY_NAMES: dict[int, dict[int, str]] = {
    BASE: {_OTHER: "Other"},
    ACCOUNT_CHANGE: {
        1: "Create",
        2: "Enable",
        3: "Password Change",
        4: "Password Reset",
        5: "Disable",
        6: "Delete",
        7: "Attach Policy",
        9: "Lock",
        10: "MFA Factor Enable",
        11: "MFA Factor Disable",
        _OTHER: "Other",
    },
    AUTHENTICATION: {1: "Logon", 2: "Logoff", _OTHER: "Other"},
    USER_ACCESS: {1: "Assign Privileges", 2: "Revoke Privileges", _OTHER: "Other"},
    API_ACTIVITY: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", _OTHER: "Other"},
}
SEVERITIES = {"info": 1, "warning": 3, "error": 4, "critical": 5}
_SEVERITY_NAMES = {1: "Informational", 3: "Medium", 4: "High", 5: "Critical", _OTHER: "Other"}


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where an event belongs."""

    class_uid: int
    activity_id: int

    @property
    def category_uid(self) -> int:
        """The category, which is the thousands of the class."""
        return self.class_uid // 1000

    @property
    def type_uid(self) -> int:
        """Class and activity in one number."""
        return self.class_uid * 100 + self.activity_id


_UNKNOWN = Mapped(BASE, _OTHER)

_EVENTS: dict[str, Mapped] = {
    "user_registration": Mapped(ACCOUNT_CHANGE, 1),
    "user_registration_failed": Mapped(ACCOUNT_CHANGE, 1),
    "user_login": Mapped(AUTHENTICATION, 1),
    "user_login_failed": Mapped(AUTHENTICATION, 1),
    "user_logout": Mapped(AUTHENTICATION, 2),
    "session_ended": Mapped(AUTHENTICATION, 2),
    "email_verified": Mapped(ACCOUNT_CHANGE, _OTHER),
    "email_checks": Mapped(API_ACTIVITY, 2),
    "profile_updated": Mapped(ACCOUNT_CHANGE, _OTHER),
    "role_changed": Mapped(USER_ACCESS, 1),
    "access_denied": Mapped(API_ACTIVITY, _OTHER),
    "rate_limit_exceeded": Mapped(API_ACTIVITY, _OTHER),
    "conversation_started": Mapped(API_ACTIVITY, 1),
    "conversation_renamed": Mapped(API_ACTIVITY, 3),
    "conversation_archived": Mapped(API_ACTIVITY, 3),
    "conversation_unarchived": Mapped(API_ACTIVITY, 3),
    "conversation_deleted": Mapped(API_ACTIVITY, 4),
    "conversation_restored": Mapped(API_ACTIVITY, 3),
    "conversation_read_by_staff": Mapped(API_ACTIVITY, 2),
    "ai_prompt_submitted": Mapped(API_ACTIVITY, 1),
    "ai_prompt_refused": Mapped(API_ACTIVITY, 1),
    "ai_response_generated": Mapped(API_ACTIVITY, 1),
    "ai_response_failed": Mapped(API_ACTIVITY, 1),
    "data_export": Mapped(API_ACTIVITY, 2),
    "data_export_ended": Mapped(API_ACTIVITY, 2),
    "registrations_turned_away": Mapped(ACCOUNT_CHANGE, 1),
    "alert_acknowledged": Mapped(API_ACTIVITY, 3),
    "audit_degraded": Mapped(API_ACTIVITY, _OTHER),
    "audit_events_dropped": Mapped(API_ACTIVITY, _OTHER),
    "audit_key_changed": Mapped(API_ACTIVITY, 3),
    "audit_purged": Mapped(API_ACTIVITY, 4),
    "audit_pseudonymised": Mapped(API_ACTIVITY, 3),
    "demo_filled": Mapped(API_ACTIVITY, 1),
}


def mapped_events() -> dict[str, Mapped]:
    """Return the table."""
    return dict(_EVENTS)


def describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `audit_logs` as an OCSF event. One that no list of ours knows is a base event.

    `metadata.uid` is the event's id: whoever receives an event twice knows it by that.
    """
    mapped = _EVENTS.get(row["event_type"], _UNKNOWN)
    severity = SEVERITIES.get(row["event_level"], _OTHER)
    happened = _milliseconds(row["created_at"])
    told: dict[str, Any] = {
        "category_uid": mapped.category_uid,
        "class_uid": mapped.class_uid,
        "class_name": CLASS_NAMES[mapped.class_uid],
        "activity_id": mapped.activity_id,
        "activity_name": ACTIVITY_NAMES[mapped.class_uid][mapped.activity_id],
        "type_uid": mapped.type_uid,
        "time": happened,
        "severity_id": severity,
        "severity": _SEVERITY_NAMES[severity],
        "status_id": 1 if row["success"] else 2,
        "status": "Success" if row["success"] else "Failure",
        "status_detail": row["error_message"],
        "status_code": None if row["status_code"] is None else str(row["status_code"]),
        "message": _sentence(row),
        "metadata": {
            "version": SCHEMA,
            "product": PRODUCT,
            "uid": row["event_id"],
            "event_code": row["event_type"],
            "log_name": "audit_logs",
            "logged_time": _milliseconds(row["recorded_at"]),
            "correlation_uid": row["request_id"],
        },
        "actor": {"user": _actor(row), "session": {"uid": row["session_id"]} if row["session_id"] else None},
        "user": _user(row) if mapped.category_uid == 3 else None,
        "api": {"operation": row["endpoint"] or row["event_type"]} if mapped.class_uid == API_ACTIVITY else None,
        "src_endpoint": {"ip": row["ip_address"]} if row["ip_address"] else {"svc_name": "capecontrol"},
        "http_request": {
            "http_method": row["http_method"],
            "user_agent": row["user_agent"],
            "uid": row["request_id"],
        },
        "resources": [{"uid": row["subject_id"]}] if row["subject_id"] else None,
        "risk_score": row["risk_score"],
        "duration": row["response_time_ms"],
        "unmapped": without_secrets(row["event_metadata"]),
    }
    return _without_nothing(told)


def _actor(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return who acted: whoever was signed in, the system, or, where something was refused, nobody knows who."""
    if row["actor_ref"] is not None:
        return _account(row, row["actor_ref"])
    if row["success"]:
        return {"name": "Cape Control", "type_id": 3, "type": "System"}
    return {"name": "Unknown", "type_id": 0, "type": "Unknown"}


def _user(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return whom the event concerns. Where nobody is proven to act this is somebody's claim, perhaps their victim."""
    uid = row["user_id"] or row["actor_ref"]
    return _actor(row) if uid is None and row["user_email"] is None else _account(row, uid)


def _account(row: Mapping[str, Any], uid: str | None) -> dict[str, Any]:
    kinds = {"admin": (2, "Admin"), "client": (1, "User"), "developer": (1, "User")}
    type_id, kind = kinds.get(row["user_role"], (0, "Unknown"))
    return {
        "uid": uid,
        "email_addr": row["user_email"],
        "name": row["user_email"] or uid,
        "type_id": type_id,
        "type": kind,
    }


def _sentence(row: Mapping[str, Any]) -> str:
    details = row["event_metadata"]
    happening = Happening(
        kind=row["event_type"],
        success=row["success"],
        who=row["user_email"],
        has_actor=row["actor_ref"] is not None,
        details=details if isinstance(details, dict) else {},
    )
    return sentences.tell(happening)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without its empty parts; details of our own stay as they are stored."""
    kept: dict[str, Any] = {}
    for name, part in value.items():
        whole = _without_nothing(part) if isinstance(part, dict) and name != "unmapped" else part
        if whole not in (None, {}):
            kept[name] = whole
    return kept
