"""Sealing: every minute the rows of finished transactions become leaves of a signed link in a chain.

Never in a request: inserts know nothing of it. A row is sealed by the number of its transaction, and only below the
oldest one that still runs (P22), so every row is in exactly one seal whatever the order in which transactions commit.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import structlog
from sqlalchemy import any_, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from capecontrol import clock
from capecontrol.audit import events, evidence
from capecontrol.audit.evidence import PERSONAL_FIELDS, SEALED_FIELDS, Seal, StoredRow
from capecontrol.audit.models import AuditKey, AuditSeal
from capecontrol.audit.recorder import record
from capecontrol.audit.signing import signing_key
from capecontrol.errors import Conflict, NotFound
from capecontrol.extensions import db

BATCH = 10_000
"""The most rows one seal holds."""

LOCK = 0x6361706573656C
"""The advisory lock ("capesel" in hexadecimal) of whoever adds to the chain: the sealer and the purge."""

ADOPTING_SECONDS = 600
"""How long the search for rows in no seal may take, which happens once for a cluster: after a restore, or at first."""

_NO_HORIZON = 2**64 - 1

_SEAL_FIELDS = tuple(each.name for each in fields(Seal))
_LINK = select(*(getattr(AuditSeal, name) for name in _SEAL_FIELDS))

log = structlog.get_logger("audit")

# Moments as microseconds since 1970: no time zone of a session, no format of an export changes them.
_AS_SEALED = {
    "stored_xid": "stored_xid::text",
    "commitment": "encode(commitment, 'hex')",
} | {name: f"(extract(epoch FROM {name}) * 1000000)::bigint" for name in evidence.MOMENTS}
_AS_EXPORTED = {"stored_xid": "stored_xid::text", "commitment": "encode(commitment, 'hex')"}


def sealed_text_sql() -> str:
    """Return the SQL of what a row's leaf covers, in the form evidence.json_text gives it."""
    return f"json_build_array({', '.join(_AS_SEALED.get(name, name) for name in SEALED_FIELDS)})::text"


def personal_text_sql() -> str:
    """Return the SQL of what a row's commitment covers."""
    return f"json_build_array({', '.join(PERSONAL_FIELDS)})::text"


def sealed_line_sql() -> str:
    """Return the SQL of a row as a line of an export that can be verified without a database.

    Every column is in it under its own name. `event_metadata` stands in it as PostgreSQL writes it, and a number there
    must not be written in another way; moments may be written in any zone. Further keys do no harm.
    """
    names = (*SEALED_FIELDS, "user_id", *PERSONAL_FIELDS)
    pairs = [f"'{name}', {_AS_EXPORTED.get(name, name)}" for name in names] + ["'salt', encode(salt, 'hex')"]
    return f"json_build_object({', '.join(pairs)})::text"


ROW_COLUMNS = (
    f"id, event_id, {sealed_text_sql()} AS sealed_text, user_id, salt, {personal_text_sql()} AS personal_text, "
    "stored_xid"
)
"""What `row_of` reads."""


def row_of(columns: Sequence[Any]) -> StoredRow:
    """Return the row in the database driver's ROW_COLUMNS."""
    row_id, event_id, sealed, user_id, salt, personal, xid = columns
    return StoredRow(
        id=row_id,
        event_id=event_id,
        sealed_text=sealed.encode(),
        user_id=None if user_id is None else user_id.encode(),
        salt=None if salt is None else bytes(salt),
        personal_text=personal.encode(),
        position=(int(xid), row_id),
    )


def seal(*, only_full: bool = False) -> int:
    """Seal all rows of finished transactions and return how many; 0 also while another process seals.

    Each batch is a transaction of its own, so a killed sealer leaves whole seals behind. `only_full` leaves what does
    not fill a seal of 10,000 rows.
    """
    sealed = 0
    while True:
        with adding_to_the_chain(wait=False) as chain:
            batch = chain.seal_next(only_full=only_full) if chain else 0
        sealed += batch
        if batch < BATCH:  # what came meanwhile waits for the next round
            return sealed


def why_unsealed() -> str | None:
    """Return in a sentence why events cannot be sealed at this moment, or None where all can be."""
    with adding_to_the_chain(wait=False) as chain:
        if chain is None:
            return "Another process is sealing at this moment."
        return "Some wait for a transaction that is still open." if chain.is_held_back() else None


def export_lines(*, up_to: int | None = None) -> Iterator[str]:
    """Yield the public keys and then the chain of seals, each as a line of JSON; one seal at a time in memory.

    `up_to` is the number of the last seal wanted.
    """
    session = db.session()
    links = _LINK if up_to is None else _LINK.where(AuditSeal.number <= up_to)
    for key in session.scalars(select(AuditKey).order_by(AuditKey.created_at)).all():
        yield json.dumps(
            {"key_id": key.key_id, "public_key": key.public_key.hex(), "created_at": key.created_at.isoformat()}
        )
    number = 0
    while True:
        found = session.execute(
            links.where(AuditSeal.number > number).order_by(AuditSeal.number).limit(1)
        ).one_or_none()
        if found is None:
            return
        number = found.number
        session.rollback()  # whoever reads may be slow, and a transaction must not be idle
        yield json.dumps(_link_of(found).to_json())


def prove(reference: str) -> dict[str, Any]:
    """Return the proof that an event, by its number or event id, is in its seal; offline.check_proof checks it.

    Raises NotFound, and Conflict where the event is not sealed yet.
    """
    session = db.session()
    column = (
        "id = CAST(:reference AS bigint)" if reference.isdigit() and len(reference) <= 18 else "event_id = :reference"
    )
    row = session.execute(
        text(f"SELECT {sealed_line_sql()} AS line, id, stored_xid FROM audit_logs WHERE {column}"),  # noqa: S608 -- as above
        {"reference": reference},
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such event.")
    # A row is in a seal over its transaction's number; those of another cluster may be over it too.
    found = session.execute(
        _LINK.where(
            AuditSeal.kind != "purge",
            AuditSeal.first_xid <= int(row.stored_xid),
            AuditSeal.last_xid >= int(row.stored_xid),
            literal(row.id) == any_(AuditSeal.row_ids),
        )
    ).first()
    if found is None:
        raise Conflict("This event is not sealed yet; `flask --app wsgi audit seal` does it now.")
    link = _link_of(found)
    place = link.row_ids.index(row.id)
    seal_alone = link.to_json() | {"lists_hash": link.lists_hash()}
    for lists in ("row_ids", "leaves", "owners"):
        del seal_alone[lists]
    return {
        "format": evidence.PROOF,
        "row": evidence.read_line(row.line),
        "seal": seal_alone,
        "place": place,
        "path": [each.hex() for each in evidence.inclusion_path(link.leaves, place)],
        "owner": link.owners[place * evidence.OWNER : (place + 1) * evidence.OWNER].hex(),
        "public_key": session.scalars(select(AuditKey.public_key).where(AuditKey.key_id == link.key_id)).one().hex(),
    }


def _link_of(found: Any) -> Seal:
    return Seal(**{name: getattr(found, name) for name in _SEAL_FIELDS})


@contextmanager
def adding_to_the_chain(*, wait: bool) -> Iterator["Chain | None"]:
    """Yield the chain to whoever holds its lock, and commit at the end; None where another holds it.

    With `wait`, waits for the lock as long as the session waits for any.
    """
    session = db.session()
    try:
        if wait:
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        elif not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}):
            yield None
            return
        yield Chain(session)
        session.commit()
    finally:
        session.rollback()


class Chain:
    """The chain of seals, in the transaction that holds its lock."""

    def __init__(self, session: Session) -> None:
        """Look at the last link; nobody else can add one meanwhile."""
        self._session = session
        columns = [getattr(AuditSeal, name) for name in ("number", "hash", "cluster", "next_xid", "next_id")]
        self._last: Any = session.execute(select(*columns).order_by(AuditSeal.number.desc()).limit(1)).one_or_none()
        self._here = session.execute(
            text(
                "SELECT installation.id AS installation, system_identifier::text AS cluster "
                "FROM installation, pg_control_system()"
            )
        ).one()

    def seal_next(self, *, only_full: bool = False) -> int:
        """Seal up to 10,000 rows and return how many; with `only_full` none when there are fewer."""
        horizon = self._horizon()
        if self._last is None or self._last.cluster != self._here.cluster:
            return 0 if only_full else self._adopt(horizon)
        if only_full and not self._has_full_batch(horizon):
            return 0
        rows = self._rows_behind((self._last.next_xid, self._last.next_id), horizon)
        if not rows:
            return 0
        is_cut = len(rows) == BATCH
        self._add("rows", rows, following=rows[-1].position if is_cut else (horizon, 0))
        return len(rows)

    def is_held_back(self) -> bool:
        """Say whether rows are stored that cannot be sealed yet: a transaction before theirs has not ended."""
        return bool(self._rows_behind((self._horizon(), 0), _NO_HORIZON))

    def add_purge(self, row_ids: Sequence[int], purged: dict[str, Any]) -> None:
        """Add a link that names rows which this transaction deletes; `purged` says by which rule."""
        if self._last is None:
            raise LookupError("nothing is sealed yet, so nothing can be purged")
        following = (self._last.next_xid, self._last.next_id)
        self._link(
            "purge", row_ids, b"", b"", (0, 0), following, json.dumps(purged, sort_keys=True), self._last.cluster
        )

    def _horizon(self) -> int:
        """Return the number below which everybody has finished; its own statement, before the rows are read."""
        return int(self._session.scalar(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) or 0)

    def _has_full_batch(self, horizon: int) -> bool:
        waiting = self._session.scalar(
            text(
                "SELECT count(*) FROM (SELECT FROM audit_logs WHERE (stored_xid, id) > (CAST(:xid AS xid8), :id) "
                "AND stored_xid < CAST(:horizon AS xid8) LIMIT :batch) AS waiting"
            ),
            {"xid": str(self._last.next_xid), "id": self._last.next_id, "horizon": str(horizon), "batch": BATCH},
        )
        return waiting == BATCH

    def _rows_behind(self, position: tuple[int, int], horizon: int) -> list[StoredRow]:
        """Return the next rows in the order of (transaction, id), without those sealed under the same number already.

        After a restore into another cluster numbers start over, and a new transaction may have an old one's.
        """
        found = self._session.execute(
            text(
                f"SELECT {ROW_COLUMNS} FROM audit_logs "  # noqa: S608 -- our own names only
                "WHERE (stored_xid, id) > (CAST(:xid AS xid8), :id) AND stored_xid < CAST(:horizon AS xid8) "
                "AND id NOT IN (SELECT unnest(row_ids) FROM audit_seals WHERE kind <> 'purge' "
                "AND (kind = 'adopted' OR cluster <> :cluster) "
                "AND first_xid < CAST(:horizon AS xid8) AND last_xid >= CAST(:xid AS xid8)) "
                "ORDER BY stored_xid, id LIMIT :batch"
            ),
            {
                "xid": str(position[0]),
                "id": position[1],
                "horizon": str(horizon),
                "cluster": self._here.cluster,
                "batch": BATCH,
            },
        )
        return [row_of(columns) for columns in found]

    def _adopt(self, horizon: int) -> int:
        """Seal everything that is there and in no seal, whatever its number: this cluster has not sealed yet."""
        count = self._list_unsealed()
        for start in range(0, count, BATCH):
            found = self._session.execute(
                text(
                    f"SELECT {ROW_COLUMNS} FROM audit_unsealed JOIN audit_logs ON id = row_id "  # noqa: S608 -- as above
                    "WHERE place > :start AND place <= :start + :batch ORDER BY place"
                ),
                {"start": start, "batch": BATCH},
            )
            self._add("adopted", [row_of(columns) for columns in found], following=(horizon, 0))
        self._session.execute(text("DROP TABLE audit_unsealed"))
        if count == 0 and self._last is not None:
            self._add("adopted", [], following=(horizon, 0))  # the chain goes on by this cluster's numbers
        return count

    def _list_unsealed(self) -> int:
        """Number the rows in no seal in a table of this transaction, which may take minutes; return how many."""
        driver: Any = self._session.connection().connection.dbapi_connection
        usual = driver.answer_seconds
        driver.answer_seconds = ADOPTING_SECONDS + 1.0
        try:
            self._session.execute(
                text(
                    f"SET LOCAL statement_timeout = '{ADOPTING_SECONDS}s'; "  # noqa: S608 -- a number of ours
                    "CREATE TEMPORARY TABLE audit_unsealed AS "
                    "SELECT id AS row_id, row_number() OVER (ORDER BY stored_xid, id) AS place FROM audit_logs "
                    "WHERE NOT EXISTS (SELECT FROM (SELECT unnest(row_ids) AS id FROM audit_seals "
                    "WHERE kind <> 'purge') AS sealed WHERE sealed.id = audit_logs.id); "
                    "CREATE UNIQUE INDEX ON audit_unsealed (place)"
                )
            )
            return int(self._session.scalar(text("SELECT count(*) FROM audit_unsealed")) or 0)
        finally:
            driver.answer_seconds = usual

    def _add(self, kind: str, rows: list[StoredRow], *, following: tuple[int, int]) -> None:
        owners = [evidence.owner_mark(row.id, row.user_id) for row in rows]
        leaves = [evidence.leaf_hash(row.sealed_text, owner) for row, owner in zip(rows, owners, strict=True)]
        bounds = (rows[0].position[0], rows[-1].position[0]) if rows else (0, 0)
        self._link(
            kind,
            [row.id for row in rows],
            b"".join(leaves),
            b"".join(owners),
            bounds,
            following,
            None,
            self._here.cluster,
        )

    def _link(
        self,
        kind: str,
        row_ids: Sequence[int],
        leaves: bytes,
        owners: bytes,
        bounds: tuple[int, int],
        following: tuple[int, int],
        purged: str | None,
        cluster: str,
    ) -> None:
        key = signing_key()
        link = Seal(
            number=self._last.number + 1 if self._last else 1,
            kind=kind,
            installation=self._here.installation,
            cluster=cluster,
            first_xid=bounds[0],
            last_xid=bounds[1],
            next_xid=following[0],
            next_id=following[1],
            row_ids=list(row_ids),
            leaves=leaves,
            owners=owners,
            root=evidence.tree_root(leaves),
            purged=purged,
            previous_hash=self._last.hash if self._last else evidence.FIRST_PREVIOUS,
            created_at=clock.now(),
        ).signed(key)
        self._keep_key(link.key_id, key.public_key().public_bytes_raw())
        self._session.execute(insert(AuditSeal).values({name: getattr(link, name) for name in _SEAL_FIELDS}))
        self._last = link
        # Whoever keeps these lines elsewhere can tell when the end of the chain was cut off.
        log.info("audit_sealed", number=link.number, kind=kind, rows=link.count, hash=link.hash.hex())

    def _keep_key(self, key_id: str, public_key: bytes) -> None:
        added = self._session.execute(
            insert(AuditKey)
            .values(key_id=key_id, public_key=public_key, created_at=clock.now())
            .on_conflict_do_nothing()
            .returning(AuditKey.key_id)
        ).one_or_none()
        if added:
            record(events.AUDIT_KEY_CHANGED, actor=None, details={"key": key_id})
