"""Jobs about the record."""

import structlog

from capecontrol.audit.replay import replay
from capecontrol.extensions import jobs

HOUSEKEEPING = "housekeeping"

log = structlog.get_logger("audit")


@jobs.periodic(cron="* * * * *")
@jobs.task(name="audit.replay", queue=HOUSEKEEPING)
def replay_waiting(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Store the events that wait where this worker's spool is; each web process does so for itself, too."""
    done = replay()
    if done.stored or done.unreadable:
        log.warning("audit_replayed", **done.as_json())
