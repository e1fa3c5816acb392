"""Web processes are killed at every point of a registration; the person sends the same again."""

import asyncio
import itertools
import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.drills.fatal_points import HEADER, POINTS
from tests.drills.report import Report, codes_of, count_row
from tests.drills.stage import HOST, Stage, stage
from tests.load.applicants import PASSWORD, Journey, Registrar, register_without_pause
from tests.load.figures import Row, percentile, tell_progress
from tests.load.product import Database
from tests.load.traffic import Answer, Caller
from tests.load.wire import request_bytes

BYSTANDERS = 2
TRIES = 20
TRY_AGAIN_SECONDS = 0.5


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--runs", type=int, default=200, help="how many processes are killed")


@dataclass(slots=True)
class _Run:
    """One process killed, and what came of the registration."""

    number: int
    point: str
    first: Answer
    was_killed: bool
    accounts_before_retry: int
    again: list[Answer] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.again[-1].ended_at - self.first.began_at


def run(options: Namespace, database: Database | None = None) -> Report:
    """Kill at each point in turn, while others register, and look at what is in the database each time."""
    with stage(database, application="tests.drills.fatal_web:application") as scene:
        runs, bystanders = asyncio.run(_kill(scene, options.runs))
        scene.router.stop()
        return _report(scene, runs, bystanders)


async def _kill(scene: Stage, count: int) -> tuple[list[_Run], list[Journey]]:
    over = asyncio.Event()
    others: list[Journey] = []

    async def register_beside() -> None:
        for number in itertools.count():
            if over.is_set():
                break
            others.extend(
                await register_without_pause(Registrar(HOST, scene.port, f"bystander{number}"), BYSTANDERS, 2.0)
            )

    beside = asyncio.create_task(register_beside())
    registrar = Registrar(HOST, scene.port, "victim")
    runs = []
    for number, point in zip(range(count), itertools.cycle(POINTS), strict=False):
        runs.append(await _kill_once(scene, registrar, number, point))
        if number % 20 == 19:
            tell_progress(f"killed {number + 1} of {count}")
    over.set()
    await beside
    return runs, others


async def _kill_once(scene: Stage, registrar: Registrar, number: int, point: str) -> _Run:
    caller = Caller(HOST, scene.port)
    ticket = None
    while True:
        request = registrar.request(number, ticket=ticket, extra={HEADER: point})
        workers = _workers(scene)
        first = await caller.call(request)
        said = _json(first)
        if first.status != 503 or not said:
            break
        ticket = said.get("ticket", ticket)  # many register beside: come again, at one's turn, to be killed
        await asyncio.sleep(int(first.header("Retry-After") or 1))
    was_killed = await _has_lost_one(scene, workers)
    accounts = await asyncio.to_thread(_accounts, scene, registrar.email(number))
    done = _Run(number, point, first, was_killed, accounts)
    while len(done.again) < TRIES:
        answer = await caller.call(registrar.request(number, ticket=ticket))
        done.again.append(answer)
        if answer.status in (201, 409, 422):
            break
        ticket = _json(answer).get("ticket", ticket)
        await asyncio.sleep(TRY_AGAIN_SECONDS)
    done.halves = await asyncio.to_thread(_halves, scene, registrar.email(number), _json(done.again[-1]))
    if not done.halves and not await _can_sign_in(scene, caller, registrar.email(number)):
        done.halves.append("the password does not open it")
    caller.close()
    return done


def _workers(scene: Stage) -> set[int]:
    return {pid for server in scene.servers for pid in server.worker_pids()}


async def _has_lost_one(scene: Stage, workers: set[int]) -> bool:
    """Say whether one of the web processes is no more; its parent takes a moment to notice."""
    for _ in range(20):
        if workers - _workers(scene):
            return True
        await asyncio.sleep(0.05)
    return False


def _accounts(scene: Stage, email: str) -> int:
    return int(scene.database.ask("SELECT count(*) FROM users_v2 WHERE email = %s", email)[0][0])


def _halves(scene: Stage, email: str, said: dict[str, Any]) -> list[str]:
    """Return in words what is half done about an account: more or less than one, without its event or its token."""
    found = scene.database.ask(
        "SELECT id, (SELECT count(*) FROM audit_logs WHERE subject_id = person.id AND event_type = 'user_registration' "
        "AND success), (SELECT count(*) FROM idempotency_keys WHERE user_id = person.id), "
        "(SELECT count(*) FROM api_tokens WHERE user_id = person.id) FROM users_v2 AS person WHERE email = %s",
        email,
    )
    if len(found) != 1:
        return [f"{len(found)} accounts"]
    account_id, events, keys, tokens = found[0]
    wrong = []
    if account_id != said.get("id"):
        wrong.append("another account was told")
    if events != 1:
        wrong.append(f"{events} events of its registration")
    if keys != 1:
        wrong.append(f"{keys} idempotency keys")
    if tokens < 1:
        wrong.append("no token")
    return wrong


async def _can_sign_in(scene: Stage, caller: Caller, email: str) -> bool:
    body = json.dumps({"email": email, "password": PASSWORD}).encode()
    request = request_bytes(
        "POST",
        "/api/auth/v2/login",
        host=f"{HOST}:{scene.port}",
        body=body,
        headers={"Content-Type": "application/json"},
    )
    for _ in range(TRIES):
        answer = await caller.call(request)
        if answer.status in (200, 401):
            return answer.status == 200
        await asyncio.sleep(TRY_AGAIN_SECONDS)
    return False


def _json(answer: Answer) -> dict[str, Any]:
    if answer.status == 0 or answer.header("Content-Type") != "application/json":
        return {}
    said = json.loads(answer.body)
    return said if isinstance(said, dict) else {}


def _report(scene: Stage, runs: list[_Run], bystanders: list[Journey]) -> Report:
    killed = Counter(run.point for run in runs if run.was_killed)
    early = [run for run in runs if run.was_killed and run.accounts_before_retry != int(POINTS[run.point])]
    halves = [run for run in runs if run.halves]
    without = [run for run in runs if run.again[-1].status != 201]
    left = [journey for journey in bystanders if journey.outcome != "account"]
    accounts, addresses = scene.database.count_accounts("bystander")
    words = sorted({f"{run.point}: {', '.join(run.halves)}" for run in halves})
    alive = sorted(set(POINTS) - set(killed)) if len(runs) >= len(POINTS) else []
    tries = sum(len(run.again) for run in runs)
    return Report(
        name=f"killed-web: kill -9 at {len(POINTS)} points, {len(runs)} runs",
        broke=f"{sum(killed.values())} web processes were killed with a registration in hand "
        f"({', '.join(f'{point} {count}' for point, count in killed.items())}), while {BYSTANDERS} others registered.",
        saw=f"The connection broke or the router's page; the same form under the same key, sent again, opened the "
        f"account within {percentile([run.seconds for run in runs], 0.99):.1f} s (p99), with "
        f"{tries / len(runs):.1f} tries on average. The router noted {codes_of(scene.router.lines())}.",
        lost=f"{len(without)} registrations of those killed, {len(left)} of {len(bystanders)} beside them; "
        f"{len(halves)} accounts are half done{': ' + '; '.join(words) if words else ''}.",
        rows=[
            count_row("registrations without an account after the retry", len(without), of=len(runs)),
            count_row("accounts half done, doubled, or that the password does not open", len(halves), of=len(runs)),
            count_row("killed before the commit with an account, or after it without", len(early), of=len(runs)),
            count_row("bystanders without an account", len(left), of=len(bystanders)),
            count_row("bystanders' accounts made twice", accounts - addresses),
            Row(
                "points at which a process was really killed",
                f"{len(killed)} of {len(POINTS)}" + (f", not: {', '.join(alive)}" if alive else ""),
                goal="all",
                is_reached=not alive and all(run.was_killed for run in runs),
            ),
        ],
    )
