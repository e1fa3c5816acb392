"""What a drill says when it is over: what it broke, what people saw, what was lost, and each figure beside its goal."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.load.figures import Row, milliseconds, percentile, table
from tests.load.router import Line
from tests.load.traffic import Answer


@dataclass(slots=True)
class Report:
    """The result of one drill."""

    name: str
    broke: str
    saw: str = ""
    lost: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether every goal was reached."""
        return all(row.is_reached is not False for row in self.rows)

    def __str__(self) -> str:
        words = f"- Broke: {self.broke}\n- People saw: {self.saw}\n- Lost: {self.lost}"
        return f"## {self.name}\n\n{words}\n\n{table(self.rows)}"


def count_row(what: str, count: int, *, of: int | None = None) -> Row:
    """Return a row whose goal is none at all."""
    return Row(what, f"{count:,}" + (f" of {of:,}" if of is not None else ""), goal="0", is_reached=count == 0)


def time_row(what: str, answers: Iterable[Answer], *, below: float, share: float = 0.99) -> Row:
    """Return a row whose goal is a percentile, in seconds. Without any answer the goal is not reached."""
    seconds = [answer.seconds for answer in answers]
    found = percentile(seconds, share)
    return Row(
        f"{what}: p{share * 100:g} of {len(seconds):,}",
        milliseconds(found),
        goal=f"< {milliseconds(below)}",
        is_reached=found < below,
    )


def codes_of(lines: Iterable[Line]) -> str:
    """Return which of the router's codes came how often, in words."""
    counted = Counter(line.code for line in lines if line.code)
    return ", ".join(f"{count} {code}" for code, count in sorted(counted.items())) or "no error code of the router"
