"""Figures beside their goals: percentiles, and the Markdown tables of `make bench` and `make drill`."""

import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table. `limit` was measured in the same run; `is_reached` is None where there is no goal."""

    what: str
    figure: str
    limit: str = ""
    ratio: str = ""
    goal: str = ""
    is_reached: bool | None = None


def percentile(values: Iterable[float], share: float) -> float:
    """Return the nearest-rank percentile (`share` from 0 to 1): a value that was seen. NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the middle value, the lower of two. NaN of nothing."""
    return percentile(values, 0.5)


def share_of_inversions(order: Sequence[float]) -> float:
    """Return which share of all pairs stands in the wrong order, 0 to 1: what was to come first came later.

    Counts by merging, so that thousands take no time.
    """
    pairs = len(order) * (len(order) - 1) // 2
    return _count_inversions(list(order))[0] / pairs if pairs else 0.0


def table(rows: Iterable[Row]) -> str:
    """Return the rows as one Markdown table."""
    lines = ["| what | figure | limit in the same run | ratio | goal | reached |", "|---|---|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {r.what} | {r.figure} | {r.limit} | {r.ratio} | {r.goal} | {words[r.is_reached]} |" for r in rows]
    return "\n".join(lines)


def machine(postgres: str) -> str:
    """Return when and on what this was measured, in a sentence; `postgres` says which server."""
    return (
        f"{datetime.now(UTC):%d %B %Y %H:%M} UTC, {os.cpu_count()} cores ({_processor()}), {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, PostgreSQL {postgres}; server, database, "
        "router and load generator share the cores."
    )


def say(text: str) -> None:
    """Write a result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tell_progress(text: str) -> None:
    """Write, on the standard error, what is going on."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stderr.flush()


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds as text."""
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def _count_inversions(values: list[float]) -> tuple[int, list[float]]:
    if len(values) < 2:
        return 0, values
    middle = len(values) // 2
    left_count, left = _count_inversions(values[:middle])
    right_count, right = _count_inversions(values[middle:])
    merged: list[float] = []
    count = left_count + right_count
    at = 0
    for value in right:
        while at < len(left) and left[at] <= value:
            merged.append(left[at])
            at += 1
        count += len(left) - at
        merged.append(value)
    merged += left[at:]
    return count, merged


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - not a file of ours, and read to its first match only
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
