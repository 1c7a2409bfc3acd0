"""GS101 to GS104: the gradient does not reach back over the needed lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, Number, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise, advise_training
from gradscope.rules.gs1_learning import FIXED, GROWTH, SHARE_FAILS, SHARE_LIMITS, STEPS, Word, arrival
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
    straddles,
)

REACH_SHARE = 0.01
"""The share of the newest lag's influence at which the reach is measured."""
STATE_THE_LAG = "Say how far back the task must look, `--needs-lag K`: the gradient that arrives there then decides."


def _judge_vanishing_rate(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare rate * K (nats) with ln vanishing_share."""
    summary, lag = result.summary, needed_lag(result, spec)
    stops = _cut_at(result)
    if stops is not None and 0 < stops < lag:
        return _up_to_the_cut(result, spec, stops)
    rate, share = summary.rate or 0.0, VANISHING_RATE.limit(spec, "vanishing_share")
    low, high = (end * lag for end in interval_ends(rate, summary.rate_ci))
    limit, where = math.log(share), over_lags(lag, spec)
    measured = f"multiplies the gradient by {per_step(rate)}: {where} that is {factor(rate * lag / LN10)}"
    ahead = arrival(result, spec)
    if ahead is not None and ahead.word == "arrives":
        return _finding("pass", f"Each step back {measured}. {ahead.sentence}", rate * lag, limit)
    if low >= limit:
        return _finding("pass", f"Each step back {measured}{interval_note(result)}.", rate * lag, limit)
    if ahead is not None and ahead.word == "open":
        return _finding(
            "inconclusive",
            f"Each step back {measured}. {ahead.sentence}",
            rate * lag,
            limit,
            advise_training(result, spec),
        )
    if high >= limit:
        return _finding(
            "inconclusive", straddles(low, high, limit, where), rate * lag, limit, how_to_narrow(result, spec)
        )
    if ahead is None and share <= REACH_SHARE and summary.reach is not None and summary.reach >= lag:
        message = f"The fitted step {measured}, yet the reach is {summary.reach} lags: the decay is not exponential."
        return _finding("inconclusive", message, rate * lag, limit, STATE_THE_LAG)
    told = f" {ahead.sentence}" if ahead is not None else ""
    return Finding(
        "found",
        f"Each step back {measured}{interval_note(result)}.{told}",
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
    rate, limit = result.summary.rate or 0.0, math.log(VANISHING_RATE.limit(spec, "vanishing_share"))
    _, high = (end * lag for end in interval_ends(rate, result.summary.rate_ci))
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


VANISHING_RATE = Rule(
    code="GS101",
    title="vanishing rate",
    severity="error",
    requires=("rate",),
    judge=_judge_vanishing_rate,
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


HOLES = "Is the input of that step masked, or read by nothing? Nothing needs to be done where that is meant."


def _judge_exact_zero(result: ModelResult, spec: RunSpec) -> Finding:
    """Look at (first zero lag, number of zero lags)."""
    lag, zeros = needed_lag(result, spec), result.summary.zero_lags or ()
    allowed = EXACT_ZERO.limit(spec, "zero_lags")
    first, count = (zeros[0], zeros[1]) if len(zeros) == 2 else (0, 0)
    if count <= allowed or first > lag:
        within = "No lag" if count == 0 or first > lag else f"{count} of {lag} lags"
        message = f"{within} up to {lag} receives a gradient of exactly zero."
        return Finding("pass", message, measured=count if first <= lag else 0, threshold=allowed)
    profile = Profile.of(result)
    step = profile.step_of(first)
    where = f"the first at lag {first} (step {step})"
    told = f"{count} of {lag} lags {'receives' if count == 1 else 'receive'} a gradient of exactly zero, {where}"
    if not _zeros_reach_the_end(profile, lag, zeros, spec):
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


def _zeros_reach_the_end(profile: Profile, lag: int, zeros: tuple[int, ...], spec: RunSpec) -> bool:
    """Whether the zeros are an end and no hole: they go on up to the needed lag."""
    first, count = zeros[:2]
    values = profile.values[1 : lag + 1]
    if first + count - 1 == lag > first or len(values) < lag:
        return True
    end = next((place for place, value in enumerate(reversed(values)) if value != -math.inf), lag)
    return end > (0 if spec.needs_lag is not None else 1)


EXACT_ZERO = Rule(
    code="GS102",
    title="exact zero within the needed lag",
    severity="error",
    requires=("zero_lags",),
    judge=_judge_exact_zero,
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


def _judge_one_direction(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the number of directions with collapsed_directions."""
    lag, directions = needed_lag(result, spec), result.summary.directions or 0
    if result.size == 1:
        return Finding("skip", "A state of one number has one direction, so there is nothing to collapse.")
    allowed = ONE_DIRECTION.limit(spec, "collapsed_directions")
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


ONE_DIRECTION = Rule(
    code="GS103",
    title="collapse to one direction",
    severity="warning",
    requires=("directions",),
    judge=_judge_one_direction,
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


WORDS: tuple[tuple[Word, str], ...] = (("fails", "with S < −6"), ("open", "between"), ("arrives", "that arrive"))
LEARNED = ", ".join(f"{FIXED[word].of - FIXED[word].failed} of {FIXED[word].of} {said}" for word, said in WORDS)


def _judge_short_reach(result: ModelResult, spec: RunSpec) -> Finding:
    """What arrives at a stated needed lag decides; without one, whether the reach covers the sequence."""
    lag, reach = needed_lag(result, spec), result.summary.reach or 0
    wanted = SHORT_REACH.limit(spec, "reach_part") * lag
    asks = "the needed lag" if spec.needs_lag is not None else "this sequence"
    known = arrival(result, spec)
    word = known.word if known is not None else "arrives" if reach >= wanted else "fails"
    profile = Profile.of(result)
    if reach >= profile.longest < lag:
        message = (
            f"The newest output that the loss reads is that of step {profile.anchor}, and no step lies {lag} before "
            f"it: the reach is all of the {reach} lags that there are."
        )
        return Finding("inconclusive", message, "Let the loss read a later step, or give longer sequences.")
    reached = f"The reach is {reach} lags; {asks} asks {lag}."
    told = f" {known.sentence}" if known is not None else ""
    if word == "arrives":
        return Finding("pass", f"{reached}{told}", measured=reach, threshold=wanted)
    if word == "open" and (reach >= lag or result.summary.lags == "spread" or spec.lags == "spread"):
        return Finding(
            "inconclusive", f"{reached}{told}", advise_training(result, spec), measured=reach, threshold=wanted
        )
    short = f"Beyond lag {reach} of {lag} no step has even 1 % of the influence of the newest lagged one."
    return Finding(
        "found" if word == "fails" else "doubtful",
        f"{short if reach < lag else reached}{told}",
        advise("vanishing", result, spec),
        first_step=profile.step_of(lag),
        last_step=profile.step_of(reach + 1),
        measured=reach,
        threshold=wanted,
    )


SHORT_REACH = Rule(
    code="GS104",
    title="reach below the needed lag",
    severity="error",
    requires=("reach",),
    judge=_judge_short_reach,
    voided_by="GS403",
    gives="vanishing",
    explained_by=("GS401", "GS405"),
    only_failing=True,
    thresholds={
        "reach_part": Threshold(1.0, "share", "how much of it the reach must cover, where none is stated", low=0.0),
        **SHARE_LIMITS,
    },
    needs_stated_lag=True,
    what=(
        "The reach is how far back learning can be expected to see: the largest lag whose step still has 1 % of the "
        "influence of the newest lagged step. GS101 judges the average slope; this rule judges the profile itself, and "
        "sees a cliff or a dip that a straight line misses."
    ),
    maths=(
        "I(k) = ‖∂⟨v_a, y_a⟩/∂x_{a−k}‖ is the influence at lag k",
        "reach = largest k with I(k) ≥ 0.01 · I(1)",
        "S = log10(g_K / Σ_{k ≤ K} g_k) with a stated K: fails when S < −6; healthy when reach ≥ K, "
        "S + log10(K + 1) > −1 and I grows at most tenfold; without one, found when reach < T − 1",
    ),
    measured=(
        "From the influence profile, the geometric mean over anchors, sequences and seeds. Lag 1 is the reference and "
        "not lag 0, whose direct path (attention to the step itself) would spoil the comparison. Without a stated "
        "needed lag K is T − 1, and a reach below it is a warning that leaves the status alone: a model may be healthy "
        "and the sequence longer than its task. With a stated needed lag the gradient share S there decides. It fails "
        f"(an error, exit code 1 with `--fail-on error` and in `gradscope check`) under S = {SHARE_FAILS:g}. It is "
        "healthy when it is at least a tenth of what a gradient that is the same at every lag has there, 1 / (K + 1), "
        f"and the influence grows by no more than {round(math.exp(GROWTH))} times over the lag. Between the two it is "
        "inconclusive, and a warning where the reach is short of the lag: `--fail-on warning` or `min-reach` make that "
        "red. A gradient that grows with the lag never fails here. Of trained combinations of model and task with "
        f"fixed lags, so many learned in {STEPS} steps: {LEARNED}. That is the outlook, which is shown beside the "
        "status and decides nothing. With spread lags no share fails: a GRU that never learns to add numbers 99 steps "
        "apart learns it from samples in which they lie closer too."
    ),
    remedies=(
        "State what the task needs: `gradscope analyze lstm --needs-lag 50`",
        "Open the forget gate: `gradscope analyze lstm:forget_bias=5 --needs-lag 50`",
        "Compare with models that keep more: `gradscope compare lstm gru lru attention --needs-lag 50`",
    ),
    papers=(papers.HOCHREITER_1997, papers.GERS_2000, papers.JOZEFOWICZ_2015),
)
