"""The record's own housekeeping as jobs: delivering it to other systems."""

from capecontrol.audit import delivery
from capecontrol.extensions import jobs

HOUSEKEEPING = "housekeeping"


@jobs.periodic(cron="* * * * * */15")  # the sixth field is seconds
@jobs.task(name="audit.deliver", queue=HOUSEKEEPING)
def deliver(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Deliver what was recorded since the last round; a round that is still at it is left alone."""
    delivery.deliver_all()
