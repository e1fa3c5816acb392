"""Ten times as many people come as can be served, for a minute."""

import asyncio
import math
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.drills.report import Report, codes_of, count_row, time_row
from tests.drills.stage import HOST, Stage, possible_hash_rate, settings_of_hash, stage
from tests.load.applicants import Journey, Registrar, is_broken, register_without_pause
from tests.load.figures import Row, tell_progress
from tests.load.product import Database, Meter, durable_database
from tests.load.router import Line
from tests.load.traffic import Answer, arrivals, crowd, probe

AIMED_RATE = 5.15
"""Registrations a second that can be served, by the hash's cost: the fewest of 5 to 10, so that simulator and
generator, which a dyno does not have, leave the cores to the server."""

SLOWEST, QUICKEST = 5.0, 5.3
"""What is taken for it. The machine changes its pace, so the cost is corrected until it fits."""

MOST_TRIALS = 5
SETTLED_AFTER_SECONDS = 5.0
"""A server that has just started serves a tenth fewer: it has no pace yet to give turns by."""

_EVERYBODY_LEAVES = (
    "UPDATE registration_tickets SET left_at = clock_timestamp() WHERE done_at IS NULL AND left_at IS NULL"
)

NOTICED_WITHIN_SECONDS = 3.0
"""So long the processes may go by how full the room was; who comes then is told of a long wait."""

WARM_UP_SECONDS = 5.0
HEALTH_CHECKS_A_SECOND = 5.0


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they come")
    parser.add_argument("--times", type=float, default=10.0, help="how many times capacity")
    parser.add_argument("--leavers", type=float, default=0.0, help="share of people who leave with their ticket")


def run(options: Namespace, database: Database | None = None) -> Report:
    """Measure what can be served, send ten times that, measure it again, and compare."""
    seconds = min(20.0, options.seconds)
    with ExitStack() as stack:
        database = database or stack.enter_context(durable_database())
        scene, before = stack.enter_context(_fitting_stage(database, seconds=seconds))
        hashes = _Hashes.logged(scene)
        journeys, health, used = asyncio.run(_overload(scene, options, rate=before.rate * options.times))
        core_ms = _Hashes.logged(scene).core_ms_since(hashes)
        counted = database.count_accounts("flood")
        database.ask(_EVERYBODY_LEAVES)
        time.sleep(NOTICED_WITHIN_SECONDS)
        after = asyncio.run(_at_capacity(scene, "after", seconds=seconds))
        scene.router.stop()
        flood = _Flood(journeys, health, used, core_ms, *counted)
        return _report(scene, options, _Capacity.between(before, after), flood)


@dataclass(frozen=True, slots=True)
class _Capacity:
    """What can be served: registrations a second, the cores that were left for it, and what a hash took then."""

    rate: float
    cores: float
    hash_core_ms: float
    in_words: str

    @classmethod
    def between(cls, before: "_Capacity", after: "_Capacity") -> "_Capacity":
        """Return what can be served at a moment between two others, while the machine changes its pace."""
        return cls(
            (before.rate + after.rate) / 2,
            (before.cores + after.cores) / 2,
            (before.hash_core_ms + after.hash_core_ms) / 2,
            f"{before.in_words} before, {after.in_words} after",
        )


@dataclass(frozen=True, slots=True)
class _Hashes:
    """How many registrations have hashed so far, and core-milliseconds of all of them."""

    count: int
    core_ms: float

    @classmethod
    def logged(cls, scene: Stage) -> "_Hashes":
        """Return what the request logs tell."""
        took = [
            line["hash_cpu_ms"] for server in scene.servers for line in server.requests_logged("auth_api.register", 201)
        ]
        return cls(len(took), sum(took))

    def core_ms_since(self, earlier: "_Hashes") -> float:
        """Return what one has taken since then, on average; NaN where there was none."""
        count = self.count - earlier.count
        return (self.core_ms - earlier.core_ms) / count if count else math.nan


@dataclass(frozen=True, slots=True)
class _Flood:
    """What came of those who came: their journeys, the answers of /healthz, seconds of processor by process, what a
    hash took, and the accounts with the addresses that have one."""

    journeys: list[Journey]
    health: list[Answer]
    used: dict[str, float]
    hash_core_ms: float
    accounts: int
    addresses: int


@contextmanager
def _fitting_stage(database: Database, *, seconds: float) -> Iterator[tuple[Stage, _Capacity]]:
    """Yield a stage that can serve as many as aimed at, with what it can; the last one tried if none fits."""
    factor = asyncio.run(possible_hash_rate()) / AIMED_RATE
    for trial in range(1, MOST_TRIALS + 1):
        with stage(database, settings_of_hash(factor)) as scene:
            best = asyncio.run(_at_capacity(scene, f"calm{trial}", seconds=seconds))
            if SLOWEST <= best.rate <= QUICKEST or trial == MOST_TRIALS:
                yield scene, best
                return
        factor *= best.rate / AIMED_RATE


async def _at_capacity(scene: Stage, label: str, *, seconds: float) -> _Capacity:
    """Return what a few people who come one after another get: the most there is."""
    registrar = Registrar(HOST, scene.port, label)
    began = time.monotonic() + SETTLED_AFTER_SECONDS
    meter, hashes = Meter(router=scene.router.pid), _Hashes.logged(scene)
    journeys = await register_without_pause(registrar, 6, SETTLED_AFTER_SECONDS + seconds)
    rate, core_ms = _goodput(journeys, began, began + seconds), _Hashes.logged(scene).core_ms_since(hashes)
    tell_progress(f"at capacity, {label}: {rate:.2f} registrations/s, {core_ms:.0f} core-ms a hash")
    return _Capacity(rate, _cores_left(meter.end()), core_ms, f"{rate:.2f}")


def _cores_left(used: dict[str, float]) -> float:
    """Return how many cores router and generator leave to the product; on a dyno they are not there at all."""
    return (os.cpu_count() or 1) - (used["router"] + used["generator"]) / used["elapsed"]


async def _overload(
    scene: Stage, options: Namespace, *, rate: float
) -> tuple[list[Journey], list[Answer], dict[str, float]]:
    until = asyncio.Event()
    health = asyncio.create_task(probe(HOST, scene.port, [scene.healthz()], rate=HEALTH_CHECKS_A_SECOND, until=until))
    web = {f"web{number}": server.pid for number, server in enumerate(scene.servers, 1)}
    meter = Meter(router=scene.router.pid, postgres=scene.database.postmaster(), **web)
    registrar = Registrar(
        HOST, scene.port, "flood", share_who_leave=options.leavers, closes_at=time.monotonic() + options.seconds
    )
    journeys = await crowd(registrar.come, when=arrivals(rate, options.seconds))
    used = meter.end()
    until.set()
    return journeys, await health, used


def _report(scene: Stage, options: Namespace, best: _Capacity, flood: _Flood) -> Report:
    journeys, health, used = flood.journeys, flood.health, flood.used
    answers = [answer for journey in journeys for answer in journey.answers] + health
    posts = [answer for journey in journeys for answer in journey.posts]
    polls = [answer for journey in journeys for answer in journey.polls]
    began = min(journey.arrived_at for journey in journeys)
    warm = min(WARM_UP_SECONDS, options.seconds / 4)
    goodput = _goodput(journeys, began + warm, began + options.seconds)
    accepted = [answer for answer in posts if answer.status == 201]
    ticketed = [answer for answer in posts if answer.status == 503]
    lines = scene.router.lines()
    accounts, addresses = flood.accounts, flood.addresses
    opened = sum(journey.outcome == "account" for journey in journeys)
    with_ticket = sum(journey.tickets > 0 for journey in journeys)
    as_quick = goodput * flood.hash_core_ms / best.hash_core_ms
    left = _cores_left(used)
    cores = ", ".join(
        f"{name} {used[name] / used['elapsed']:.2f}" for name in used if name not in ("elapsed", "machine")
    )
    return Report(
        name=f"overload: {options.times:g} times capacity for {options.seconds:g} s",
        broke=f"{len(journeys):,} people came at {len(journeys) / options.seconds:.0f}/s where {best.rate:.1f}/s can "
        f"be served; {options.leavers:.0%} of those with a ticket leave without a word.",
        saw=f"{opened} got an account, {with_ticket} a place in the queue; the rest were told to come again. "
        f"The router noted {codes_of(lines)}.",
        lost=f"{abs(accounts - opened)} accounts that somebody was told of, or has without knowing; "
        f"{accounts - addresses} made twice.",
        rows=[
            count_row("answers over 5 s", sum(answer.seconds > 5 for answer in answers), of=len(answers)),
            count_row("H12 of the router", sum(line.code == "H12" for line in lines)),
            count_row("answers that nobody should get, and other codes of the router", _bad(answers, lines)),
            time_row("accepted", accepted, below=1.5),
            time_row("refused or ticketed", ticketed, below=0.05),
            time_row("asking for the place", polls, below=0.05),
            time_row("/healthz", health, below=0.05),
            Row(
                "registrations a second",
                f"{goodput:.2f}/s",
                f"{best.rate:.2f}/s at capacity: {best.in_words}",
                f"{goodput / best.rate:.2f}",
                ">= 0.90",
                goodput >= 0.9 * best.rate,
            ),
            Row(
                "... as if a hash had taken what it took at capacity",
                f"{as_quick:.2f}/s; {flood.hash_core_ms:.0f} core-ms a hash",
                f"{best.rate:.2f}/s; {best.hash_core_ms:.0f} core-ms",
                f"{as_quick / best.rate:.2f}",
            ),
            Row(
                "... for each core that router and generator leave",
                f"{goodput / left:.2f}/s of {left:.2f}",
                f"{best.rate / best.cores:.2f}/s of {best.cores:.2f}",
                f"{goodput / left / (best.rate / best.cores):.2f}",
            ),
            count_row("accounts made twice, or not told to their owner", accounts - addresses + abs(accounts - opened)),
            Row("cores in use meanwhile", cores),
        ],
    )


def _bad(answers: list[Answer], lines: list[Line]) -> int:
    return sum(is_broken(answer) for answer in answers) + sum(bool(line.code) for line in lines)


def _goodput(journeys: list[Journey], began: float, ended: float) -> float:
    done = sum(journey.outcome == "account" and began <= journey.ended_at < ended for journey in journeys)
    return done / (ended - began)
