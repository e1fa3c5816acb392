"""What the audit log's proof is made of: commitments, leaves, trees, and signed seals that name the one before.

Imports nothing of ours, so that an auditor can read all that decides in one file. A leaf covers every stored field of
a row but two kinds: the personal ones stand in it as a salted commitment, and `user_id`, which goes when the account
does, as a mark kept in the seal. Leaves form a tree as in RFC 6962, section 2.1.
"""

import json
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from json.encoder import encode_basestring
from sys import byteorder
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PERSONAL_FIELDS = ("user_email", "ip_address", "user_agent", "event_description", "error_message")
SEALED_FIELDS = (
    "id",
    "event_id",
    "stored_xid",
    "actor_ref",
    "user_role",
    "subject_id",
    "event_type",
    "event_category",
    "event_level",
    "endpoint",
    "http_method",
    "request_id",
    "session_id",
    "status_code",
    "response_time_ms",
    "success",
    "risk_score",
    "event_metadata",
    "created_at",
    "recorded_at",
    "commitment",
)
"""The commitment comes last, so that whoever compares it finds it at the end of the text."""

MOMENTS = ("created_at", "recorded_at")
ERASED = b"[null, null, null, null, null]"
FIRST_PREVIOUS = bytes(32)
NOBODY = bytes(16)
LEAF = 32
OWNER = 16

PROOF = "capecontrol audit proof 1"

_FORMAT = "capecontrol audit seal 1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Made once: json.dumps makes one for each call that has options.
_write = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Unreadable(ValueError):
    """A line of an export does not hold what a row or a seal must; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A link of the chain, as models.AuditSeal keeps it: rows that are sealed, or rows that the purge took away."""

    number: int
    kind: str
    installation: str
    cluster: str
    first_xid: int
    last_xid: int
    next_xid: int
    next_id: int
    row_ids: Sequence[int]
    leaves: bytes
    owners: bytes
    root: bytes
    purged: str | None
    previous_hash: bytes
    created_at: datetime
    key_id: str = ""
    count: int = 0
    hash: bytes = b""
    signature: bytes = b""

    def lists_hash(self) -> str:
        """Return the hash of the rows' numbers and owners."""
        return sha256(_packed(self.row_ids) + self.owners).hexdigest()

    def statement(self, lists_hash: str | None = None) -> bytes:
        """Return what is hashed for the next link and signed: everything, the lists by their hashes.

        `lists_hash` stands for the lists where only a proof is at hand.
        """
        return json_text(
            [
                _FORMAT,
                self.installation,
                self.number,
                self.kind,
                self.cluster,
                self.first_xid,
                self.last_xid,
                self.next_xid,
                self.next_id,
                self.count,
                self.root.hex(),
                lists_hash or self.lists_hash(),
                self.purged,
                self.previous_hash.hex(),
                microseconds(self.created_at),
                self.key_id,
            ]
        ).encode()

    def signed(self, key: Ed25519PrivateKey) -> "Seal":
        """Return the link with its count, hash and signature."""
        named = replace(self, count=len(self.row_ids), key_id=key_id_of(key.public_key().public_bytes_raw()))
        statement = named.statement()
        return replace(named, hash=sha256(statement).digest(), signature=key.sign(statement))

    def faults(self, public_key: bytes | None) -> list[tuple[str, str]]:
        """Return what is wrong with the link in itself, as kinds of finding with a sentence; normally nothing."""
        found = []
        per_row = 0 if self.kind == "purge" else 1
        sizes = (len(self.row_ids), len(self.leaves), len(self.owners))
        if sizes != (self.count, per_row * LEAF * self.count, per_row * OWNER * self.count):
            found.append(("altered_seal", "its lists are not as long as its count says"))
        elif tree_root(self.leaves) != self.root:
            found.append(("altered_seal", "its leaves do not give its root"))
        return found + self.faults_of_statement(self.statement(), public_key)

    def faults_of_statement(self, statement: bytes, public_key: bytes | None) -> list[tuple[str, str]]:
        """Return what is wrong with hash and signature."""
        found = []
        if sha256(statement).digest() != self.hash:
            found.append(("altered_seal", "it is not what its hash was made of"))
        if public_key is None:
            found.append(("bad_signature", f"the public key {self.key_id} is not there"))
        elif key_id_of(public_key) != self.key_id or not is_signed(statement, self.signature, public_key):
            found.append(("bad_signature", f"the key {self.key_id} did not sign this"))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the link as an export and a proof hold it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["row_ids"] = list(self.row_ids)
        values["created_at"] = self.created_at.astimezone(UTC).isoformat()
        for name in ("leaves", "owners"):
            values[name] = b64encode(values[name]).decode()
        for name in ("root", "previous_hash", "hash", "signature"):
            values[name] = values[name].hex()
        return values

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Seal":
        """Return the link that a line of an export holds. Raises Unreadable."""
        try:
            values = dict(given)
            for name in ("leaves", "owners"):
                values[name] = b64decode(values[name], validate=True)
            for name in ("root", "previous_hash", "hash", "signature"):
                values[name] = bytes.fromhex(values[name])
            values["row_ids"] = array("q", values["row_ids"])
            values["created_at"] = datetime.fromisoformat(values["created_at"])
            for name in ("number", "count", "first_xid", "last_xid", "next_xid", "next_id"):
                values[name] = int(values[name])
            if values["created_at"].tzinfo is None:
                raise ValueError("created_at has no time zone")
            return cls(**{each.name: values[each.name] for each in fields(cls)})
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise Unreadable(f"is not a seal ({type(error).__name__}: {error})") from None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as its proof needs it; the texts are UTF-8."""

    id: int
    event_id: str
    sealed_text: bytes
    user_id: bytes | None
    salt: bytes | None
    personal_text: bytes
    position: tuple[int, int] = field(default=(0, 0))


def row_of_line(values: Mapping[str, Any]) -> StoredRow:
    """Return the row that a line of an export holds, read with `read_line`. Raises Unreadable."""
    try:
        sealed = [microseconds(moment(values[name])) if name in MOMENTS else values[name] for name in SEALED_FIELDS]
        user_id, salt = values["user_id"], values["salt"]
        return StoredRow(
            id=int(values["id"]),
            event_id=str(values["event_id"]),
            sealed_text=json_text(sealed).encode(),
            user_id=None if user_id is None else str(user_id).encode(),
            salt=None if salt is None else bytes.fromhex(salt),
            personal_text=personal_text(values),
            position=(int(values["stored_xid"]), int(values["id"])),
        )
    except KeyError as error:
        raise Unreadable(f"lacks the field {error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise Unreadable(f"is not a row ({error})") from None


def fault_of(
    row_id: int,
    sealed_text: bytes,
    user_id: bytes | None,
    salt: bytes | None,
    personal_text: bytes,
    leaf: bytes,
    owner: bytes,
) -> str | None:
    """Return what about a row is not as it was sealed, in words, or None. Leaf and owner are the seal's."""
    if user_id is not None and owner_mark(row_id, user_id) != owner:
        return "its user_id is another one"
    if sha256(b"\x00" + sealed_text + owner).digest() != leaf:
        return "a sealed field has another value"
    if salt is None:
        return None if personal_text == ERASED else "a personal field has a value, though it was erased"
    if sha256(salt + personal_text).hexdigest().encode() != sealed_text[-66:-2]:
        return "a personal field has another value"
    return None


def personal_text(values: Mapping[str, Any]) -> bytes:
    """Return a row's personal fields in canonical form."""
    return json_text([values[name] for name in PERSONAL_FIELDS]).encode("utf-8", "replace")


def commitment(salt: bytes, values: Mapping[str, Any]) -> bytes:
    """Return the hash that stands for a row's personal fields. Without the salt it says nothing about them."""
    return sha256(salt + personal_text(values)).digest()


def owner_mark(row_id: int, user_id: bytes | None) -> bytes:
    """Return what a seal keeps of `user_id`, which becomes NULL with the account: half a hash, bound to the row."""
    return NOBODY if user_id is None else sha256(b"%d %b" % (row_id, user_id)).digest()[:OWNER]


def leaf_hash(sealed_text: bytes, owner: bytes) -> bytes:
    """Return the leaf of a row."""
    return sha256(b"\x00" + sealed_text + owner).digest()


def tree_root(leaves: bytes) -> bytes:
    """Return the root of the tree over leaves of 32 bytes each."""
    if not leaves:
        return sha256(b"").digest()
    level = _nodes(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def inclusion_path(leaves: bytes, index: int) -> list[bytes]:
    """Return the hashes beside the way from one leaf up to the root."""
    path, level = [], _nodes(leaves)
    while len(level) > 1:
        if (beside := index ^ 1) < len(level):
            path.append(level[beside])
        level, index = _above(level), index // 2
    return path


def root_of_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf and its path lead to, or None where the path has another length than it must."""
    node, rest = leaf, list(path)
    while count > 1:
        if index ^ 1 < count:
            if not rest:
                return None
            beside = rest.pop(0)
            node = _node(beside, node) if index % 2 else _node(node, beside)
        index, count = index // 2, (count + 1) // 2
    return None if rest or index else node


def key_id_of(public_key: bytes) -> str:
    """Return the name of a key: the first 16 hexadecimal digits of its hash."""
    return sha256(public_key).hexdigest()[:16]


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970, which no time zone and no format changes."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(written: Any) -> datetime:
    """Return a moment as it is written in an export. Raises ValueError where it names no time zone."""
    found = datetime.fromisoformat(written)
    if found.tzinfo is None:
        raise ValueError(f"{written} has no time zone")
    return found


def read_line(line: str) -> Any:
    """Return a line of JSON with its fractions kept as they are written. Raises Unreadable."""
    try:
        return json.loads(line, parse_float=_Number)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not JSON ({error})") from None


def json_text(value: Any) -> str:
    """Return JSON exactly as PostgreSQL's json_build_array and jsonb::text write it."""
    try:
        return _write(value)
    except TypeError:  # a fraction, somewhere
        return _json_text(value)


class _Number:
    """A fraction as it is written: 1.10 is not 1.1 to a hash."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _json_text(value: Any) -> str:
    if isinstance(value, _Number):
        return value.text
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{encode_basestring(key)}: {_json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_json_text, value)) + "]"
    return _write(value)


def _packed(numbers: Sequence[int]) -> bytes:
    packed = array("q", numbers)
    if byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def _nodes(leaves: bytes) -> list[bytes]:
    return [leaves[start : start + LEAF] for start in range(0, len(leaves), LEAF)]


def _above(level: list[bytes]) -> list[bytes]:
    """Return the level above; a node without a neighbour goes up as it is."""
    above = [sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
    return above if len(level) % 2 == 0 else [*above, level[-1]]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def is_signed(statement: bytes, signature: bytes, public_key: bytes) -> bool:
    """Say whether the key made the signature (Ed25519, RFC 8032)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
