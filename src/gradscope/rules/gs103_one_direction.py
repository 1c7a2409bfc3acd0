"""GS103: what is left of the state after the needed lag points in one direction."""

from __future__ import annotations

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the number of directions with collapsed_directions."""
    lag, directions = needed_lag(result, spec), result.summary.directions or 0
    if result.size == 1:
        return Finding("skip", "A state of one number has one direction, so there is nothing to collapse.")
    allowed = RULE.limit(spec, "collapsed_directions")
    if directions > allowed:
        message = f"After {lag} lags {directions} of {result.size} directions of the state can still be told apart."
        return Finding("pass", message, measured=directions, threshold=allowed)
    left = {0: "no direction is", 1: "one direction is"}.get(directions, f"{directions} directions are")
    return Finding(
        "found",
        f"After {lag} lags {left} left of {result.size}: older states can differ in no other way.",
        advise("collapse", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=result.length,
        measured=directions,
        threshold=allowed,
    )


RULE = Rule(
    code="GS103",
    title="collapse to one direction",
    severity="warning",
    requires=("directions",),
    judge=_judge,
    voided_by="GS403",
    gives="degenerate",
    explained_by=("GS401", "GS405"),
    thresholds={
        "collapsed_directions": Threshold(1.0, "directions", "so many or fewer count as collapsed", low=0.0),
    },
    what=(
        "A product of many Jacobians stretches one direction more than all others. Once a single direction is left, "
        "every difference in the old state arrives as the same difference now: the state still remembers that "
        "something happened, not what."
    ),
    maths=(
        "P = J_T … J_{T−K+1} has singular values σ₁ ≥ σ₂ ≥ … ≥ σ_n",
        "directions = number of i with σ_i ≥ 0.01 · σ₁",
        "found when directions ≤ 1 (a state of one number is exempt)",
    ),
    measured=(
        "Singular values of the product over the needed lag, of sequence 0 and the first seed, computed with the scale "
        "carried apart. The spread σ₁/σ_n itself is reported as the condition and never judged: healthy LSTMs have "
        "10^200."
    ),
    remedies=(
        "Shrink all directions alike: `gradscope analyze rnn:init=orthogonal`",
        "Give units different time scales: `gradscope analyze lru:r_min=0.5,r_max=0.999`",
        "Keep one state per step instead of one for all: `gradscope compare rnn attention`",
    ),
    papers=(papers.ENGELKEN_2023, papers.PASCANU_2013),
)
