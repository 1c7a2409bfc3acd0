"""GS302: the type that training runs in loses the gradient within the needed lag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag

COMMON = "float32"
"""The type most training runs in: judged when the analysis itself ran in a wider one."""
ENDS: Mapping[str, str] = {
    "share": "what older steps add to dL/dW is lost in the rounding of the rest",
    "underflow": "older gradients are too small for the type (loss scale {scale:g})",
    "overflow": "older gradients are too large for the type (loss scale {scale:g})",
}
"""What ends a horizon, completing `In float32 ... beyond lag 23: `; where two end at one lag, the first is named."""


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the horizon of the run's own type, or of float32, with horizon_part * K."""
    horizons = result.summary.precision_horizon or {}
    name = spec.dtype if spec.dtype in horizons else COMMON
    if name not in horizons:
        return Finding("skip", f"The precision horizon of {name} is not known.")
    lag, reached = needed_lag(result, spec), _lag(horizons[name])
    wanted = RULE.limit(spec, "horizon_part") * lag
    if reached is None or reached >= wanted:
        return Finding("pass", _holds(name, lag, horizons), measured=reached, threshold=wanted)
    cause = next((key for key in ENDS if horizons[name].get(key) == reached), "underflow")
    said = ENDS[cause].format(scale=horizons[name].get("loss_scale") or 1.0)
    usual = "" if name == spec.dtype else ", the usual type for training,"
    return Finding(
        "found",
        f"In {name}{usual} the gradient holds to lag {reached} of {lag}: {said}.",
        _advice(cause, name, result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of(reached + 1),
        measured=reached,
        threshold=wanted,
    )


def _lag(horizon: Mapping[str, Any]) -> int | None:
    """The lag of one type's record; None for no end within the sequence."""
    lag = horizon.get("lag")
    return int(lag) if isinstance(lag, int | float) else None


def _holds(name: str, lag: int, horizons: Mapping[str, Any]) -> str:
    """That one type holds, and which others do not."""
    ends = {other: _lag(horizon) for other, horizon in horizons.items() if other != name}
    short = [f"{other} to lag {end}" for other, end in ends.items() if end is not None and end < lag]
    return f"{name} holds the gradient over {lag} lags{'; ' if short else ''}{', '.join(short)}."


def _advice(cause: str, name: str, result: ModelResult, spec: RunSpec) -> str:
    """A gradient that decays away is no matter of number formats; one that is small all over is."""
    if cause == "underflow" and name == "float16":
        return "Scale the loss (`torch.amp.GradScaler`), or train in bfloat16, which has the range of float32."
    return advise("exploding" if cause == "overflow" else "vanishing", result, spec)


RULE = Rule(
    code="GS302",
    title="lost in low precision",
    severity="warning",
    requires=("precision_horizon",),
    judge=_judge,
    thresholds={
        "horizon_part": Threshold(1.0, "share", "how much of the needed lag the precision must hold for", low=0.0),
    },
    what=(
        "A number format has an end: float32 keeps 24 significant bits down to 10^-45, bfloat16 8 bits down to 10^-40, "
        "float16 11 bits down to 6·10^-8 and up to 65504. A gradient that leaves the range is 0 or Inf; one that is "
        "smaller than the last bit of the sum it is added to changes nothing. Either way the steps beyond that lag "
        "train no weight, although their gradient exists on paper and a run in float64 shows it."
    ),
    maths=(
        "range: smallest subnormal ≤ ‖∂L/∂s_{a−k}‖ ≤ largest number, with the loss as it is (loss scale 1)",
        "precision: ‖step (a−k)'s part in ∂L/∂W‖ / Σ_t ‖step t's part‖ ≥ ε; ε = 2⁻²³, 2⁻⁷, 2⁻¹⁰",
        "horizon = last lag k before either fails; found when the horizon < K",
    ),
    measured=(
        "From the gradients of one anchor step in log scale, where nothing underflows: geometric mean over sequences "
        "and seeds, for overflow the worst sequence. Judged is the type the analysis ran in, and float32 where that is "
        "float64; the horizons of all three types stand in the report. Subnormal numbers count as held: hardware that "
        "flushes them to zero ends earlier. Exact zeros are left to GS102, the forward pass to GS301, and sums spread "
        "evenly over more than 1/ε steps are not held against a type. Loss scaling moves the range, never ε."
    ),
    remedies=(
        "See the horizons of all three types: `gradscope analyze rnn`, in the line `precision`",
        "Slow the decay, which moves every horizon: `gradscope compare rnn lstm:forget_bias=5`",
        "State what the task needs, which may be less than the sequence: `gradscope analyze rnn --needs-lag 10`",
        "Scale the loss in float16, or take bfloat16, when the whole gradient is small; sum dL/dW in float32",
    ),
    papers=(papers.PASCANU_2013, papers.MICIKEVICIUS_2018, papers.KALAMKAR_2019),
)
