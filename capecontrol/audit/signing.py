"""The key that signs seals, made from a setting and never stored."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PURPOSE = b"capecontrol audit seals 1"

_key: list[Ed25519PrivateKey] = []


def configure(secret: str) -> None:
    """Derive the key (HKDF, RFC 5869) from AUDIT_SIGNING_KEY, or from SECRET_KEY where there is none."""
    seed = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.encode())
    _key[:] = [Ed25519PrivateKey.from_private_bytes(seed)]


def signing_key() -> Ed25519PrivateKey:
    """Return the key of this process."""
    return _key[0]
