"""What a flush costs while something else goes on: a process of its own puts a line into a spool now and then."""

import json
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from capecontrol.audit.spool import Spool
from capecontrol.operations.local_postgres import end_with_parent
from tests.live_server import REPOSITORY
from tests.load.figures import say

LINES_A_SECOND = 20.0

_LINE = "x" * 900
_WAITED = Path("/proc/thread-self/schedstat")


@dataclass(slots=True)
class Flushes:
    """How many milliseconds each line took to be on the disk, and how many of them without waiting for a core."""

    took: list[float] = field(default_factory=list)
    disk: list[float] = field(default_factory=list)


@contextmanager
def flushing(folder: Path) -> Iterator[Flushes]:
    """Flush a line now and then, as a process does whose events wait; what it took is there at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.drills.flushing", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )
    assert process.stdout is not None
    process.stdout.readline()
    flushes = Flushes()
    try:
        yield flushes
    finally:
        said, _ = process.communicate()  # which closes its input, and so ends it
        flushes.took, flushes.disk = json.loads(said)


def _flush_until_the_input_ends(folder: Path) -> Flushes:
    flushes = Flushes()
    spool = Spool(folder)
    say("begun")
    while not select.select([sys.stdin], [], [], random.expovariate(LINES_A_SECOND))[0]:
        began, waited = time.perf_counter(), _waited_for_a_core()
        spool.append([_LINE], None)
        flushes.took.append((time.perf_counter() - began) * 1000)
        flushes.disk.append(max(0.0, flushes.took[-1] - (_waited_for_a_core() - waited)))
    spool.close()
    return flushes


def _waited_for_a_core() -> float:
    """Return how many milliseconds this thread was ready to run and did not."""
    return int(_WAITED.read_text().split()[1]) / 1e6


if __name__ == "__main__":
    measured = _flush_until_the_input_ends(Path(sys.argv[1]))
    say(json.dumps([measured.took, measured.disk]))
