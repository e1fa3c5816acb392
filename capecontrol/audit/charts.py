"""The geometry of a column chart: heights and places, which a template draws as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from capecontrol.audit.statistics import Tally

HEIGHT = 100
_PITCH = 10
_WIDTH = 7
_LEAST = 1.5
"""How tall even the smallest number is drawn, so that one refusal among thousands is seen."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what was done stands on the ground, what was refused on top of it."""

    tally: Tally
    x: int
    width: int
    done_y: float
    done_height: float
    refused_y: float
    refused_height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Columns and the number the full height stands for; an even one, so that half of it is a whole number."""

    columns: tuple[Column, ...]
    top: int
    width: int
    height: int = HEIGHT


def draw(tallies: Sequence[Tally]) -> Chart:
    """Return the columns of some tallies, side by side."""
    top = round_up(max((tally.total for tally in tallies), default=0))
    columns = []
    for number, tally in enumerate(tallies):
        done, refused = _tall(tally.done, top), _tall(tally.refused, top)
        done = min(done, HEIGHT - refused)
        columns.append(
            Column(
                tally=tally,
                x=number * _PITCH + (_PITCH - _WIDTH) // 2,
                width=_WIDTH,
                done_y=round(HEIGHT - done, 2),
                done_height=round(done, 2),
                refused_y=round(HEIGHT - done - refused, 2),
                refused_height=round(refused, 2),
            )
        )
    return Chart(tuple(columns), top, max(1, len(columns)) * _PITCH)


def round_up(number: int) -> int:
    """Return the next number of 2, 4, 6, 8 or 10 times a power of ten; a scale people can read."""
    step = 1
    while number > 10 * step:
        step *= 10
    return next(each * step for each in (2, 4, 6, 8, 10) if each * step >= number)


def _tall(number: int, top: int) -> float:
    return max(_LEAST, HEIGHT * number / top) if number else 0.0
