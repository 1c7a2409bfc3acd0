"""GS202: the leading Lyapunov exponent is positive."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.interval import ends
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import LN10, factor, over_lags


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Ask for an exponent above zero beyond its interval whose growth over K lags exceeds chaos_factor."""
    summary, lag = result.summary, needed_lag(result, spec)
    exponent = (summary.lyapunov or (None,))[0]
    if exponent is None or math.isnan(exponent):
        return Finding("skip", "The leading Lyapunov exponent is not known.")
    low, _ = ends(exponent, summary.lyapunov_ci)
    limit, where = math.log(RULE.limit(spec, "chaos_factor")), over_lags(lag, spec)
    growth = factor(exponent * lag / LN10)
    single = " (no interval, so the point decides)" if summary.lyapunov_ci is None else ""
    leading = f"The leading Lyapunov exponent is {exponent:+.3g} nats per step: {where}"
    if exponent * lag <= limit:
        message = f"{leading} that is a factor of {growth}{single}."
        return Finding("pass", message, measured=exponent, threshold=limit / lag)
    if low <= 0:
        message = f"{leading} that is a factor of {growth}, but its interval reaches down to {low:+.3g}: no verdict."
        advice = "A longer sequence narrows the interval"
        given = spec.input is not None or spec.text is not None
        advice += "." if given else f": try `--length {max(1000, 5 * result.length)}`."
        return Finding("inconclusive", message, advice, measured=exponent, threshold=limit / lag)
    return Finding(
        "found",
        f"{leading} a difference in the state grows by a factor of {growth}{single}.",
        advise("chaos", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=result.length,
        measured=exponent,
        threshold=limit / lag,
    )


RULE = Rule(
    code="GS202",
    title="chaos",
    severity="warning",
    requires=("lyapunov",),
    judge=_judge,
    thresholds={
        "chaos_factor": Threshold(1000.0, "factor", "how much a difference may grow over the needed lag", low=1.0)
    },
    what=(
        "A positive Lyapunov exponent means that two nearly equal states drift apart exponentially. The forward pass "
        "stays bounded while its derivatives do not: the loss becomes so rugged a function of the weights that its "
        "gradient, though correct, says little about where to go."
    ),
    maths=(
        "J_t Q_{t−1} = Q_t R_t, an orthonormal frame carried along by QR decompositions",
        "λ_i = (1/T) Σ_t ln |(R_t)_ii|, in nats per step, largest first",
        "found when λ₁ > 0 beyond its interval and λ₁ · K > ln 1000",
    ),
    measured=(
        "QR along the trajectory of sequence 0 and the first seed; the interval comes from averages over blocks of the "
        "trajectory. The exponent is a property of the dynamics and the rate of GS201 one of the gradient: they can "
        "differ, which is why this rule warns and leaves the status to GS201."
    ),
    remedies=(
        "Lower the gain: `gradscope compare rnn:init=normal,gain=2 rnn:init=normal,gain=0.9`",
        "Narrow the interval with more steps: `gradscope analyze rnn:init=normal,gain=2 --length 1000`",
        "Clip the norm of the gradient, or train on shorter windows with teacher forcing",
    ),
    papers=(papers.MIKHAEIL_2022, papers.ENGELKEN_2023),
)
