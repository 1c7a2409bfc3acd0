"""The part of the page that is about the second study: what the first one's limits and curves are worth on it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detector.score import Curve, auc, calibration_error, wilson
from benchmarks.detector.statistics import STATISTICS, Row, failed, over_seeds, share, share_after
from benchmarks.detector.twins import labels

FAILS, LEARNS, GROWTH = -6.0, -1.75, 1.0
"""Limits as gradscope has them: shares (log10), and nats over the lag."""
FIRM_FAIL, FIRM_FINE = 0.9, 0.1


def word(row: Row) -> str:
    """What gradscope says of a fixed lag."""
    if share(row) < FAILS:
        return "fails"
    grows = over_seeds("rate")(row) * row["lag"] > GROWTH
    return "learns" if share(row) > LEARNS and not grows else "open"


def sections(first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row], curve: Curve, after: Curve) -> list[str]:
    """As markdown; `curve` and `after` were fitted to all fixed combinations of the first study."""
    hours = sum(float(row["seconds"]) for row in fresh) / 3600
    twin_hours = sum(float(row["seconds"]) for row in twins) / 3600
    cells = sum(row["model"].startswith("torchrecurrent") for row in fresh)
    return [
        "## A second study, of what was not tried before",
        f"`python -m benchmarks.detector --fresh` trained {len(fresh)} combinations ({hours:.1f} core-hours) that were "
        f"named after the first study was scored and before any of them was run: {cells} with cells of torchrecurrent, "
        "the others with options and depths that the first has not, at lags 15, 30 and 70, each setting with and "
        "without clipping. Limits and curves are those of the first study. A failure shows something about gradients "
        "only where the family can do better: `--twins` then trained an initialisation that holds longer wherever "
        f"nothing of a family had learned in either study ({len(twins)} trainings, {twin_hours:.1f} core-hours). "
        "*Blocked* failed where another initialisation of its family, or the twin, learned; where none did, nothing is "
        "shown, and it is left out of what is counted below, unless said.",
        "### Verdicts as gradscope words them, fixed lags\n\n" + _words(first, fresh, twins),
        "### The first study's curves on the second, fixed lags\n\n" + _curves(first, fresh, twins, curve, after),
        "### Areas under the curve on the second, fixed lags\n\n" + _areas(first, fresh, twins),
        "### With and without clipping\n\n" + _clipping(fresh),
    ]


def _labelled(
    own: Sequence[Row], first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row]
) -> list[tuple[Row, bool]]:
    """Fixed combinations that show something, and whether they were blocked."""
    everything = [*first, *fresh]
    known = dict(zip((row["name"] for row in everything), labels(everything, twins), strict=True))
    chosen = [row for row in own if row["kind"] == "fixed" and row["part"] != "control"]
    return [(row, label) for row in chosen if (label := known[row["name"]]) is not None]


def _words(first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row]) -> str:
    lines = [
        "| on | says fail: right | says healthy: right | inconclusive |",
        "|---|---|---|---|",
    ]
    foreign = [row for row in fresh if row["model"].startswith("torchrecurrent")]
    own = [row for row in fresh if not row["model"].startswith("torchrecurrent")]
    parts = {
        "first study": first,
        "second study": fresh,
        "- gradscope's own families": own,
        "- other people's cells": foreign,
        "both studies": [*first, *fresh],
    }
    for name, rows in parts.items():
        lines.append(f"| {name} | {_counted(_labelled(rows, first, fresh, twins))} |")
    raw = [(row, failed(row)) for row in fresh if row["kind"] == "fixed"]
    lines.append(f"| second study, every failure counted | {_counted(raw)} |")
    return "\n".join(lines)


def _counted(rows: Sequence[tuple[Row, bool]]) -> str:
    bad = [label for row, label in rows if word(row) == "fails"]
    good = [not label for row, label in rows if word(row) == "learns"]
    unsure = len(rows) - len(bad) - len(good)
    return f"{part(bad)} | {part(good)} | {unsure} of {len(rows)} ({unsure / max(len(rows), 1):.0%})"


def _curves(first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row], curve: Curve, after: Curve) -> str:
    lines = [
        "| verdict from | says fail: right | says healthy: right | inconclusive | calibration error | AUC |",
        "|---|---|---|---|---|---|",
    ]
    rows = _labelled(fresh, first, fresh, twins)
    for name, one, value in (("initialisation", curve, share), ("a 100-step probe", after, share_after)):
        chances, fails = [one.at(value(row)) for row, _ in rows], [label for _, label in rows]
        bad = [label for p, label in zip(chances, fails, strict=True) if p >= FIRM_FAIL]
        good = [not label for p, label in zip(chances, fails, strict=True) if p <= FIRM_FINE]
        unsure = len(rows) - len(bad) - len(good)
        lines.append(
            f"| {name} | {part(bad)} | {part(good)} | {unsure} of {len(rows)} ({unsure / max(len(rows), 1):.0%}) | "
            f"{calibration_error(chances, fails):.2f} | {auc(chances, fails):.2f} |"
        )
    return "\n".join(lines)


def _areas(first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row]) -> str:
    rows = _labelled(fresh, first, fresh, twins)
    fails = [label for _, label in rows]
    lines = ["| statistic | AUC |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {auc([of(row) for row, _ in rows], fails):.2f} |" for name, of in STATISTICS.items())]
    )


def _clipping(fresh: Sequence[Row]) -> str:
    free = [all(seed["learned_free"] is None for seed in row["seeds"]) for row in fresh]
    held = [failed(row) for row in fresh]
    same = [a == b for a, b in zip(free, held, strict=True)]
    helped = sum(a and not b for a, b in zip(free, held, strict=True))
    hurt = sum(b and not a for a, b in zip(free, held, strict=True))
    lost = sum(seed["lost_free"] for row in fresh for seed in row["seeds"])
    return (
        f"Clipping the norm at 1 decided {len(fresh) - sum(same)} of {len(fresh)} combinations: {helped} learned with "
        f"it alone, {hurt} without it alone; outcomes agree in {part(same)}. Of the trainings without it {lost} became "
        "non-finite."
    )


def part(hits: Sequence[bool]) -> str:
    """`17 of 18 = 0.94 [0.74, 0.99]`."""
    if not hits:
        return "never said"
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)} = {sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]"
