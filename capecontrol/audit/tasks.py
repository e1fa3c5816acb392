"""The record's own housekeeping as jobs: replaying what waits, sealing every minute, delivering it, purging it."""

import structlog

from capecontrol.audit import delivery, retention, seals
from capecontrol.audit.replay import replay
from capecontrol.extensions import jobs
from capecontrol.job_queue import HOUSEKEEPING

log = structlog.get_logger("audit")


@jobs.periodic(cron="* * * * *")
@jobs.task(name="audit.replay", queue=HOUSEKEEPING)
def replay_waiting(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Store the events that wait where this worker's spool is; each web process does so for itself, too."""
    done = replay()
    if done.stored or done.unreadable:
        log.warning("audit_replayed", **done.as_json())


@jobs.periodic(cron="* * * * *")
@jobs.task(name="audit.seal", queue=HOUSEKEEPING)
def seal(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Seal what was recorded since the last minute, in as many seals of 10,000 rows as that takes."""
    seals.seal()


@jobs.periodic(cron="* * * * * */15")  # the last field is seconds
@jobs.task(name="audit.seal_full", queue=HOUSEKEEPING)
def seal_full(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Seal before the minute is over what fills a seal of 10,000 rows."""
    seals.seal(only_full=True)


@jobs.periodic(cron="43 2 * * *")
@jobs.task(name="audit.purge", queue=HOUSEKEEPING)
def purge(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Delete the events whose time is over."""
    retention.purge(actor=None)


@jobs.periodic(cron="* * * * * */15")  # the sixth field is seconds
@jobs.task(name="audit.deliver", queue=HOUSEKEEPING)
def deliver(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Deliver what was recorded since the last round; a round that is still at it is left alone."""
    delivery.deliver_all()
