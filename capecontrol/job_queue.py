"""Looking into the job queue's own tables, in the one place that does; their names are the queue's public schema."""

from sqlalchemy import TextClause, text


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
