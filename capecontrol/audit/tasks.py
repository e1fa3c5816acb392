"""The record's own housekeeping as jobs: sealing every minute, purging every night."""

from capecontrol.audit import retention, seals
from capecontrol.extensions import jobs

HOUSEKEEPING = "housekeeping"


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
