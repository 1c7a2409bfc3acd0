"""The best point of a sweep, and how to see it whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gradscope.config.axes import spec_at
from gradscope.config.command import command
from gradscope.swept import Cell, Sweep

FIELDS = ("reach", "needed_lag", "rate")
"""Numbers of a summary that the order rests on."""


def ranked(sweep: Sweep, cells: Sequence[Cell]) -> list[Cell]:
    """Cells with a result, best first: most seeds healthy, then the longest reach, then the rate nearest to zero."""
    places = {name: sweep.fields.index(name) for name in FIELDS if name in sweep.fields}

    def order(cell: Cell) -> tuple[float, float, float]:
        reach = cell.values[places["reach"]] if "reach" in places else None
        rate = cell.values[places["rate"]] if "rate" in places else None
        healthy = cell.agreeing / cell.runs if cell.status == "healthy" else 0.0
        return -healthy, -(reach or 0.0), abs(rate) if rate is not None and math.isfinite(rate) else math.inf

    return sorted((cell for cell in cells if cell.values), key=order)


def reproduced(sweep: Sweep, cell: Cell) -> str:
    """The command that analyses a point, all seeds of it together."""
    names = [axis.name for axis in sweep.axes]
    spec = spec_at(sweep.spec, sweep.axes, sweep.at(cell.point))
    if "seed" not in names:
        spec = replace(spec, seed=sweep.seeds[0], seeds=max(len(sweep.seeds), spec.seeds))
    return command(spec, always=names)
