"""New ids and secrets; the only module that draws them."""

import hashlib
import random
import secrets
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils


def new_id() -> str:
    """Return a fresh opaque id: a UUIDv7 (RFC 9562) as text, later ones sorting after earlier ones."""
    return str(uuid_utils.uuid7())


def new_id_of(at: datetime) -> str:
    """Return a fresh id that carries a time gone by; for history that is written down later."""
    return str(uuid_utils.uuid7(nanoseconds=int(at.timestamp() * 1000) * 1_000_000))


def created_at(event_id: str) -> datetime:
    """Return the time inside a UUIDv7, to the millisecond."""
    milliseconds = UUID(event_id).int >> 80
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def is_uuid(text: str) -> bool:
    """Say whether the text has the canonical form of a UUID."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def new_secret() -> str:
    """Return 256 random bits as URL-safe text (ASVS 7.2.3 asks for 128)."""
    return secrets.token_urlsafe(32)


def new_salt() -> bytes:
    """Return 16 random bytes, to be hashed with something that could be guessed."""
    return secrets.token_bytes(16)


def new_share(least: float, most: float) -> float:
    """Return a random number between two, for pauses that must not all be alike; no secret hangs on it."""
    return random.uniform(least, most)  # noqa: S311 -- as it says


def fingerprint(secret: str) -> str:
    """Return what is stored of a secret: its SHA-256 in hex. Only for secrets of full entropy, never passwords."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
