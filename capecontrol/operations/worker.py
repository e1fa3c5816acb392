"""The worker process: runs jobs, survives a restart of the database, ends in order."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import structlog
from flask import Flask
from procrastinate import JobContext, PsycopgConnector
from procrastinate.app import App as JobQueue
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.worker import Worker
from psycopg_pool import PoolTimeout
from sqlalchemy.exc import SQLAlchemyError

from capecontrol import clock
from capecontrol.audit import tasks as audit_tasks
from capecontrol.config import Settings, libpq_url
from capecontrol.conversations import tasks as conversation_tasks
from capecontrol.conversations.replies import order_lost_replies
from capecontrol.database import in_safe_words
from capecontrol.extensions import jobs
from capecontrol.job_queue import HOUSEKEEPING
from capecontrol.mail import tasks as mail_tasks
from capecontrol.operations import tasks as housekeeping_tasks
from capecontrol.operations.stalled_jobs import retry_stalled_jobs

CONCURRENCY = 4
QUEUE_POOL = 2
APPLICATION_POOL = 2
"""Connections of the jobs themselves; with the queue's, the one that listens and the one for failed operations this
is what config.WORKER_CONNECTIONS counts."""

GRACE_SECONDS = 20
"""How long running jobs may go on after SIGTERM; a dyno is killed after 30 s."""

SWEEP_EVERY_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0

TASKS = (conversation_tasks, audit_tasks, mail_tasks, housekeeping_tasks)
"""Importing a module of tasks is what makes the queue know them."""

_LOST = (ConnectorException, SQLAlchemyError, psycopg.Error, PoolTimeout, OSError)

log = structlog.get_logger("worker")


class QueueMissing(ConnectorException):
    """The database answers, but the migrations have not made the queue's tables yet."""


class WorkerConnector(PsycopgConnector):
    """The queue's connections in the worker, beside which jobs may order jobs on their own SQLAlchemy connection."""

    def __init__(self, conninfo: str, deferring: BaseConnector) -> None:
        """Connect with libpq's `conninfo`; `deferring` is what services order jobs with."""
        super().__init__(
            conninfo=conninfo,
            min_size=1,
            max_size=QUEUE_POOL,
            timeout=5.0,
            reconnect_timeout=5.0,
            kwargs={"connect_timeout": 2, "application_name": "capecontrol-worker"},
        )
        self._deferring = deferring

    def get_sync_connector(self) -> BaseConnector:
        """Return what synchronous code orders jobs with."""
        return self._deferring


def run_worker(app: Flask) -> None:
    """Run jobs until SIGTERM or SIGINT, then let the running ones finish for up to 20 s.

    Jobs run in an application of their own, with the given one's settings and a pool of the worker's size.
    """
    from capecontrol import create_app  # which imports the command that leads here

    settings: Settings = app.config["SETTINGS"]
    asyncio.run(_work_until_signal(create_app(settings.model_copy(update={"database_pool": APPLICATION_POOL}))))


async def _work_until_signal(app: Flask) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not stop.is_set():
            stop.set()
            # A job that does not end by itself cannot be made to: its thread is left behind, and the sweep of another
            # worker gives the job out again.
            loop.call_later(GRACE_SECONDS + 4, os._exit, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await work(app, stop)


async def work(app: Flask, stop: asyncio.Event) -> None:
    """Run jobs until `stop` is set; come back whenever the database does."""
    _speak_for_the_queue()
    asyncio.get_running_loop().set_exception_handler(_say_what_was_left)
    pause = FIRST_PAUSE_SECONDS
    is_lost = False
    while not stop.is_set():
        started = clock.monotonic()
        try:
            await _run_queue(app, stop, is_back=is_lost)
        except _LOST as failure:
            reason = type(failure.__cause__ or failure).__name__
        else:
            reason = "a part of the worker ended"
        if stop.is_set():
            break
        if clock.monotonic() - started > LONGEST_PAUSE_SECONDS:
            pause, is_lost = FIRST_PAUSE_SECONDS, False
        if not is_lost:  # once, however long it takes
            log.warning("worker_lost_database", reason=reason, note="trying again until it answers")
        is_lost = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
    log.info("worker_stopped")


async def _run_queue(app: Flask, stop: asyncio.Event, *, is_back: bool) -> None:
    """Run the queue once: until `stop`, or until it cannot go on. Raises what broke it."""
    settings: Settings = app.config["SETTINGS"]
    connector = WorkerConnector(libpq_url(settings.database_url), jobs.connector)
    with jobs.replace_connector(connector) as queue:
        async with queue.open_async():
            if not await queue.check_connection_async():
                raise QueueMissing("The queue's tables are not there: has the release step run?")
            log.info("worker_connected_again" if is_back else "worker_started", concurrency=CONCURRENCY)
            running = asyncio.create_task(
                queue.run_worker_async(
                    name="worker",
                    concurrency=CONCURRENCY,
                    install_signal_handlers=False,
                    shutdown_graceful_timeout=GRACE_SECONDS,
                    delete_jobs="successful",
                    task_middleware=[_in_application(app)],
                    worker_middleware=[_say_how_it_went],
                )
            )
            sweeping = asyncio.create_task(_sweep(app, queue))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({running, sweeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Cancelled, the queue's own worker stops taking jobs and waits for those that run.
                for task in (running, sweeping, stopping):
                    task.cancel()
                ended = await asyncio.gather(running, sweeping, stopping, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception) and not stop.is_set():
            raise outcome


async def _sweep(app: Flask, queue: JobQueue) -> None:
    """Bring stranded work back, at once and again and again; the periodic jobs do the same on their own."""
    while True:
        try:
            await retry_stalled_jobs(queue.job_manager)
            await asyncio.to_thread(_order_lost_replies, app)
        except _LOST as failure:  # whether the database is lost, the queue itself finds out
            log.warning("sweep_failed", reason=type(failure.__cause__ or failure).__name__)
        await asyncio.sleep(SWEEP_EVERY_SECONDS)


def _order_lost_replies(app: Flask) -> None:
    with app.app_context():
        order_lost_replies()


def _in_application(app: Flask) -> Callable[[Callable[[], Any], JobContext, Worker], Any]:
    def run(call_next: Callable[[], Any], _context: JobContext, _worker: Worker) -> Any:
        with app.app_context():  # whose end removes the session, also after a failure
            return call_next()

    return run


async def _say_how_it_went(call_next: Callable[[], Awaitable[Any]], context: JobContext, _worker: Worker) -> Any:
    """Write one line for each job, with the traceback of a failure."""
    started = clock.monotonic()
    words = {"task": context.job.task_name, "job": context.job.id, "tries": context.job.attempts + 1}
    try:
        result = await call_next()
    except (ConnectorException, psycopg.Error, PoolTimeout) as failure:  # the queue's own connections
        reason = type(failure.__cause__ or failure).__name__
        log.error("job_failed", total_ms=_milliseconds(started), reason=reason, **words)  # noqa: TRY400 -- as below
        raise
    except Exception as failure:
        log.error(  # noqa: TRY400 -- a database error's text must not be logged
            "job_failed", total_ms=_milliseconds(started), **in_safe_words(failure), **words
        )
        raise
    is_routine = context.job.queue == HOUSEKEEPING  # several a minute, each of them uneventful
    (log.debug if is_routine else log.info)("job", total_ms=_milliseconds(started), **words)
    return result


def _milliseconds(started: float) -> float:
    return round((clock.monotonic() - started) * 1000, 1)


def _say_what_was_left(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line that a job's end could not be written down any more: the sweep gives it out again."""
    failure = context.get("exception")
    if isinstance(failure, _LOST):
        log.warning("job_left_behind", reason=type(failure.__cause__ or failure).__name__)
    else:
        loop.default_exception_handler(context)


class _OneLine(logging.Handler):
    """Passes a library's warnings on as lines of ours, but for those that the worker has clearer words for."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "action", None) not in _SAID_BY_US and record.name != _ENDING_PARTS:
            log.warning("queue", said=record.getMessage())


# A failed job has its line from _say_how_it_went, a lost database and the parts that end with it from work.
_ENDING_PARTS = "procrastinate.utils"
_SAID_BY_US = frozenset({"job_error", "job_error_retry", "side_task_failed", "poll_jobs_to_abort_error"})


def _speak_for_the_queue() -> None:
    queue_log = logging.getLogger("procrastinate")
    if not any(isinstance(handler, _OneLine) for handler in queue_log.handlers):
        queue_log.addHandler(_OneLine(logging.WARNING))
    queue_log.propagate = False
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
