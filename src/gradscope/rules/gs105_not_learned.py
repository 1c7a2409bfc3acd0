"""GS105: a short training did not learn the needed lag."""

from __future__ import annotations

import math

from gradscope.records import ModelResult, RunSpec
from gradscope.rules import papers
from gradscope.rules.advice import advise
from gradscope.rules.calibration import STEPS
from gradscope.rules.rule import Finding, Rule, Threshold

MORE = "Give the training more steps before believing it: `--train-steps 800`."


def _judge(result: ModelResult, spec: RunSpec) -> Finding:
    """Count the runs that learned, and look at the twin where none did."""
    probe = result.probe
    if probe is None:
        return Finding("skip", "No probe was made: `gradscope probe` trains copies of the model.")
    learned = [run.learned_at for run in probe.runs if run.learned_at is not None]
    part, wanted = len(learned) / max(len(probe.runs), 1), RULE.limit(spec, "learned_part")
    said = f"{probe.task}, {probe.lags} lag {probe.lag}"
    if probe.near is not None:
        said = f"to use what lies {probe.lag} or more steps back in {probe.task}"
    if probe.near is not None and not probe.runs and probe.complete:
        message = f"The newest {probe.lag} steps of {probe.task} tell what is asked by themselves, so nothing is shown."
        return Finding("inconclusive", message, "Ask at a smaller lag, `--lag`, or for something else, `--target`.")
    if probe.near is not None and len(learned) == 1 < len(probe.runs):
        message = f"It learned {said} in one of {len(probe.runs)} runs alone, which may be luck."
        return Finding("inconclusive", message, "Give it more seeds: `--seeds 4`.", measured=part, threshold=wanted)
    if learned and part >= wanted:
        message = (
            f"It learned {said} in {len(learned)} of {len(probe.runs)} runs, the first after {min(learned)} steps."
        )
        return Finding("pass", message, measured=part, threshold=wanted)
    if not probe.complete:
        message = f"The probe of {said} was interrupted before any run had learned it."
        return Finding("inconclusive", message, "Let it come to its end.")
    if probe.near is not None and probe.twin is None:
        message = f"No run learned {said}, and there is no twin to tell whether it can be, so nothing is shown."
        return Finding("inconclusive", message, "Give the training more steps: `--train-steps`.", measured=part)
    if probe.twin is not None and not probe.twin.learned:
        message = (
            f"{said}: not within {probe.train_steps} steps, but {probe.twin.name} did not learn it either, so nothing "
            "is shown."
        )
        return Finding("inconclusive", message, "Give the training more steps: `--train-steps`.", measured=part)
    twin = "" if probe.twin is None else f"; {probe.twin.name} learned it in {probe.twin.learned_at}"
    runs = f"{len(learned)} of {len(probe.runs)} runs" if learned else f"none of {len(probe.runs)} runs"
    return Finding(
        "found",
        f"{said}: {runs} learned it within {probe.train_steps} steps{twin}.",
        _advice(result, spec, probe.train_steps),
        measured=part,
        threshold=wanted,
    )


def _advice(result: ModelResult, spec: RunSpec, train_steps: int) -> str:
    """What may help; nothing where no gradient at all comes from the lag: what stops it has a finding of its own."""
    if result.summary.gradient_share == -math.inf:
        return ""
    return MORE if train_steps < STEPS else advise("vanishing", result, spec)


RULE = Rule(
    code="GS105",
    title="not learned by a probe",
    severity="error",
    requires=("needed_lag",),
    judge=_judge,
    only_probed=True,
    thresholds={
        "learned_part": Threshold(0.01, "share", "what part of the runs must learn the task", low=0.0, high=1.01),
    },
    what=(
        "Every other rule predicts; a probe tries. Copies of the model are trained for a short while on a task whose "
        "answer lies exactly the needed lag back. Not learning it in that many steps never shows that the model "
        "cannot, only that it did not, over three learning rates and two seeds, while one known to hold it did."
    ),
    maths=(
        "error(n) = share of wrong answers, mean squared error or, of your own text or classes, cross-entropy, on "
        "samples not trained on, after n steps of Adam",
        "learned at n = first measured step with error(n) ≤ goal",
        "found when fewer than 1 % of the runs learned, and the twin did",
    ),
    measured=(
        "Of your own data (`--input`, `--text`) the goal is 0.95 of the least error that the same model comes to where "
        "it is shown the newest steps alone (or of a blind answer's, if that is less), and at least a hundredth of a "
        "blind answer's below it; one run in six is taken for luck. "
        "Learning rates 0.001, 0.003 and 0.01, two seeds, gradient norm clipped at 1, batches of 32 fresh samples, the "
        "error measured every 25 steps on 256 samples. The twin, an LSTM whose forget gates hold for the lag, is "
        "trained by the same settings where no run has learned; when it does not learn either, nothing is shown."
    ),
    remedies=(
        "Give it shorter lags too: `gradscope probe gru --task adding --lag 99 --lags spread`",
        "Give it more steps: `gradscope probe gru --task recall --lag 50 --train-steps 4000`",
        "Probe a cell that holds longer: `gradscope probe lstm:forget_bias=5 --task recall --lag 50`",
    ),
    papers=(papers.HOCHREITER_1997,),
)
