"""Percentiles are values that were seen, inversions are counted right, and a missed goal stands out."""

import itertools
import math
import random

import pytest

from tests.load.figures import Row, median, milliseconds, percentile, share_of_inversions, table


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_the_nearest_rank(share, value):
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    assert percentile(values, share) == value


def test_nothing_has_no_percentile():
    assert math.isnan(percentile([], 0.99))
    assert milliseconds(math.nan) == "-"
    assert median([3.0, 1.0]) == 1.0


def test_inversions_are_those_of_all_pairs():
    assert share_of_inversions([1, 2, 3]) == 0.0
    assert share_of_inversions([3, 2, 1]) == 1.0
    assert share_of_inversions([1, 1]) == 0.0
    assert share_of_inversions([]) == 0.0
    values = [random.Random(seed).random() for seed in range(60)]
    slow = sum(left > right for left, right in itertools.combinations(values, 2)) / (60 * 59 / 2)
    assert share_of_inversions(values) == pytest.approx(slow)


def test_a_missed_goal_stands_out():
    lines = table([Row("speed", "1/s", goal="2/s", is_reached=False), Row("size", "3")]).splitlines()
    assert lines[2] == "| speed | 1/s |  |  | 2/s | **no** |"
    assert lines[3] == "| size | 3 |  |  |  |  |"
