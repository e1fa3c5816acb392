"""Ordering a job with the session's transaction, and looking for one in the queue's own tables.

This is the one place that does either; the names of the tables are the queue's public schema.
"""

from typing import Any

from procrastinate.exceptions import ConnectorException
from sqlalchemy import TextClause, text

from capecontrol.extensions import db, jobs

HOUSEKEEPING = "housekeeping"
"""The queue of what nobody waits for: keeping the record, and clearing away what is over."""


def defer(task: str, *, queue: str, in_seconds: int = 0, **arguments: str) -> None:
    """Order a job on the session's own connection: it exists if and only if the session commits."""
    later: Any = {"schedule_in": {"seconds": in_seconds}} if in_seconds else {}
    try:
        jobs.configure_task(task, queue=queue, connection=db.session.connection(), **later).defer(**arguments)
    except ConnectorException as failure:
        raise failure.__cause__ or failure from None  # the database's own error, which says whether it will pass


def without_job(task: str, argument: str, row_id: str) -> TextClause:
    """Return the condition that no job of this task is waiting or running for the row.

    `argument` is the job's argument that holds the id, and `row_id` the column of the row it is compared with. All
    three are our own words, never anybody's input.
    """
    return text(
        f"""
        NOT EXISTS (
            SELECT 1 FROM procrastinate_jobs AS job
            WHERE job.task_name = '{task}' AND job.status IN ('todo', 'doing')
              AND job.args->>'{argument}' = {row_id}
        )
        """  # noqa: S608 -- see above
    )
