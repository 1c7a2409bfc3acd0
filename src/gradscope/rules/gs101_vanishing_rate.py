"""GS101: the gradient shrinks too fast to reach back over the needed lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, Number, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise, train
from gradscope.rules.gs401_gradient_cut import made_anew
from gradscope.rules.interval import ends, narrow, note, straddles
from gradscope.rules.outlook import arrival
from gradscope.rules.rule import Finding, Outcome, Rule, Threshold, needed_lag
from gradscope.rules.wording import LN10, factor, over_lags, per_step

REACH_SHARE = 0.01
"""The share of the newest lag's influence at which the reach is measured."""
STATE_THE_LAG = "Say how far back the task must look, `--needs-lag K`: the gradient that arrives there then decides."


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln vanishing_share."""
    summary, lag = result.summary, needed_lag(result, spec)
    stops = _cut_at(result)
    if stops is not None and 0 < stops < lag:
        return _up_to_the_cut(result, spec, stops)
    rate, share = summary.rate or 0.0, RULE.limit(spec, "vanishing_share")
    low, high = (end * lag for end in ends(rate, summary.rate_ci))
    limit, where = math.log(share), over_lags(lag, spec)
    measured = f"multiplies the gradient by {per_step(rate)}: {where} that is {factor(rate * lag / LN10)}"
    ahead = arrival(result, spec)
    if ahead is not None and ahead.word == "arrives":
        return _finding("pass", f"Each step back {measured}. {ahead.sentence}", rate * lag, limit)
    if low >= limit:
        return _finding("pass", f"Each step back {measured}{note(result)}.", rate * lag, limit)
    if ahead is not None and ahead.word == "open":
        return _finding(
            "inconclusive", f"Each step back {measured}. {ahead.sentence}", rate * lag, limit, train(result, spec)
        )
    if high >= limit:
        return _finding("inconclusive", straddles(low, high, limit, where), rate * lag, limit, narrow(result, spec))
    if ahead is None and share <= REACH_SHARE and summary.reach is not None and summary.reach >= lag:
        message = f"The fitted step {measured}, yet the reach is {summary.reach} lags: the decay is not exponential."
        return _finding("inconclusive", message, rate * lag, limit, STATE_THE_LAG)
    told = f" {ahead.sentence}" if ahead is not None else ""
    return Finding(
        "found",
        f"Each step back {measured}{note(result)}.{told}",
        advise("vanishing", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of((summary.reach or 0) + 1),
        measured=rate * lag,
        threshold=limit,
    )


def _cut_at(result: ModelResult) -> int | None:
    """The lag behind which nothing arrives because the gradient is cut or the state made anew; None where neither."""
    newest = max((result.summary.cut or 0, *made_anew(result)))
    return Profile.of(result).lag_of(newest) if newest else None


def _up_to_the_cut(result: ModelResult, spec: RunSpec, lag: int) -> Finding:
    """Whether the gradient dies before the step at which it is cut, of which GS401 tells."""
    rate, limit = result.summary.rate or 0.0, math.log(RULE.limit(spec, "vanishing_share"))
    _, high = (end * lag for end in ends(rate, result.summary.rate_ci))
    message = (
        f"Each step back multiplies the gradient by {per_step(rate)}: over the {lag} lags up to the cut that is "
        f"{factor(rate * lag / LN10)}."
    )
    if high >= limit:
        return _finding("pass", message, rate * lag, limit)
    return _finding("found", message, rate * lag, limit, advise("vanishing", result, spec))


def _finding(outcome: Outcome, message: str, measured: Number, limit: float, advice: str = "") -> Finding:
    """A finding that points at no steps."""
    return Finding(outcome, message, advice, measured=measured, threshold=limit)


RULE = Rule(
    code="GS101",
    title="vanishing rate",
    severity="error",
    requires=("rate",),
    judge=_judge,
    voided_by="GS403",
    gives="vanishing",
    thresholds={
        "vanishing_share": Threshold(
            0.01, "share", "what must be left of the gradient after the needed lag", low=0.0, high=1.0
        )
    },
    needs_stated_lag=True,
    what=(
        "Training moves weights along the gradient. When every step back in time multiplies that gradient by a factor "
        "below one, what happened K steps ago has no say in the update, however large the gradient of the weights "
        "looks: that one is dominated by the newest steps."
    ),
    maths=(
        "I(k) = ‖∂⟨v_a, y_a⟩/∂x_{a−k}‖ is the influence of the input k steps before the anchor step a",
        "r = least-squares slope of ln I(k) over k = 1 … K, in nats per step",
        "found when (upper end of r's 95 % interval) · K < ln 0.01",
    ),
    measured=(
        "BPTT from one anchor step (the last one that the loss reads), in log scale, so nothing underflows. The slope "
        "is fitted per sequence; the mean over seeds decides, with a 95 % t-interval over seeds, or over the sequences "
        "of a single one (they share its weights). With one sequence and one seed there "
        "is no interval and the slope itself decides. An interval on both sides of the limit is inconclusive, and so "
        "is a slope below the limit when the reach covers the needed lag all the same. With a stated needed lag the "
        "share of the gradient that arrives there has the last word, as GS104 explains."
    ),
    remedies=(
        "An LSTM with an open forget gate: `gradscope compare lstm lstm:forget_bias=5`",
        "An orthogonal recurrent matrix: `gradscope analyze rnn:init=orthogonal`",
        "A linear recurrence with eigenvalues near the unit circle: `gradscope analyze lru:r_min=0.99`",
        "Attention, which joins any two steps directly: `gradscope compare rnn lstm attention`",
        "Say what the task needs, and the warning becomes pass or fail: `gradscope analyze lstm --needs-lag 50`",
    ),
    papers=(
        papers.BENGIO_1994,
        papers.HOCHREITER_1997,
        papers.GERS_2000,
        papers.PASCANU_2013,
        papers.JOZEFOWICZ_2015,
        papers.VASWANI_2017,
    ),
)
