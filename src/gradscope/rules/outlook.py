"""What training will make of a gradient share: a probability, in words, for the kind of lags that the data have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gradscope.records import ModelResult, RunSpec
from gradscope.rules.calibration import CURVES, FIRM, PUBLISHED_SPREAD, STEPS
from gradscope.rules.rule import needed_lag
from gradscope.rules.wording import factor

PROBE = "Try it: `gradscope probe` trains copies of the model at that lag."
Word = Literal["fails", "learns", "open"]


@dataclass(frozen=True)
class Outlook:
    """Of one model at its needed lag."""

    word: Word
    chance: float | None
    """P(not learned); None for a kind of lags that is not calibrated."""
    sentence: str
    """Said after a finding."""


def outlook(result: ModelResult, spec: RunSpec) -> Outlook | None:
    """What the benchmark says; None where the share is not known, or no needed lag was stated.

    Without a needed lag there is no task, and so nothing that could be learned or not.
    """
    share = result.summary.gradient_share
    if share is None or math.isnan(share) or spec.needs_lag is None:
        return None
    kind, lag = result.summary.lags or spec.lags or "fixed", needed_lag(result, spec)
    if kind not in CURVES:
        learned, of = PUBLISHED_SPREAD
        said = (
            f"The data have shorter lags too: a share of {factor(share)} at lag {lag} decides nothing then, for what "
            f"short lags teach opens the long ones ({learned} of {of} published cells with small shares learned)."
        )
        return Outlook("open", None, said)
    chance = CURVES[kind].at(share)
    word: Word = "fails" if chance >= FIRM else "learns" if chance <= 1 - FIRM else "open"
    tens = f"{round(100 * chance)} in 100"
    said = f"Of models with a share of {factor(share)}, about {tens} did not learn a fixed lag within {STEPS} steps"
    rest = "; with shorter lags in the data too most did" if word == "fails" else ""
    return Outlook(word, chance, f"{said}{rest}.")
