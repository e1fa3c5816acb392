"""Jobs whose worker died: the queue keeps them as `doing` for ever unless somebody gives them out again."""

import structlog
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager

DEAD_AFTER_SECONDS = 30.0
"""Without a sign of life for this long a worker counts as dead; a living one gives one every 10 s."""

log = structlog.get_logger("queue")


async def retry_stalled_jobs(manager: JobManager, *, dead_after: float = DEAD_AFTER_SECONDS) -> int:
    """Put the jobs of dead workers back into the queue and return how many. Raises ConnectorException.

    Any number of processes may do this at once: the second to retry a job is refused by the queue.
    """
    retried = 0
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=dead_after):
        try:
            await manager.retry_job(job)
        except ConnectorException:
            if not await manager.check_connection_async():
                raise
            log.info("stalled_job_taken_by_another", task=job.task_name, job=job.id)
        else:
            retried += 1
            log.warning("stalled_job_retried", task=job.task_name, job=job.id, tries=job.attempts + 1)
    return retried
