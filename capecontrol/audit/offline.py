"""Verifying exported files where there is no database, and the proof of a single row.

A file of rows holds lines of seals.sealed_line_sql in any order; a file of seals holds the chain from its first link,
and the public keys, as `audit export --seals` writes them.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from capecontrol.audit import evidence
from capecontrol.audit.evidence import LEAF, OWNER, Seal, Unreadable
from capecontrol.audit.findings import Report, Walk


class _Sealed:
    """Which row is where in which seal, for all of a file."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._starts = array("q")
        self._numbers = array("q")
        self._row_ids = array("q")
        self._leaves = bytearray()
        self._owners = bytearray()
        self.purged: dict[int, int] = {}
        self.last: Seal | None = None

    def take(self, link: Seal, report: Report) -> None:
        """Take in the rows of a link."""
        self.last = link
        if link.kind == "purge":
            self.purged.update(dict.fromkeys(link.row_ids, link.number))
            return
        count = len(link.row_ids)
        if len(link.leaves) != LEAF * count or len(link.owners) != OWNER * count:
            return  # a finding already: what it says about its rows cannot be read
        self._starts.append(len(self._row_ids))
        self._numbers.append(link.number)
        for place, row_id in enumerate(link.row_ids, len(self._row_ids)):
            if self._places.setdefault(row_id, place) != place:
                report.add("altered_seal", "more than one seal holds the row", seal=link.number, row_id=row_id)
        self._row_ids.extend(link.row_ids)
        self._leaves += link.leaves
        self._owners += link.owners

    def find(self, row_id: int) -> int | None:
        """Return the place of a row, or None when no seal holds it."""
        return self._places.get(row_id)

    def at(self, place: int) -> tuple[int, bytes, bytes]:
        """Return the number of the seal at a place, the leaf and the owner there."""
        leaf, owner = place * LEAF, place * OWNER
        return self._seal_at(place), bytes(self._leaves[leaf : leaf + LEAF]), bytes(self._owners[owner : owner + OWNER])

    def all(self) -> Iterator[tuple[int, int, int]]:
        """Yield every place with its seal and its row."""
        for place, row_id in enumerate(self._row_ids):
            yield place, self._seal_at(place), row_id

    def __len__(self) -> int:
        """Return how many rows are sealed."""
        return len(self._row_ids)

    def _seal_at(self, place: int) -> int:
        return self._numbers[bisect_right(self._starts, place) - 1]


def verify_files(
    rows: Iterable[str],
    seals: Iterable[str],
    *,
    is_part: bool = False,
    trusted: Sequence[str] = (),
    anchors: Mapping[int, str] | None = None,
) -> Report:
    """Verify exported rows against exported seals, both given as lines.

    `is_part` says that the rows are only a part of the record, so that none counts as missing.
    """
    report = Report()
    sealed = _read_seals(seals, Walk(report, trusted=trusted, anchors=anchors), report)
    is_here = bytearray(len(sealed))
    for number, line in enumerate(rows, 1):
        if line.strip():
            try:
                _check_row(line, sealed, is_here, report)
            except Unreadable as fault:
                report.add("unreadable", f"line {number} of the rows {fault}")
    for place, seal, row_id in sealed.all():
        if is_here[place] or sealed.find(row_id) != place:
            continue
        if row_id in sealed.purged:
            report.purged += 1
        elif not is_part:
            report.add("missing_row", "it was sealed, is not here, and no purge took it", seal=seal, row_id=row_id)
    return report


def check_proof(proof: Mapping[str, Any], *, trusted: Sequence[str] = ()) -> Report:
    """Verify the proof that a row is in a seal, as `prove` makes it; needs nothing else at hand."""
    report = Report()
    try:
        if proof["format"] != evidence.PROOF:
            raise Unreadable(f"is not of the format {evidence.PROOF!r}")
        row = evidence.row_of_line(proof["row"])
        given = dict(proof["seal"])
        lists_hash = str(given.pop("lists_hash"))
        link = Seal.from_json(given | {"row_ids": [], "leaves": "", "owners": ""})
        public_key, owner = bytes.fromhex(proof["public_key"]), bytes.fromhex(proof["owner"])
        path, place = [bytes.fromhex(each) for each in proof["path"]], int(proof["place"])
    except (KeyError, TypeError, ValueError) as error:
        report.add("unreadable", f"this is not a proof: {error}")
        return report
    report.seals, report.rows, report.keys[link.key_id] = 1, 1, 1
    for kind, sentence in link.faults_of_statement(link.statement(lists_hash), public_key):
        report.add(kind, sentence, seal=link.number)
    if trusted and link.key_id not in trusted:
        report.add("bad_signature", f"the key {link.key_id} is not one you trust", seal=link.number)
    leaf = evidence.leaf_hash(row.sealed_text, owner)
    fault = evidence.fault_of(row.id, row.sealed_text, row.user_id, row.salt, row.personal_text, leaf, owner)
    if evidence.root_of_path(leaf, place, link.count, path) != link.root:
        fault = "row and path do not lead to the root that was signed"
    if fault is not None:
        report.add("altered_row", fault, seal=link.number, row_id=row.id, event_id=row.event_id)
    elif row.salt is None:
        report.erased = 1
    return report


def _read_seals(lines: Iterable[str], walk: Walk, report: Report) -> _Sealed:
    sealed, keys = _Sealed(), {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = evidence.read_line(line)
            if "public_key" in values:
                keys[str(values["key_id"])] = bytes.fromhex(values["public_key"])
                continue
            link = Seal.from_json(values)
        except (Unreadable, ValueError, TypeError, KeyError) as fault:
            report.add("unreadable", f"line {number} of the seals: {fault}")
            continue
        report.seals += 1
        for kind, sentence in link.faults(keys.get(link.key_id)):
            report.add(kind, sentence, seal=link.number)
        walk.step(link)
        sealed.take(link, report)
    walk.end()
    return sealed


def _check_row(line: str, sealed: _Sealed, is_here: bytearray, report: Report) -> None:
    values = evidence.read_line(line)
    if not isinstance(values, dict):
        raise Unreadable("is not a row")
    row = evidence.row_of_line(values)
    name: dict[str, Any] = {"row_id": row.id, "event_id": row.event_id}
    place = sealed.find(row.id)
    if row.id in sealed.purged:
        report.add("inserted_row", "it was purged, and is here again", seal=sealed.purged[row.id], **name)
    elif place is None:
        if sealed.last is None or row.position > (sealed.last.next_xid, sealed.last.next_id):
            report.add_unsealed(evidence.moment(values["recorded_at"]))
        else:
            report.add("inserted_row", "no seal holds it", **name)
    elif is_here[place]:
        report.add("inserted_row", "it is here more than once", **name)
    if place is None or is_here[place]:
        return
    is_here[place] = 1
    report.rows += 1
    seal, leaf, owner = sealed.at(place)
    fault = evidence.fault_of(row.id, row.sealed_text, row.user_id, row.salt, row.personal_text, leaf, owner)
    if fault is not None:
        report.add("altered_row", fault, seal=seal, **name)
    elif row.salt is None:
        report.erased += 1
