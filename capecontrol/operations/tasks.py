"""Housekeeping as jobs: one of the two triggers that bring stranded work back, and the clearing of what is over.

The other trigger is the worker itself (operations/worker.py): a job that brings jobs back can be stranded too.
"""

import structlog
from procrastinate import JobContext

from capecontrol.audit.alert_watch import raise_alerts
from capecontrol.audit.alerts import forget_old_alerts, report_degraded
from capecontrol.audit.hours import count_hours
from capecontrol.auth.registration import forget_old_keys
from capecontrol.auth.sign_in import forget_old_sign_ins
from capecontrol.auth.verification import forget_old_links
from capecontrol.auth.waiting_room import forget_old_tickets
from capecontrol.conversations.replies import order_lost_replies
from capecontrol.database import in_safe_words, release_connection
from capecontrol.extensions import jobs
from capecontrol.job_queue import HOUSEKEEPING
from capecontrol.mail.outgoing import forget_old_mails, order_lost_mails
from capecontrol.operations import readiness
from capecontrol.operations.stalled_jobs import retry_stalled_jobs
from capecontrol.web.rate_limits import forget_expired

FAILED_JOBS_KEPT_HOURS = 30 * 24

_FORGETTING = (
    forget_expired,
    forget_old_keys,
    forget_old_links,
    forget_old_tickets,
    forget_old_sign_ins,
    forget_old_mails,
    forget_old_alerts,
)

log = structlog.get_logger("operations")


@jobs.periodic(cron="* * * * *")
@jobs.task(name="operations.retry_stalled", queue=HOUSEKEEPING, pass_context=True)
async def retry_stalled(context: JobContext, timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Give the jobs of dead workers out again."""
    await retry_stalled_jobs(context.app.job_manager)


@jobs.periodic(cron="* * * * *")
@jobs.task(name="operations.order_lost", queue=HOUSEKEEPING)
def order_lost(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Order again the replies that nobody is going to make, and the mails that nobody is going to send."""
    order_lost_replies()
    order_lost_mails()


@jobs.periodic(cron="* * * * * */20")
@jobs.task(name="operations.watch_record", queue=HOUSEKEEPING)
def watch_record(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Raise the alerts that the record calls for; first of all, whether it can be written."""
    for part in readiness.look().parts:
        if part.name == "audit" and part.is_failing:
            report_degraded(part.detail)
    raise_alerts()


@jobs.periodic(cron="* * * * *")
@jobs.task(name="operations.count_audit_hours", queue=HOUSEKEEPING)
def count_audit_hours(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Count what the audit log holds by the hour, for its statistics."""
    count_hours()


@jobs.periodic(cron="*/10 * * * *")
@jobs.task(name="operations.forget", queue=HOUSEKEEPING)
def forget(timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Delete the rate limits' counters, the registrations' keys, the links in mails, the waiting room's tickets, the
    sessions and tokens, the mails and the alerts that are over. One that fails keeps none of the others waiting."""
    failed = []
    for forget_some in _FORGETTING:
        try:
            forget_some()
        except Exception as failure:  # noqa: BLE001 -- the job fails with it at the end
            release_connection()
            failed.append(forget_some.__name__)
            log.error(  # noqa: TRY400 -- a database error's text must not be logged
                "not_forgotten", step=forget_some.__name__, **in_safe_words(failure)
            )
    if failed:
        raise RuntimeError(f"failed, as said above: {', '.join(failed)}")


@jobs.periodic(cron="17 3 * * *")
@jobs.task(name="operations.forget_jobs", queue=HOUSEKEEPING, pass_context=True)
async def forget_jobs(context: JobContext, timestamp: int) -> None:  # noqa: ARG001 -- the round's, which the queue passes
    """Delete the records of jobs that ended without success more than 30 days ago; those of the others go at once."""
    await context.app.job_manager.delete_old_jobs(
        nb_hours=FAILED_JOBS_KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )
