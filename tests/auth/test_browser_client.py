"""Guard: every request of the existing browser client, replayed (B1 to B7), with what it does with the answer."""

import json
import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from capecontrol.audit.models import AuditLog
from capecontrol.auth.models import User
from tests.people import PASSWORD, Person

pytestmark = pytest.mark.guard

EMAIL = "naledi@example.com"
PROFILE = "/api/enhanced/complete-phase2-profile"
AS_SENT = {
    "firstName": "Naledi",
    "lastName": "Mokoena",
    "email": EMAIL,
    "password": PASSWORD,
    "role": "customer",
    "phone": "",
    "website": "",
    "experience": "",
}
CUSTOMER_PROFILE = {
    "companyName": "Kelp & Co",
    "industry": "retail",
    "companySize": "1-10",
    "businessType": "b2c",
    "useCase": "bookings",
    "budget": "R10k",
    "goals": ["save time"],
    "preferredIntegrations": ["mail"],
    "timeline": "3 months",
    "experience": "beginner",
    "profileCompleted": True,
    "phase2Completed": True,
}
DEVELOPER_PROFILE = {
    "githubUrl": "https://git.example.com/naledi",
    "portfolioUrl": "https://naledi.example.com",
    "experience": "expert",
    "skills": ["python", "sql"],
    "specializations": ["data"],
    "previousWork": "harbour systems",
    "workType": "remote",
    "availability": "now",
    "payoutMethod": "bank",
    "bio": "I build things.",
    "profileImage": "",
    "socialLinks": {"linkedin": "", "twitter": "", "website": "https://naledi.example.com"},
    "profileCompleted": True,
    "phase2Completed": True,
}


def availability(client: FlaskClient, email: str) -> Any:
    """B1: the GET carries a content type, which is unusual and must not matter."""
    answer = client.get(
        "/api/auth/v2/validate-email", query_string={"email": email}, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200
    assert "application/json" in answer.headers["Content-Type"]
    return answer.json["available"]


def test_b1_an_unknown_address_is_available(client: FlaskClient) -> None:
    assert availability(client, EMAIL) is True


def test_b1_a_known_address_is_not(client: FlaskClient, person: Person) -> None:
    assert availability(client, person.email) is False
    assert availability(client, person.email.upper()) is False


def test_b1_something_else_is_no_address(client: FlaskClient) -> None:
    assert availability(client, "naledi@") is False


def test_b1e_a_missing_address_is_json_too(client: FlaskClient) -> None:
    answer = client.get("/api/auth/v2/validate-email")
    assert answer.status_code == 422
    assert isinstance(answer.json["detail"], str)


@pytest.mark.parametrize("role", ["customer", "developer"])
def test_b2_the_registration_as_the_client_sends_it(client: FlaskClient, role: str) -> None:
    answer = client.post("/api/auth/v2/register", json={**AS_SENT, "role": role, "company": "Kelp & Co"})
    assert answer.status_code == 201
    assert isinstance(answer.json["id"], str)
    assert answer.json["email"] == EMAIL
    assert answer.json["accessToken"] == answer.json["access_token"]
    assert answer.json["full_name"] == "Naledi Mokoena"
    assert answer.json["user_role"] == {"customer": "client", "developer": "developer"}[role]
    assert answer.json["company_name"] == "Kelp & Co"
    assert answer.json["created_at"]


def test_b2_empty_strings_mean_not_given(client: FlaskClient, db_session: Any) -> None:
    from capecontrol.auth.models import User

    client.post("/api/auth/v2/register", json=AS_SENT)
    user = db_session.query(User).one()
    assert (user.phone, user.website, user.experience) == (None, None, None)
    assert user.tos_source == "legacy client"


def test_b2e_a_taken_address_is_409_with_a_sentence(client: FlaskClient) -> None:
    client.post("/api/auth/v2/register", json=AS_SENT)
    answer = client.post("/api/auth/v2/register", json=AS_SENT)
    assert answer.status_code == 409
    assert "already has an account" in answer.json["detail"]


def test_b2e_a_refusal_is_a_string_and_never_a_list(client: FlaskClient) -> None:
    answer = client.post("/api/auth/v2/register", json={**AS_SENT, "password": "short", "email": "no"})
    assert answer.status_code == 422
    assert isinstance(answer.json["detail"], str)
    assert set(answer.json["errors"]) == {"email", "password"}


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ({"firstName": 5}, {"firstName": ["First name must be text."]}),
        ({"lastName": "a\nb"}, {"lastName": ["Last name must be one line without control characters."]}),
        ({"firstName": "", "lastName": " "}, {"firstName": ["First name is required."]}),
        ({"firstName": "x" * 201}, {"firstName": ["First name is too long: at most 200 characters."]}),
        (
            {"firstName": "x" * 101, "lastName": "x" * 99},
            {"lastName": ["First and last name together are too long: at most 200 characters."]},
        ),
        ({"role": "admin"}, {"role": ["Role must be 'client' or 'developer'."]}),
        ({"company": ["x"]}, {"company": ["Company must be text."]}),
        ({"termsAccepted": False}, {"termsAccepted": ["The terms must be accepted to open an account."]}),
    ],
)
def test_b2e_a_mistake_is_told_under_the_name_that_was_sent(
    client: FlaskClient, told: dict[str, Any], refused: dict[str, list[str]]
) -> None:
    answer = client.post("/api/auth/v2/register", json=AS_SENT | told)
    assert answer.status_code == 422
    assert answer.json["errors"] == refused


def test_b2e_a_name_that_is_missing_is_missed_by_our_word(client: FlaskClient) -> None:
    nameless = {name: value for name, value in AS_SENT.items() if name not in ("firstName", "lastName")}
    answer = client.post("/api/auth/v2/register", json=nameless)
    assert answer.json["errors"] == {"full_name": ["Full name is required."]}


def test_b2_an_empty_name_in_one_piece_leaves_the_two(client: FlaskClient) -> None:
    account = client.post("/api/auth/v2/register", json={**AS_SENT, "full_name": " ", "company_name": ""}).json
    assert account["full_name"] == "Naledi Mokoena"


def test_b3_the_sign_in_page(client: FlaskClient, person: Person) -> None:
    answer = client.post("/api/auth/v2/login", json={"email": person.email, "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.json["access_token"]
    assert answer.json["user"] == {
        "id": person.id,
        "email": person.email,
        "firstName": "Thandi",
        "lastName": "Nkosi",
        "role": "client",
    }


def test_b3_a_wrong_password_has_its_text_in_detail(client: FlaskClient, person: Person) -> None:
    answer = client.post("/api/auth/v2/login", json={"email": person.email, "password": "wrong"})
    unknown = client.post("/api/auth/v2/login", json={"email": "nobody@example.com", "password": "wrong"})
    assert answer.status_code == unknown.status_code == 401
    assert answer.json == unknown.json


def test_b4_every_start_asks_who_i_am(client: FlaskClient, person: Person) -> None:
    assert client.get("/api/auth/me", headers=person.bearer).json["email"] == person.email
    for headers in ({}, {"Authorization": "Bearer null"}, {"Authorization": "Bearer "}):
        answer = client.get("/api/auth/me", headers=headers)
        assert answer.status_code == 401
        assert answer.is_json


def test_b5_the_older_sign_in_pages(client: FlaskClient, person: Person) -> None:
    body = {"email": person.email, "password": PASSWORD, "userType": "customer"}
    assert client.post("/api/auth/login", json=body).json["token"]
    refused = client.post("/api/auth/login", json={**body, "password": "wrong"})
    assert refused.status_code == 401
    assert refused.json["message"] == refused.json["detail"]


@pytest.mark.parametrize("profile", [CUSTOMER_PROFILE, DEVELOPER_PROFILE], ids=["customer", "developer"])
def test_b6_the_profile_after_registration(client: FlaskClient, profile: dict[str, Any], db_session: Session) -> None:
    account = client.post("/api/auth/v2/register", json=AS_SENT).json
    headers = {"Authorization": f"Bearer {account['accessToken']}"}
    answer = client.post("/api/enhanced/complete-phase2-profile", json=profile, headers=headers)
    assert answer.status_code == 200
    assert answer.json["profile"] == profile
    event = db_session.scalars(select(AuditLog).where(AuditLog.event_type == "profile_updated")).one()
    assert (event.user_id, event.user_email, event.subject_id) == (account["id"], EMAIL, account["id"])
    assert event.success
    # Which fields, and never what stands in them.
    assert event.event_metadata == {"fields": sorted(profile)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bio", "a\x7fb"),
        ("bio", "a\x85b"),
        ("bio", "a\x00b"),
        ("bio", "a\ud800b"),
        ("goals", ["fine", "a\x9fb"]),
        ("socialLinks", {"twitter": "a\x1bb"}),
    ],
)
def test_a_profile_holds_text_and_nothing_else(client: FlaskClient, person: Person, field: str, value: Any) -> None:
    body = json.dumps({field: value})
    answer = client.post(PROFILE, data=body, headers=person.bearer, content_type="application/json")
    assert answer.status_code == 422
    assert answer.json["errors"].keys() == {field}
    assert "control characters" in answer.json["detail"]


def test_a_refused_profile_is_recorded_with_the_fields_at_fault(
    client: FlaskClient, person: Person, db_session: Any
) -> None:
    client.post(PROFILE, json={"bio": 5, "goals": "none"}, headers=person.bearer)
    client.post(PROFILE, data=b"{", headers={**person.bearer, "Content-Type": "application/json"})
    rows = db_session.query(AuditLog).filter_by(event_type="profile_updated").order_by(AuditLog.id).all()
    assert [(row.user_id, row.success, row.event_metadata) for row in rows] == [
        (person.id, False, {"fields": ["bio", "goals"]}),
        (person.id, False, {"fields": []}),
    ]


def test_a_profile_keeps_line_breaks_and_says_what_is_too_long(client: FlaskClient, person: Person) -> None:
    told = {"bio": "At sea.\n\tSince\r\n1998 🦭"}
    assert client.post(PROFILE, json=told, headers=person.bearer).json["profile"] == told
    answer = client.post(PROFILE, json={"companyName": "x" * 256, "goals": ["x"] * 51}, headers=person.bearer)
    assert answer.json["errors"] == {
        "companyName": ["Company name is too long: at most 255."],
        "goals": ["Goals is too long: at most 50."],
    }


def test_a_profile_takes_a_company_by_the_rule_of_names(client: FlaskClient, person: Person) -> None:
    answer = client.post(PROFILE, json={"companyName": "Kelp \u202eoC &"}, headers=person.bearer)
    assert answer.json["errors"].keys() == {"companyName"}
    assert client.post(PROFILE, json={"companyName": ""}, headers=person.bearer).json["profile"] == {"companyName": ""}


def test_b7_the_three_step_page(client: FlaskClient) -> None:
    assert client.post("/api/auth/register/step1", json={"email": EMAIL}).json["success"] is True
    done = client.post(
        "/api/auth/register/step2", json={"email": EMAIL, "password": PASSWORD, "full_name": "Naledi Mokoena"}
    )
    assert done.status_code == 201
    assert done.json["success"] is True
    assert done.json["message"]
    assert done.json["access_token"]
    taken = client.post("/api/auth/register/step1", json={"email": EMAIL})
    assert (taken.json["success"], taken.json["reason"]) == (False, "already_exists")


def test_b7_the_three_step_page_in_one(client: FlaskClient) -> None:
    assert client.post("/api/auth/register", json=AS_SENT).json["success"] is True
    again = client.post("/api/auth/register", json=AS_SENT)
    assert (again.status_code, again.json["success"]) == (409, False)
    assert again.json["message"] == again.json["detail"]


def test_the_client_library_also_judges_passwords(client: FlaskClient) -> None:
    answer = client.post("/api/auth/v2/validate-password", json={"password": PASSWORD}).json
    assert answer["valid"] is True
    assert answer["score"] == 100
    assert set(answer["requirements"]) == {"minLength", "hasUpper", "hasLower", "hasNumber", "hasSpecial"}
    weak = client.post("/api/auth/v2/validate-password", json={"password": "Password1234!"}).json
    assert weak["valid"] is False
    assert weak["message"]


@pytest.mark.parametrize(
    "terms", [{"tos_accepted": None, "terms": False}, {"tos_accepted": True, "termsAccepted": False}]
)
def test_terms_refused_by_one_of_their_names_are_refused(client: FlaskClient, terms: dict) -> None:
    answer = client.post("/api/auth/v2/register", json={**AS_SENT, **terms})
    assert answer.status_code == 422
    assert list(answer.json["errors"].values()) == [["The terms must be accepted to open an account."]]


@pytest.mark.parametrize("name", ["tos_accepted", "termsAccepted", "terms"])
def test_terms_are_accepted_by_any_of_their_names(client: FlaskClient, db_session: Session, name: str) -> None:
    sent = {key: value for key, value in AS_SENT.items() if key not in ("tos_accepted", "termsAccepted", "terms")}
    assert client.post("/api/auth/v2/register", json={**sent, name: True}).status_code == 201
    assert db_session.scalar(select(User.tos_source)) == "api"


def test_a_password_is_judged_by_its_owners_name_where_it_is_given(client: FlaskClient) -> None:
    chosen = {"password": "Thandiwe Nkosi-Dlamini"}
    told = [
        client.post("/api/auth/v2/validate-password", json={**chosen, **owner}).json
        for owner in ({}, {"full_name": "Thandiwe Nkosi-Dlamini"}, {"email": "thandiwe.nkosi-dlamini@example.com"})
    ]
    assert [answer["valid"] for answer in told] == [True, False, False]
    assert told[1]["message"].startswith("This is little more than your own name or address.")
    assert told[1]["score"] <= 20


def test_the_client_library_also_signs_in_by_form(client: FlaskClient, person: Person) -> None:
    answer = client.post("/api/token", data={"username": person.email, "password": PASSWORD})
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers


def test_nothing_under_api_may_be_kept_by_a_cache_in_between(client: FlaskClient) -> None:
    answer = client.get("/api/auth/v2/validate-email?email=a@example.com")
    assert answer.headers["Cache-Control"] == "no-store"
    assert {"Authorization", "Cookie"} <= {part.strip() for part in answer.headers["Vary"].split(",")}


def test_a_preflight_is_answered_for_configured_origins_only(client: FlaskClient) -> None:
    answer = client.options(
        "/api/auth/v2/register",
        headers={"Origin": "https://www.example.com", "Access-Control-Request-Method": "POST"},
    )
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/register/step2", "/api/auth/login"])
def test_the_older_pages_read_every_error_the_same(client: FlaskClient, path: str) -> None:
    late = {"X-Request-Start": str(int((time.time() - 9) * 1000))}
    answers = [
        client.get(path),
        client.post(path, json={}),
        client.post(path, data="email=a"),
        client.post(path, json={"email": "x" * 2_000_000}),
        client.post(path, json=AS_SENT, headers=late),
    ]
    assert [answer.status_code for answer in answers] == [405, 422, 415, 413, 503]
    for answer in answers[1:]:
        assert (answer.json["success"], answer.json["message"]) == (False, answer.json["detail"])
