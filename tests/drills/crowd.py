"""Thousands of people come within seconds, and each follows the ticket to an account."""

import asyncio
from argparse import ArgumentParser, Namespace

from tests.drills.report import Report, codes_of, count_row, time_row
from tests.drills.stage import HOST, Stage, stage
from tests.load.applicants import (
    Journey,
    Registrar,
    inversions,
    is_broken,
    median_error,
)
from tests.load.figures import Row, median, percentile, share_of_inversions, tell_progress
from tests.load.product import Database, Meter, watching_memory
from tests.load.traffic import arrivals, crowd

MOST_INVERSIONS = 0.01
LARGEST_ERROR = 0.20
MOST_MEMORY_MB = 300


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--people", type=int, default=3000, help="how many come")
    parser.add_argument("--within", type=float, default=15.0, help="in how many seconds they come")
    parser.add_argument("--patience", type=float, default=600.0, help="after how many seconds somebody gives up")


def run(options: Namespace, database: Database | None = None) -> Report:
    """Let them come, wait until all are done, and look at what each was told."""
    with stage(database) as scene:
        journeys, memory, used = asyncio.run(_come(scene, options))
        scene.router.stop()
        return _report(scene, options, journeys, memory, used)


async def _come(scene: Stage, options: Namespace) -> tuple[list[Journey], float, dict[str, float]]:
    web = [server.pid for server in scene.servers]
    meter = Meter(
        router=scene.router.pid,
        postgres=scene.database.postmaster(),
        **{f"web{number}": pid for number, pid in enumerate(web, 1)},
    )
    registrar = Registrar(HOST, scene.port, "crowd", patience=options.patience)
    # Independent arrivals of which exactly so many come: a little longer or shorter than asked for.
    due = sorted(list(arrivals(2 * options.people / options.within, 2 * options.within))[: options.people])
    stretch = options.within / due[-1]
    async with watching_memory(*web, every=1.0) as memory:
        journeys = await crowd(registrar.come, when=[at * stretch for at in due])
    used = meter.end()
    tell_progress(f"the last of {len(journeys)} was done after {used['elapsed']:.0f} s")
    return journeys, max(memory), used


def _report(scene: Stage, options: Namespace, journeys: list[Journey], memory: float, used: dict[str, float]) -> Report:
    opened = [journey for journey in journeys if journey.outcome == "account"]
    waited = [journey for journey in journeys if journey.tickets]
    answers = [answer for journey in journeys for answer in journey.answers]
    polls = sum(len(journey.polls) for journey in journeys)
    lines = scene.router.lines()
    accounts, addresses = scene.database.count_accounts("crowd")
    error, first_error = median_error(journeys), median_error(journeys, first_only=True)
    out_of_order, turns_out_of_order = inversions(journeys), _inversions_of_turns(scene)
    whole = [journey.seconds for journey in opened]
    cores = ", ".join(
        f"{name} {used[name] / used['elapsed']:.2f}" for name in used if name not in ("elapsed", "machine")
    )
    return Report(
        name=f"crowd: {options.people:,} people within {options.within:g} s",
        broke=f"{options.people / options.within:.0f} people a second came for {options.within:g} s; all were done "
        f"after {used['elapsed']:.0f} s ({len(opened) / used['elapsed']:.1f} registrations/s).",
        saw=f"{len(waited):,} waited with a ticket, half of all {median(whole):.0f} s or less, the longest "
        f"{max(whole, default=0):.0f} s, and asked {polls / max(1, len(waited)):.1f} times for their place; "
        f"{sum(journey.expired for journey in journeys)} turns had passed when somebody came. "
        f"The router noted {codes_of(lines)}.",
        lost=f"{len(journeys) - len(opened)} people without an account ({_reasons(journeys)}), "
        f"{abs(accounts - len(opened))} accounts nobody was told of, {accounts - addresses} made twice.",
        rows=[
            Row(
                "people who end with an account",
                f"{len(opened):,} of {len(journeys):,}",
                goal="100 %",
                is_reached=len(opened) == len(journeys),
            ),
            count_row(
                "accounts made twice, or that nobody was told of", abs(accounts - len(opened)) + accounts - addresses
            ),
            time_row("first answer", [journey.posts[0] for journey in journeys], below=1.0),
            Row(
                "pairs of people of whom the earlier got the account later",
                f"{out_of_order:.2%}",
                goal=f"< {MOST_INVERSIONS:.0%}",
                is_reached=out_of_order < MOST_INVERSIONS,
            ),
            Row("... of whom the later was given the turn first", f"{turns_out_of_order:.2%}"),
            Row(
                "median error of the estimate, each time somebody was told",
                f"{error:.0%}",
                goal=f"< {LARGEST_ERROR:.0%}",
                is_reached=error < LARGEST_ERROR,
            ),
            Row("... of the first that each was told", f"{first_error:.0%}"),
            count_row("answers over 5 s", sum(answer.seconds > 5 for answer in answers), of=len(answers)),
            count_row(
                "answers that nobody should get, and codes of the router",
                sum(map(is_broken, answers)) + sum(bool(line.code) for line in lines),
            ),
            Row("asking for the place: p99", f"{percentile(_poll_seconds(journeys), 0.99) * 1000:.0f} ms"),
            Row(
                "web memory, all dynos (PSS)",
                f"{memory:.0f} MB",
                goal=f"< {MOST_MEMORY_MB} MB",
                is_reached=memory < MOST_MEMORY_MB,
            ),
            Row("cores in use meanwhile", cores),
        ],
    )


def _inversions_of_turns(scene: Stage) -> float:
    """Return the share of pairs of tickets of which the later was given its turn first."""
    turns = scene.database.ask(
        "SELECT extract(epoch FROM turn_at) FROM registration_tickets WHERE turn_at IS NOT NULL ORDER BY number"
    )
    return share_of_inversions([float(turn) for (turn,) in turns])


def _poll_seconds(journeys: list[Journey]) -> list[float]:
    return [answer.seconds for journey in journeys for answer in journey.polls]


def _reasons(journeys: list[Journey]) -> str:
    reasons = sorted({journey.refusal or journey.outcome for journey in journeys if journey.outcome != "account"})
    return "; ".join(reasons) or "none"
