"""GS102: the influence is exactly zero within the needed lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag

HOLES = "Is the input of that step masked, or read by nothing? Nothing needs to be done where that is meant."


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Look at (first zero lag, number of zero lags)."""
    lag, zeros = needed_lag(result, spec), result.summary.zero_lags or ()
    allowed = RULE.limit(spec, "zero_lags")
    first, count = (zeros[0], zeros[1]) if len(zeros) == 2 else (0, 0)
    if count <= allowed or first > lag:
        within = "No lag" if count == 0 or first > lag else f"{count} of {lag} lags"
        message = f"{within} up to {lag} receives a gradient of exactly zero."
        return Finding("pass", message, measured=count if first <= lag else 0, threshold=allowed)
    profile = Profile.of(result)
    step = profile.step_of(first)
    where = f"the first at lag {first} (step {step})"
    told = f"{count} of {lag} lags {'receives' if count == 1 else 'receive'} a gradient of exactly zero, {where}"
    if not _reach_the_end(profile, lag, zeros, spec):
        message = f"{told}; there is gradient again further back."
        return Finding("remark", message, HOLES, step, step, measured=count, threshold=allowed)
    kind = "float32" if spec.dtype != "float64" else None
    return Finding(
        "found",
        f"{told}.",
        advise("zero", result, spec, kind),
        first_step=profile.step_of(lag),
        last_step=step,
        measured=count,
        threshold=allowed,
    )


def _reach_the_end(profile: Profile, lag: int, zeros: tuple[int, ...], spec: RunSpec) -> bool:
    """Whether the zeros are an end and no hole: they go on up to the needed lag."""
    first, count = zeros[:2]
    values = profile.values[1 : lag + 1]
    if first + count - 1 == lag > first or len(values) < lag:
        return True
    end = next((place for place, value in enumerate(reversed(values)) if value != -math.inf), lag)
    return end > (0 if spec.needs_lag is not None else 1)


RULE = Rule(
    code="GS102",
    title="exact zero within the needed lag",
    severity="error",
    requires=("zero_lags",),
    judge=_judge,
    voided_by="GS403",
    gives="vanishing",
    explained_by=("GS401", "GS405"),
    thresholds={"zero_lags": Threshold(0.0, "lags", "how many lags may receive exactly nothing", low=-1.0)},
    needs_stated_lag=True,
    what=(
        "A small gradient can be scaled up; one that is exactly zero cannot. It means that no path joins that step to "
        "the loss: units that are dead, gates that are shut, a detach, or numbers too small for the type they were "
        "computed in."
    ),
    maths=(
        "I(k) = ‖∂⟨v_a, y_a⟩/∂x_{a−k}‖ = ‖(∂s/∂x)ᵀ J_{a−k+1}ᵀ … J_aᵀ v‖",
        "one factor equal to 0 on every path makes the product 0",
        "found when I(k) = 0 for some k ≤ K",
    ),
    measured=(
        "gradscope carries the scale of every product in its exponent, so its own arithmetic does not underflow: a "
        "zero comes from the model's forward pass and its slopes. Lags of exact zero with gradient again further "
        "back are remarked on and change no status: nothing reads the input there. Zeros are left out "
        "of the rate that GS101 judges and "
        "counted here."
    ),
    remedies=(
        "Tell underflow from a true zero: `gradscope analyze rnn --dtype float64`",
        "Start relu units from the identity: `gradscope analyze rnn:nonlinearity=relu,init=identity`",
        "See which gate is shut: `gradscope analyze lstm --show gates`",
    ),
    papers=(papers.PASCANU_2013, papers.LE_2015),
)
