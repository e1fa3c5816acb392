"""Guard: settings are read once, refuse in words, and are documented."""

import os
import re
import sys
from pathlib import Path

import pytest

from capecontrol import config
from capecontrol.operations import setting_list

pytestmark = pytest.mark.guard

ROOT = Path(__file__).parent.parent
SECRET = "tests-only-" * 4
NEEDED = {"DATABASE_URL": "postgres://cape@127.0.0.1/cape", "SECRET_KEY": SECRET}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No developer's environment and no running product reaches these tests."""
    for name in config.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("DYNO", raising=False)
    monkeypatch.setattr(config, "RUNNING", tmp_path / "run.json")


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> config.Settings:
    for name, value in {**NEEDED, **environment}.items():
        monkeypatch.setenv(name, value)
    return config.load_settings()


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    with pytest.raises(config.SettingsError) as caught:
        load(monkeypatch, **environment)
    return str(caught.value)


def test_the_driver_is_named_whatever_the_address_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("postgres://u:p%40x@h/db", "postgresql://u:p%40x@h/db", "postgresql+psycopg2://u:p%40x@h/db"):
        assert load(monkeypatch, DATABASE_URL=address).database_url == "postgresql+psycopg2://u:p%40x@h/db"
    socket = load(monkeypatch, DATABASE_URL="postgresql:///cape?host=/tmp/a b")
    assert socket.database_url == "postgresql+psycopg2:///cape?host=/tmp/a b"


def test_another_kind_of_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DATABASE_URL" in refusal(monkeypatch, DATABASE_URL="sqlite:///cape.db")


def test_a_missing_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "make run" in refusal(monkeypatch, DATABASE_URL="")


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_missing_or_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    text = refusal(monkeypatch, SECRET_KEY=secret)
    assert "SECRET_KEY" in text
    assert secret == "" or secret not in text.replace("SECRET_KEY", "")


def test_a_dyno_needs_its_public_address_and_trusts_one_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "PUBLIC_URL" in refusal(monkeypatch, DYNO="web.1")
    settings = load(monkeypatch, DYNO="web.1", PUBLIC_URL="https://app.example.com/")
    assert settings.trusted_proxy_hops == 1
    assert settings.is_https
    assert settings.allowed_hosts == ["app.example.com"]


def test_private_accounts_need_a_mail_server_on_a_dyno_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    dyno = {"DYNO": "web.1", "PUBLIC_URL": "https://app.example.com", "ACCOUNT_PRIVACY": "private"}
    assert "ACCOUNT_PRIVACY=private needs SMTP_URL" in refusal(monkeypatch, **dyno)
    assert load(monkeypatch, SMTP_URL="smtps://mail.example.com", **dyno).is_private
    monkeypatch.delenv("SMTP_URL")
    monkeypatch.delenv("DYNO")
    assert load(monkeypatch, ACCOUNT_PRIVACY="private").is_private
    assert not load(monkeypatch, ACCOUNT_PRIVACY="open").is_private


def test_nothing_is_trusted_off_a_dyno(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).trusted_proxy_hops == 0


def test_more_connections_than_the_plan_allows_are_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(monkeypatch, WEB_CONCURRENCY="8")
    assert "DATABASE_CONNECTION_LIMIT" in text
    assert "web 48" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("WEB_CONCURRENCY", "0"),
        ("CORS_ORIGINS", "example.com"),
        ("PUBLIC_URL", "example.com"),
        ("ACCOUNT_PRIVACY", "secret"),
        ("ADMIN_EMAILS", "ayanda@example.com, nobody"),
        ("PASSWORD_HASH_MEMORY_KIB", "1024"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert name in refusal(monkeypatch, **{name: value})


def test_every_setting_says_what_it_means() -> None:
    for name, field in config.Settings.model_fields.items():
        assert field.description, f"{name} has no description"


def test_the_table_in_the_readme_is_the_one_the_settings_make() -> None:
    readme = (ROOT / "README.md").read_text()
    assert setting_list.is_in(readme), "paste what `flask --app wsgi settings` prints into the README"
    assert not setting_list.is_in(readme.replace("| `8000` |", "| `8080` |")), "another default must show"
    assert not setting_list.is_in(readme.replace("Where the web server listens.", "Anywhere.")), "and other words"


def test_the_environment_is_read_in_one_place() -> None:
    for path in (ROOT / "capecontrol").rglob("*.py"):
        assert not reads_environment(path.name, path.read_text()), f"{path.name} reads the environment"


@pytest.mark.parametrize(
    "source", ["os.environ['PORT']", "os.getenv('PORT')", "from os import environ", "from os import getenv"]
)
def test_the_guard_sees_who_reads_it_too(source: str) -> None:
    assert reads_environment("views.py", source)
    assert not reads_environment("config.py", source)


def reads_environment(name: str, source: str) -> bool:
    """Say whether a module of this name reads the environment without being one that may."""
    allowed = {"config.py", "server_config.py", "metrics.py"}  # the last one reads prometheus-client's own variable
    if name in allowed or name.startswith("local"):
        return False
    return bool(re.search(r"os\.environ|getenv|from os import environ", source))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "not of the kernel\n"}, None),
        ({"cpu.max": "99900000 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "70000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_containers_quota_counts_where_it_is_less_than_the_machine(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    of_the_machine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert config.cores(tmp_path) == (expected or of_the_machine)


def test_a_started_core_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert config.cores(tmp_path) == 2


def test_the_processes_share_the_cores_among_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cores", lambda: 8)
    assert load(monkeypatch, WEB_CONCURRENCY="2").password_hash_slots == 4
    assert load(monkeypatch, WEB_CONCURRENCY="16", DATABASE_CONNECTION_LIMIT="200").password_hash_slots == 1
    assert load(monkeypatch, WEB_CONCURRENCY="2", PASSWORD_HASH_SLOTS="3").password_hash_slots == 3
