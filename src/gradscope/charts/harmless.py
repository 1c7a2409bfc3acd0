"""The door through which a report comes to the charts: foreign text made harmless before any of it is drawn."""

from __future__ import annotations

from dataclasses import replace

from altair.utils.schemapi import debug_mode

from gradscope.charts.chart import Chart, Panel
from gradscope.records import Attention, ModelResult, Report, Series
from gradscope.registry import CHARTS, resolve
from gradscope.text import safe_text
from gradscope.trained import Probe

LONGEST_NAME = 48
LONGEST_TOKEN = 24


def panels_of(name: str, report: Report) -> list[Panel]:
    """The panels of the chart `name`; none where the report holds nothing for it.

    Raises:
        UsageError: there is no such chart.
    """
    chart: Chart = resolve(CHARTS, name, "chart")
    # Altair checks every piece against its schema, most of a page's time; the tests do that for every chart.
    with debug_mode(False):
        return chart.draw(harmless(report))


def told(name: str, report: Report) -> str:
    """What the chart `name` shows, in words."""
    chart: Chart = resolve(CHARTS, name, "chart")
    return chart.tell(harmless(report))


def harmless(report: Report) -> Report:
    """The same report with every name and token of it fit to be drawn; models keep names of their own."""
    names: list[str] = []
    for model in report.models:
        name = safe_text(model.name, LONGEST_NAME)
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    models = tuple(_model(model, name) for model, name in zip(report.models, names, strict=True))
    steps = report.timing.training_step
    timed = {name: steps[model.name] for name, model in zip(names, report.models, strict=True) if model.name in steps}
    return replace(report, models=models, timing=replace(report.timing, training_step=timed))


def _model(model: ModelResult, name: str) -> ModelResult:
    series, attention, horizon = model.series, model.attention, model.summary.precision_horizon
    values = {safe_text(key, LONGEST_NAME): value for key, value in series.values.items()}
    return replace(
        model,
        name=name,
        series=Series(series.step, _tokens(series.token), values),
        probe=None if model.probe is None else _probe(model.probe),
        attention=None if attention is None else Attention(_tokens(attention.token), attention.weights),
        summary=replace(
            model.summary,
            precision_horizon=None
            if horizon is None
            else {safe_text(key, 20): value for key, value in horizon.items()},
        ),
    )


def _probe(probe: Probe) -> Probe:
    twin = None if probe.twin is None else replace(probe.twin, name=safe_text(probe.twin.name, LONGEST_NAME))
    task, summary, unit = (safe_text(text, 2 * LONGEST_NAME) for text in (probe.task, probe.summary, probe.unit))
    return replace(probe, twin=twin, task=task, summary=summary, unit=unit)


def _tokens(tokens: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if tokens is None else tuple(safe_text(token, LONGEST_TOKEN) for token in tokens)
