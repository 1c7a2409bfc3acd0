"""Whether the needed lag is learned: what arrives there, what became of trained combinations like it, and GS105.

The numbers count trained combinations of model, task and lag. They come from `benchmarks/detector/calibration.json`,
which `python -m benchmarks.detector --score` makes of the outcomes beside it; the lower limit from an earlier pilot of
2,608 trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gradscope.records import ModelResult, Outlook, RunSpec
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import LN10, factor, share_text
from gradscope.trained import Probe

TRAIN_STEPS = 800
"""Training steps after which a lag that was not learned counts as not learned."""
SHARE_FAILS = -6.0
"""Gradient share S (log10) at the needed lag under which a fixed lag fails."""
SHARE_ARRIVES = -1.0
"""S + log10(K + 1), the share beside the uniform one 1 / (K + 1), from which on the gradient arrives: a tenth."""
MAX_GROWTH = math.log(10)
"""Growth of the influence over the lag, in nats, up to which a gradient that arrives is healthy: ten times."""
NEAR = 30
"""Lags up to this one are counted apart from longer ones."""
Expectation = Literal["fails", "open", "arrives"]
"""Of the gradient at the needed lag: too little of it, something between (`open`), or about as much as at any lag."""


@dataclass(frozen=True)
class Learned:
    """In how many combinations at least one run learned."""

    learned: int
    of: int


@dataclass(frozen=True)
class OutcomeCounts:
    """Outcomes of the combinations with fixed lags of which the same was expected, over both studies."""

    failed: int
    """Combinations that no run learned."""
    of: int
    blocked: int
    """Combinations that failed where another initialisation of the same family learned."""
    single: tuple[Learned, Learned]
    """Recall and adding, which ask for what is remembered and nothing else: at lags up to 30, and at longer ones."""
    hard: tuple[Learned, Learned]
    """Copy and xor, which ask for capacity, or for a search as well."""


FIXED_LAGS: dict[Expectation, OutcomeCounts] = {
    "fails": OutcomeCounts(45, 45, 26, (Learned(0, 2), Learned(0, 19)), (Learned(0, 4), Learned(0, 20))),
    "open": OutcomeCounts(34, 62, 20, (Learned(9, 17), Learned(8, 18)), (Learned(7, 16), Learned(4, 11))),
    "arrives": OutcomeCounts(33, 109, 12, (Learned(34, 37), Learned(7, 12)), (Learned(29, 41), Learned(6, 19))),
}
PARITY_OUTCOMES = Learned(0, 16)
"""Parity asks for every step, and for a search."""
PUBLISHED_SPREAD = Learned(13, 17)
"""Of 17 published cells with a share under 10^-6, 13 learned to add at random places over 100 steps within about
2,000 training steps (torchrecurrent 0.2.5; `benchmarks/detector/published.py`)."""


SHARE_LIMITS = {
    "share_fails": Threshold(SHARE_FAILS, "log10", "share at the needed lag under which a fixed lag fails"),
    "share_learns": Threshold(
        SHARE_ARRIVES, "log10", "share at the needed lag, beside the uniform one 1 / (K + 1), from which on it arrives"
    ),
}
HARD_TASKS = ("copy", "xor")


@dataclass(frozen=True)
class Arrival:
    """How much of the gradient arrives at a stated needed lag."""

    expectation: Expectation
    sentence: str


def expectation(share: float, lag: int, growth: float, reach: int, low: float, high: float) -> Expectation:
    """What to expect of a gradient share S: fails where S < `low`, arrives where S + log10(K + 1) > `high`.

    An influence that grows by more than `MAX_GROWTH` over the lag never fails for want of gradient, and does not
    arrive either: the oldest steps own the gradient. A reach short of the lag does not arrive.

    Args:
        share: S, log10 of the part of the gradient that falls on the needed lag.
        lag: the needed lag K.
        growth: rate times K, in nats.
        reach: in lags.
        low: the limit of S.
        high: the limit of S beside a uniform one.
    """
    if share == -math.inf:
        return "fails"
    if growth > MAX_GROWTH:
        return "open"
    if share < low:
        return "fails"
    return "arrives" if reach >= lag and share + math.log10(lag + 1) > high else "open"


def arrival(result: ModelResult, spec: RunSpec) -> Arrival | None:
    """What arrives at the stated needed lag; None where none was stated or the gradient share is not known.

    Where the data hold shorter lags too, what is learned at them opens the long ones, so no share is too small.
    """
    summary, lag = result.summary, needed_lag(result, spec)
    share = summary.gradient_share
    if share is None or math.isnan(share) or spec.needs_lag is None:
        return None
    growth = (summary.rate or 0.0) * lag
    expected = expectation(share, lag, growth, summary.reach or 0, *_share_limits(spec))
    arriving = f"{share_text(share)} of the gradient arrives at lag {lag}"
    if growth > MAX_GROWTH:
        return Arrival(expected, f"{arriving}: it grows with the lag, {factor(growth / LN10)} times over it.")
    comparison = f"{arriving}, where an even one has {share_text(-math.log10(lag + 1))}"
    if expected == "fails" and _has_short_lags(result, spec) and share > -math.inf:
        return Arrival("open", f"{comparison}. The data have shorter lags too, which may open the long ones.")
    return Arrival(expected, f"{comparison}.")


def outlook(result: ModelResult, spec: RunSpec) -> Outlook | None:
    """What became of trained combinations like this one; None where none are like it.

    It is about learning, where the status is about the gradient, and decides nothing.
    """
    arriving, share = arrival(result, spec), result.summary.gradient_share
    # What was counted belongs to the default limits alone.
    if arriving is None or _share_limits(spec) != (SHARE_FAILS, SHARE_ARRIVES):
        return None
    if _has_short_lags(result, spec):
        return _outlook_of_spread_lags() if share is not None and share < SHARE_FAILS else None
    if spec.task == "parity":
        counts = _learned_of(PARITY_OUTCOMES)
        sentence = f"parity, which asks for every step and a search, was learned in {counts} trained combinations."
        return Outlook("fixed", PARITY_OUTCOMES.learned, PARITY_OUTCOMES.of, sentence)
    return _outlook_of_fixed_lag(arriving.expectation, needed_lag(result, spec), spec.task)


def _outlook_of_spread_lags() -> Outlook:
    learned, of = PUBLISHED_SPREAD.learned, PUBLISHED_SPREAD.of
    sentence = (
        f"{learned} of {of} published cells with a share under {factor(SHARE_FAILS)} learned data in which shorter "
        "lags occur too: what those teach opens the long ones."
    )
    return Outlook("spread", learned, of, sentence)


def _outlook_of_fixed_lag(expected: Expectation, lag: int, task: str | None) -> Outlook:
    """Of combinations of which the same was expected: all of them, and those nearest in lag and kind of task."""
    counts = FIXED_LAGS[expected]
    learned, is_far = counts.of - counts.failed, lag > NEAR
    alike = {
        "fails": f"with less than {factor(SHARE_FAILS)} of the gradient at the needed lag",
        "open": "whose gradient is between failing and arriving, or grows with the lag",
        "arrives": "whose gradient arrives",
    }[expected]
    sentence = (
        f"of {counts.of} trained combinations of model and task {alike}, {learned or 'none'} learned in "
        f"{TRAIN_STEPS} steps"
    )
    if expected == "fails":
        return Outlook("fixed", learned, counts.of, f"{sentence}; where shorter lags occur in the data too, many do.")
    single = f"recall and adding {_learned_of(counts.single[is_far])}"
    hard = f"copy and xor {_learned_of(counts.hard[is_far])}"
    nearest, other = (hard, single) if task in HARD_TASKS else (single, hard)
    sentence += f"; at lags {'over' if is_far else 'up to'} {NEAR}: {nearest}, {other}."
    if expected == "arrives":
        sentence += " Those that failed did so for other reasons: copy asks for capacity, xor for a search."
    return Outlook("fixed", learned, counts.of, sentence)


def _learned_of(counts: Learned) -> str:
    return f"{counts.learned} of {counts.of}"


def _share_limits(spec: RunSpec) -> tuple[float, float]:
    """The limits of this run: under the first a share fails, over the second, beside a uniform one, it arrives."""
    low, high = (spec.thresholds.get(name, limit.default) for name, limit in SHARE_LIMITS.items())
    return low, high


def _has_short_lags(result: ModelResult, spec: RunSpec) -> bool:
    return (result.summary.lags or spec.lags) == "spread"


MORE_STEPS = "Give the training more steps: `--train-steps`."
TOO_FEW_STEPS = "Give the training more steps before believing it: `--train-steps 800`."


def _judge_not_learned(result: ModelResult, spec: RunSpec) -> Finding:
    """Count the runs that learned, and look at the twin where none did."""
    probe = result.probe
    if probe is None:
        return Finding("skip", "No probe was made: `gradscope probe` trains copies of the model.")
    learned = [run.learned_at for run in probe.runs if run.learned_at is not None]
    learned_part, wanted_part = len(learned) / max(len(probe.runs), 1), NOT_LEARNED.limit(spec, "learned_part")
    unsettled = _unsettled_by_own_data(probe, learned, learned_part, wanted_part)
    if unsettled is not None:
        return unsettled
    task, runs = _task_of(probe), len(probe.runs)
    if learned and learned_part >= wanted_part:
        message = f"It learned {task} in {len(learned)} of {runs} runs, the first after {min(learned)} steps."
        return Finding("pass", message, measured=learned_part, threshold=wanted_part)
    if not probe.complete:
        message = f"The probe of {task} was interrupted before any run had learned it."
        return Finding("inconclusive", message, "Let it come to its end.")
    if probe.near is not None and probe.twin is None:
        message = f"No run learned {task}, and there is no twin to tell whether it can be, so nothing is shown."
        return Finding("inconclusive", message, MORE_STEPS, measured=learned_part)
    if probe.twin is not None and not probe.twin.learned:
        message = f"{task}: not within {probe.train_steps} steps, but {probe.twin.name} did not learn it either, so "
        return Finding("inconclusive", f"{message}nothing is shown.", MORE_STEPS, measured=learned_part)
    twin = "" if probe.twin is None else f"; {probe.twin.name} learned it in {probe.twin.learned_at}"
    return Finding(
        "found",
        f"{task}: {len(learned) or 'none'} of {runs} runs learned it within {probe.train_steps} steps{twin}.",
        _advice_after_probe(result, spec, probe.train_steps),
        measured=learned_part,
        threshold=wanted_part,
    )


def _unsettled_by_own_data(probe: Probe, learned: list[int], learned_part: float, wanted_part: float) -> Finding | None:
    """Why runs on data of the user show nothing: the newest steps tell the answer, or one run alone was lucky."""
    if probe.near is None:
        return None
    if not probe.runs and probe.complete:
        message = f"The newest {probe.lag} steps of {probe.task} tell what is asked by themselves, so nothing is shown."
        return Finding("inconclusive", message, "Ask at a smaller lag, `--lag`, or for something else, `--target`.")
    if len(learned) == 1 < len(probe.runs):
        message = f"It learned {_task_of(probe)} in one of {len(probe.runs)} runs alone, which may be luck."
        advice = "Give it more seeds: `--seeds 4`."
        return Finding("inconclusive", message, advice, measured=learned_part, threshold=wanted_part)
    return None


def _task_of(probe: Probe) -> str:
    """What was to be learned, in words: of data of the user, to use what lies that far back."""
    if probe.near is not None:
        return f"to use what lies {probe.lag} or more steps back in {probe.task}"
    return f"{probe.task}, {probe.lags} lag {probe.lag}"


def _advice_after_probe(result: ModelResult, spec: RunSpec, train_steps: int) -> str:
    """What may help; nothing where no gradient at all comes from the lag: what stops it has a finding of its own."""
    if result.summary.gradient_share == -math.inf:
        return ""
    return TOO_FEW_STEPS if train_steps < TRAIN_STEPS else advise("vanishing", result, spec)


NOT_LEARNED = Rule(
    code="GS105",
    requires=("needed_lag",),
    judge=_judge_not_learned,
    only_after_probe=True,
    thresholds={
        "learned_part": Threshold(0.01, "share", "what part of the runs must learn the task", low=0.0, high=1.01),
    },
)
