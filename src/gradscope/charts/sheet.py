"""Charts put together: a file in one of the formats of pictures, or specifications for a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from gradscope.charts import look
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.charts.harmless import panels_of
from gradscope.errors import UsageError
from gradscope.records import Report
from gradscope.registry import CHARTS, SCREENS, load, resolve
from gradscope.renderers.view import View

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
