"""What a verification of the record finds, and the walk along the chain of seals that every verification makes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from capecontrol.audit import evidence
from capecontrol.audit.evidence import Seal

LISTED = 1000
"""How many findings are named; beyond that they are only counted."""

_KINDS = {
    "altered_row": "altered row",
    "missing_row": "missing row",
    "inserted_row": "inserted row",
    "altered_seal": "altered seal",
    "broken_chain": "broken chain",
    "bad_signature": "bad signature",
    "unreadable": "unreadable line",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed."""

    kind: str
    sentence: str
    seal: int | None = None
    row_id: int | None = None
    event_id: str | None = None

    def __str__(self) -> str:
        """Return the finding in words, with the names of what it is about."""
        event = f" (event {self.event_id})" if self.event_id else ""
        row = f" {self.row_id}{event}" if self.row_id is not None else ""
        seal = f", seal {self.seal}" if self.seal is not None else ""
        return f"{_KINDS[self.kind]}{row}{seal}: {self.sentence}"


@dataclass(slots=True)
class Report:
    """What was looked at and what was found. Erased, purged and unsealed rows are no findings."""

    seals: int = 0
    rows: int = 0
    erased: int = 0
    purged: int = 0
    unsealed: int = 0
    oldest_unsealed: datetime | None = None
    keys: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether everything is as it was sealed."""
        return not self.counts

    def add(
        self,
        kind: str,
        sentence: str,
        *,
        seal: int | None = None,
        row_id: int | None = None,
        event_id: str | None = None,
    ) -> None:
        """Add a finding."""
        self.counts[kind] += 1
        if len(self.findings) < LISTED:
            self.findings.append(Finding(kind, sentence, seal, row_id, event_id))

    def add_unsealed(self, recorded_at: datetime) -> None:
        """Count a row behind the end of the chain."""
        self.unsealed += 1
        if self.oldest_unsealed is None or recorded_at < self.oldest_unsealed:
            self.oldest_unsealed = recorded_at

    def merge(self, part: "Report") -> None:
        """Add what another process found."""
        self.seals += part.seals
        self.rows += part.rows
        self.erased += part.erased
        self.counts += part.counts
        self.findings += part.findings[: LISTED - len(self.findings)]

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {
            "ok": self.is_well,
            "seals": self.seals,
            "rows": self.rows,
            "erased": self.erased,
            "purged": self.purged,
            "unsealed": self.unsealed,
            "oldest_unsealed": self.oldest_unsealed.isoformat() if self.oldest_unsealed else None,
            "keys": dict(self.keys),
            "counts": dict(self.counts),
            "findings": [
                {
                    "kind": each.kind,
                    "sentence": each.sentence,
                    "seal": each.seal,
                    "row_id": each.row_id,
                    "event_id": each.event_id,
                }
                for each in self.findings
            ],
        }

    def lines(self, now: datetime) -> Iterable[str]:
        """Yield all of it for people."""
        yield f"{self.seals:,} seals, {self.rows:,} sealed rows."
        for key, count in sorted(self.keys.items()):
            yield f"Signed by key {key}: {count:,} seals."
        if self.erased:
            yield f"{self.erased:,} rows without what was personal in them: erased, as may be."
        if self.purged:
            yield f"Purged under policy, {self.purged:,} rows."
        if self.unsealed and self.oldest_unsealed:
            age = max(0, round((now - self.oldest_unsealed).total_seconds()))
            yield f"{self.unsealed:,} rows not sealed yet, the oldest stored {age:,} s ago."
        for finding in self.findings:
            yield f"FOUND {finding}"
        if self.counts.total() > len(self.findings):
            yield f"... and {self.counts.total() - len(self.findings):,} more."
        if self.is_well:
            yield "Everything is as it was sealed."
        else:
            counted = ", ".join(f"{_KINDS[kind]} {count:,}" for kind, count in sorted(self.counts.items()))
            yield f"NOT as it was sealed: {counted}."


class Walk:
    """Follows the chain from its first link; each has to name the one before.

    `trusted` are the only keys believed, where any are given. `anchors` are hashes of seals that were kept somewhere
    else: with one of them the chain cannot have been cut off or made anew up to there.
    """

    def __init__(
        self, report: Report, *, trusted: Iterable[str] = (), anchors: Mapping[int, str] | None = None
    ) -> None:
        self._report = report
        self._trusted = frozenset(trusted)
        self._anchors = dict(anchors or {})
        self._number = 0
        self._hash = evidence.FIRST_PREVIOUS
        self._installation: str | None = None

    def step(self, link: Seal) -> None:
        """Take the next link, whose lists may be left out."""
        found = self._report
        if link.number != self._number + 1:
            missing = f"seal {self._number + 1}"
            if link.number > self._number + 2:
                missing += f" to {link.number - 1}"
            verb = "is missing before it" if link.number > self._number else "was expected here"
            found.add("broken_chain", f"{missing} {verb}", seal=link.number)
        elif link.previous_hash != self._hash:
            found.add("broken_chain", "it does not name the hash of the seal before", seal=link.number)
        if self._installation not in (None, link.installation):
            found.add("broken_chain", "it belongs to another installation", seal=link.number)
        if self._trusted and link.key_id not in self._trusted:
            found.add("bad_signature", f"the key {link.key_id} is not one you trust", seal=link.number)
        anchor = self._anchors.pop(link.number, None)
        if anchor is not None and anchor != link.hash.hex():
            found.add("broken_chain", "its hash is not the one you kept", seal=link.number)
        found.keys[link.key_id] += 1
        self._number, self._hash, self._installation = link.number, link.hash, link.installation

    def end(self) -> None:
        """Say which seals somebody kept the hash of that the chain does not reach."""
        for number in sorted(self._anchors):
            self._report.add("broken_chain", "you kept its hash, but it is not there", seal=number)
