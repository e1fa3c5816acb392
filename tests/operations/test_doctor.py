"""The doctor finds what is broken, says what to do, and its exit code can be trusted."""

import json
from collections.abc import Iterator

import pytest
from click.testing import Result
from flask import Flask

from capecontrol import create_app
from capecontrol.audit import spilling
from capecontrol.config import COMMAND_CONNECTIONS
from capecontrol.extensions import db
from tests.conftest import dispose, settings_for

REPORTED = "INSERT INTO procrastinate_workers DEFAULT VALUES"


@pytest.fixture(autouse=True)
def _remembers_no_swallowed_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests made this process swallow: readiness tells it."""
    monkeypatch.setattr(spilling, "health", spilling.Health())


@pytest.fixture
def patient(databases) -> Iterator[Flask]:
    """Yield an application with a database of its own, and a worker that has just reported."""
    with databases.clone() as url:
        app = create_app(settings_for(url))
        change(app, REPORTED)
        yield app
        dispose(app)


def change(app: Flask, *statements: str) -> None:
    with app.app_context(), db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def doctor(app: Flask, *options: str) -> Result:
    return app.test_cli_runner().invoke(args=["doctor", *options])


def complaints(app: Flask, *options: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in json.loads(doctor(app, "--json", *options).output)["findings"]:
        if finding["state"] != "ok":
            found.setdefault(finding["check"], []).append(finding["sentence"])
    return found


def test_a_healthy_product_is_well(patient: Flask) -> None:
    for options in ([], ["--release"], ["--json"], ["--release", "--json"]):
        result = doctor(patient, *options)
        assert result.exit_code == 0, result.output
    answer = json.loads(doctor(patient, "--json").output)
    assert answer["ok"] is True
    checks = {finding["check"] for finding in answer["findings"]}
    assert checks >= {"settings", "database", "migrations", "mapping", "audit", "worker", "foreign keys"}
    assert checks >= {"triggers", "schema"}


def test_every_line_is_a_sentence_and_the_arithmetic_is_printed(patient: Flask) -> None:
    lines = doctor(patient).output.splitlines()
    assert all(line.endswith(".") for line in lines)
    assert any("web 12 + worker 6 + release or operator 2 = 20 connections" in line for line in lines)


def test_the_doctor_holds_no_more_connections_than_the_arithmetic_gives_a_command(databases) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url))
        assert doctor(app, "--release").exit_code == 0
        with app.app_context():
            # Nothing is returned to the server before the command ends, so what the pools keep is the most it held.
            opened = [name for name, engine in db.engines.items() for _ in range(engine.pool.checkedin())]
        dispose(app)
    assert len(opened) == COMMAND_CONNECTIONS, opened


@pytest.mark.parametrize(
    ("check", "breakage"),
    [
        ("worker", ["DELETE FROM procrastinate_workers"]),
        ("audit", ["ALTER TABLE audit_logs ADD CONSTRAINT never CHECK (success IS NULL)"]),
        (
            "mail",
            [
                "INSERT INTO outgoing_mails (id, letter, recipient, state, attempts, created_at, ended_at) "
                "VALUES ('1', 'alerts', 'ayanda@example.com', 'given_up', 52, now(), now())"
            ],
        ),
    ],
)
def test_a_release_is_only_warned_of_what_may_still_come(patient: Flask, check: str, breakage: list[str]) -> None:
    change(patient, *breakage)
    assert doctor(patient).exit_code == 1
    result = doctor(patient, "--release")
    assert result.exit_code == 0, result.output
    assert list(complaints(patient, "--release")) == [check]
    assert f"warning  {check}" in result.output


@pytest.mark.parametrize(
    ("check", "words", "breakage"),
    [
        (
            "foreign keys",
            "audit_logs.user_id points to users, not to users_v2",
            [
                "CREATE TABLE users (id text PRIMARY KEY)",
                "ALTER TABLE audit_logs DROP CONSTRAINT fk_audit_logs_user_id_users_v2",
                "ALTER TABLE audit_logs ADD CONSTRAINT fk_audit_logs_user_id_users_v2 FOREIGN KEY (user_id) "
                "REFERENCES users (id) ON DELETE SET NULL",
            ],
        ),
        (
            "triggers",
            "tg_audit_logs_change, tg_audit_seals_change is missing or off",
            [
                "ALTER TABLE audit_logs DISABLE TRIGGER tg_audit_logs_change",
                "DROP TRIGGER tg_audit_seals_change ON audit_seals",
            ],
        ),
        (
            "foreign keys",
            "conversations.user_id is no foreign key",
            ["ALTER TABLE conversations DROP CONSTRAINT fk_conversations_user_id_users_v2"],
        ),
        (
            "foreign keys",
            "api_tokens.user_id points to users_v2 with another rule than ON DELETE CASCADE",
            [
                "ALTER TABLE api_tokens DROP CONSTRAINT fk_api_tokens_user_id_users_v2",
                "ALTER TABLE api_tokens ADD CONSTRAINT fk_api_tokens_user_id_users_v2 FOREIGN KEY (user_id) "
                "REFERENCES users_v2 (id)",
            ],
        ),
        (
            "foreign keys",
            "audit_logs.user_id is deferrable",
            ["ALTER TABLE audit_logs ALTER CONSTRAINT fk_audit_logs_user_id_users_v2 DEFERRABLE INITIALLY DEFERRED"],
        ),
        (
            "foreign keys",
            "user_sessions.user_id points to users_v2 but was never validated",
            [
                "ALTER TABLE user_sessions DROP CONSTRAINT fk_user_sessions_user_id_users_v2",
                "ALTER TABLE user_sessions ADD CONSTRAINT fk_user_sessions_user_id_users_v2 FOREIGN KEY (user_id) "
                "REFERENCES users_v2 (id) ON DELETE CASCADE NOT VALID",
            ],
        ),
        ("schema", "The index ix_audit_logs_refused of audit_logs is missing", ["DROP INDEX ix_audit_logs_refused"]),
        ("schema", "The index ix_audit_logs_email of audit_logs is missing", ["DROP INDEX ix_audit_logs_email"]),
        (
            "schema",
            "The constraint uq_users_v2_email_key of users_v2 is missing",
            ["ALTER TABLE users_v2 DROP CONSTRAINT uq_users_v2_email_key"],
        ),
        ("schema", "The table rate_limit_counters is missing", ["DROP TABLE rate_limit_counters"]),
        ("schema", "The column company_name of users_v2 is missing", ["ALTER TABLE users_v2 DROP COLUMN company_name"]),
        (
            "schema",
            "The column users_v2.user_role differs (nullable)",
            ["ALTER TABLE users_v2 ALTER user_role DROP NOT NULL"],
        ),
        ("migrations", "but this release needs", ["UPDATE alembic_version SET version_num = 'first_tables'"]),
        ("mapping", "The table users_v2 is not as the models need it", ["ALTER TABLE users_v2 RENAME TO users"]),
    ],
)
def test_a_release_fails_on_what_would_break_it(patient: Flask, check: str, words: str, breakage: list[str]) -> None:
    change(patient, *breakage)
    for options in ([], ["--release"]):
        result = doctor(patient, *options)
        assert result.exit_code == 1, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
    sentences = complaints(patient, "--release")[check]
    assert any(words in sentence for sentence in sentences), sentences


def test_what_is_not_ours_is_left_alone(patient: Flask) -> None:
    change(patient, "CREATE TABLE somebody_elses (id int)", "CREATE INDEX extra ON users_v2 (created_at)")
    result = doctor(patient, "--release")
    assert result.exit_code == 0
    assert "somebody_elses" in result.output
    assert "extra" in result.output


def test_a_database_that_does_not_answer_is_a_sentence_and_no_traceback() -> None:
    app = create_app(settings_for("postgresql://postgres@127.0.0.1:9/nothing"))
    result = doctor(app, "--release")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "FAILED   database: The database does not answer" in result.output


def test_more_connections_than_the_server_has_room_for_fail(databases) -> None:
    with databases.clone() as url:
        app = create_app(settings_for(url, web_concurrency=40, database_connection_limit=1000))
        result = doctor(app, "--release")
        dispose(app)
    assert result.exit_code == 1
    assert "lower WEB_CONCURRENCY" in result.output


def test_settings_are_listed_with_default_and_meaning(app: Flask) -> None:
    table = app.test_cli_runner().invoke(args=["settings"])
    assert table.exit_code == 0
    lines = table.output.splitlines()
    assert lines[:2] == ["| setting | default | meaning |", "|---|---|---|"]
    assert any(line.startswith("| `PORT` | `8000` | Where the web server listens.") for line in lines)
    assert any(line.startswith("| `RATELIMIT_ENABLED` | `1` |") for line in lines)
    assert all(line.count("|") == 4 for line in lines), "a bar in a meaning would break the table"
    assert "xxx" not in table.output


def test_a_stale_list_of_settings_is_found_out(app: Flask, tmp_path) -> None:
    readme = tmp_path / "README.md"
    table = app.test_cli_runner().invoke(args=["settings"]).output
    readme.write_text(f"# Cape Control\n\n{table}\nMore.\n")
    assert app.test_cli_runner().invoke(args=["settings", "--check", str(readme)]).exit_code == 0
    readme.write_text(readme.read_text().replace("`8000`", "`5000`"))
    result = app.test_cli_runner().invoke(args=["settings", "--check", str(readme)])
    assert result.exit_code == 1
    assert "does not list the settings as they are" in result.output
