"""A measured interval: its ends, and how a verdict words one that straddles a limit."""

from __future__ import annotations

import math

from gradscope.rules.wording import LN10, factor

ONE_SEQUENCE = "one sequence, so there is no interval and the point decides"
NARROW = "Narrow the interval with more sequences or seeds: add `--batch 32` or `--seeds 5`."


def ends(point: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """Both ends of an interval; the point twice where there is none (one sequence, one seed)."""
    if interval is None or any(math.isnan(end) for end in interval):
        return point, point
    return min(interval), max(interval)


def straddles(low: float, high: float, limit: float, where: str) -> str:
    """The sentence for an interval of total growth (nats) that holds the limit (nats)."""
    between = f"anything from {factor(low / LN10)} to {factor(high / LN10)}"
    return f"The interval allows {between} {where}, and the limit of {factor(limit / LN10)} lies between: no verdict."


def note(interval: tuple[float, float] | None) -> str:
    """Said after a number that rests on a single sequence and seed."""
    return f" ({ONE_SEQUENCE})" if interval is None else ""
