"""The block of summary numbers, and what a training step of each model costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradscope.records import BUILT, Growth, ModelResult, Number, Report, Summary
from gradscope.renderers import numbers, report_wording
from gradscope.renderers.styled_text import Column, Page, Span, measure, pad

GAP = 3
"""Spaces between the two columns."""


def summary(page: Page, model: ModelResult) -> None:
    """Label and value, two pairs to a line where they fit."""
    pairs = pairs_of(model)
    if not pairs:
        return
    if page.narrow:
        page.table([Column(label) for label, _ in pairs], [[value for _, value in pairs]])
        return
    folded = [(page.fold(label), page.fold(value)) for label, value in pairs]
    wide = max(measure(label) for label, _ in folded)
    limit, left = _two_columns(folded, page.view.width - 1 - 2 * (wide + 2) - GAP)
    short = [pair for pair in folded if measure(pair[1]) <= limit]
    for start in range(0, len(short), 2):
        texts = [pad(label, wide) + "  " + value for label, value in short[start : start + 2]]
        page.line(" " + pad(texts[0], wide + 2 + left), " " * GAP, *texts[1:])
    for label, value in folded:
        if measure(value) > limit:
            page.wrap(value, f" {pad(label, wide)}  ")
    page.blank()


def _two_columns(pairs: list[tuple[str, str]], room: int) -> tuple[int, int]:
    """The longest value that two columns can hold within `room`, and the width of the left one's values.

    Longer values get a line of their own.
    """
    widths = [measure(value) for _, value in pairs]
    for limit in sorted(set(widths), reverse=True):
        short = [width for width in widths if width <= limit]
        left, right = max(short[::2]), max(short[1::2], default=0)
        if left + right <= room:
            return limit, left
    return 0, 0


def pairs_of(model: ModelResult) -> list[tuple[str, str]]:
    """Label and value of each quantity that was measured; ones that were not are left out."""
    found = [*_signal(model), *_dynamics(model.summary), *_checks(model)]
    return [(label, value) for label, value in found if value]


def _signal(model: ModelResult) -> list[tuple[str, str]]:
    s = model.summary
    rate = "" if s.rate is None else f"{_with_interval(s.rate, s.rate_ci)} nats/step"
    total = report_wording.lags(model)
    reach = "" if s.reach is None else f"{s.reach} of {total} lags" if total is not None else f"{s.reach} lags"
    if s.reach is not None and total is not None and s.reach > total:
        reach = f"{s.reach} lags, {total} needed"
    share = "" if s.gradient_share is None else f"{numbers.share(s.gradient_share)} at lag {s.needed_lag}"
    return [
        ("rate", rate),
        ("reach", reach),
        ("gradient share", share),
        ("temporal range", "" if s.temporal_range is None else f"{numbers.plain(s.temporal_range)} steps"),
        ("coverage", "" if s.coverage is None else f"{numbers.percent(s.coverage)} of lags"),
        ("directions", "" if s.directions is None else f"{s.directions} of {model.size}"),
    ]


def _with_interval(value: Number, interval: tuple[float, float] | None) -> str:
    """Mean and half the width of its 95 % interval, which is symmetric: `-0.597 ± 0.015`."""
    if interval is None:
        return numbers.plain(value)
    return f"{numbers.plain(value)} ± {numbers.plain((interval[1] - interval[0]) / 2, 2)}"


def _dynamics(s: Summary) -> list[tuple[str, str]]:
    lyapunov = "" if not s.lyapunov else _with_interval(s.lyapunov[0], s.lyapunov_ci)
    finite = "" if not s.finite_time_exponents else numbers.plain(s.finite_time_exponents[0])
    saturated = {name: part for name, part in (s.saturation or {}).items() if part}
    worst = max(saturated, key=lambda name: saturated[name], default="")
    return [
        ("Lyapunov", lyapunov),
        ("finite-time", finite),
        ("rank", "" if s.rank_lost_at is None else f"first lost at step {s.rank_lost_at}"),
        ("condition", "" if s.log10_condition is None else numbers.power(s.log10_condition)),
        ("saturated", f"{numbers.percent(saturated[worst])} of {worst}" if worst else ""),
    ]


def _checks(model: ModelResult) -> list[tuple[str, str]]:
    s, check = model.summary, model.loaded.equality_check
    weight = "" if s.log10_grad_weight is None else numbers.readable(s.log10_grad_weight)
    # A family has no other weights; a module may have embeddings and heads.
    alone = model.loaded.source == BUILT or (check is not None and check.against.startswith("torch.nn."))
    weight += "" if alone or not weight else " of the recurrence"
    if weight and model.status == "vanishing" and s.log10_grad_weight is not None and s.log10_grad_weight > -2:
        weight += " (looks fine: it cannot see this)"
    equal = ""
    if check is not None:
        verb = "equals" if check.passed else "DIFFERS FROM"
        off = f"output {check.output:.0e}, gradient {check.grad:.0e}"
        equal = f"{verb} {check.against}: {off}"
        if check.rounding_from is not None:
            equal = f"{verb} {check.against} to step {check.rounding_from - 1}; from there on rounding errors grow, "
            equal += f"in torch as here: {off}"
        equal += f" ({check.inside} inside)" if check.inside else ""
        if check.unheld:
            equal += f" (where torch's own is finite; its {' and '.join(check.unheld)} is not)"
    return [
        ("‖dL/dW‖", weight),
        ("chain rule", "" if s.chain_rule_residual is None else f"off by {s.chain_rule_residual:.0e}"),
        ("precision", _precision(s)),
        ("checked", equal),
    ]


def _precision(s: Summary) -> str:
    """`float16 holds to lag 12`: types whose range or precision ends before the needed lag."""
    said = []
    for name, horizon in (s.precision_horizon or {}).items():
        lag = horizon.get("lag") if isinstance(horizon, dict) else horizon
        lag = numbers.as_number(lag)
        if lag is not None:
            said.append(f"{name} to lag {numbers.plain(lag, 6)}")
    return ", ".join(said)


COST_COLUMNS = (
    Column("model", left=True, flexible=True),
    Column("path in->out"),
    Column("in sequence"),
    Column("carried"),
    Column("ms T 2T 4T"),
    Column("growth"),
)
COST_LEGEND = (
    "path: shortest chain of operations from first input to last output; in sequence: longest such chain; "
    "carried: floats handed from step to step; ms: forward + backward, the best of several, and the power of T they "
    "grow with"
)
QUADRATIC = "attention joins any two steps in a constant number of operations, but its work grows as T^2."


def cost_rows(models: list[ModelResult], report: Report) -> list[list[str]]:
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
    cells = cost_rows(models, report)
    if not cells:
        return
    page.line(Span(" What one training step costs", "bold"))
    page.table(COST_COLUMNS, cells)
    page.wrap(COST_LEGEND, style="dim")
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
