"""The goals that were set, the figures that were reached on what was held out, and why some were not."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detector.fresh_page import labelled
from benchmarks.detector.remedies_page import first_of_list
from benchmarks.detector.score import Curve, auc, calibration_error, wilson
from benchmarks.detector.statistics import Row, failed, share, share_after, word
from benchmarks.detector.tables import FIRM_FAIL, FIRM_FINE, part


def goals(
    first: Sequence[Row],
    fresh: Sequence[Row],
    twins: Sequence[Row],
    fixed: Sequence[Row],
    curves: tuple[Curve, Curve],
) -> str:
    """A table and the reasons, all of the second study's fixed lags but the last row."""
    shown = labelled(fresh, first, fresh, twins)
    raw = [row for row in fresh if row["kind"] == "fixed"]
    bad = [failed(row) for row in raw if word(row) == "fails"]
    good = [not label for row, label in shown if word(row) == "arrives"]
    remedied = first_of_list([*first, *fresh], twins, fixed)
    lines = ["| goal | figure | reached |", "|---|---|---|"]
    low = wilson(sum(bad), len(bad))[0]
    lines.append(
        f"| fail: right >= 0.90, lower end >= 0.80 | {part(bad)} | {_yes(_share(bad) >= 0.9 and low >= 0.8)} |"
    )
    lines.append(f"| healthy: right >= 0.95, where the family can | {part(good)} | {_yes(_share(good) >= 0.95)} |")
    for name, curve, value, most in zip(
        ("initialisation", "a 100-step probe"), curves, (share, share_after), (0.3, 0.15), strict=True
    ):
        chances, fails = [curve.at(value(row)) for row, _ in shown], [label for _, label in shown]
        error = calibration_error(chances, fails)
        open_ = sum(FIRM_FINE < chance < FIRM_FAIL for chance in chances) / len(chances)
        lines.append(f"| by the curve, {name}: calibration error <= 0.05 | {error:.2f} | {_yes(error <= 0.05)} |")
        lines.append(f"| by the curve, {name}: inconclusive <= {most:.0%} | {open_:.0%} | {_yes(open_ <= most)} |")
    area = auc([-share_after(row) for row, _ in shown], [label for _, label in shown])
    lines.append(f"| a 100-step probe: AUC >= 0.95 | {area:.2f} | {_yes(area >= 0.95)} |")
    lines.append(
        f"| the first remedy makes 0.80 of blocked models learn | {part(remedied)} | {_yes(_share(remedied) >= 0.8)} |"
    )
    return "\n".join(lines) + "\n\n" + _why(shown, raw)


def _why(shown: Sequence[tuple[Row, bool]], raw: Sequence[Row]) -> str:
    """What the failures of `healthy` have in common."""
    wrong = [row for row in raw if word(row) == "arrives" and failed(row)]
    hard = [row for row in wrong if row["task"] in ("copy", "xor")]
    blocked = [row for row, label in shown if word(row) == "arrives" and label]
    errors = [
        min(float(seed["error"]) / float(seed["chance"]) for seed in row["seeds"])
        for row in blocked
        if row["task"] == "copy"
    ]
    begun = ", ".join(f"{error:.2f}" for error in sorted(errors))
    return (
        "Why not: the share tells whether the gradient arrives, and not how much there is to learn. "
        f"{len(hard)} of the {len(wrong)} combinations that failed although called healthy are copy and xor, which ask "
        f"for three answers, or for two things at once; of the {len(blocked)} of them whose family can, {len(errors)} "
        f"are copy, and had come to {begun} of a blind answer's error after the 800 steps: they were learning, and not "
        "done. What is in between stays open, since outcomes there are a coin toss, with the share as with every other "
        "statistic tried; by its limits instead of the curve gradscope leaves "
        f"{sum(word(row) == 'open' for row, _ in shown) / len(shown):.0%} open. The first remedy is chosen by its "
        "share alone, which says as little of what else there is to learn."
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / max(len(hits), 1)


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"
