"""`make drill`: breaks the product on purpose and says what people saw; `python -m tests.drills NAME` for one."""

import argparse
import asyncio
import sys
from types import ModuleType

from tests.drills import audit_faults, audit_locked, crowd, idle_connections, killed_web, overload, stopped_web
from tests.load.figures import machine, say, tell_progress
from tests.load.product import POSTGRES, wait_for_quiet
from tests.load.router import leave_the_cores_to_the_server, make_ready_for_load

DRILLS: dict[str, ModuleType] = {
    "idle-connections": idle_connections,
    "stopped-web": stopped_web,
    "killed-web": killed_web,
    "overload": overload,
    "crowd": crowd,
    "audit-locked": audit_locked,
    "audit-faults": audit_faults,
}


def main() -> int:
    """Run the drills that are named, all by default; return 1 when a goal was not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME")
    names.add_parser("all", help="every drill, each with its defaults (the default)")
    for name, drill in DRILLS.items():
        drill.add_options(names.add_parser(name, help=drill.__doc__))
    chosen = parser.parse_args().name or "all"
    make_ready_for_load()
    leave_the_cores_to_the_server()
    say(f"Drilled {machine(POSTGRES)}")
    is_passed = True
    for name in DRILLS if chosen == "all" else [chosen]:
        asyncio.run(wait_for_quiet())
        tell_progress(f"drill {name}")
        arguments = [name] if chosen == "all" else sys.argv[1:]
        report = DRILLS[name].run(parser.parse_args(arguments))
        say(f"\n{report}")
        is_passed = is_passed and report.is_passed
    return 0 if is_passed else 1


if __name__ == "__main__":
    sys.exit(main())
