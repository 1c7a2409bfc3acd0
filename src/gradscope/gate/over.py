"""Targets that are sweeps: one model at many points, held to how many of them must be healthy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from gradscope.config.axes import read_axes, spec_at
from gradscope.gate.limits import judge_limits, verdict
from gradscope.gate.measure import TargetMeasurement
from gradscope.records import Loaded, ModelResult, Series, Status, Summary, Target, Verdict
from gradscope.rules.gs9_gate import LIMIT
from gradscope.text import counted
from gradscope.workers import Ending

TOLD = 4
"""Points that a message names."""


def runs_of(target: Target) -> list[tuple[str, Target]]:
    """What is measured for a target: itself, or a target for each of its points, with the point in words."""
    if not target.over:
        return [("", target)]
    axes = read_axes(target.over, target.spec.models, ())
    found = []
    for texts in product(*(axis.values for axis in axes)):
        point = ", ".join(f"{axis.name}={text}" for axis, text in zip(axes, texts, strict=True))
        found.append((point, replace(target, spec=spec_at(target.spec, axes, texts), over=())))
    return found


def together(target: Target, points: Sequence[str], endings: Sequence[Ending]) -> ModelResult:
    """The result of a target that is a sweep: its status is what most of its ill points say."""
    results: list[ModelResult | None] = [
        e.value.result if isinstance(e.value, TargetMeasurement) else None for e in endings
    ]
    said = ["not measured" if result is None else result.status for result in results]
    least = 1.0 if target.limits.min_healthy is None else target.limits.min_healthy
    # A part is compared with a part: 0.28 * 25 is more than 7 in floating point.
    held = not said or said.count("healthy") / len(said) >= least
    limits = _limits(target, points, results)
    ill = [result for result in results if result is not None and result.status != "healthy"]
    worst: Status = Counter(result.status for result in ill).most_common(1)[0][0] if ill else "inconclusive"
    first = next((result for result in results if result is not None), None)
    return ModelResult(
        name=target.name,
        kind="module" if first is None else first.kind,
        status="healthy" if held else worst,
        size=0,
        length=0,
        loaded=Loaded(target.spec.models[0], location=target.location) if first is None else first.loaded,
        summary=Summary(),
        series=Series(),
        heading=f"{counted(len(points), 'point')} of {' '.join(target.over)}",
        verdicts=(_healthy(points, said, endings, least, held), *limits),
    )


def _healthy(points: Sequence[str], said: list[str], endings: Sequence[Ending], least: float, held: bool) -> Verdict:
    count = said.count("healthy")
    ill = [
        f"{point}: {word}{f' ({ending.reason})' if ending.reason else ''}"
        for point, word, ending in zip(points, said, endings, strict=True)
        if word != "healthy"
    ]
    more = f", and {len(ill) - TOLD} more" if len(ill) > TOLD else ""
    asked = "which keeps" if held else "short of"
    told = f"; {'; '.join(ill[:TOLD])}{more}" if ill else ""
    return verdict(
        LIMIT,
        "pass" if held else "fail",
        f"{count} of {counted(len(points), 'point')} are healthy, {asked} min_healthy = {least:g}{told}.",
        about="min_healthy",
        advice="See where the edge lies: `gradscope sweep` over the same axes.",
        measured=count / len(points),
        threshold=least,
    )


def _limits(target: Target, points: Sequence[str], results: Sequence[ModelResult | None]) -> list[Verdict]:
    """Of every other limit the worst that some point says; a point that was not measured is told of elsewhere."""
    worst: dict[str, Verdict] = {}
    order = ("fail", "inconclusive", "pass")
    for point, result in zip(points, results, strict=True):
        for one in () if result is None else judge_limits(result, target.limits):
            before = worst.get(one.title)
            if before is None or order.index(one.status) < order.index(before.status):
                worst[one.title] = one if one.status == "pass" else replace(one, message=f"At {point}: {one.message}")
    return list(worst.values())
