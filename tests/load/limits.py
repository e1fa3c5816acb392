"""What these cores can do at most: hashes a second and look-ups a second, each by as many bare processes as cores."""

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass

import psycopg2
from argon2 import PasswordHasher

from capecontrol.config import libpq_url
from tests.live_server import REPOSITORY
from tests.load.applicants import PASSWORD


@dataclass(frozen=True, slots=True)
class Limit:
    """So many a second, each for so much processor time in milliseconds."""

    rate: float
    core_ms: float


async def hashes(*, seconds: float, passes: int = 2, memory_kib: int = 19456) -> Limit:
    """Measure argon2id with parallelism 1, one thread in each process."""
    return await _in_processes(
        "--hash", "--seconds", str(seconds), "--passes", str(passes), "--memory-kib", str(memory_kib)
    )


async def lookups(database_url: str, email: str, *, seconds: float) -> Limit:
    """Measure one SELECT by the unique index on one connection in each process; the processor time is the clients'."""
    return await _in_processes("--database", libpq_url(database_url), "--email", email, "--seconds", str(seconds))


async def _in_processes(*arguments: str) -> Limit:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.load.limits", *arguments), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(os.cpu_count() or 1)
    ]
    results = [json.loads((await process.communicate())[0]) for process in processes]
    count = sum(result["count"] for result in results)
    return Limit(
        rate=sum(result["count"] / result["elapsed"] for result in results),
        core_ms=1000 * sum(result["processor"] for result in results) / count,
    )


def main() -> None:
    """Be one of the processes; write what it did as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--hash", action="store_true")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--memory-kib", type=int, default=19456)
    parser.add_argument("--database")
    parser.add_argument("--email")
    options = parser.parse_args()
    if options.hash:
        hasher = PasswordHasher(time_cost=options.passes, memory_cost=options.memory_kib, parallelism=1)
        result = _count(lambda: hasher.hash(PASSWORD), options.seconds)
    else:
        with closing(psycopg2.connect(options.database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            statement = "SELECT 1 FROM users_v2 WHERE email_key = %s"
            result = _count(lambda: cursor.execute(statement, (options.email,)), options.seconds)
    sys.stdout.write(json.dumps(result))


def _count(work, seconds: float) -> dict[str, float]:  # type: ignore[no-untyped-def]
    work()
    began, used = time.monotonic(), time.process_time()
    count = 0
    while time.monotonic() - began < seconds:
        work()
        count += 1
    return {"count": count, "elapsed": time.monotonic() - began, "processor": time.process_time() - used}


if __name__ == "__main__":
    main()
