"""What a training step of each model costs: operations that must follow each other, floats carried, time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradscope.records import Growth, ModelResult, Report
from gradscope.renderers.text import numbers
from gradscope.renderers.text.columns import Column
from gradscope.renderers.text.page import Page, Span

COLUMNS = (
    Column("model", left=True, flexible=True),
    Column("path in->out"),
    Column("in sequence"),
    Column("carried"),
    Column("ms T 2T 4T"),
    Column("growth"),
)
LEGEND = (
    "path: shortest chain of operations from first input to last output; in sequence: longest such chain; "
    "carried: floats handed from step to step; ms: forward + backward, the best of several, and the power of T they "
    "grow with"
)
QUADRATIC = "attention joins any two steps in a constant number of operations, but its work grows as T^2."


def rows(models: list[ModelResult], report: Report) -> list[list[str]]:
    """One per model; none where none of it was measured."""
    steps = report.timing.training_step
    if not any(model.summary.growth or model.summary.path_length or steps.get(model.name) for model in models):
        return []
    found = []
    for model in models:
        s, growth = model.summary, model.summary.growth or {}
        carried = numbers.MISSING if s.carried_floats is None else str(s.carried_floats)
        path = _growth(growth.get("path_length"), s.path_length)
        sequential = _growth(growth.get("sequential_steps"), s.sequential_steps)
        found.append([model.name, path, sequential, carried, *_time(steps.get(model.name))])
    return found


def costs(page: Page, models: list[ModelResult], report: Report) -> None:
    """Write the table and how to read it."""
    cells = rows(models, report)
    if not cells:
        return
    page.line(Span(" What one training step costs", "bold"))
    page.table(COLUMNS, cells)
    page.wrap(LEGEND, style="dim")
    for said in lengths(models, report):
        page.wrap(said, style="dim")
    if any(model.kind == "attention" for model in models):
        page.wrap(QUADRATIC)
    page.blank()


def lengths(models: list[ModelResult], report: Report) -> Iterator[str]:
    """At which lengths the operations were counted and the steps timed, where need be by model."""
    counted = {m.name: next((g.length for g in (m.summary.growth or {}).values()), ()) for m in models}
    timed = {m.name: tuple(report.timing.training_step.get(m.name, {}).get("length") or ()) for m in models}
    yield from _by_model("operations counted at", counted)
    yield from _by_model("timed at", timed)


def _by_model(what: str, lengths: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """`timed at T = 200, 400, 800 (attention: 128, 256, 512)`."""
    measured = {name: found for name, found in lengths.items() if found}
    if not measured:
        return
    (usual, _), *_ = Counter(measured.values()).most_common(1)
    others = [f"{name}: {_listed(found)}" for name, found in measured.items() if found != usual]
    yield f"{what} T = {_listed(usual)}" + (f" ({'; '.join(others)})" if others else "")


def _listed(lengths: tuple[int, ...]) -> str:
    return ", ".join(str(length) for length in lengths)


def _growth(growth: Growth | None, single: int | None) -> str:
    if growth is None or len(growth.count) < 2:
        return numbers.MISSING if single is None else str(single)
    return f"{growth.count[0]} {growth.count[1]} {growth.order}"


def _time(entry: dict[str, Any] | None) -> list[str]:
    """Milliseconds, and the exponent with its spread: `T^1.9±0.2`."""
    seconds = [numbers.as_number(value) for value in (entry or {}).get("seconds") or []]
    if not entry or not seconds:
        return [numbers.MISSING, numbers.MISSING]
    exponent, spread = numbers.as_number(entry.get("exponent")), numbers.as_number(entry.get("spread"))
    grows = "inconclusive" if exponent is None else f"T^{exponent:.1f}" + (f"±{spread:.1f}" if spread else "")
    return [" ".join(numbers.milliseconds(value) for value in seconds), grows]
