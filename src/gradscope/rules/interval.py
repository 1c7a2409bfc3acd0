"""A measured interval: its ends, and how a verdict words one that straddles a limit."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, RunSpec
from gradscope.rules.wording import LN10, factor

NARROW = "Narrow the interval with "
"""How advice begins that is about too wide an interval."""
SEQUENCES = 8
"""Synthetic sequences of a run that asks for no number of them."""


def ends(point: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """Both ends of an interval; the point twice where there is none (one sequence, one seed)."""
    if interval is None or any(math.isnan(end) for end in interval):
        return point, point
    return min(interval), max(interval)


def straddles(low: float, high: float, limit: float, where: str) -> str:
    """The sentence for an interval of total growth (nats) that holds the limit (nats)."""
    between = f"anything from {factor(low / LN10)} to {factor(high / LN10)}"
    return f"The interval allows {between} {where}, and the limit of {factor(limit / LN10)} lies between: no verdict."


def note(result: ModelResult) -> str:
    """Said after a number that has no interval: why, and what decides then."""
    if result.summary.rate_ci is not None:
        return ""
    return f" ({result.skipped.get('rate_ci', 'there is no interval')}; the point decides)"


def narrow(result: ModelResult, spec: RunSpec) -> str:
    """What would narrow the interval: more of what it is over, where there is more to be had."""
    if spec.seeds > 1 and result.loaded.drawn:
        return f"{NARROW}more seeds: `--seeds {max(5, 2 * spec.seeds)}`."
    if spec.input is None and spec.text is None and result.kind != "chain":
        return f"{NARROW}more sequences: `--batch {4 * (spec.batch or SEQUENCES)}`."
    if result.loaded.drawn:
        return f"{NARROW}seeds, the data hold no more sequences: `--seeds 5`."
    return f"{NARROW}data that hold more sequences; weights and data are given, so seeds change nothing."
