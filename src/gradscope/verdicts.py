"""What verdicts add up to: whether something fails, and the statuses, with how grave each is and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradscope.records import Fix, Number, Severity, Status, Verdict

RANKS: Mapping[str | None, int] = {None: 0, "warning": 1, "error": 2, "never": 3}


@dataclass(frozen=True)
class Look:
    """How a word is shown: colour never alone, always beside a sign or a word."""

    word: str
    """As a headline writes it."""
    short: str
    """Three letters or fewer, for narrow cells."""
    sign: str
    """Before a headline: good, bad, or open."""
    glyph: str
    """In a grid of many: told apart without colour."""
    letter: str
    """The glyph in ASCII, and in strips over the steps of a training."""
    style: str
    """Okabe-Ito: told apart with every kind of colour vision, on dark and on light screens."""


STATUSES: Mapping[Status, Look] = {
    "non-finite": Look("NON-FINITE", "nan", "✗", "∎", "!", "#D55E00"),
    "exploding": Look("EXPLODING", "exp", "✗", "▲", "^", "#E69F00"),
    "vanishing": Look("VANISHING", "van", "✗", "▼", "v", "#0072B2"),
    "degenerate": Look("DEGENERATE", "deg", "✗", "◆", "d", "#CC79A7"),
    "inconclusive": Look("inconclusive", "unc", "?", "?", "?", "grey62"),
    "healthy": Look("healthy", "ok", "✓", "✓", "+", "#009E73"),
}
"""Every status, the gravest first: the one place that knows their order, signs, words and colours."""
GRAVEST_FIRST: tuple[Status, ...] = tuple(STATUSES)
FOR_GOOD: tuple[Status, ...] = GRAVEST_FIRST[: GRAVEST_FIRST.index("degenerate")]
"""Statuses that no later finding takes back: the gravest, which rest on the influence alone."""


def gravest(statuses: Iterable[Status | None]) -> Status | None:
    """The gravest of several; None where there is none."""
    said = set(statuses)
    return next((status for status in GRAVEST_FIRST if status in said), None)


def is_better(one: Status, other: Status) -> bool:
    """Whether `one` is less grave than `other`."""
    return GRAVEST_FIRST.index(one) > GRAVEST_FIRST.index(other)


def helps(fix: Fix, status: Status, share: Number) -> bool:
    """Whether a measured remedy makes a model better: of a better status in which the gradient neither dies nor grows.

    Of two that vanish one with at least ten times the gradient at the needed lag is better. What explodes has a large
    share because it explodes, so shares of anything else are not compared.

    Args:
        fix: the remedy, as it was measured.
        status: of the model without it.
        share: log10 of the model's gradient share.
    """
    if fix.gradient_share is None:
        return False
    if status == fix.status == "vanishing":
        return share is not None and fix.gradient_share >= share + 1
    return fix.status not in FOR_GOOD and is_better(fix.status, status)


def best_remedy(fixes: Sequence[Fix], status: Status, share: Number) -> Fix | None:
    """The remedy to recommend and to save: what was learned with most often, else the first that helps; or None.

    Args:
        fixes: measured, the best first.
        status: of the model without them.
        share: log10 of the model's gradient share.
    """
    trained = [fix for fix in fixes if fix.learned and fix.change]
    if trained:
        return max(trained, key=lambda fix: (fix.learned or 0, -(fix.learned_at or 0)))
    return next((fix for fix in fixes if helps(fix, status, share)), None)


def worst(verdicts: Iterable[Verdict]) -> Severity | None:
    """`error` if any rule fails, `warning` if any warns; what a baseline accepts counts as neither."""
    said = {verdict.status for verdict in verdicts if not verdict.accepted}
    return "error" if "fail" in said else "warning" if "warn" in said else None


def fails(verdicts: Iterable[Verdict], fail_on: str) -> bool:
    """Whether the worst of them is at least as severe as `fail_on` (`never`, `warning`, `error`)."""
    return RANKS[worst(verdicts)] >= RANKS[fail_on]
