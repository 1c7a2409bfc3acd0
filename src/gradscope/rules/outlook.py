"""What training will make of a gradient share, in words, for the kind of lags that the data have."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.records import ModelResult, RunSpec
from gradscope.rules.calibration import FIXED, GROWTH, PUBLISHED_SPREAD, SHARE_FAILS, SHARE_LEARNS, STEPS, Word
from gradscope.rules.rule import Threshold, needed_lag
from gradscope.rules.wording import factor

PROBE = "`gradscope probe` trains copies of the model at that lag, and tells."
THRESHOLDS = {
    "share_fails": Threshold(SHARE_FAILS, "log10", "share at the needed lag under which a fixed lag is not learned"),
    "share_learns": Threshold(SHARE_LEARNS, "log10", "share above which it is"),
}


@dataclass(frozen=True)
class Outlook:
    """Of one model at its needed lag."""

    word: Word
    sentence: str
    """Said after a finding."""


def outlook(result: ModelResult, spec: RunSpec) -> Outlook | None:
    """What the benchmark says; None where the share is not known, or no needed lag was stated.

    Without a needed lag there is no task, and so nothing that could be learned or not.
    """
    share = result.summary.gradient_share
    if share is None or math.isnan(share) or spec.needs_lag is None:
        return None
    if (result.summary.lags or spec.lags) == "spread":
        learned, of = PUBLISHED_SPREAD.of - PUBLISHED_SPREAD.failed, PUBLISHED_SPREAD.of
        said = (
            f"The data have shorter lags too: a share of {factor(share)} at lag {needed_lag(result, spec)} decides "
            f"nothing then, for what short lags teach opens the long ones ({learned} of {of} published cells with "
            "shares under 10^-6 learned)."
        )
        return Outlook("open", said)
    low, high = (spec.thresholds.get(name, limit.default) for name, limit in THRESHOLDS.items())
    growth = (result.summary.rate or 0.0) * needed_lag(result, spec)
    word: Word = "fails" if share < low else "learns" if share > high and growth <= GROWTH else "open"
    grows = share > high and growth > GROWTH
    own = f"Its share at lag {needed_lag(result, spec)} is {factor(share)}{', and grows with the lag' if grows else ''}"
    if (low, high) != (SHARE_FAILS, SHARE_LEARNS):
        # What was counted belongs to other limits than those given.
        return Outlook(word, f"{own}; the limits set are {factor(low)} and {factor(high)}.")
    return Outlook(word, f"{own}: {_counted(word)}.")


def _counted(word: Word) -> str:
    """What became of combinations like it."""
    band, low, high = FIXED[word], factor(SHARE_FAILS), factor(SHARE_LEARNS)
    if word == "fails":
        said = (
            f"of {band.of} trained combinations under {low}, {band.failed} did not learn a fixed lag in {STEPS} steps"
        )
        return f"{said}; with shorter lags in the data too many do"
    if word == "learns":
        said = f"of {band.of} trained combinations over {high}, {band.of - band.failed} learned a fixed lag in {STEPS}"
        return f"{said} steps; of the others {band.blocked} did not though their family can"
    said = (
        f"of {band.of} trained combinations from {low} to {high}, or growing, {band.failed} did not learn a fixed lag"
    )
    return f"{said} in {STEPS} steps"
