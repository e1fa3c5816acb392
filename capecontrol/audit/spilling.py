"""Where swallowed events go: to the spool or into memory, to stderr, and into the figures of how writing goes."""

from dataclasses import dataclass
from itertools import compress
from typing import Any

from prometheus_client import Counter

from capecontrol import each_second
from capecontrol.audit import events, spilled_lines, spool
from capecontrol.audit.degradation import Health
from capecontrol.audit.frozen import as_refused

swallowed_total = Counter(
    "capecontrol_audit_swallowed_total",
    "Audit events that could not be written and went to stderr, by SQLSTATE or kind of error.",
    ["reason"],
)

health = Health()


@dataclass(slots=True)
class _Installation:
    """Which installation this process writes for: asked once, when the database answers anyway."""

    id: str | None = None


installation = _Installation()


def forget() -> None:
    """Begin without any memory of how writing went and of which installation this is, as a new process does."""
    global health
    health, installation.id = Health(), None


def spill(
    pending: list[dict[str, Any]], *, reason: str, transaction_id: str | None, refusal: str | None = None
) -> bool:
    """Keep swallowed events in the spool, in memory where that is full, and always print them; count and tell.

    Return whether all that may not be lost are on the disk; where they are not, they become with a `refusal` events of
    something that was refused for that reason. A line carries the transaction's xid8, because it is written before the
    commit: whoever stores it later asks what became of that, so no success is ever recorded that did not commit (R9).
    """
    health.failed(len(pending), reason)
    swallowed_total.labels(reason=reason).inc(len(pending))

    def line(frozen: dict[str, Any]) -> str:
        return spilled_lines.write(frozen, reason=reason, transaction_id=transaction_id, installation=installation.id)

    lines = [line(frozen) for frozen in pending]
    is_worth_a_flush = [events.durability_of(frozen["event_type"]) != "best-effort" for frozen in pending]
    is_kept = _to_disk(list(compress(lines, is_worth_a_flush)))
    if refusal is not None and not is_kept:
        lines = [line(as_refused(frozen, error=refusal)) for frozen in pending]
    for each in lines:
        spool.print_line(each)
    spool.memory.add(
        [each for each, is_on_disk in zip(lines, is_worth_a_flush, strict=True) if not (is_kept and is_on_disk)]
    )
    each_second.wake()
    return is_kept


def _to_disk(lines: list[str]) -> bool:
    if lines:
        try:
            spool.spool.append(lines, installation.id)
        except OSError:
            spool.unspooled_total.inc(len(lines))
            return False
    return True
