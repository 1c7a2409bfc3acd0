"""GS2xx: the gradient, the state or the output grows too large."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
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
    straddles,
)


def _judge_exploding_rate(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln exploding_factor; what overflows has exceeded it."""
    summary, lag = result.summary, needed_lag(result, spec)
    if summary.overflow_lags:
        return _overflow(result, spec, *summary.overflow_lags[:2])
    rate = summary.rate or 0.0
    low, high = (end * lag for end in interval_ends(rate, summary.rate_ci))
    limit, where = math.log(EXPLODING_RATE.limit(spec, "exploding_factor")), over_lags(lag, spec)
    total = f"{where} that is {factor(rate * lag / LN10)}"
    message = f"Each step back multiplies the gradient by {per_step(rate)}: {total}{interval_note(result)}."
    if high <= limit:
        return Finding("pass", message, measured=rate * lag, threshold=limit)
    known = arrival(result, spec)
    if low <= limit and known is not None and known.word == "arrives":
        # With a stated lag what arrives there has the last word, as in GS101: two seeds make a very wide interval.
        return Finding("pass", f"{message} {known.sentence}", measured=rate * lag, threshold=limit)
    if low <= limit:
        sentence = straddles(low, high, limit, where)
        return Finding("inconclusive", sentence, how_to_narrow(result, spec), measured=rate * lag, threshold=limit)
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
    title="exploding rate",
    severity="error",
    requires=("rate",),
    judge=_judge_exploding_rate,
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


def _judge_chaos(result: ModelResult, spec: RunSpec) -> Finding:
    """Ask for an exponent above zero beyond its interval whose growth over K lags exceeds chaos_factor."""
    summary, lag = result.summary, needed_lag(result, spec)
    exponent = (summary.lyapunov or (None,))[0]
    if exponent is None or math.isnan(exponent):
        return Finding("skip", "The leading Lyapunov exponent is not known.")
    low, _ = interval_ends(exponent, summary.lyapunov_ci)
    limit, where = math.log(CHAOS.limit(spec, "chaos_factor")), over_lags(lag, spec)
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


CHAOS = Rule(
    code="GS202",
    title="chaos",
    severity="warning",
    requires=("lyapunov",),
    judge=_judge_chaos,
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


def _judge_sensitive_weights(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the amplification with the limit, where the influence itself does not grow."""
    found, limit = result.summary.parameter_sensitivity or 0.0, SENSITIVE_WEIGHTS.limit(spec, "log10_amplification")
    if (result.summary.rate or 0.0) > SENSITIVE_WEIGHTS.limit(spec, "flat_rate"):
        return Finding("pass", "The gradient grows on its way back: GS201 judges that.")
    said = f"The gradient of the weights is {factor(found)} times what the newest step alone contributes to it"
    if found <= limit:
        return Finding("pass", f"{said}.", measured=found, threshold=limit)
    return Finding(
        "found",
        f"{said}, though the state's own gradient does not grow: the loss is sharp in these weights.",
        "Lower the learning rate of the recurrent weights, or give them a parametrisation whose steps shrink near one, "
        "as `gradscope analyze lru` does (|λ| = exp(-exp ν), inputs scaled by sqrt(1 - |λ|²)).",
        measured=found,
        threshold=limit,
    )


SENSITIVE_WEIGHTS = Rule(
    code="GS203",
    title="sensitive weights",
    severity="warning",
    requires=("parameter_sensitivity",),
    judge=_judge_sensitive_weights,
    thresholds={
        "log10_amplification": Threshold(
            3.0, "log10", "how much larger than one step's part the whole may be", low=0.0
        ),
        "flat_rate": Threshold(0.005, "nats per step", "above which the state's gradient itself grows"),
    },
    what=(
        "A state that neither vanishes nor explodes can still make the weights hard to set: the longer it remembers, "
        "the more steps add to the same gradient. Near a perfect memory the loss is a narrow valley in the recurrent "
        "weights, and a learning rate that is fine elsewhere jumps across it."
    ),
    maths=(
        "h_t = λ h_{t−1} + x_t, white x: E(∂h/∂λ)² = (1 + λ²)/(1 − λ²)³, E h² = 1/(1 − λ²)",
        "amplification = rms ‖∂ℓ/∂W‖ / rms ‖contribution of the newest step‖ → √(1 + λ²)/(1 − λ²)",
        "found when log10 amplification > 3 while the rate of the influence is not above 0.005 nats/step",
    ),
    measured=(
        "From the backward pass of the whole loss through the recurrence: the gradient of all recurrent weights over "
        "its part from the newest step that the loss reads. The limit is a choice, not calibrated against training."
    ),
    remedies=(
        "A parametrisation made for it: `gradscope analyze lru`",
        "A shorter memory, if the task allows: `gradscope analyze lru:r_min=0.9,r_max=0.99`",
    ),
    papers=(papers.ZUCCHET_2024,),
)


def _judge_wrong_scale(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the size of the outputs with both limits."""
    size = result.summary.output_scale or 0.0
    low, high = WRONG_SCALE.limit(spec, "output_low"), WRONG_SCALE.limit(spec, "output_high")
    said = f"The outputs that the loss reads have a size of {size:.3g} (root mean square)"
    if low <= size <= high:
        return Finding("pass", f"{said}.", measured=size, threshold=high)
    large = size > high
    return Finding(
        "found",
        f"{said}: training starts by {'unlearning' if large else 'raising'} that.",
        "Scale the input, the gain or the step of the recurrence so that outputs start near 1; a norm before the "
        "readout does it too.",
        measured=size,
        threshold=high if large else low,
    )


WRONG_SCALE = Rule(
    code="GS204",
    title="wrong scale",
    severity="warning",
    requires=("output_scale",),
    judge=_judge_wrong_scale,
    thresholds={
        "output_high": Threshold(10.0, "root mean square", "above which outputs are too large", low=0.0),
        "output_low": Threshold(1e-4, "root mean square", "below which outputs are too small", low=0.0),
    },
    what=(
        "Some recurrences pass gradients over any distance and still do not learn, because their outputs start far too "
        "large or too small: the loss is dominated by that, and the first steps of training are spent on it or "
        "diverge. In published runs of the adding problem, coRNN and antisymmetric cells start from losses of 1 to 20 "
        "and end above the trivial answer, while their gradient share is among the best."
    ),
    maths=(
        "size = √(mean over sequences and features of y_a²), a the newest step that the loss reads",
        "a linear state that keeps everything grows: E h_T² = T E x² at λ = 1",
        "found when size > 10 or size < 0.0001",
    ),
    measured="From the forward pass alone. The limits are choices, not calibrated against training.",
    remedies=(
        "Look at the sizes over time: `gradscope analyze rnn --format json`, series `state.*.rms`",
        "Scale the data: `gradscope analyze rnn --input data.csv --scale standard`",
    ),
    papers=(papers.PASCANU_2013,),
)
