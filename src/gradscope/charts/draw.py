"""Charts drawn as files or as specifications for a page, after foreign text in the report is made harmless."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from gradscope.charts import look
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.charts.training_run_charts import TRAINING_RUN_CHARTS
from gradscope.errors import UsageError
from gradscope.records import Attention, ModelResult, Report, Series
from gradscope.registry import CHARTS, SCREENS, load, resolve
from gradscope.renderers.view import View
from gradscope.text import safe_text
from gradscope.trained import Probe
from gradscope.trajectory import Trajectory

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
    models = tuple(_harmless_model(model, name) for model, name in zip(report.models, names, strict=True))
    steps = report.timing.training_step
    timed = {name: steps[model.name] for name, model in zip(names, report.models, strict=True) if model.name in steps}
    return replace(report, models=models, timing=replace(report.timing, training_step=timed))


def _harmless_model(model: ModelResult, name: str) -> ModelResult:
    series, attention, horizon = model.series, model.attention, model.summary.precision_horizon
    values = {safe_text(key, LONGEST_NAME): value for key, value in series.values.items()}
    return replace(
        model,
        name=name,
        series=Series(series.step, _harmless_tokens(series.token), values),
        probe=None if model.probe is None else _harmless_probe(model.probe),
        attention=None if attention is None else Attention(_harmless_tokens(attention.token), attention.weights),
        summary=replace(
            model.summary,
            precision_horizon=None
            if horizon is None
            else {safe_text(key, 20): value for key, value in horizon.items()},
        ),
    )


def _harmless_probe(probe: Probe) -> Probe:
    twin = None if probe.twin is None else replace(probe.twin, name=safe_text(probe.twin.name, LONGEST_NAME))
    task, summary, unit = (safe_text(text, 2 * LONGEST_NAME) for text in (probe.task, probe.summary, probe.unit))
    return replace(probe, twin=twin, task=task, summary=summary, unit=unit)


def _harmless_tokens(tokens: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if tokens is None else tuple(safe_text(token, LONGEST_TOKEN) for token in tokens)


SCALE = 2.0
"""Pixels of a PNG to a point."""
NARROW_WIDTH = 300
IDS = re.compile(r'id="((?:clip|gradient_)\d+)"')


def svg(report: Report, view: View) -> str:
    """The charts that the view names as one SVG, white behind; the terminal's screen where that is named."""
    import vl_convert

    for name in view.charts:
        if name in SCREENS:
            return str(load(SCREENS[name])(report, view))
    return drawn_alike(str(vl_convert.vegalite_to_svg(whole(report, view.charts or usual(report)))))


def drawn_alike(drawn: str) -> str:
    """The same with its clips and gradients counted from 1: vl-convert counts on from picture to picture."""
    counted = {name: f"part{number}" for number, name in enumerate(dict.fromkeys(IDS.findall(drawn)), 1)}
    found = "|".join(rf"\b{name}\b" for name in counted)
    return re.sub(found, lambda match: counted[match[0]], drawn) if counted else drawn


def png(report: Report, view: View) -> bytes:
    """The charts that the view names as one PNG, twice as fine as a screen."""
    import vl_convert

    if {*SCREENS} & {*view.charts}:
        return bytes(vl_convert.svg_to_png(svg(report, view), scale=SCALE))
    return bytes(vl_convert.vegalite_to_png(whole(report, view.charts or usual(report)), scale=SCALE))


def usual(report: Report) -> tuple[str, ...]:
    """The learning curves of a probe, else the first chart of the table that this report holds something for.

    Raises:
        UsageError: there is none.
    """
    probed = any(model.probe is not None for model in report.models)
    for name in ("learning", *CHARTS) if probed else CHARTS:
        if panels_of(name, report):
            return (name,)
    raise UsageError("nothing to draw: this report holds no measured series; -v says what is missing, and why")


def whole(report: Report, names: Sequence[str]) -> dict[str, Any]:
    """One Vega-Lite specification with every chart under its title.

    Raises:
        UsageError: the report has nothing for one of the charts.
    """
    with debug_mode(False):
        return _whole(report, names)


def _whole(report: Report, names: Sequence[str]) -> dict[str, Any]:
    parts, data = [], Data()
    for name in names:
        chart: Chart = resolve(CHARTS, name, "chart")
        panels = panels_of(name, report)
        if not panels:
            raise UsageError(f"nothing to draw for --chart {name}: this report has no {chart.needs}")
        parts.append(titled(chart.title, panels))
        for panel in panels:
            data.update(panel.data)
    return finished(alt.vconcat(*parts, spacing=30) if len(parts) > 1 else parts[0], data)


def finished(sheet: Any, data: Data) -> dict[str, Any]:
    """The specification of a whole sheet."""
    dressed = sheet.configure(**look.config()).properties(background="white", padding=14)
    return {**dressed.to_dict(validate=False), "datasets": data}


def titled(title: str, panels: Sequence[Panel]) -> Any:
    """The panels of a chart under its title."""
    drawn = [_sized(panel) for panel in panels]
    together = drawn[0] if len(drawn) == 1 else alt.concat(*drawn, columns=1 if panels[0].wide else 2, spacing=24)
    if len(drawn) > 1:
        together = together.resolve_scale(color="independent", strokeDash="independent")
    return together.properties(title=alt.TitleParams(title, anchor="start", offset=12))


def _sized(panel: Panel) -> Any:
    width = look.WIDTH if panel.wide else NARROW_WIDTH
    sized = panel.picture.properties(width=width)
    return sized.properties(title=alt.TitleParams(panel.title, fontWeight="normal")) if panel.title else sized


def single(panel: Panel) -> dict[str, Any]:
    """The specification of one panel for a page: as wide as the place it gets, in the colours of the page."""
    with debug_mode(False):
        return _single(panel)


def _single(panel: Panel) -> dict[str, Any]:
    picture = panel.picture.properties(width="container", background="transparent", padding=4)
    if panel.reads:
        picture = picture.add_params(look.zoom())
    spec: dict[str, Any] = picture.configure(**look.config("currentColor", "currentColor")).to_dict(validate=False)
    if panel.key:
        for part in spec.get("layer", [spec]):
            for channel in ("color", "strokeDash"):
                if part.get("encoding", {}).get(channel, {}).get("field") == "by":
                    part["encoding"][channel]["legend"] = None
    return {**spec, "datasets": panel.data}


def training_run_svg(trajectory: Trajectory, view: View) -> str:
    """All of them under each other, white behind."""
    import vl_convert

    return drawn_alike(str(vl_convert.vegalite_to_svg(_whole_training_run(trajectory))))


def training_run_png(trajectory: Trajectory, view: View) -> bytes:
    """The same, twice as fine as a screen."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_whole_training_run(trajectory), scale=SCALE))


def _whole_training_run(trajectory: Trajectory) -> dict[str, Any]:
    data = Data()
    with debug_mode(False):
        parts = []
        for chart in TRAINING_RUN_CHARTS:
            if (panel := chart.draw(trajectory)) is not None:
                parts.append(titled(chart.title, [panel]))
                data.update(panel.data)
        if not parts:
            raise UsageError("nothing to draw: the run holds no measured point")
        return finished(alt.vconcat(*parts, spacing=30), data)
