"""The part of the page that is about the second study: what the first one's limits and curves are worth on it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detector.fresh import fresh as all_fresh
from benchmarks.detector.score import Curve
from benchmarks.detector.statistics import Row, failed, share, share_after, word
from benchmarks.detector.tables import HEADS, areas, chances_of, part, said
from benchmarks.detector.twins import labels
from gradscope.rules.gs1_learning import HARD_TASKS, NEAR


def sections(first: Sequence[Row], fresh: Sequence[Row], twins: Sequence[Row], curve: Curve, after: Curve) -> list[str]:
    """As markdown; `curve` and `after` were fitted to all fixed combinations of the first study."""
    everything = all_fresh()
    hours = sum(float(row["seconds"]) for row in fresh) / 3600
    twin_hours = sum(float(row["seconds"]) for row in twins) / 3600
    shown = labelled(fresh, first, fresh, twins)
    cells = sum(row["model"].startswith("torchrecurrent") for row in fresh)
    return [
        "## A second study, of what was not tried before",
        f"`python -m benchmarks.detector --fresh` trained {len(fresh)} combinations ({hours:.1f} core-hours), the "
        f"first of {len(everything)} that were named and shuffled after the first study was scored and before any of "
        f"them was run, as many as there was time for: {cells} with cells of torchrecurrent, "
        "the others with options and depths that the first has not, at lags 15, 30 and 70, each setting with and "
        "without clipping. Limits and curves are those of the first study; growth over the lag is the slope between "
        "its ends here, where gradscope fits one. A failure shows something about gradients "
        "only where the family can do better: `--twins` then trained an initialisation that holds longer wherever "
        f"nothing of a family had learned in either study ({len(twins)} trainings, {twin_hours:.1f} core-hours). "
        "*Blocked* failed where another initialisation of its family, or the twin, learned; where none did, nothing is "
        "shown, and it is left out of what is counted below, unless said: that drops failures and never successes, so "
        "that the last rows, which count every failure, bound from below what the others say of `healthy`.",
        "### Verdicts as gradscope words them, fixed lags\n\nHealthy means that the gradient arrives, which is needed "
        "and not enough: what was learned is the outlook.\n\n" + _words(first, fresh, twins),
        "### Outlook: what became of each word, fixed lags of both studies, every failure counted\n\n"
        + _outlook([*first, *fresh]),
        "### The first study's curves on the second, fixed lags\n\n" + _curves(shown, curve, after),
        "### Areas under the curve on the second, fixed lags\n\n"
        + areas([row for row, _ in shown], [label for _, label in shown]),
        "### With and without clipping\n\n" + _clipping(fresh),
    ]


def labelled(
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
        lines.append(f"| {name} | {_counted(labelled(rows, first, fresh, twins))} |")
    for name, rows in (("first", first), ("second", fresh)):
        raw = [(row, failed(row)) for row in rows if row["kind"] == "fixed" and row["part"] != "control"]
        lines.append(f"| {name} study, every failure counted | {_counted(raw)} |")
    return "\n".join(lines)


def _outlook(rows: Sequence[Row]) -> str:
    lines = [
        f"| gradient at the needed lag | learned | recall, adding: lag <= {NEAR} | > {NEAR} | copy, xor: lag <= {NEAR} "
        f"| > {NEAR} |",
        "|---|---|---|---|---|---|",
    ]
    own = [row for row in rows if row["kind"] == "fixed" and row["part"] != "control"]
    for name, named in (("fails", "fails"), ("open", "between, or grows"), ("arrives", "arrives: healthy")):
        like = [row for row in own if word(row) == name]
        cells = [
            part(
                [not failed(row) for row in like if (row["task"] in HARD_TASKS) == hard and (row["lag"] > NEAR) == far]
            )
            for hard in (False, True)
            for far in (False, True)
        ]
        lines.append(f"| {named} | {part([not failed(row) for row in like])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _counted(rows: Sequence[tuple[Row, bool]]) -> str:
    bad = [label for row, label in rows if word(row) == "fails"]
    good = [not label for row, label in rows if word(row) == "arrives"]
    return said(bad, good, len(rows))


def _curves(rows: Sequence[tuple[Row, bool]], curve: Curve, after: Curve) -> str:
    lines, fails = [HEADS], [label for _, label in rows]
    for name, one, value in (("initialisation", curve, share), ("a 100-step probe", after, share_after)):
        lines.append(f"| {name} | {chances_of([one.at(value(row)) for row, _ in rows], fails)} |")
    return "\n".join(lines)


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
