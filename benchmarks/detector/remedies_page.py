"""The part of the page that is about blocked models and what remedies make of them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detector.fixed import blocked
from benchmarks.detector.statistics import Row
from benchmarks.detector.tables import part

BEFORE = (
    "rnn:init=normal,gain=1.2 xor fixed 200",
    "rnn:init=normal,gain=1.5 recall fixed 200",
    "torchrecurrent:MGU adding fixed 70",
)
"""Models with a degenerate remedy among the first three, not trained again since remedies go by their whole status."""


def remedies(rows: Sequence[Row], twins: Sequence[Row], fixed: Sequence[Row]) -> str:
    """Which blocked models learn once the first line of `--fix`, or one of the first three, is done to them."""
    names = {row["name"] for row in blocked(rows, twins)}
    fixed = [one for one in fixed if one["name"] in names]
    before = [name for name in BEFORE if any(one["name"] == name for one in fixed)]
    firsts = [_hits(one["tried"][0]) for one in fixed]
    same = [any(hits) for hits, one in zip(firsts, fixed, strict=True) if not one["tried"][0]["another"]]
    learned, proven = [any(hits) for hits in firsts], [_proven(one["tried"]) for one in fixed]
    three = [any(any(_hits(tried)) for tried in one["tried"]) for one in fixed]
    lines = [
        f"{len(names)} blocked combinations of both studies, {len(fixed)} of them treated. `python -m "
        "benchmarks.detector --fixed` takes what `gradscope analyze MODEL --task TASK --lag K --lags KIND --hidden 32 "
        "--seeds 2 --fix` listed first and trains again by the settings of the first study, and the two lines after it "
        "too, as `--fix --probe` does.",
        "",
        "| remedy | learned in at least one seed |",
        "|---|---|",
        f"| the first of the list | {part(learned)} (both seeds: {sum(map(all, firsts))}) |",
        f"| the first of the list, where it keeps the family | {part(same)} |",
        f"| that of the first three that learned soonest with a seed: with another | {part([*map(bool, proven)])} |",
        f"| the same, where one was found so | {part([hit for hit in proven if hit is not None])} |",
        f"| any of the first three: the most that choosing among them can come to | {part(three)} |",
        "",
        "Single trainings near the edge are a matter of the last bits: on another processor some of these outcomes "
        "differ from run to run of the same command, and the shares by as much as their intervals say.",
        "",
        "What leaves one direction of the state is listed below what is healthy since these were trained. Six of them "
        f"had such a remedy among their first three: three were trained again, and the outcomes of {len(before)} are "
        f"those of the order before: {', '.join(f'`{name}`' for name in before)}.",
        "",
        "| model | task | remedy: learned at, by seed |",
        "|---|---|---|",
    ]
    for one in sorted(fixed, key=lambda one: one["name"]):
        model, _, task = one["name"].partition(" ")
        told = "; ".join(f"{tried['remedy']} ({tried['change']}): {_steps(tried)}" for tried in one["tried"])
        lines.append(f"| `{model}` | {task} | {told} |")
    return "\n".join(lines)


def first_of_list(rows: Sequence[Row], twins: Sequence[Row], fixed: Sequence[Row]) -> list[bool]:
    """For every blocked model, whether it learned with the remedy that is listed first."""
    names = {row["name"] for row in blocked(rows, twins)}
    return [any(_hits(one["tried"][0])) for one in fixed if one["name"] in names]


def _hits(tried: Row) -> list[bool]:
    return [step is not None for step in tried["learned_at"]]


def _steps(tried: Row) -> str:
    return ", ".join("never" if step is None else str(step) for step in tried["learned_at"])


def _proven(tried: Sequence[Row]) -> bool | None:
    """Whether what learned soonest with the first seed learned with the second; None where nothing did."""
    able = [one["learned_at"] for one in tried if one["learned_at"][0] is not None]
    return min(able, key=lambda steps: steps[0])[1] is not None if able else None
