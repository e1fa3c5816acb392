"""The job that makes a reply."""

from procrastinate import JobContext, RetryStrategy

from capecontrol.conversations import replies
from capecontrol.conversations.service import MAKE_REPLY, REPLIES
from capecontrol.extensions import jobs

RETRIES = 4


@jobs.task(
    name=MAKE_REPLY,
    queue=REPLIES,
    retry=RetryStrategy(max_attempts=RETRIES, exponential_wait=2),  # after 2, 4, 8 and 16 seconds
    pass_context=True,
)
def make_reply(context: JobContext, reply_id: str) -> None:
    """Make a reply; after the last try, say that there is none."""
    tries_before = context.job.attempts
    if tries_before > RETRIES:  # it never got to fail: each of its workers died
        replies.give_up(reply_id, reason="WorkerDied")
        return
    try:
        replies.make_reply(reply_id)
    except Exception as failure:
        if tries_before == RETRIES:
            replies.give_up(reply_id, reason=type(failure).__name__)
        raise
