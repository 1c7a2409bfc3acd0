"""GS101 to GS104: the gradient does not reach back over the needed lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, Number, RunSpec
from gradscope.rules.advice import advise, advise_training
from gradscope.rules.gs1_learning import SHARE_LIMITS, arrival
from gradscope.rules.gs4_wiring import made_anew
from gradscope.rules.rule import Finding, Outcome, Rule, Threshold, needed_lag
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
from gradscope.text import counted

REACH_SHARE = 0.01
"""The share of the newest lag's influence at which the reach is measured."""
STATE_THE_LAG = "Say how far back the task must look, `--needs-lag K`: the gradient that arrives there then decides."


def _judge_vanishing_rate(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln vanishing_share."""
    summary, lag = result.summary, needed_lag(result, spec)
    cut_lag = _lag_of_cut(result)
    if cut_lag is not None and 0 < cut_lag < lag:
        return _judge_up_to_the_cut(result, spec, cut_lag)
    rate, share = summary.rate or 0.0, VANISHING_RATE.limit(spec, "vanishing_share")
    low, high = (end * lag for end in interval_ends(rate, summary.rate_ci))
    limit, span = math.log(share), over_lags(lag, spec)
    step_factor = f"multiplies the gradient by {per_step(rate)}: {span} that is {factor(rate * lag / LN10)}"
    arriving = arrival(result, spec)
    if arriving is not None and arriving.expectation == "arrives":
        return _without_steps("pass", f"Each step back {step_factor}. {arriving.sentence}", rate * lag, limit)
    if low >= limit:
        return _without_steps("pass", f"Each step back {step_factor}{interval_note(result)}.", rate * lag, limit)
    if arriving is not None and arriving.expectation == "open":
        return _without_steps(
            "inconclusive",
            f"Each step back {step_factor}. {arriving.sentence}",
            rate * lag,
            limit,
            advise_training(result, spec),
        )
    if high >= limit:
        return _without_steps(
            "inconclusive", straddling_interval(low, high, limit, span), rate * lag, limit, how_to_narrow(result, spec)
        )
    if arriving is None and share <= REACH_SHARE and summary.reach is not None and summary.reach >= lag:
        # The reach counts from lag 1: an even decay covers as many lags with one factor less.
        even = rate * (lag - 1) >= math.log(REACH_SHARE)
        why = ", counted from lag 1" if even else ": the decay is not exponential"
        message = f"The fitted step {step_factor}, yet the reach is {counted(summary.reach, 'lag')}{why}."
        return _without_steps("inconclusive", message, rate * lag, limit, STATE_THE_LAG)
    arrival_note = f" {arriving.sentence}" if arriving is not None else ""
    return Finding(
        "found",
        f"Each step back {step_factor}{interval_note(result)}.{arrival_note}",
        advise("vanishing", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of((summary.reach or 0) + 1),
        measured=rate * lag,
        threshold=limit,
    )


def _lag_of_cut(result: ModelResult) -> int | None:
    """The lag behind which nothing arrives because the gradient is cut or the state made anew; None where neither."""
    newest_cut = max((result.summary.cut or 0, *made_anew(result)))
    return Profile.of(result).lag_of(newest_cut) if newest_cut else None


def _judge_up_to_the_cut(result: ModelResult, spec: RunSpec, lag: int) -> Finding:
    """Whether the gradient dies before the step at which it is cut, of which GS401 tells."""
    rate, limit = result.summary.rate or 0.0, math.log(VANISHING_RATE.limit(spec, "vanishing_share"))
    _, high = (end * lag for end in interval_ends(rate, result.summary.rate_ci))
    message = (
        f"Each step back multiplies the gradient by {per_step(rate)}: over the {counted(lag, 'lag')} up to the cut "
        f"that is {factor(rate * lag / LN10)}."
    )
    if high >= limit:
        return _without_steps("pass", message, rate * lag, limit)
    return _without_steps("found", message, rate * lag, limit, advise("vanishing", result, spec))


def _without_steps(outcome: Outcome, message: str, measured: Number, limit: float, advice: str = "") -> Finding:
    """A finding that points at no steps."""
    return Finding(outcome, message, advice, measured=measured, threshold=limit)


VANISHING_RATE = Rule(
    code="GS101",
    requires=("rate",),
    judge=_judge_vanishing_rate,
    invalid_if_found="GS403",
    status_if_found="vanishing",
    thresholds={
        "vanishing_share": Threshold(
            0.01, "share", "what must be left of the gradient after the needed lag", low=0.0, high=1.0
        )
    },
    needs_stated_lag=True,
)


ZERO_INSIDE = "Is the input of that step masked, or read by nothing? Nothing needs to be done where that is meant."


def _judge_exact_zero(result: ModelResult, spec: RunSpec) -> Finding:
    """Look at (first zero lag, number of zero lags)."""
    lag, zeros = needed_lag(result, spec), result.summary.zero_lags or ()
    allowed = EXACT_ZERO.limit(spec, "zero_lags")
    first, count = (zeros[0], zeros[1]) if len(zeros) == 2 else (0, 0)
    if count <= allowed or first > lag:
        within = "No lag" if count == 0 or first > lag else f"{count} of {counted(lag, 'lag')}"
        message = f"{within} up to {lag} receives a gradient of exactly zero."
        return Finding("pass", message, measured=count if first <= lag else 0, threshold=allowed)
    profile = Profile.of(result)
    step = profile.step_of(first)
    first_zero = f"the first at lag {first} (step {step})"
    receives = "receives" if count == 1 else "receive"
    observed = f"{count} of {counted(lag, 'lag')} {receives} a gradient of exactly zero, {first_zero}"
    if not _zeros_reach_the_end(profile, lag, zeros, spec):
        message = f"{observed}; there is gradient again further back."
        return Finding("remark", message, ZERO_INSIDE, step, step, measured=count, threshold=allowed)
    advice_case = "float32" if spec.dtype != "float64" else None
    return Finding(
        "found",
        f"{observed}.",
        advise("zero", result, spec, advice_case),
        first_step=profile.step_of(lag),
        last_step=step,
        measured=count,
        threshold=allowed,
    )


def _zeros_reach_the_end(profile: Profile, lag: int, zeros: tuple[int, ...], spec: RunSpec) -> bool:
    """Whether the zeros are an end and no hole: they go on up to the needed lag."""
    first, count = zeros[:2]
    values = profile.values[1 : lag + 1]
    if first + count - 1 == lag > first or len(values) < lag:
        return True
    zeros_at_end = next((position for position, value in enumerate(reversed(values)) if value != -math.inf), lag)
    return zeros_at_end > (0 if spec.needs_lag is not None else 1)


EXACT_ZERO = Rule(
    code="GS102",
    requires=("zero_lags",),
    judge=_judge_exact_zero,
    invalid_if_found="GS403",
    status_if_found="vanishing",
    implied_by=("GS401", "GS405"),
    thresholds={"zero_lags": Threshold(0.0, "lags", "how many lags may receive exactly nothing", low=-1.0)},
    needs_stated_lag=True,
)


def _judge_one_direction(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the number of directions with collapsed_directions."""
    lag, directions = needed_lag(result, spec), result.summary.directions or 0
    if result.size == 1:
        return Finding("skip", "A state of one number has one direction, so there is nothing to collapse.")
    allowed = ONE_DIRECTION.limit(spec, "collapsed_directions")
    if directions > allowed:
        kept = f"{directions} of {result.size} directions of the state can still be told apart"
        message = f"After {counted(lag, 'lag')} {kept}."
        return Finding("pass", message, measured=directions, threshold=allowed)
    left = {0: "no direction is", 1: "one direction is"}.get(directions, f"{directions} directions are")
    return Finding(
        "found",
        f"After {counted(lag, 'lag')} {left} left of {result.size}: older states can differ in no other way.",
        advise("collapse", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=result.length,
        measured=directions,
        threshold=allowed,
    )


ONE_DIRECTION = Rule(
    code="GS103",
    requires=("directions",),
    judge=_judge_one_direction,
    invalid_if_found="GS403",
    status_if_found="degenerate",
    implied_by=("GS401", "GS405"),
    thresholds={
        "collapsed_directions": Threshold(1.0, "directions", "so many or fewer count as collapsed", low=0.0),
    },
)


def _judge_short_reach(result: ModelResult, spec: RunSpec) -> Finding:
    """What arrives at a stated needed lag decides; without one, whether the reach covers the sequence."""
    lag, reach = needed_lag(result, spec), result.summary.reach or 0
    wanted_reach = SHORT_REACH.limit(spec, "reach_part") * lag
    asked_by = "the needed lag" if spec.needs_lag is not None else "this sequence"
    arriving = arrival(result, spec)
    word = arriving.expectation if arriving is not None else "arrives" if reach >= wanted_reach else "fails"
    profile = Profile.of(result)
    if reach >= profile.longest < lag:
        message = (
            f"The newest output that the loss reads is that of step {profile.anchor}, and no step lies {lag} before "
            f"it: the reach is all there is, {counted(reach, 'lag')}."
        )
        return Finding("inconclusive", message, "Let the loss read a later step, or give longer sequences.")
    reach_note = f"The reach is {counted(reach, 'lag')}; {asked_by} asks {lag}."
    arrival_note = f" {arriving.sentence}" if arriving is not None else ""
    if word == "arrives":
        return Finding("pass", f"{reach_note}{arrival_note}", measured=reach, threshold=wanted_reach)
    if word == "open" and (reach >= lag or result.summary.lags == "spread" or spec.lags == "spread"):
        return Finding(
            "inconclusive",
            f"{reach_note}{arrival_note}",
            advise_training(result, spec),
            measured=reach,
            threshold=wanted_reach,
        )
    shortfall = f"Beyond lag {reach} of {lag} no step has even 1 % of the influence of the newest lagged one."
    return Finding(
        "found" if word == "fails" else "doubtful",
        f"{shortfall if reach < lag else reach_note}{arrival_note}",
        advise("vanishing", result, spec),
        first_step=profile.step_of(lag),
        last_step=profile.step_of(reach + 1),
        measured=reach,
        threshold=wanted_reach,
    )


SHORT_REACH = Rule(
    code="GS104",
    requires=("reach",),
    judge=_judge_short_reach,
    invalid_if_found="GS403",
    status_if_found="vanishing",
    implied_by=("GS401", "GS405"),
    status_only_if_failed=True,
    thresholds={
        "reach_part": Threshold(1.0, "share", "how much of it the reach must cover, where none is stated", low=0.0),
        **SHARE_LIMITS,
    },
    needs_stated_lag=True,
)
