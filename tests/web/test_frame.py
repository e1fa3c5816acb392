"""What every answer has: headers, hosts, origins, errors in the right form, deadlines, the log line."""

import base64
import json
import time
from collections.abc import Callable

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from capecontrol import create_app
from capecontrol.web.deadlines import queued_seconds
from tests.conftest import dispose, settings_for
from tests.people import PASSWORD
from tests.postgres import Databases

HTML = "text/html"


@pytest.fixture
def app_with(databases: Databases):
    """Return a function that makes an application with other settings, on a database of its own."""
    made: list[Flask] = []
    with databases.clone() as url:

        def make(database_url: str = url, **settings: object) -> Flask:
            made.append(create_app(settings_for(database_url, **settings)))
            return made[-1]

        yield make
        for app in made:
            dispose(app)


def test_every_answer_protects_its_reader(client: FlaskClient) -> None:
    for path in ("/", "/register", "/help", "/api/nothing", "/nothing", "/static/css/site.css", "/healthz"):
        with client.get(path) as answer:
            headers = answer.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"]
        assert "Strict-Transport-Security" not in headers
        assert headers["X-Request-ID"]


def test_behind_https_cookies_are_bound_to_the_host_and_http_is_over(app_with: Callable[..., Flask]) -> None:
    app = app_with(public_url="https://app.example.com", trusted_proxy_hops=1)
    answer = app.test_client().get("/login", base_url="https://app.example.com")
    assert "max-age=63072000" in answer.headers["Strict-Transport-Security"]
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-session=")
    for part in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie


def test_a_forged_host_is_refused(client: FlaskClient) -> None:
    for host in ("evil.example.com", "localhost.evil.example.com", "localhost@evil.example.com", ""):
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 400, host
    assert client.get("/api/auth/me", headers={"Host": "evil.example.com"}).is_json


def test_a_forged_address_is_worth_nothing_without_a_proxy(app: Flask, client: FlaskClient, db_session) -> None:
    from sqlalchemy import select

    from capecontrol.audit.models import AuditLog

    client.post(
        "/api/auth/v2/login",
        json={"email": "a@example.com", "password": "x"},
        headers={"X-Forwarded-For": "198.51.100.66", "X-Forwarded-Host": "evil.example.com"},
    )
    assert db_session.scalar(select(AuditLog.ip_address)) == "127.0.0.1"


def test_behind_one_proxy_its_word_counts_and_nothing_further_left(app_with: Callable[..., Flask]) -> None:
    app = app_with(trusted_proxy_hops=1)
    seen = []
    app.add_url_rule("/seen", "seen", lambda: seen.append(__import__("flask").request.remote_addr) or "")
    app.test_client().get("/seen", headers={"X-Forwarded-For": "198.51.100.66, 203.0.113.9"})
    assert seen == ["203.0.113.9"]


def test_preflights_are_answered_for_our_origins_only(app_with: Callable[..., Flask]) -> None:
    client = app_with(cors_origins=["https://www.example.com"]).test_client()
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    ours = client.options("/api/auth/v2/register", headers={"Origin": "https://www.example.com", **asked})
    assert ours.status_code == 204
    assert "Content-Type" not in ours.headers
    assert ours.headers["Access-Control-Allow-Origin"] == "https://www.example.com"
    for header in ("Content-Type", "Authorization", "Idempotency-Key", "X-Registration-Ticket"):
        assert header in ours.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in ours.headers
    answer = client.get("/api/auth/me", headers={"Origin": "https://www.example.com"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://www.example.com"
    theirs = client.options("/api/auth/v2/register", headers={"Origin": "https://evil.example.com", **asked})
    assert "Access-Control-Allow-Origin" not in theirs.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api/nothing", 404),
        ("get", "/api", 404),
        ("get", "/api/", 404),
        ("delete", "/api/auth/v2/me", 405),
        ("get", "/api/auth/v2/register", 405),
    ],
)
def test_refusals_of_the_frame_are_json_under_api(client: FlaskClient, method: str, path: str, status: int) -> None:
    answer = getattr(client, method)(path)
    assert (answer.status_code, answer.is_json) == (status, True)
    assert set(answer.json) == {"detail", "errors"}
    assert answer.headers["Cache-Control"] == "no-store"


def test_what_says_nothing_calls_it_nothing(app: Flask, client: FlaskClient, person) -> None:
    """An answer without content has no type: Flask would call it HTML."""
    started = client.post("/api/conversations", json={}, headers=person.bearer).json["id"]
    answers = [
        client.delete(f"/api/conversations/{started}", headers=person.bearer),
        client.post("/api/auth/v2/logout", headers=person.bearer),
    ]
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/"):
            answer = client.options(rule.rule.replace("<", "").replace(">", ""))
            assert set(answer.headers["Allow"].split(", ")) >= {"OPTIONS"}
            answers.append(answer)
    for answer in answers:
        assert (answer.status_code, answer.data) == (204, b""), answer.request.path
        assert "Content-Type" not in answer.headers, answer.request.path


def test_refusals_of_the_frame_are_pages_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/nothing/<script>")
    assert (answer.status_code, answer.mimetype) == (404, HTML)
    assert "<script>" not in answer.get_data(as_text=True).split("<main")[1]


@pytest.mark.parametrize("path", ["/api/auth/v2/register", "/api/auth/v2/login", "/api/auth/v2/validate-password"])
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", None, 415),
        (b"{}", "text/plain", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"email": "\xff\xfe"}', "application/json", 400),
        (b'{"email": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 50_000, "application/json", 400),
        (b'{"email": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b"null", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'"text"', "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"email": "' + b"x" * 10_000_000 + b'"}', "application/json", 413),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_words(
    client: FlaskClient, path: str, body: bytes, content_type: str | None, status: int
) -> None:
    answer = client.post(path, data=body, content_type=content_type)
    assert answer.status_code == status
    assert answer.is_json
    assert answer.json["detail"]


def test_a_form_of_ten_megabytes_is_a_page_that_says_so(client: FlaskClient) -> None:
    answer = client.post("/login", data={"email": "x" * 10_000_000})
    assert (answer.status_code, answer.mimetype) == (413, HTML)


def test_an_unforeseen_error_says_so_without_its_inside(app_with: Callable[..., Flask]) -> None:
    app = app_with()

    def broken() -> str:
        raise RuntimeError("a secret inside")

    app.add_url_rule("/api/broken", "api_broken", broken)
    app.add_url_rule("/broken", "broken", broken)
    as_json, as_page = app.test_client().get("/api/broken"), app.test_client().get("/broken")
    assert as_json.status_code == as_page.status_code == 500
    assert as_json.is_json
    for answer in (as_json, as_page):
        assert "secret inside" not in answer.get_data(as_text=True)
        assert "Traceback" not in answer.get_data(as_text=True)


def test_without_a_database_pages_and_endpoints_say_try_again(app_with: Callable[..., Flask]) -> None:
    app = app_with(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    client = app.test_client()
    client.set_cookie("session", _cookie_of_somebody(app))
    for path in ("/account", "/conversations"):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (503, HTML), path
        assert answer.headers["Retry-After"]
    unknown = client.get("/nothing")
    assert (unknown.status_code, unknown.mimetype) == (404, HTML)
    check = client.get("/api/auth/v2/validate-email?email=a@example.com")
    assert check.status_code == 503
    assert check.json["available"] is None
    assert check.json["reason"] == "validation_error"
    body = {"email": "a@example.com", "password": PASSWORD, "full_name": "A"}
    answer = client.post("/api/auth/v2/register", json=body)
    assert (answer.status_code, answer.is_json) == (503, True)
    assert client.get("/healthz").status_code == 200


def _cookie_of_somebody(app: Flask) -> str:
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    return str(serializer.dumps({"_user_id": "a-secret", "_fresh": True}))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("soon", 0),
        ("-1", 0),
        ("1000", 0),
        ("99999999999999999999", 0),
        ("1000000005000", 0),
        ("999999998000", 2),
        ("t=999999998000", 2),
        ("999999930000", 0),
    ],
)
def test_how_long_a_request_waited_is_the_routers_word_within_reason(header: str | None, seconds: int) -> None:
    assert queued_seconds(header, now=1_000_000_000) == pytest.approx(seconds)


def test_work_whose_caller_has_left_is_dropped_before_it_starts(client: FlaskClient) -> None:
    late = {"X-Request-Start": str(int((time.time() - 9) * 1000))}
    answer = client.post("/api/auth/v2/login", json={"email": "a@example.com", "password": "x"}, headers=late)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert client.get("/healthz", headers=late).status_code == 200


def test_the_log_line_says_where_the_time_went_and_nothing_private(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with structlog.testing.capture_logs() as lines:
        answer = client.post(
            "/api/auth/v2/register?email=query@example.com",
            json={"email": "lerato@example.com", "password": PASSWORD, "full_name": "Lerato Dube"},
            headers={"X-Request-ID": "router-id-123"},
        )
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["endpoint"], line["status"], line["request_id"]) == ("auth_api.register", 201, "router-id-123")
    for step in ("total_ms", "queue_ms", "gate_ms", "hash_ms", "db_ms", "audit_ms"):
        assert isinstance(line[step], float)
    assert line["total_ms"] >= line["hash_ms"] > 0
    assert answer.headers["X-Request-ID"] == "router-id-123"
    text = json.dumps(lines)
    for private in (PASSWORD, "lerato@example.com", "query@example.com", answer.json["access_token"]):
        assert private not in text


def test_an_id_that_is_no_id_is_replaced(client: FlaskClient) -> None:
    answer = client.get("/api/nothing", headers={"X-Request-ID": "a b\tc<script>"})
    assert answer.headers["X-Request-ID"] != "a b\tc<script>"


def test_the_application_can_be_built_twice_in_one_process(app_with: Callable[..., Flask]) -> None:
    assert app_with() is not app_with()


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"email=%FF%FE&password=x", "application/x-www-form-urlencoded", 400),
        (b"email=\xff&password=x", "application/x-www-form-urlencoded", 400),
        (
            b'--b\r\nContent-Disposition: form-data; name="email"\r\n\r\n\xff\r\n--b--',
            "multipart/form-data; boundary=b",
            415,
        ),
    ],
)
@pytest.mark.parametrize("path", ["/login", "/register", "/logout", "/api/token"])
def test_a_form_that_is_no_text_is_refused(
    client: FlaskClient, path: str, body: bytes, content_type: str, status: int
) -> None:
    answer = client.post(path, data=body, content_type=content_type)
    assert answer.status_code == status
    assert answer.is_json is path.startswith("/api/")


@pytest.mark.parametrize(
    "path",
    [
        "/conversations/%00",
        "/conversations/a%00b",
        "/conversations/%FF",
        "/conversations/../../etc/passwd",
        "/conversations/" + "9" * 5000,
        "/api/conversations/%00",
        "/api/conversations/%E2%98%83/messages",
        "/api/conversations/x/messages?after=%00",
        "/api/conversations/x/messages?limit=-1",
        "/api/conversations?cursor=%00",
        "/api/conversations?status=%00",
        "/api/audit/logs/%00",
        "/api/audit/logs/" + "9" * 50,
        "/api/audit/logs?q=%00",
        "/api/audit/logs?user_id=%00",
        "/api/audit/logs?cursor=AAAA",
        "/api/audit/logs?start_date=yesterday",
        "/audit?person=%00",
        "/audit?after=9999-99-99",
        "/audit/not-an-event",
        "/help/%00",
        "/help/..%2f..%2fbase",
        "/account/activity?older=%00",
    ],
)
def test_ids_and_filters_that_are_none_are_refused_and_never_break(app: Flask, sign_in, admin, path: str) -> None:
    answer = sign_in(admin).get(path)
    assert 400 <= answer.status_code < 500 or answer.status_code == 200, answer.get_data(as_text=True)[:200]
    if answer.status_code == 200:
        assert path.startswith("/account/activity"), "an unknown field is ignored; anything else should be refused"
    assert answer.is_json is path.startswith("/api/")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_this_machines_own_names_are_served(client: FlaskClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_host_is_the_same_in_any_case(app_with: Callable[..., Flask]) -> None:
    client = app_with(allowed_hosts=["App.Example.com"]).test_client()
    assert client.get("/healthz", headers={"Host": "app.example.COM:443"}).status_code == 200


@pytest.mark.parametrize(
    "position", ["0001-01-01T00:00:00+23:59|x", "9999-12-31T23:59:59-23:59|x", "2026-01-01T00:00:00+23:59:59|x"]
)
@pytest.mark.parametrize("path", ["/account/activity?older=", "/api/audit/logs?cursor=", "/api/conversations?cursor="])
def test_a_forged_cursor_is_refused(sign_in, path: str, position: str) -> None:
    cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")
    assert sign_in().get(f"{path}{cursor}").status_code in (200, 422)
