"""Two questions about the needed lag: whether the gradient arrives there, and what became of combinations like it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.records import ModelResult, Outlook, RunSpec
from gradscope.rules.calibration import (
    FIXED,
    GROWTH,
    NEAR,
    PARITY,
    PUBLISHED_SPREAD,
    SHARE_ARRIVES,
    SHARE_FAILS,
    STEPS,
    Count,
    Word,
)
from gradscope.rules.rule import Threshold, needed_lag
from gradscope.rules.wording import factor, part

THRESHOLDS = {
    "share_fails": Threshold(SHARE_FAILS, "log10", "share at the needed lag under which a fixed lag fails"),
    "share_learns": Threshold(
        SHARE_ARRIVES, "log10", "share at the needed lag, beside the uniform one 1 / (K + 1), from which on it arrives"
    ),
}
HARD = ("copy", "xor")


@dataclass(frozen=True)
class Arrival:
    """How much of the gradient arrives at a stated needed lag."""

    word: Word
    sentence: str


def word_of(share: float, lag: int, growth: float, reach: int, low: float, high: float) -> Word:
    """What is said of a gradient share S: fails under `low`, arrives when S + log10(K + 1) exceeds `high`.

    What grows by more than `GROWTH` over the lag never fails for want of gradient, and does not arrive either: old
    steps own it. A reach short of the lag does not arrive.

    Args:
        share: S, log10 of the part of the gradient that falls on the needed lag.
        lag: the needed lag K.
        growth: rate times K, in nats.
        reach: in lags.
        low: the limit of S.
        high: the limit of S beside a uniform one.
    """
    if share == -math.inf:
        return "fails"
    if growth > GROWTH:
        return "open"
    if share < low:
        return "fails"
    return "arrives" if reach >= lag and share + math.log10(lag + 1) > high else "open"


def arrival(result: ModelResult, spec: RunSpec) -> Arrival | None:
    """What the gradient share at the needed lag comes to; None where it is not known, or no needed lag was stated.

    Where shorter lags occur in the data too, what is learned at them opens the long ones, so no share is too small.
    """
    summary = result.summary
    share, lag = summary.gradient_share, needed_lag(result, spec)
    if share is None or math.isnan(share) or spec.needs_lag is None:
        return None
    low, high = _limits(spec)
    growth = (summary.rate or 0.0) * lag
    word = word_of(share, lag, growth, summary.reach or 0, low, high)
    said = f"{part(share)} of the gradient arrives at lag {lag}"
    if growth > GROWTH:
        return Arrival(word, f"{said}: it grows with the lag, {factor(growth / math.log(10))} times over it.")
    beside = f"{said}, where an even one has {part(-math.log10(lag + 1))}"
    if word == "fails" and _has_short_lags(result, spec) and share > -math.inf:
        return Arrival("open", f"{beside}. The data have shorter lags too, which may open the long ones.")
    return Arrival(word, f"{beside}.")


def outlook(result: ModelResult, spec: RunSpec) -> Outlook | None:
    """What became of trained combinations like this one; None where none are like it.

    It is about learning, where the status is about the gradient, and decides nothing.
    """
    known, lag = arrival(result, spec), needed_lag(result, spec)
    if known is None or _limits(spec) != (SHARE_FAILS, SHARE_ARRIVES):
        # What was counted belongs to other limits than those given.
        return None
    share = result.summary.gradient_share
    if _has_short_lags(result, spec):
        if share is None or share >= SHARE_FAILS:
            return None
        of, learned = PUBLISHED_SPREAD.of, PUBLISHED_SPREAD.learned
        said = (
            f"{learned} of {of} published cells with a share under {factor(SHARE_FAILS)} learned data in which shorter "
            "lags occur too: what those teach opens the long ones."
        )
        return Outlook("spread", learned, of, said)
    if spec.task == "parity":
        said = f"parity, which asks for every step and a search, was learned in {_count(PARITY)} trained combinations."
        return Outlook("fixed", PARITY.learned, PARITY.of, said)
    band = FIXED[known.word]
    learned = band.of - band.failed
    return Outlook("fixed", learned, band.of, _counted(known.word, learned, band.of, lag, spec.task))


def _counted(word: Word, learned: int, of: int, lag: int, task: str | None) -> str:
    """What became of combinations with fixed lags, nearest to this one's lag and kind of task."""
    band, far = FIXED[word], lag > NEAR
    like = {
        "fails": f"with less than {factor(SHARE_FAILS)} of the gradient at the needed lag",
        "open": "whose gradient is between failing and arriving, or grows with the lag",
        "arrives": "whose gradient arrives",
    }[word]
    said = f"of {of} trained combinations of model and task {like}, {learned or 'none'} learned in {STEPS} steps"
    if word == "fails":
        return f"{said}; where shorter lags occur in the data too, many do."
    where = f"at lags {'over' if far else 'up to'} {NEAR}"
    single, hard = f"recall and adding {_count(band.single[far])}", f"copy and xor {_count(band.hard[far])}"
    first, second = (hard, single) if task in HARD else (single, hard)
    said = f"{said}; {where}: {first}, {second}."
    if word == "arrives":
        said += " Those that failed did so for other reasons: copy asks for capacity, xor for a search."
    return said


def _count(count: Count) -> str:
    return f"{count.learned} of {count.of}"


def _limits(spec: RunSpec) -> tuple[float, float]:
    low, high = (spec.thresholds.get(name, limit.default) for name, limit in THRESHOLDS.items())
    return low, high


def _has_short_lags(result: ModelResult, spec: RunSpec) -> bool:
    return (result.summary.lags or spec.lags) == "spread"
