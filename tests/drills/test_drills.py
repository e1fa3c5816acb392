"""Each drill, small: what it counts must be right on any machine; what it times is for `make drill`."""

from argparse import ArgumentParser
from types import ModuleType

import pytest

from tests.drills import audit_faults, audit_locked, crowd, idle_connections, killed_web
from tests.drills.fatal_points import POINTS
from tests.drills.report import Report, count_row
from tests.load.figures import Row
from tests.load.product import Database

COUNTED = ("0", "all", "100 %")


@pytest.mark.parametrize(
    ("drill", "arguments"),
    [
        (crowd, ["--people", "60", "--within", "0.5"]),
        (killed_web, ["--runs", str(len(POINTS))]),
        (idle_connections, ["--connections", "100"]),
        (audit_locked, ["--seconds", "2", "--in-flight-seconds", "2"]),
        (audit_faults, ["--acts", "200", "--fault-seconds", "0.5"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, ModuleType) else "",
)
def test_nothing_is_lost(databases, drill, arguments):
    parser = ArgumentParser()
    drill.add_options(parser)
    with databases.clone() as url:
        report = drill.run(parser.parse_args(arguments), Database(url))
    counted = [row for row in report.rows if row.goal in COUNTED and "over 5 s" not in row.what]
    assert counted
    assert [row for row in counted if not row.is_reached] == [], str(report)


def test_a_report_fails_by_one_goal_and_says_which():
    report = Report("fire", "everything", "smoke", "nothing", [count_row("burnt", 0), Row("heat", "much")])
    assert report.is_passed
    report.rows.append(count_row("scorched", 3, of=5))
    assert not report.is_passed
    assert "| scorched | 3 of 5 |  |  | 0 | **no** |" in str(report)
