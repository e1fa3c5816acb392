"""Web servers are told to stop, again and again, as a deploy does, while people register and follow conversations."""

import asyncio
import json
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field

from tests.drills.report import Report, codes_of, count_row
from tests.drills.stage import HOST, Stage, stage
from tests.load.applicants import Journey, Registrar, broken_answers, is_broken, register_without_pause
from tests.load.figures import Row, tell_progress
from tests.load.product import Database, WebServer
from tests.load.traffic import Answer, Caller, probe
from tests.load.wire import request_bytes

IN_FLIGHT = 12
STOPS_WITHIN_SECONDS = 25.0
BETWEEN_SECONDS = 2.0
CHECKS_A_SECOND = 40.0
CHECK = "/api/auth/v2/validate-email?email=ines%40example.com"
FOLLOWERS = 4
FOLLOWED_SECONDS = 0.5
"""So long before a server is told to stop they begin: what is left of their 25 s is more than it may take."""

_LAST_WORD = b"event: end\n"


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--stops", type=int, default=6, help="how many web servers are stopped, one after another")


@dataclass(slots=True)
class _Deploys:
    """The web servers that were stopped."""

    scene: Stage
    stops: int
    seconds: list[float] = field(default_factory=list)
    streams: list[Answer] = field(default_factory=list)
    is_over: bool = False

    async def roll(self) -> None:
        """Start a new server, then stop the oldest; the router only sees that it does not listen any more."""
        running = list(self.scene.servers)
        followers = [await _question(self.scene.port, number) for number in range(FOLLOWERS)]
        for _ in range(self.stops):
            await asyncio.sleep(BETWEEN_SECONDS)
            fresh = await asyncio.to_thread(self.scene.another_server)
            self.scene.router.add(fresh.port)
            running.append(fresh)
            oldest = running.pop(0)
            following = asyncio.gather(*(_follow(oldest.port, *follower) for follower in followers))
            await asyncio.sleep(FOLLOWED_SECONDS)
            self.seconds.append(await _stop(oldest))
            self.streams += await following
            tell_progress(f"stopped a web server in {self.seconds[-1]:.1f} s")
        self.is_over = True


def run(options: Namespace, database: Database | None = None) -> Report:
    """Register without pause while servers stop, then count."""
    with stage(database) as scene:
        deploys = _Deploys(scene, options.stops)
        journeys, checks = asyncio.run(_register_until(scene, deploys))
        scene.router.stop()
        return _report(scene, options, deploys, journeys, checks)


async def _register_until(scene: Stage, deploys: _Deploys) -> tuple[list[Journey], list[Answer]]:
    rolling = asyncio.create_task(deploys.roll())
    until = asyncio.Event()
    check = request_bytes("GET", CHECK, host=f"{HOST}:{scene.port}")
    checking = asyncio.create_task(probe(HOST, scene.port, [check], rate=CHECKS_A_SECOND, until=until))
    journeys: list[Journey] = []
    number = 0
    while not rolling.done():
        label = f"deploy{number}"
        number += 1
        registrar = Registrar(HOST, scene.port, label, patience=60)
        journeys += await register_without_pause(registrar, IN_FLIGHT, 3.0)
    await rolling
    until.set()
    return journeys, await checking


async def _question(port: int, number: int) -> tuple[str, str]:
    """Open an account and ask what nobody answers, as no worker runs; return its token and where it is followed."""
    caller = Caller(HOST, port)
    journey = await Registrar(HOST, port, "follower").come(number, caller=caller)
    token = json.loads(journey.posts[-1].body)["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"content": "How do I sign out?"}).encode()
    host = f"{HOST}:{port}"
    asked = await caller.call(request_bytes("POST", "/api/conversations", host=host, body=body, headers=headers))
    caller.close()
    return token, f"/api/conversations/{json.loads(asked.body)['id']}/events"


async def _follow(port: int, token: str, path: str) -> Answer:
    """Follow a conversation on one server until the stream ends."""
    caller = Caller(HOST, port)
    headers = {"Authorization": f"Bearer {token}"}
    stream = await caller.call(request_bytes("GET", path, host=f"{HOST}:{port}", headers=headers))
    caller.close()
    return stream


async def _stop(server: WebServer) -> float:
    """Send SIGTERM and wait; return the seconds it took."""
    assert server.web is not None
    began = time.monotonic()
    server.web.terminate()
    while server.web.poll() is None and time.monotonic() - began < 2 * STOPS_WITHIN_SECONDS:
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def _report(
    scene: Stage, options: Namespace, deploys: _Deploys, journeys: list[Journey], checks: list[Answer]
) -> Report:
    lines = scene.router.lines()
    codes = [line for line in lines if line.code]
    opened = [journey for journey in journeys if journey.outcome == "account"]
    accounts, addresses = scene.database.count_accounts("deploy")
    broken = broken_answers(journeys) + [answer for answer in checks if is_broken(answer)]
    cut = [stream for stream in deploys.streams if stream.status != 200 or _LAST_WORD not in stream.body]
    slowest = max(deploys.seconds)
    return Report(
        name=f"stopped-web: SIGTERM to {options.stops} web servers",
        broke=f"{options.stops} web servers got SIGTERM, one after another, with {IN_FLIGHT} registrations in flight, "
        f"{CHECKS_A_SECOND:.0f} e-mail checks a second and {FOLLOWERS} people who had just begun to wait for a reply; "
        f"the router was not told.",
        saw=f"{len(opened)} of {len(journeys)} registered, the slowest in "
        f"{max(journey.seconds for journey in journeys):.1f} s; {len(broken)} requests were cut and had to be sent "
        f"again. The router noted {codes_of(lines)}.",
        lost=f"{len(journeys) - len(opened)} registrations; {abs(accounts - len(opened))} accounts nobody was told of, "
        f"{accounts - addresses} made twice.",
        rows=[
            count_row("requests that were cut or not answered", len(broken), of=len(lines)),
            count_row("streams of events that were cut", len(cut), of=len(deploys.streams)),
            count_row("codes of the router", len(codes), of=len(lines)),
            count_row("registrations lost", len(journeys) - len(opened), of=len(journeys)),
            count_row(
                "accounts made twice, or that nobody was told of", abs(accounts - len(opened)) + accounts - addresses
            ),
            Row(
                "the slowest stop",
                f"{slowest:.1f} s",
                goal=f"< {STOPS_WITHIN_SECONDS:g} s",
                is_reached=slowest < STOPS_WITHIN_SECONDS,
            ),
        ],
    )
