"""`make bench`: one table of what the product does, each figure beside a limit measured in the same run."""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from capecontrol import create_app
from tests.conftest import dispose, settings_for
from tests.load import audit_cost, limits, record
from tests.load.applicants import PASSWORD, Journey, Registrar, broken_answers, register_without_pause
from tests.load.figures import Row, machine, median, milliseconds, percentile, say, table, tell_progress
from tests.load.product import (
    POSTGRES,
    Database,
    Meter,
    RouterProcess,
    WebServer,
    durable_database,
    router_before,
    wait_for_quiet,
    watching_memory,
    web_servers,
)
from tests.load.router import make_ready_for_load
from tests.load.traffic import Answer, hammer, probe, probing_apart
from tests.load.wire import request_bytes

HOST = "127.0.0.1"
CORES = os.cpu_count() or 1
SEEDED = 10_000
AT_ONCE = 16
IN_THE_STORM = 32
CHECKS_A_SECOND = 60.0
SIGN_INS_A_SECOND = 4.0
STEPS = ("queue", "gate", "hash", "db", "audit")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each part is measured, in seconds, and how often."""

    rounds: int = 3
    limit: float = 4.0
    registrations: float = 12.0
    checks: float = 4.0
    probe: float = 15.0
    storm: float = 30.0
    burst: int = 200
    patience: float = 60.0


QUICK = Lengths(rounds=1, limit=1.5, registrations=4.0, checks=1.5, probe=4.0, storm=4.0, burst=40, patience=0.0)


@dataclass(slots=True)
class Bench:
    """What the measurements work with."""

    database: Database
    web: WebServer
    bare: WebServer
    router: RouterProcess
    lengths: Lengths
    registration_rates: list[float] = field(default_factory=list)

    @property
    def host(self) -> str:
        """The product's Host header."""
        return f"{HOST}:{self.web.port}"

    def checks(self) -> list[bytes]:
        """Return e-mail checks, half of them for addresses that are taken."""
        numbers = range(1, 501)
        emails = [f"person-{n}@example.com" for n in numbers] + [f"nobody-{n}@example.com" for n in numbers]
        path = "/api/auth/v2/validate-email?email="
        return [request_bytes("GET", path + quote(email), host=self.host) for email in emails]


async def email_checks(bench: Bench) -> list[Row]:
    """Measure the check at 16 connections against a bare route, a route with the look-up, and the look-up alone."""
    ours, bare, routed = [], [], []
    emails = [quote(f"person-{n}@example.com") for n in range(1, 501)]

    async def rate(port: int, requests: list[bytes]) -> float:
        found, answers = await hammer(HOST, port, requests, connections=AT_ONCE, seconds=bench.lengths.checks)
        _refuse_failures(answers, {200})
        return found

    def of_bare(path: str) -> list[bytes]:
        return [request_bytes("GET", f"{path}?email={email}", host=HOST) for email in emails]

    for _ in range(bench.lengths.rounds):
        bare.append(await rate(bench.bare.port, of_bare("/bare")))
        ours.append(await rate(bench.web.port, bench.checks()))
        routed.append(await rate(bench.bare.port, of_bare("/looked-up")))
    alone = await limits.lookups(bench.database.url, "person-1@example.com", seconds=bench.lengths.limit)
    figure = f"{median(ours):,.0f}/s"
    what = f"validate-email, {AT_ONCE} connections"
    return [
        _ratio_row(what, figure, f"bare Flask route {median(bare):,.0f}/s", _ratio(ours, bare), at_least=0.5),
        _ratio_row(what, figure, f"Flask route with the look-up {median(routed):,.0f}/s", _ratio(ours, routed)),
        _ratio_row(what, figure, f"the indexed SELECT alone {alone.rate:,.0f}/s", median(ours) / alone.rate),
    ]


async def registrations(bench: Bench) -> list[Row]:
    """Measure registrations a second at 16 connections between measurements of the bare hash, and where time goes."""
    lengths = bench.lengths
    hashes = [await limits.hashes(seconds=lengths.limit)]
    rates, used, journeys = [], [], []
    for number in range(lengths.rounds):
        registrar = Registrar(HOST, bench.web.port, f"round{number}")
        meters = _MeterAfter(bench, delay=1.0, seconds=lengths.registrations)
        found = await register_without_pause(registrar, AT_ONCE, 1.0 + lengths.registrations, beside=meters.run)
        counted = [j for j in found if meters.began <= j.ended_at < meters.ended and j.outcome == "account"]
        rates.append(len(counted) / (meters.ended - meters.began))
        used.append({name: seconds / max(1, len(counted)) for name, seconds in meters.used.items()})
        journeys += found
        hashes.append(await limits.hashes(seconds=lengths.limit))
        tell_progress(f"{rates[-1]:.1f} registrations/s; bare hash {hashes[-2].rate:.1f} and {hashes[-1].rate:.1f}/s")
    with_ticket = sum(journey.tickets > 0 for journey in journeys)
    limit_rates = [(before.rate + after.rate) / 2 for before, after in itertools.pairwise(hashes)]
    outside = [1000 * CORES / rate - 1000 * CORES / limit for rate, limit in zip(rates, limit_rates, strict=True)]
    bench.registration_rates = rates
    rows = [
        _ratio_row(
            f"registrations/s, {AT_ONCE} connections, audit on, argon2id 19 MiB t=2 p=1",
            f"{median(rates):.1f}/s ({with_ticket} of {len(journeys)} took a ticket)",
            f"bare hash on {CORES} cores {median(limit_rates):.1f}/s",
            _ratio(rates, limit_rates),
            at_least=0.65,
        ),
        Row(
            "core-milliseconds of a registration outside the hash (cores / rate - cores / limit)",
            f"{median(outside):.1f} ms",
            goal="<= 12 ms",
            is_reached=median(outside) <= 12,
        ),
    ]
    return rows + _steps(bench, used, median(limit.core_ms for limit in hashes)) + [_failures_row(journeys)]


def _steps(bench: Bench, used: list[dict[str, float]], hash_ms: float) -> list[Row]:
    """Return where a registration's processor time went, and what its own log says about the clock's."""

    def each(name: str) -> float:
        return 1000 * median(round_used[name] for round_used in used)

    elapsed = each("elapsed")
    busy = ("web", "postgres", "generator", "others")
    idle = CORES * elapsed - sum(each(name) for name in busy)
    parts = (
        f"web {each('web'):.1f} (the bare hash takes {hash_ms:.1f} of them), PostgreSQL {each('postgres'):.1f}, "
        f"load generator {each('generator'):.1f}, others on the machine {each('others'):.1f}, idle {max(0.0, idle):.1f}"
    )
    lines = bench.web.requests_logged("auth_api.register", 201)
    means = {step: _mean([float(line.get(f"{step}_ms", 0)) for line in lines]) for step in (*STEPS, "total")}
    clock = ", ".join(f"{step} {means[step]:.1f}" for step in STEPS)
    rest = means["total"] - sum(means[step] for step in STEPS if step != "queue")
    core = {step: _mean([float(line.get(f"{step}_cpu_ms", 0)) for line in lines]) for step in ("hash", "db", "audit")}
    request = _mean([float(line.get("cpu_ms", 0)) for line in lines])
    by_step = (
        f"hash {core['hash']:.1f}, statements {core['db']:.1f} (of them audit {core['audit']:.1f}), "
        f"rest of the request {request - core['hash'] - core['db']:.1f}, gunicorn and the other answers "
        f"{max(0.0, each('web') - request):.1f}, PostgreSQL {each('postgres'):.1f}"
    )
    return [
        Row("... by step, core-ms a registration", by_step),
        Row("... by process, core-ms a registration", parts),
        Row("... by the request log, ms of the clock", f"{clock}, rest {rest:.1f}; in all {means['total']:.1f}"),
    ]


async def audit(bench: Bench) -> list[Row]:
    """Measure what the record adds to a registration when nothing else goes on."""
    earlier = len(bench.web.requests_logged("auth_api.register", 201))
    registrar = Registrar(HOST, bench.web.port, "alone")
    journeys = await register_without_pause(registrar, 1, bench.lengths.registrations)
    lines = bench.web.requests_logged("auth_api.register", 201)[earlier:]
    app = create_app(settings_for(bench.database.url))
    try:
        inserting = audit_cost.insert_in_a_savepoint(app)
    finally:
        dispose(app)
    return [audit_cost.share_of_a_registration(lines), _failures_row(journeys), inserting]


async def burst(bench: Bench) -> list[Row]:
    """Have 200 people come in the same moment, each on a connection of their own, while others check addresses. The 200
    come without the router: to one dyno it passes at most 50 at a time, and what is measured is the product. The checks
    come by it all the time until the last has an account."""
    async with _probing(bench, sign_ins_a_second=0) as idle:
        await asyncio.sleep(bench.lengths.probe)
    slowest, failed = [], 0
    first: list[float] = []
    checks: list[Answer] = []
    for number in range(bench.lengths.rounds):
        registrar = Registrar(HOST, bench.web.port, f"burst{number}", patience=60)
        async with _probing(bench, sign_ins_a_second=0) as during:
            journeys = await asyncio.gather(*(registrar.come(person) for person in range(bench.lengths.burst)))
        slowest.append(max(journey.seconds for journey in journeys))
        failed += sum(journey.outcome != "account" for journey in journeys) + len(broken_answers(journeys))
        first += [journey.posts[0].seconds for journey in journeys]
        checks += during.checks
        tickets = sum(journey.tickets > 0 for journey in journeys)
        tell_progress(f"{bench.lengths.burst} at once: the last had an account after {slowest[-1]:.1f} s")
    people = bench.lengths.burst
    rate = median(bench.registration_rates) if bench.registration_rates else math.nan
    return [
        Row(
            f"{people} people at once: the last has an account (slowest of {bench.lengths.rounds} bursts)",
            f"{max(slowest):.1f} s; {tickets} of {people} took a ticket; first answer p99 "
            f"{milliseconds(percentile(first, 0.99))}",
            f"{people} at {rate:.1f}/s: {people / rate:.1f} s",
            f"{max(slowest) * rate / people:.2f}",
            "all within 10 s, 0 errors",
            max(slowest) <= 10 and failed == 0,
        ),
        Row("... without an account, or with a broken answer", str(failed), goal="0", is_reached=failed == 0),
        *_checks_meanwhile(f"validate-email p99 while the {people} come and wait", checks, idle.checks),
    ]


async def storm(bench: Bench) -> list[Row]:
    """Check e-mail addresses and sign people in while 32 registrations are in flight, and when none is: the checks then
    without the sign-ins, which hash."""
    async with _probing(bench, sign_ins_a_second=0) as idle:
        await asyncio.sleep(bench.lengths.probe)
    async with _probing(bench) as calm:
        await asyncio.sleep(bench.lengths.probe)
    registrar = Registrar(HOST, bench.router.port, "storm")
    async with watching_memory(bench.web.pid) as memory, _probing(bench) as during:
        journeys = await register_without_pause(registrar, IN_THE_STORM, bench.lengths.storm)
    sign_in = percentile(_seconds(during.sign_ins), 0.99)
    refused = sum(answer.status != 200 for answer in during.sign_ins)
    done = sum(journey.outcome == "account" for journey in journeys)
    return [
        *_checks_meanwhile(
            f"validate-email p99 with {IN_THE_STORM} registrations in flight, {done} registered meanwhile",
            during.checks,
            idle.checks,
        ),
        Row(
            f"sign-ins during the storm ({len(during.sign_ins)} of them): p99",
            milliseconds(sign_in),
            f"without registrations {milliseconds(percentile(_seconds(calm.sign_ins), 0.99))}",
            goal="< 1 s",
            is_reached=sign_in < 1,
        ),
        Row("... refused", str(refused), goal="0", is_reached=refused == 0),
        Row(
            "web memory during the storm, whole process tree (PSS)",
            f"{max(memory):.0f} MB",
            f"idle {memory[0]:.0f} MB",
            goal="< 300 MB",
            is_reached=max(memory) < 300,
        ),
        _failures_row(journeys),
    ]


def _checks_meanwhile(what: str, checks: list[Answer], idle: list[Answer]) -> list[Row]:
    """Return what checks of addresses took beside registrations, and without any."""
    meanwhile, before = (percentile(_seconds(answers), 0.99) for answers in (checks, idle))
    unanswered = sum(answer.status != 200 for answer in checks)
    return [
        Row(
            f"{what} ({len(checks)} samples, {CHECKS_A_SECOND:.0f}/s)",
            f"{milliseconds(meanwhile)} (p50 {milliseconds(median(_seconds(checks)))}, the slowest "
            f"{milliseconds(max(_seconds(checks)))})",
            f"idle p99 {milliseconds(before)} ({len(idle)} samples, p50 {milliseconds(median(_seconds(idle)))})",
            f"{meanwhile / before:.1f}",
            "<= 3, and < 100 ms",
            meanwhile <= 3 * before and meanwhile < 0.1 and unanswered == 0,
        ),
        Row("... not answered 200", str(unanswered), goal="0", is_reached=unanswered == 0),
    ]


@dataclass(slots=True)
class _Seen:
    """What probes found."""

    checks: list[Answer] = field(default_factory=list)
    sign_ins: list[Answer] = field(default_factory=list)


@contextlib.asynccontextmanager
async def _probing(bench: Bench, *, sign_ins_a_second: float = SIGN_INS_A_SECOND) -> AsyncIterator[_Seen]:
    """Check addresses and sign in at even times for as long as the context lasts."""
    seen = _Seen()
    sign_ins = [
        request_bytes(
            "POST",
            "/api/auth/v2/login",
            host=bench.host,
            headers={"Content-Type": "application/json"},
            body=json.dumps({"email": f"person-{n}@example.com", "password": PASSWORD}).encode(),
        )
        for n in range(1, 501)
    ]
    async with probing_apart(HOST, bench.router.port, bench.checks(), rate=CHECKS_A_SECOND) as seen.checks:
        until = asyncio.Event()
        signing_in = (
            asyncio.create_task(probe(HOST, bench.router.port, sign_ins, rate=sign_ins_a_second, until=until))
            if sign_ins_a_second
            else None
        )
        try:
            yield seen
        finally:
            until.set()
            seen.sign_ins = await signing_in if signing_in else []


class _MeterAfter:
    """Measures processor time from a while after its start, when everything is warm."""

    def __init__(self, bench: Bench, *, delay: float, seconds: float) -> None:
        self._roots = {"web": bench.web.pid, "postgres": bench.database.postmaster()}
        self._delay = delay
        self._seconds = seconds
        self.began = self.ended = math.nan
        self.used: dict[str, float] = {}

    async def run(self) -> None:
        await asyncio.sleep(self._delay)
        meter = Meter(**self._roots)
        self.began = time.monotonic()
        await asyncio.sleep(self._seconds)
        self.used = meter.end()
        self.ended = time.monotonic()


def _failures_row(journeys: list[Journey]) -> Row:
    failed = [journey for journey in journeys if journey.outcome != "account"]
    reasons = "".join(f"; {reason}" for reason in sorted({journey.refusal or journey.outcome for journey in failed}))
    broken = broken_answers(journeys)
    return Row(
        "... registrations that failed, or got a broken answer",
        f"{len(failed) + len(broken)} of {len(journeys)}{reasons}",
        goal="0",
        is_reached=not failed and not broken,
    )


def _refuse_failures(answers: list[Answer], statuses: set[int]) -> None:
    """Raise RuntimeError when something else came back than what is measured."""
    wrong = [answer for answer in answers if answer.status not in statuses]
    if wrong or not answers:
        raise RuntimeError(f"{len(wrong)} of {len(answers)} answers are not as they should be: {wrong[:1]}")


def _ratio_row(what: str, figure: str, limit: str, ratio: float, *, at_least: float | None = None) -> Row:
    return Row(
        what,
        figure,
        limit,
        f"{ratio:.2f}",
        "" if at_least is None else f">= {at_least:.2f}",
        None if at_least is None else ratio >= at_least,
    )


def _ratio(ours: list[float], limit: list[float]) -> float:
    """Return the middle of the rounds' ratios."""
    return median(one / other for one, other in zip(ours, limit, strict=True))


def _seconds(answers: list[Answer]) -> list[float]:
    return [answer.seconds for answer in answers]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


PARTS = {
    "checks": email_checks,
    "registrations": registrations,
    "audit": audit,
    "burst": burst,
    "storm": storm,
}
RECORD = "record"
LONG = (1_000_000, 10_000_000)
"""How many events the audit log is measured with."""


async def measure(bench: Bench, parts: list[str]) -> list[Row]:
    """Run the parts one after another and return all rows."""
    rows = []
    for name in parts:
        await wait_for_quiet(patience=bench.lengths.patience)
        tell_progress(f"measuring {name}")
        rows += await PARTS[name](bench)
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, RECORD, []], help="which parts; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: to see that it works")
    parser.add_argument("--rows", type=int, nargs="*", help="how many events the audit log is to have")
    options = parser.parse_args()
    make_ready_for_load()
    parts = options.parts or [*PARTS, RECORD]
    short = [name for name in parts if name in PARTS]
    if short:
        _measure_short(short, QUICK if options.quick else Lengths())
    if RECORD in parts:
        for rows in options.rows or ([50_000] if options.quick else LONG):
            say(f"\nMeasured {machine(POSTGRES)}\n")
            say(table(record.measure(rows)))


def _measure_short(parts: list[str], lengths: Lengths) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="capecontrol-bench-") as folder,
        durable_database() as database,
        web_servers(database, Path(folder)) as (web,),
        web_servers(database, Path(folder), application="tests.load.bare_application:application") as (bare,),
        router_before([web], Path(folder)) as router,
    ):
        database.seed("person", SEEDED)
        bench = Bench(database, web, bare, router, lengths)
        meter = Meter(web=web.pid, bare=bare.pid, postgres=database.postmaster())
        rows = asyncio.run(measure(bench, parts))
        used = meter.end()
        say(f"Measured {machine(POSTGRES)} Others used {used['others'] / used['elapsed']:.2f} cores meanwhile.\n")
        say(table(rows))


if __name__ == "__main__":
    main()
