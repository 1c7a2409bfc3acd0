"""Whether the needed lag is learned: what arrives there, what became of trained combinations like it, and GS105.

What became of trained combinations of model, task and lag, by how much of the gradient arrives at the needed lag.
Counts of `benchmarks/detector/calibration.json`, which `python -m benchmarks.detector --score` makes from the outcomes
of the trainings beside it. The lower limit is that of a pilot of 2,608 trainings that came before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gradscope.records import ModelResult, Outlook, RunSpec
from gradscope.rules.advice import advise
from gradscope.rules.rule import Finding, Rule, Threshold, needed_lag
from gradscope.rules.wording import factor, part

STEPS = 800
"""Training steps after which a lag that was not learned counts as not learned."""
SHARE_FAILS = -6.0
"""Gradient share S (log10) at the needed lag under which a fixed lag fails."""
SHARE_ARRIVES = -1.0
"""S + log10(K + 1), the share beside the uniform one 1 / (K + 1), from which on the gradient arrives: a tenth."""
GROWTH = math.log(10)
"""Growth of the influence over the lag, in nats, up to which a gradient that arrives is healthy: ten times."""
NEAR = 30
"""Lags up to this one are counted apart from longer ones."""
Word = Literal["fails", "open", "arrives"]
"""Of the gradient at the needed lag: too little of it, something between, or about as much as anywhere else."""


@dataclass(frozen=True)
class Count:
    """Combinations, and in how many of them at least one run learned."""

    learned: int
    of: int


@dataclass(frozen=True)
class Band:
    """Combinations of one word with fixed lags, over both studies."""

    failed: int
    """Learned in no run."""
    of: int
    blocked: int
    """Failed where another initialisation of the same family learned."""
    single: tuple[Count, Count]
    """Recall and adding, which ask for what is remembered and nothing else: at lags up to 30, and at longer ones."""
    hard: tuple[Count, Count]
    """Copy and xor, which ask for capacity, or for a search as well."""


FIXED: dict[Word, Band] = {
    "fails": Band(45, 45, 26, (Count(0, 2), Count(0, 19)), (Count(0, 4), Count(0, 20))),
    "open": Band(34, 62, 20, (Count(9, 17), Count(8, 18)), (Count(7, 16), Count(4, 11))),
    "arrives": Band(33, 109, 12, (Count(34, 37), Count(7, 12)), (Count(29, 41), Count(6, 19))),
}
PARITY = Count(0, 16)
"""Parity asks for every step, and for a search."""
PUBLISHED_SPREAD = Count(13, 17)
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

    word: Word
    sentence: str


def word_of(share: float, lag: int, growth: float, reach: int, low: float, high: float) -> Word:
    """What is said of a gradient share S: fails under `low`, arrives when S + log10(K + 1) exceeds `high`.

    What grows by more than `GROWTH` over the lag never fails for want of gradient, and does not arrive either: old
    steps own it. A reach short of the lag does not arrive.

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
    if growth > GROWTH:
        return "open"
    if share < low:
        return "fails"
    return "arrives" if reach >= lag and share + math.log10(lag + 1) > high else "open"


def arrival(result: ModelResult, spec: RunSpec) -> Arrival | None:
    """What the gradient share at the needed lag comes to; None where it is not known, or no needed lag was stated.

    Where shorter lags occur in the data too, what is learned at them opens the long ones, so no share is too small.
    """
    summary = result.summary
    share, lag = summary.gradient_share, needed_lag(result, spec)
    if share is None or math.isnan(share) or spec.needs_lag is None:
        return None
    low, high = _limits(spec)
    growth = (summary.rate or 0.0) * lag
    word = word_of(share, lag, growth, summary.reach or 0, low, high)
    said = f"{part(share)} of the gradient arrives at lag {lag}"
    if growth > GROWTH:
        return Arrival(word, f"{said}: it grows with the lag, {factor(growth / math.log(10))} times over it.")
    beside = f"{said}, where an even one has {part(-math.log10(lag + 1))}"
    if word == "fails" and _has_short_lags(result, spec) and share > -math.inf:
        return Arrival("open", f"{beside}. The data have shorter lags too, which may open the long ones.")
    return Arrival(word, f"{beside}.")


def outlook(result: ModelResult, spec: RunSpec) -> Outlook | None:
    """What became of trained combinations like this one; None where none are like it.

    It is about learning, where the status is about the gradient, and decides nothing.
    """
    known, lag = arrival(result, spec), needed_lag(result, spec)
    if known is None or _limits(spec) != (SHARE_FAILS, SHARE_ARRIVES):
        # What was counted belongs to other limits than those given.
        return None
    share = result.summary.gradient_share
    if _has_short_lags(result, spec):
        if share is None or share >= SHARE_FAILS:
            return None
        of, learned = PUBLISHED_SPREAD.of, PUBLISHED_SPREAD.learned
        said = (
            f"{learned} of {of} published cells with a share under {factor(SHARE_FAILS)} learned data in which shorter "
            "lags occur too: what those teach opens the long ones."
        )
        return Outlook("spread", learned, of, said)
    if spec.task == "parity":
        said = f"parity, which asks for every step and a search, was learned in {_count(PARITY)} trained combinations."
        return Outlook("fixed", PARITY.learned, PARITY.of, said)
    band = FIXED[known.word]
    learned = band.of - band.failed
    return Outlook("fixed", learned, band.of, _counted(known.word, learned, band.of, lag, spec.task))


def _counted(word: Word, learned: int, of: int, lag: int, task: str | None) -> str:
    """What became of combinations with fixed lags, nearest to this one's lag and kind of task."""
    band, far = FIXED[word], lag > NEAR
    like = {
        "fails": f"with less than {factor(SHARE_FAILS)} of the gradient at the needed lag",
        "open": "whose gradient is between failing and arriving, or grows with the lag",
        "arrives": "whose gradient arrives",
    }[word]
    said = f"of {of} trained combinations of model and task {like}, {learned or 'none'} learned in {STEPS} steps"
    if word == "fails":
        return f"{said}; where shorter lags occur in the data too, many do."
    where = f"at lags {'over' if far else 'up to'} {NEAR}"
    single, hard = f"recall and adding {_count(band.single[far])}", f"copy and xor {_count(band.hard[far])}"
    first, second = (hard, single) if task in HARD_TASKS else (single, hard)
    said = f"{said}; {where}: {first}, {second}."
    if word == "arrives":
        said += " Those that failed did so for other reasons: copy asks for capacity, xor for a search."
    return said


def _count(count: Count) -> str:
    return f"{count.learned} of {count.of}"


def _limits(spec: RunSpec) -> tuple[float, float]:
    low, high = (spec.thresholds.get(name, limit.default) for name, limit in SHARE_LIMITS.items())
    return low, high


def _has_short_lags(result: ModelResult, spec: RunSpec) -> bool:
    return (result.summary.lags or spec.lags) == "spread"


MORE_STEPS = "Give the training more steps before believing it: `--train-steps 800`."


def _judge_not_learned(result: ModelResult, spec: RunSpec) -> Finding:
    """Count the runs that learned, and look at the twin where none did."""
    probe = result.probe
    if probe is None:
        return Finding("skip", "No probe was made: `gradscope probe` trains copies of the model.")
    learned = [run.learned_at for run in probe.runs if run.learned_at is not None]
    part, wanted = len(learned) / max(len(probe.runs), 1), NOT_LEARNED.limit(spec, "learned_part")
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
        _advice_after_probe(result, spec, probe.train_steps),
        measured=part,
        threshold=wanted,
    )


def _advice_after_probe(result: ModelResult, spec: RunSpec, train_steps: int) -> str:
    """What may help; nothing where no gradient at all comes from the lag: what stops it has a finding of its own."""
    if result.summary.gradient_share == -math.inf:
        return ""
    return MORE_STEPS if train_steps < STEPS else advise("vanishing", result, spec)


NOT_LEARNED = Rule(
    code="GS105",
    requires=("needed_lag",),
    judge=_judge_not_learned,
    only_probed=True,
    thresholds={
        "learned_part": Threshold(0.01, "share", "what part of the runs must learn the task", low=0.0, high=1.01),
    },
)
