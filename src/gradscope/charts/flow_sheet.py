"""The pictures of a training run as one file."""

from __future__ import annotations

from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from gradscope.charts.chart import Data
from gradscope.charts.flow import CHARTS
from gradscope.charts.sheet import SCALE, drawn_alike, finished, titled
from gradscope.errors import UsageError
from gradscope.renderers.view import View
from gradscope.trajectory import Trajectory


def svg(trajectory: Trajectory, view: View) -> str:
    """All of them under each other, white behind."""
    import vl_convert

    return drawn_alike(str(vl_convert.vegalite_to_svg(_whole(trajectory))))


def png(trajectory: Trajectory, view: View) -> bytes:
    """The same, twice as fine as a screen."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_whole(trajectory), scale=SCALE))


def _whole(trajectory: Trajectory) -> dict[str, Any]:
    data = Data()
    with debug_mode(False):
        parts = []
        for chart in CHARTS:
            if (panel := chart.draw(trajectory)) is not None:
                parts.append(titled(chart.title, [panel]))
                data.update(panel.data)
        if not parts:
            raise UsageError("nothing to draw: the run holds no measured point")
        return finished(alt.vconcat(*parts, spacing=30), data)
