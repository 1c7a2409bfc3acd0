"""Charts put together: a file in one of the formats of pictures, or specifications for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from gradscope.charts import look
from gradscope.charts.chart import Chart, Data, Panel
from gradscope.charts.harmless import panels_of
from gradscope.errors import UsageError
from gradscope.records import Report
from gradscope.registry import CHARTS, SCREEN, SCREEN_SVG, load, resolve
from gradscope.renderers.view import View

SCALE = 2.0
"""Pixels of a PNG to a point."""
NARROW_WIDTH = 300
DEFAULT = ("profile",)


def svg(report: Report, view: View) -> str:
    """The charts that the view names as one SVG, white behind; the terminal's screen where that is named."""
    import vl_convert

    if SCREEN in view.charts:
        return str(load(SCREEN_SVG)(report, view))
    return str(vl_convert.vegalite_to_svg(whole(report, view.charts or DEFAULT)))


def png(report: Report, view: View) -> bytes:
    """The charts that the view names as one PNG, twice as fine as a screen."""
    import vl_convert

    if SCREEN in view.charts:
        return bytes(vl_convert.svg_to_png(svg(report, view), scale=SCALE))
    return bytes(vl_convert.vegalite_to_png(whole(report, view.charts or DEFAULT), scale=SCALE))


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
        parts.append(_titled(chart, panels))
        for panel in panels:
            data.update(panel.data)
    sheet = alt.vconcat(*parts, spacing=30) if len(parts) > 1 else parts[0]
    spec: dict[str, Any] = sheet.configure(**look.config()).properties(background="white", padding=14).to_dict(validate=False)
    return {**spec, "datasets": data}


def _titled(chart: Chart, panels: Sequence[Panel]) -> Any:
    drawn = [_sized(panel) for panel in panels]
    together = drawn[0] if len(drawn) == 1 else alt.concat(*drawn, columns=1 if panels[0].wide else 2, spacing=24)
    if len(drawn) > 1:
        together = together.resolve_scale(color="independent", strokeDash="independent")
    return together.properties(title=alt.TitleParams(chart.title, anchor="start", offset=12))


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
    spec: dict[str, Any] = picture.configure(**look.config("currentColor", "currentColor")).to_dict(validate=False)
    if panel.key:
        for part in spec.get("layer", [spec]):
            for channel in ("color", "strokeDash"):
                if part.get("encoding", {}).get(channel, {}).get("field") == "by":
                    part["encoding"][channel]["legend"] = None
    return {**spec, "datasets": panel.data}
