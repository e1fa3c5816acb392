"""Every setting, typed, read once from the environment; refuses to start without what it needs."""

import json
import math
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import click
from flask import current_app
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
RUNNING = ROOT / "instance" / "run.json"

CommaList = Annotated[list[str], NoDecode]


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over: `is_tls` speaks TLS from the first byte, `is_starttls` before anything is said."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    is_tls: bool = False
    is_starttls: bool = False


class SettingsError(click.ClickException):
    """The environment cannot carry the application; the text names what to change, and a command prints it alone."""


class Settings(BaseSettings):
    """The application's settings. Each field is the environment variable of the same name in upper case."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    database_url: str = Field(
        default="",
        description="PostgreSQL address, also `postgres://` and a socket folder as `?host=`. "
        "Unset beside a running `make run`: that one's database.",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""), description="Signs cookies and form tokens; at least 32 characters."
    )
    public_url: str = Field(
        default="",
        description="The address people use, such as `https://app.example.com`. https makes cookies secure; "
        "required on a dyno.",
    )
    allowed_hosts: CommaList = Field(
        default_factory=list,
        description="Host names that are answered, separated by commas. Default: the host of `PUBLIC_URL`, "
        "or this machine's own names without one.",
    )
    cors_origins: CommaList = Field(
        default_factory=list, description="Origins whose browsers may call `/api/`, separated by commas."
    )
    trusted_proxy_hops: int | None = Field(
        default=None,
        ge=0,
        le=5,
        description="How many proxies in front are believed about the caller's address. Default: 1 on a dyno, else 0.",
    )
    port: int = Field(default=8000, ge=1, le=65535, description="Where the web server listens.")
    web_concurrency: int = Field(default=2, ge=1, le=64, description="Web processes.")
    web_threads: int = Field(default=32, ge=8, le=128, description="Threads in each web process.")
    database_pool: int = Field(
        default=4,
        ge=2,
        le=64,
        description="Database connections of each web process, beside those of its smaller pools.",
    )
    database_connection_limit: int = Field(
        default=20,
        ge=4,
        description="Connections the database plan allows; a configuration above it is refused.",
    )
    password_hash_slots: int | None = Field(
        default=None,
        ge=1,
        description="Password hashes at a time in each process; registrations and sign-ins take turns. "
        "Default: the cores this container may use, divided by processes.",
    )
    registration_waiting_room: bool = Field(
        default=True,
        description="`0` answers 503 with `Retry-After` instead of a ticket when registrations are too many.",
    )
    password_hash_memory_kib: int = Field(
        default=19456, ge=19456, description="argon2id memory in KiB; OWASP's floor is 19456."
    )
    password_hash_passes: int = Field(
        default=2, ge=2, le=64, description="argon2id passes over that memory; OWASP's floor is 2."
    )
    account_privacy: Literal["open", "private"] = Field(
        default="open",
        description="`open`: a registration is an account at once and a taken address is said to be taken. `private`: "
        "nobody learns who has an account; one opens when its address is confirmed by mail.",
    )
    admin_emails: CommaList = Field(
        default_factory=list,
        description="Addresses that become administrators once they are confirmed by mail (`ACCOUNT_PRIVACY=private`), "
        "separated by commas.",
    )
    audit_spool_dir: str = Field(
        default="",
        description="Where audit events wait that the database would not take. Default: `instance/audit-spool`; on a "
        "dyno a temporary folder, lost at its restart, as any there is: keep the log too.",
    )
    ratelimit_enabled: bool = Field(default=True, description="`0` switches rate limits off, for load tests.")
    audit_stream_url: str = Field(
        default="",
        description="Where audit events are sent as they are stored, by POST as NDJSON in the OCSF schema; https, or "
        "this machine.",
    )
    audit_stream_token: SecretStr = Field(
        default=SecretStr(""), description="Sent to `AUDIT_STREAM_URL` as its bearer token."
    )
    audit_syslog_address: str = Field(
        default="",
        description="Where audit events are sent as syslog over TLS (RFC 5425), such as `logs.example.com:6514`.",
    )
    audit_syslog_ca: str = Field(
        default="",
        description="File with the certificates that `AUDIT_SYSLOG_ADDRESS` is trusted by. Default: the system's.",
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""), description="Opens `/metrics` (404 without one) and the details of `/readyz`."
    )
    audit_signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the audit log's seals; at least 32 characters. Derived from `SECRET_KEY` when unset.",
    )
    audit_retention_days: str = Field(
        default="",
        description="Days each category of audit events is kept, such as `authentication=730,request=90`; `0` keeps "
        "for ever. Default: 90 for `request`, 365 for `ai_service`, 2555 for `admin`, 730 for the others.",
    )
    smtp_url: SecretStr = Field(
        default=SecretStr(""),
        description="The mail server: `smtp://user:password@mail.example.com:587?starttls`, or `smtps://` for TLS from "
        "the start. Unset: mails stay in an outbox at `/admin/operations/outbox`.",
    )
    mail_from: str = Field(
        default="",
        description="The sender of mails, such as `Cape Control <hello@example.com>`. "
        "Default: `no-reply` at the host of `PUBLIC_URL`.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or `auto`: console on a terminal, else json."
    )

    @field_validator("allowed_hosts", "cors_origins", "admin_emails", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_exact(cls, value: list[str]) -> list[str]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ValueError(f"{origin!r} is not an origin such as https://www.example.com")
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url_is_an_origin(cls, value: str) -> str:
        parts = urlsplit(value.rstrip("/").lower())
        extras = (parts.path, parts.query, parts.fragment, parts.username, parts.password)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or any(extras)):
            raise ValueError("must look like https://app.example.com, without a path")
        return f"{parts.scheme}://{parts.netloc}" if value else ""

    @field_validator("audit_stream_url")
    @classmethod
    def _stream_is_private(cls, value: str) -> str:
        parts = urlsplit(value)
        is_here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        if value and (not parts.hostname or (parts.scheme != "https" and not is_here) or parts.username):
            raise ValueError("must begin with https://, without a name or password in it; http:// only to this machine")
        return value

    @field_validator("audit_syslog_address")
    @classmethod
    def _syslog_has_a_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and (not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536):
            raise ValueError("must be a host and a port, such as logs.example.com:6514")
        return value

    @field_validator("audit_syslog_ca")
    @classmethod
    def _syslog_ca_is_a_file(cls, value: str) -> str:
        if value and not Path(value).is_file():
            raise ValueError("must name a file that is there")
        return value

    @field_validator("admin_emails")
    @classmethod
    def _administrators_have_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            if not all(address.rpartition("@")) or any(character.isspace() for character in address):
                raise ValueError(f"{address!r} is not an address such as ayanda@example.com")
        return value

    @field_validator("audit_signing_key")
    @classmethod
    def _key_is_long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 random characters")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_url_is_one(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            read_mail_server(value.get_secret_value())
        return value

    @field_validator("mail_from")
    @classmethod
    def _mail_from_is_an_address(cls, value: str) -> str:
        name, address = parseaddr(value)
        is_address = address.count("@") == 1 and all(address.split("@")) and not set(address) & set(" <>,")
        if value and (not is_address or not value.isprintable() or (name and not value.endswith(f"<{address}>"))):
            raise ValueError("must look like Cape Control <hello@example.com>, or be an address alone")
        return value

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, value: str) -> str:
        return name_the_driver(value) if value else value

    @model_validator(mode="after")
    def _complete(self) -> "Settings":
        running = _running_product() if not self.database_url and not on_a_dyno() else None
        if running:
            self.database_url = name_the_driver(running["database_url"])
            if not self.secret_key.get_secret_value():
                self.secret_key = SecretStr(Path(running["secret_key_file"]).read_text().strip())
        if self.trusted_proxy_hops is None:
            self.trusted_proxy_hops = 1 if on_a_dyno() else 0
        if not self.allowed_hosts:
            self.allowed_hosts = (
                [urlsplit(self.public_url).hostname or ""] if self.public_url else ["localhost", "127.0.0.1", "[::1]"]
            )
        if not self.audit_spool_dir:
            temporary = Path(tempfile.gettempdir()) / f"capecontrol-audit-spool-{os.getuid()}"
            self.audit_spool_dir = str(temporary if on_a_dyno() else ROOT / "instance" / "audit-spool")
        if not self.mail_from:
            self.mail_from = f"Cape Control <no-reply@{urlsplit(self.public_url).hostname or 'localhost'}>"
        if self.password_hash_slots is None:
            self.password_hash_slots = max(1, cores() // self.web_concurrency)
        return self

    @property
    def is_https(self) -> bool:
        """Whether people reach the product over https, which decides cookies and HSTS."""
        return self.public_url.startswith("https://")

    @property
    def is_private(self) -> bool:
        """Whether nobody may learn who has an account."""
        return self.account_privacy == "private"

    @property
    def address(self) -> str:
        """Where links in mails lead: what people use, or this machine's own web server; never the Host header."""
        return self.public_url or f"http://127.0.0.1:{self.port}"

    @property
    def mail_server(self) -> MailServer | None:
        """Where mail is handed over, or None: then it stays in the outbox."""
        url = self.smtp_url.get_secret_value()
        return read_mail_server(url) if url else None

    @property
    def connections(self) -> dict[str, int]:
        """How many database connections each part may hold at most; see decisions on the arithmetic."""
        return {
            "web": self.web_concurrency * (self.database_pool + AUDIT_POOL + CHECK_POOL),
            "worker": WORKER_CONNECTIONS,
            "release or operator": COMMAND_CONNECTIONS,
        }

    @property
    def connections_in_words(self) -> str:
        """The same as a sum, such as `web 12 + worker 6 + release or operator 2 = 20`."""
        parts = " + ".join(f"{name} {count}" for name, count in self.connections.items())
        return f"{parts} = {sum(self.connections.values())}"


def cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may keep busy: those it may run on, or fewer where its container has a quota.

    The quota is the control group's: `cpu.max` of version 2, `cpu.cfs_quota_us` of version 1 (docs.kernel.org,
    cgroup-v2 and sched-bwc); -1 and `max` are none. A started core counts: 1.5 are 2.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            quota, period = " ".join((root / name).read_text() for name in names).split()
            return max(1, min(allowed, math.ceil(int(quota) / int(period)))) if quota.isdigit() else allowed
    return allowed


AUDIT_POOL = 1
"""Connections of a process's own pool for events about operations that failed."""

CHECK_POOL = 1
"""Connections of a process's own pool for the check of an address, so that no registration is ever in its way. One
answers thousands a second, and a second one would cost the requests' pool one of its own."""

WORKER_CONNECTIONS = 6
"""The worker: one LISTEN, two of the queue's pool, two of the application, one for failed operations."""


COMMAND_CONNECTIONS = 2
"""A release's doctor, and each command an operator types: one of the application, one of its pool for failed
operations. They share these two, since a deploy is no time for typing commands: both at once could be refused one."""


def load_settings() -> Settings:
    """Read the environment. Raises SettingsError naming every setting that is wrong or missing."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_in_words(error)) from None
    check(settings)
    return settings


def current_settings() -> Settings:
    """Return the settings of the running application."""
    found: Settings = current_app.config["SETTINGS"]
    return found


def check(settings: Settings) -> None:
    """Refuse settings the application cannot run on. Raises SettingsError."""
    if not settings.database_url:
        raise SettingsError(
            "DATABASE_URL is not set and no `make run` is running here. Start the product with `make run`, "
            "or set DATABASE_URL to a PostgreSQL address."
        )
    if len(settings.secret_key.get_secret_value()) < 32:
        raise SettingsError(
            "SECRET_KEY must be set to at least 32 random characters, for example the output of "
            '`python3 -c "import secrets; print(secrets.token_urlsafe(48))"`.'
        )
    if on_a_dyno() and not settings.public_url:
        raise SettingsError("PUBLIC_URL must be set on a dyno, for example https://app.example.com.")
    if on_a_dyno() and settings.is_private and settings.mail_server is None:
        raise SettingsError(
            "ACCOUNT_PRIVACY=private needs SMTP_URL on a dyno: accounts open by a link that is mailed, "
            "and without a mail server nobody could open one."
        )
    total = sum(settings.connections.values())
    if total > settings.database_connection_limit:
        raise SettingsError(
            f"These settings need {total} database connections ({settings.connections_in_words}) but "
            f"DATABASE_CONNECTION_LIMIT is {settings.database_connection_limit}. "
            "Lower WEB_CONCURRENCY or DATABASE_POOL."
        )


def on_a_dyno() -> bool:
    """Say whether this process runs on Heroku, which sets DYNO."""
    return bool(os.environ.get("DYNO"))


def in_a_web_process() -> bool:
    """Say whether this process answers requests under gunicorn, which sets SERVER_SOFTWARE."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")


def name_the_driver(url: str) -> str:
    """Return the address in the form SQLAlchemy takes with psycopg2 (2.1 would otherwise pick psycopg 3)."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg2"):
        raise ValueError("must begin with postgres:// or postgresql://")
    return f"postgresql+psycopg2://{rest}"


def libpq_url(url: str) -> str:
    """Return the address as libpq takes it, for the worker's driver and for psql."""
    return url.replace("postgresql+psycopg2://", "postgresql://", 1)


def read_mail_server(url: str) -> MailServer:
    """Return what SMTP_URL names. Raises ValueError, whose text leaves the address out: it holds a password."""
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    try:
        port = parts.port
    except ValueError:
        port = -1
    is_other = parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path not in ("", "/")
    if is_other or port in (0, -1) or parts.fragment or options.keys() - {"starttls"}:
        raise ValueError("must look like smtp://user:password@mail.example.com:587?starttls, or begin with smtps://")
    is_tls = parts.scheme == "smtps"
    is_starttls = options.get("starttls", ["0"])[-1].lower() not in ("0", "false", "no")
    if is_tls and is_starttls:
        raise ValueError("smtps:// speaks TLS from the start, so leave ?starttls out")
    return MailServer(
        host=parts.hostname or "",
        port=port or (465 if is_tls else 587 if is_starttls else 25),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        is_tls=is_tls,
        is_starttls=is_starttls,
    )


def _running_product() -> dict[str, Any] | None:
    """Return what a `make run` of this checkout wrote about itself, or None where none runs."""
    try:
        running: dict[str, Any] = json.loads(RUNNING.read_text())
        os.kill(int(running["pid"]), 0)
    except PermissionError:
        return running
    except (OSError, ValueError, KeyError):
        return None
    return running


def _in_words(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"]).upper()
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return "The settings are not right.\n" + "\n".join(lines)
