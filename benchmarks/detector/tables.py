"""Counts and areas as cells and rows of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detector.score import auc, calibration_error, wilson
from benchmarks.detector.statistics import STATISTICS, Row

FIRM_FAIL, FIRM_FINE = 0.9, 0.1
"""Probabilities of failing from which on, and up to which, a verdict is firm."""
HEADS = (
    "| verdict from | says fail: right | says healthy: right | inconclusive | calibration error | AUC |\n"
    "|---|---|---|---|---|---|"
)


def part(hits: Sequence[bool]) -> str:
    """`17 of 18 = 0.94 [0.74, 0.99]`, with Wilson's interval."""
    if not hits:
        return "never said"
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)} = {sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]"


def said(bad: Sequence[bool], good: Sequence[bool], of: int) -> str:
    """How often either firm word is right, and how often none is said."""
    unsure = of - len(bad) - len(good)
    return f"{part(bad)} | {part(good)} | {unsure} of {of} ({unsure / max(of, 1):.0%})"


def chances_of(chances: Sequence[float], fails: Sequence[bool]) -> str:
    """How often what is said without a doubt is right, how often nothing is said, and how far off the chances are."""
    bad = [f for p, f in zip(chances, fails, strict=True) if p >= FIRM_FAIL]
    good = [not f for p, f in zip(chances, fails, strict=True) if p <= FIRM_FINE]
    error = calibration_error(chances, fails)
    return f"{said(bad, good, len(fails))} | {error:.2f} | {auc(chances, fails):.2f}"


def areas(rows: Sequence[Row], fails: Sequence[bool]) -> str:
    """The area under the curve of every statistic."""
    lines = ["| statistic | AUC |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {auc([of(row) for row in rows], fails):.2f} |" for name, of in STATISTICS.items())]
    )
