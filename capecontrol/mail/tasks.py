"""The job that sends a mail."""

from flask import current_app
from procrastinate import JobContext, RetryStrategy

from capecontrol.config import current_settings
from capecontrol.extensions import jobs
from capecontrol.mail import delivery
from capecontrol.mail.letters import Stationery
from capecontrol.mail.outgoing import MAILS, SEND_MAIL

RETRIES = 5


@jobs.task(
    name=SEND_MAIL,
    queue=MAILS,
    retry=RetryStrategy(max_attempts=RETRIES, exponential_wait=4),  # after 4 s and up to a quarter of an hour
    pass_context=True,
)
def send_mail(context: JobContext, mail_id: str) -> None:
    """Send a mail. A server that does not take it is no failure of the job, which orders its own next try; what
    fails here is ours."""
    tries_before = context.job.attempts
    if tries_before > RETRIES:  # it never got to fail: each of its workers died
        delivery.give_up(mail_id, reason="WorkerDied")
        return
    try:
        deliver(mail_id)
    except Exception as failure:
        if tries_before == RETRIES:
            delivery.give_up(mail_id, reason=type(failure).__name__)
        raise


def deliver(mail_id: str) -> str:
    """Try to send a mail as the running application sends them; return its state afterwards."""
    settings = current_settings()
    stationery = Stationery(settings.address, current_app.jinja_env)
    return delivery.deliver(mail_id, on=stationery, has_server=settings.mail_server is not None)
