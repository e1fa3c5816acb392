"""The geometry of a column chart."""

import pytest

from capecontrol.audit import charts
from capecontrol.audit.statistics import Tally


@pytest.mark.parametrize(
    ("number", "top"),
    [(0, 2), (1, 2), (3, 4), (9, 10), (10, 10), (11, 20), (61, 80), (99, 100), (101, 200), (8001, 10_000)],
)
def test_the_scale_is_one_people_can_read(number: int, top: int) -> None:
    assert charts.round_up(number) == top


def test_columns_stand_on_the_ground_and_on_each_other() -> None:
    chart = charts.draw([Tally(30, 20), Tally(0, 0), Tally(0, 5)])
    assert (chart.top, chart.width) == (60, 30)
    first, empty, refused = chart.columns
    assert (first.done_y, first.done_height) == (50.0, 50.0)
    assert first.refused_y + first.refused_height == pytest.approx(first.done_y)
    assert (empty.done_height, empty.refused_height) == (0, 0)
    assert refused.refused_y + refused.refused_height == pytest.approx(100)
    assert [column.x for column in chart.columns] == [1, 11, 21]


def test_one_refusal_among_thousands_is_seen() -> None:
    (column,) = charts.draw([Tally(9_999, 1)]).columns
    assert column.refused_height == 1.5
    assert column.refused_y >= 0


def test_nothing_is_a_chart_too() -> None:
    assert charts.draw([]).columns == ()
