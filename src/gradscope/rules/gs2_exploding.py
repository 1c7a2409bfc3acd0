"""GS2xx: the gradient, the state or the output grows too large."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules.advice import advise
from gradscope.rules.gs1_learning import arrival
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import (
    LN10,
    factor,
    how_to_narrow,
    interval_ends,
    interval_note,
    over_lags,
    per_step,
    straddling_interval,
)


def _judge_exploding_rate(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln exploding_factor; what overflows has exceeded it."""
    summary, lag = result.summary, needed_lag(result, spec)
    if summary.overflow_lags:
        return _overflow(result, spec, *summary.overflow_lags[:2])
    rate = summary.rate or 0.0
    low, high = (end * lag for end in interval_ends(rate, summary.rate_ci))
    limit, span = math.log(EXPLODING_RATE.limit(spec, "exploding_factor")), over_lags(lag, spec)
    growth = f"{span} that is {factor(rate * lag / LN10)}"
    message = f"Each step back multiplies the gradient by {per_step(rate)}: {growth}{interval_note(result)}."
    if high <= limit:
        return Finding("pass", message, measured=rate * lag, threshold=limit)
    arriving = arrival(result, spec)
    if low <= limit and arriving is not None and arriving.expectation == "arrives":
        # With a stated lag what arrives there has the last word, as in GS101: two seeds make a very wide interval.
        return Finding("pass", f"{message} {arriving.sentence}", measured=rate * lag, threshold=limit)
    if low <= limit:
        straddle = straddling_interval(low, high, limit, span)
        return Finding("inconclusive", straddle, how_to_narrow(result, spec), measured=rate * lag, threshold=limit)
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
        threshold=math.log(EXPLODING_RATE.limit(spec, "exploding_factor")),
    )


EXPLODING_RATE = Rule(
    code="GS201",
    requires=("rate",),
    judge=_judge_exploding_rate,
    invalid_if_found="GS403",
    status_if_found="exploding",
    thresholds={
        "exploding_factor": Threshold(1000.0, "factor", "how much the gradient may grow over the needed lag", low=1.0)
    },
)


def _judge_chaos(result: ModelResult, spec: RunSpec) -> Finding:
    """Ask for an exponent above zero beyond its interval whose growth over K lags exceeds chaos_factor."""
    summary, lag = result.summary, needed_lag(result, spec)
    exponent = (summary.lyapunov or (None,))[0]
    if exponent is None or math.isnan(exponent):
        return Finding("skip", "The leading Lyapunov exponent is not known.")
    low, _ = interval_ends(exponent, summary.lyapunov_ci)
    limit, span = math.log(CHAOS.limit(spec, "chaos_factor")), over_lags(lag, spec)
    growth = factor(exponent * lag / LN10)
    interval_missing = " (no interval, so the point decides)" if summary.lyapunov_ci is None else ""
    observed = f"The leading Lyapunov exponent is {exponent:+.3g} nats per step: {span}"
    if exponent * lag <= limit:
        message = f"{observed} that is a factor of {growth}{interval_missing}."
        return Finding("pass", message, measured=exponent, threshold=limit / lag)
    if low <= 0:
        message = f"{observed} that is a factor of {growth}, but its interval reaches down to {low:+.3g}: no verdict."
        advice = "A longer sequence narrows the interval"
        has_own_data = spec.input is not None or spec.text is not None
        advice += "." if has_own_data else f": try `--length {max(1000, 5 * result.length)}`."
        return Finding("inconclusive", message, advice, measured=exponent, threshold=limit / lag)
    return Finding(
        "found",
        f"{observed} a difference in the state grows by a factor of {growth}{interval_missing}.",
        advise("chaos", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=result.length,
        measured=exponent,
        threshold=limit / lag,
    )


CHAOS = Rule(
    code="GS202",
    requires=("lyapunov",),
    judge=_judge_chaos,
    thresholds={
        "chaos_factor": Threshold(1000.0, "factor", "how much a difference may grow over the needed lag", low=1.0)
    },
)


def _judge_sensitive_weights(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the amplification with the limit, where the influence itself does not grow."""
    amplification, limit = (
        result.summary.parameter_sensitivity or 0.0,
        SENSITIVE_WEIGHTS.limit(spec, "log10_amplification"),
    )
    if (result.summary.rate or 0.0) > SENSITIVE_WEIGHTS.limit(spec, "flat_rate"):
        return Finding("pass", "The gradient grows on its way back: GS201 judges that.")
    observed = (
        f"The gradient of the weights is {factor(amplification)} times what the newest step alone contributes to it"
    )
    if amplification <= limit:
        return Finding("pass", f"{observed}.", measured=amplification, threshold=limit)
    return Finding(
        "found",
        f"{observed}, though the state's own gradient does not grow: the loss is sharp in these weights.",
        "Lower the learning rate of the recurrent weights, or give them a parametrisation whose steps shrink near one, "
        "as `gradscope analyze lru` does (|λ| = exp(-exp ν), inputs scaled by sqrt(1 - |λ|²)).",
        measured=amplification,
        threshold=limit,
    )


SENSITIVE_WEIGHTS = Rule(
    code="GS203",
    requires=("parameter_sensitivity",),
    judge=_judge_sensitive_weights,
    thresholds={
        "log10_amplification": Threshold(
            3.0, "log10", "how much larger than one step's part the whole may be", low=0.0
        ),
        "flat_rate": Threshold(0.005, "nats per step", "above which the state's gradient itself grows"),
    },
)


def _judge_wrong_scale(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the size of the outputs with both limits."""
    size = result.summary.output_scale or 0.0
    low, high = WRONG_SCALE.limit(spec, "output_low"), WRONG_SCALE.limit(spec, "output_high")
    observed = f"The outputs that the loss reads have a size of {size:.3g} (root mean square)"
    if low <= size <= high:
        return Finding("pass", f"{observed}.", measured=size, threshold=high)
    is_large = size > high
    return Finding(
        "found",
        f"{observed}: training starts by {'unlearning' if is_large else 'raising'} that.",
        "Scale the input, the gain or the step of the recurrence so that outputs start near 1; a norm before the "
        "readout does it too.",
        measured=size,
        threshold=high if is_large else low,
    )


WRONG_SCALE = Rule(
    code="GS204",
    requires=("output_scale",),
    judge=_judge_wrong_scale,
    thresholds={
        "output_high": Threshold(10.0, "root mean square", "above which outputs are too large", low=0.0),
        "output_low": Threshold(1e-4, "root mean square", "below which outputs are too small", low=0.0),
    },
)
