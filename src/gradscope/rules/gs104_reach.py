"""GS104: the reach ends before the needed lag."""

from __future__ import annotations

import math

from gradscope.profile import Profile
from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise, train
from gradscope.rules.calibration import FIXED, GROWTH, SHARE_FAILS, STEPS, Word
from gradscope.rules.outlook import THRESHOLDS, arrival
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag

WORDS: tuple[tuple[Word, str], ...] = (("fails", "with S < −6"), ("open", "between"), ("arrives", "that arrive"))
LEARNED = ", ".join(f"{FIXED[word].of - FIXED[word].failed} of {FIXED[word].of} {said}" for word, said in WORDS)


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """What arrives at a stated needed lag decides; without one, whether the reach covers the sequence."""
    lag, reach = needed_lag(result, spec), result.summary.reach or 0
    wanted = RULE.limit(spec, "reach_part") * lag
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
        return Finding("inconclusive", f"{reached}{told}", train(result, spec), measured=reach, threshold=wanted)
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


RULE = Rule(
    code="GS104",
    title="reach below the needed lag",
    severity="error",
    requires=("reach",),
    judge=_judge,
    voided_by="GS403",
    gives="vanishing",
    explained_by=("GS401", "GS405"),
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
