"""Hundreds of connections stay open and silent, as a router keeps them; the next caller must not notice."""

import asyncio
from argparse import ArgumentParser, Namespace

from tests.drills.report import Report, count_row
from tests.drills.stage import HOST, Stage, stage
from tests.load.figures import Row, median, milliseconds, percentile
from tests.load.product import Database
from tests.load.traffic import Answer, Caller, Connection
from tests.load.wire import request_bytes

ROUNDS = 4
CALLERS = 150
SLOWER_AT_MOST = 0.010
"""Seconds that the 99th percentile may differ: below, two runs of the same thing differ as much."""


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--connections", type=int, default=500, help="how many stay open")


def run(options: Namespace, database: Database | None = None) -> Report:
    """Time callers on connections of their own without and with the idle ones, in turns."""
    with stage(database, {"WEB_CONCURRENCY": "2"}, dynos=1) as scene:
        without, beside, late = asyncio.run(_compare(scene, options.connections))
    before, after = (percentile([answer.seconds for answer in answers], 0.99) for answers in (without, beside))
    broken = [answer for answer in without + beside + late if answer.status != 200]
    return Report(
        name=f"idle-connections: {options.connections} kept-alive connections",
        broke=f"{options.connections} callers made one request each and kept the connection, silent, to one dyno.",
        saw=f"The next caller waited {milliseconds(median(answer.seconds for answer in beside))} in the middle, "
        f"{milliseconds(median(answer.seconds for answer in without))} without them.",
        lost=f"{sum(answer.status != 200 for answer in late)} of the idle connections, when they spoke again.",
        rows=[
            Row(
                f"validate-email on a new connection, p99 of {len(beside)}",
                milliseconds(after),
                f"without them {milliseconds(before)}",
                f"{after / before:.2f}",
                f"<= {milliseconds(SLOWER_AT_MOST)} more",
                after <= before + SLOWER_AT_MOST,
            ),
            count_row("callers without an answer", len(broken), of=len(without + beside + late)),
        ],
    )


async def _compare(scene: Stage, count: int) -> tuple[list[Answer], list[Answer], list[Answer]]:
    port = scene.servers[0].port
    without: list[Answer] = []
    beside: list[Answer] = []
    late: list[Answer] = []
    await _call_anew(port)  # warm
    for _ in range(ROUNDS):
        without += await _call_anew(port)
        idle = await _open(scene, port, count)
        beside += await _call_anew(port)
        late += await asyncio.gather(*(connection.call(scene.healthz(port)) for connection in idle))
        for connection in idle:
            connection.close()
        await asyncio.sleep(0.5)
    return without, beside, late


async def _open(scene: Stage, port: int, count: int) -> list[Connection]:
    connections = []
    for _ in range(count):
        connection = await Connection.open(HOST, port)
        await connection.call(scene.healthz(port))
        connections.append(connection)
    return connections


async def _call_anew(port: int) -> list[Answer]:
    """Return the answers of callers who come one after another, each on a new connection."""
    request = request_bytes("GET", "/api/auth/v2/validate-email?email=ines%40example.com", host=f"{HOST}:{port}")
    answers = []
    for _ in range(CALLERS):
        caller = Caller(HOST, port)
        answers.append(await caller.call(request))
        caller.close()
        await asyncio.sleep(0.005)
    return answers
