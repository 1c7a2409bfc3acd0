"""How a verdict writes its numbers and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.records import ModelResult, RunSpec

LN10 = math.log(10)


def factor(log10: float) -> str:
    """A factor from its base-10 logarithm: `0.55`, `1000`, `10^-52`; never overflows."""
    if math.isnan(log10):
        return "an unknown factor"
    if math.isinf(log10):
        return "infinity" if log10 > 0 else "0"
    if -3 <= log10 < 4:
        digits = f"{10**log10:.3g}"
        return f"{10**log10:.0f}" if "e+" in digits else digits
    return f"10^{log10:.0f}"


def per_step(rate: float) -> str:
    """The factor e^rate of one step, with enough digits to tell it from 1: `0.55`, `0.9975`."""
    if not -7 < rate < 9:
        return factor(rate / LN10)
    offset = abs(math.expm1(rate))
    digits = 2 if offset == 0 or offset >= 0.1 else min(12, 1 - math.floor(math.log10(offset)))
    return f"{math.exp(rate):.{digits}f}" if rate > -2 else f"{math.exp(rate):.2g}"


def over_lags(lag: int, spec: RunSpec) -> str:
    """`over the 199 lags of this sequence`, or `over the 150 lags you need` where a needed lag was stated."""
    noun = "lag" if lag == 1 else "lags"
    whose = "you need" if spec.needs_lag is not None else "of this sequence"
    return f"over the {lag} {noun} {whose}"


def share_text(log10: float) -> str:
    """A share of one from its base-10 logarithm: `63 %`, `0.4 %`, `10^-12`."""
    return percent(10**log10) if log10 >= -4 else factor(log10)


def nothing_arrives(names: Sequence[str], acting: bool) -> str:
    """`W, b receive a gradient of exactly zero`, and `W acts on the loss and receives ...` of what the loss follows."""
    end = "s" if len(names) == 1 else ""
    verbs = f"act{end} on the loss and receive{end}" if acting else f"receive{end}"
    return f"{', '.join(names)} {verbs} a gradient of exactly zero"


def percent(share: float) -> str:
    """A share of one as a percentage: `63 %`, `0.4 %`."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.2g} %"


NARROW_INTERVAL = "Narrow the interval with "
"""How advice begins that is about too wide an interval."""
DEFAULT_SEQUENCES = 8
"""Synthetic sequences of a run that asks for no number of them."""


def interval_ends(point: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """Both ends of an interval; the point twice where there is none (one sequence, one seed)."""
    if interval is None or any(math.isnan(end) for end in interval):
        return point, point
    return min(interval), max(interval)


def straddling_interval(low: float, high: float, limit: float, span: str) -> str:
    """The sentence for an interval of total growth (nats) that holds the limit (nats)."""
    bounds = f"anything from {factor(low / LN10)} to {factor(high / LN10)}"
    return f"The interval allows {bounds} {span}, and the limit of {factor(limit / LN10)} lies between: no verdict."


def interval_note(result: ModelResult) -> str:
    """Said after a number that has no interval: why, and what decides then."""
    if result.summary.rate_ci is not None:
        return ""
    return f" ({result.skipped.get('rate_ci', 'there is no interval')}; the point decides)"


def how_to_narrow(result: ModelResult, spec: RunSpec) -> str:
    """What would narrow the interval: more of what it is over, where there is more to be had."""
    if spec.seeds > 1 and result.loaded.drawn:
        return f"{NARROW_INTERVAL}more seeds: `--seeds {max(5, 2 * spec.seeds)}`."
    if spec.input is None and spec.text is None and result.kind != "chain":
        return f"{NARROW_INTERVAL}more sequences: `--batch {4 * (spec.batch or DEFAULT_SEQUENCES)}`."
    if result.loaded.drawn:
        return f"{NARROW_INTERVAL}seeds, the data hold no more sequences: `--seeds 5`."
    return f"{NARROW_INTERVAL}data that hold more sequences; weights and data are given, so seeds change nothing."
