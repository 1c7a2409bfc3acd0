"""GS201: the gradient grows too fast with the lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.interval import ends, narrow, note, straddles
from gradscope.rules.outlook import arrival
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import LN10, factor, over_lags, per_step


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln exploding_factor; what overflows has exceeded it."""
    summary, lag = result.summary, needed_lag(result, spec)
    if summary.overflow_lags:
        return _overflow(result, spec, *summary.overflow_lags[:2])
    rate = summary.rate or 0.0
    low, high = (end * lag for end in ends(rate, summary.rate_ci))
    limit, where = math.log(RULE.limit(spec, "exploding_factor")), over_lags(lag, spec)
    total = f"{where} that is {factor(rate * lag / LN10)}"
    message = f"Each step back multiplies the gradient by {per_step(rate)}: {total}{note(result)}."
    if high <= limit:
        return Finding("pass", message, measured=rate * lag, threshold=limit)
    known = arrival(result, spec)
    if low <= limit and known is not None and known.word == "arrives":
        # With a stated lag what arrives there has the last word, as in GS101: two seeds make a very wide interval.
        return Finding("pass", f"{message} {known.sentence}", measured=rate * lag, threshold=limit)
    if low <= limit:
        sentence = straddles(low, high, limit, where)
        return Finding("inconclusive", sentence, narrow(result, spec), measured=rate * lag, threshold=limit)
    return Finding(
        "found",
        message,
        advise("exploding", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=result.length,
        measured=rate * lag,
        threshold=limit,
    )


def _overflow(result: ModelResult, spec: RunSpec, first: int, count: int) -> Finding:
    """A gradient that leaves the range of its type on the way back."""
    profile = Profile.of(result)
    return Finding(
        "found",
        f"The gradient overflows at lag {first} (step {profile.step_of(first)}): it is too large for its type at "
        f"{count} lag{'' if count == 1 else 's'}.",
        advise("exploding", result, spec),
        first_step=profile.step_of(profile.longest),
        last_step=profile.step_of(first),
        measured=math.inf,
        threshold=math.log(RULE.limit(spec, "exploding_factor")),
    )


RULE = Rule(
    code="GS201",
    title="exploding rate",
    severity="error",
    requires=("rate",),
    judge=_judge,
    voided_by="GS403",
    gives="exploding",
    thresholds={
        "exploding_factor": Threshold(1000.0, "factor", "how much the gradient may grow over the needed lag", low=1.0)
    },
    what=(
        "When every step back multiplies the gradient by a factor above one, the oldest steps dominate the update and "
        "its size depends exponentially on the length of the sequence: training jumps, or ends in NaN."
    ),
    maths=(
        "I(k) = ‖∂⟨v_a, y_a⟩/∂x_{a−k}‖ is the influence of the input k steps before the anchor step a",
        "r = least-squares slope of ln I(k) over k = 1 … K, in nats per step",
        "found when (lower end of r's 95 % interval) · K > ln 1000",
    ),
    measured=(
        "The same slope as GS101, the other limit. Large single Jacobians do not count: a trained tanh RNN whose "
        "‖J_t‖ all exceed 3.4 can have a product that shrinks. A rate slightly above zero is healthy, and clipping "
        "makes moderate growth trainable, so the limit is on the growth over the whole lag. With a stated lag an "
        "interval that holds the limit says nothing where the gradient arrives, as GS104 explains."
    ),
    remedies=(
        "Clip the norm of the gradient before each update (`torch.nn.utils.clip_grad_norm_`)",
        "Lower the gain of the recurrent matrix: `gradscope compare rnn:gain=2 rnn:gain=1`",
        "Use an orthogonal recurrent matrix: `gradscope analyze rnn:init=orthogonal`",
        "Use gates, whose products of the cell path stay below one: `gradscope compare rnn:gain=2 lstm`",
    ),
    papers=(papers.PASCANU_2013, papers.BENGIO_1994, papers.ZUCCHET_2024),
)
