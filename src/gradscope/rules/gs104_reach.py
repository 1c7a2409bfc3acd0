"""GS104: the reach ends before the needed lag."""

from __future__ import annotations

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.calibration import FIXED, STEPS
from gradscope.rules.outlook import PROBE, THRESHOLDS, outlook
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag

FAILED = (
    f"{FIXED['fails'].failed} of {FIXED['fails'].of} combinations with S < −6 did not learn in {STEPS} steps, "
    f"{FIXED['open'].failed} of {FIXED['open'].of} with S between, {FIXED['learns'].failed} of {FIXED['learns'].of} "
    f"with S > −1.75 ({FIXED['learns'].blocked} of these where their family can)"
)


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Compare the reach with reach_part * K."""
    lag, reach = needed_lag(result, spec), result.summary.reach or 0
    wanted = RULE.limit(spec, "reach_part") * lag
    asks = "the needed lag" if spec.needs_lag is not None else "this sequence"
    ahead = outlook(result, spec)
    word = ahead.word if ahead is not None else "learns" if reach >= wanted else "fails"
    profile = Profile.of(result)
    if reach >= profile.longest < lag:
        message = (
            f"The newest output that the loss reads is that of step {profile.anchor}, and no step lies {lag} before "
            f"it: the reach is all of the {reach} lags that there are."
        )
        return Finding("inconclusive", message, "Let the loss read a later step, or give longer sequences.")
    reached = f"The reach is {reach} lags; {asks} asks {lag}."
    told = f" {ahead.sentence}" if ahead is not None else ""
    if word == "learns":
        return Finding("pass", f"{reached}{told}", measured=reach, threshold=wanted)
    if word == "open":
        arrives = f"The gradient reaches lag {reach} of {lag}, which alone does not decide whether it is learned."
        message = f"{arrives if reach >= wanted else reached}{told}"
        return Finding("inconclusive", message, PROBE, measured=reach, threshold=wanted)
    short = f"Beyond lag {reach} of {lag} no step has even 1 % of the influence of the newest lagged one."
    return Finding(
        "found",
        f"{short if reach < wanted else reached}{told}",
        advise("vanishing", result, spec),
        first_step=Profile.of(result).step_of(lag),
        last_step=Profile.of(result).step_of(reach + 1),
        measured=reach,
        threshold=wanted,
    )


RULE = Rule(
    code="GS104",
    title="reach below the needed lag",
    severity="error",
    requires=("reach",),
    judge=_judge,
    voided_by="GS403",
    gives="vanishing",
    explained_by="GS401",
    only_failing=True,
    thresholds={
        "reach_part": Threshold(1.0, "share", "how much of it the reach must cover, where none is stated", low=0.0),
        **THRESHOLDS,
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
        "S = log10(g_K / Σ_k g_k); found when reach < K, with a stated K when S < −6; inconclusive for S up to −1.75",
    ),
    measured=(
        "From the influence profile, the geometric mean over anchors, sequences and seeds. Lag 1 is the reference and "
        "not lag 0, whose direct path (attention to the step itself) would spoil the comparison. Without a stated "
        "needed lag K is T − 1, and a reach below it is a warning that leaves the status alone: a model may be healthy "
        "and the sequence longer than its task. With a stated needed lag there is a task, and the gradient share S at "
        f"that lag decides, for fixed lags: in the detector benchmark {FAILED} (where the influence does not grow "
        "with the lag). With spread lags it decides nothing: a GRU that never learns to add numbers 99 steps apart "
        "learns it from samples in which they lie closer too."
    ),
    remedies=(
        "State what the task needs: `gradscope analyze lstm --needs-lag 50`",
        "Open the forget gate: `gradscope analyze lstm:forget_bias=5 --needs-lag 50`",
        "Compare with models that keep more: `gradscope compare lstm gru lru attention --needs-lag 50`",
    ),
    papers=(papers.HOCHREITER_1997, papers.GERS_2000, papers.JOZEFOWICZ_2015),
)
